"""Layout of the page. What happens on it is in wiring.py; every number and figure comes from the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import components
import gradio as gr
import trainer
from catalogue import CARDS
from microscope import Microscope
from opening import Opening
from settings import CHANNELS, MOST_LEVELS, MOST_SAMPLES, SIGMAS, VIEWS, WAVELETS, Settings, bands

LAUNCH_OPTIONS: dict[str, Any] = {
    "ssr_mode": False,
    "pwa": False,
    "run_history": False,  # it writes every figure into the browser's storage: half a second an update
    "mcp_server": False,
    "footer_links": [],
    "show_error": False,
    "quiet": True,
    # Gradio asks its own page once, for three seconds, and gives up; a busy machine is slower than that
    "_frontend": False,
    "max_file_size": "20mb",
    # Gradio remembers what each page has shown, half a megabyte, until others come; one that it forgot goes on from anew
    "state_session_capacity": 256,
    "theme": gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        spacing_size="sm",
        radius_size="sm",
        text_size="sm",
        font=["Inter", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "monospace"],
    ),
}
_MASTHEAD = """
<div class='masthead'><h1>SFKD microscope</h1>
<p>Which spatial frequencies the teacher has, the student lacks, and distillation moves, layer by layer.</p>
<button type='button' onclick='sfkd.theme()'>Light / dark</button></div>
"""
_WORDS = {
    "layer": "layer pair",
    "wavelet": "wavelet",
    "levels": "levels",
    "band": "band",
    "channel": "channel",
    "sigma": "σ",
    "model": "model",
}


@dataclass(frozen=True)
class Header:
    """What is loaded, and how to load something else."""

    cards: gr.HTML
    remark: gr.HTML
    run: gr.Dropdown
    teacher: gr.Textbox
    student: gr.Textbox
    pretrained: gr.Checkbox
    open: gr.Button
    use_random: gr.Button


@dataclass(frozen=True)
class Images:
    """What the models look at."""

    strip: gr.HTML
    verdict: gr.HTML
    upload: gr.UploadButton
    count: gr.Number
    average: gr.Button


@dataclass(frozen=True)
class Controls:
    """What all views follow; `site` stands in the view that it is for."""

    layer: gr.Dropdown
    wavelet: gr.Dropdown
    levels: gr.Dropdown
    band: gr.Dropdown
    channel: gr.Dropdown
    number: gr.Number
    sigma: gr.Slider
    model: gr.Dropdown
    site: gr.Radio


@dataclass(frozen=True)
class Views:
    """By view: its tab, its answer, its figures."""

    tabs: gr.Tabs
    tab: dict[str, gr.Tab]
    answer: dict[str, gr.HTML]
    figures: dict[str, list[gr.HTML]]


@dataclass(frozen=True)
class Hidden:
    """What the page knows and does not show. It lies in the browser, so that a server that starts anew loses nothing."""

    clock: gr.Textbox
    pair: gr.Textbox
    view: gr.Textbox
    address: gr.Textbox
    ticket: gr.Textbox


@dataclass(frozen=True)
class Page:
    """All parts of the page."""

    header: Header
    images: Images
    controls: Controls
    progress: gr.HTML
    views: Views
    trainer: trainer.Trainer
    hidden: Hidden


def lay_out(microscope: Microscope, table: Callable[[Any], Any]) -> Page:
    """The page, in the `gr.Blocks` that is open, as the microscope's opening shows it.

    Args:
        table: of `components.figure`.
    """
    first = microscope.opening
    gr.HTML(_MASTHEAD, apply_default_css=False)
    header = _header(microscope, first)
    images = _images(first)
    controls = _controls(first)
    progress = components.progress()
    views, form = _views(microscope, table, controls.site)
    hidden = {"clock": "", "pair": first.described.key, "view": first.settings.view, "address": "", "ticket": ""}
    return Page(
        header,
        images,
        controls,
        progress,
        views,
        form,
        Hidden(**{name: gr.Textbox(value, label=name, visible="hidden") for name, value in hidden.items()}),
    )


def models_of(names: dict[str, str]) -> list[tuple[str, str]]:
    """Choices of the model control: name, role."""
    return [(name, role) for role, name in names.items()]


def _header(microscope: Microscope, first: Opening) -> Header:
    cards = gr.HTML(first.described.header, apply_default_css=False)
    remark = gr.HTML("", apply_default_css=False)
    with gr.Accordion("Other pair: a run, or any two timm models", open=False), gr.Row():
        run = gr.Dropdown(microscope.choices(), value=first.described.key, label="Run", scale=1)
        teacher = gr.Textbox(label="Teacher (timm name)", placeholder="resnet18", scale=2)
        student = gr.Textbox(label="Student (timm name)", placeholder="swin_tiny_patch4_window7_224", scale=2)
        pretrained = gr.Checkbox(False, label="Pretrained weights", info="downloaded if not on this disk")
        with gr.Column(min_width=140, scale=1):
            button = gr.Button("Open models", variant="primary", size="sm")
            use_random = gr.Button("Open with random weights", size="sm", visible=False)
    return Header(cards, remark, run, teacher, student, pretrained, button, use_random)


def _images(first: Opening) -> Images:
    strip = components.strip(first.strip, first.settings.image)
    with gr.Row(elem_classes="images"):
        verdict = gr.HTML(first.verdict, apply_default_css=False, scale=8, min_width=480)
        upload = gr.UploadButton("Upload a picture", type="filepath", size="sm", scale=0, min_width=130)
        average = gr.Button("Average over samples:", size="sm", scale=0, min_width=150)
        count = gr.Number(MOST_SAMPLES, precision=0, label="Number of samples", container=False, scale=0, min_width=70)
    return Images(strip, verdict, upload, count, average)


def _controls(first: Opening) -> Controls:
    s: Settings = first.settings
    site = gr.Radio(
        [("the image", "input"), ("the chosen layer", "layer")], value=s.site, label="Bands of", render=False
    )
    with gr.Row(elem_classes="controls"):
        return Controls(
            gr.Dropdown(
                first.described.layers,
                value=s.layer,
                label="Layer: student ↔ teacher",
                elem_id="layer",
                min_width=165,
                scale=3,
            ),
            gr.Dropdown(list(WAVELETS), value=s.wavelet, label="Wavelet", elem_id="wavelet", min_width=85, scale=2),
            gr.Dropdown(
                list(range(1, MOST_LEVELS + 1)), value=s.levels, label="Levels", elem_id="levels", min_width=70, scale=1
            ),
            gr.Dropdown(bands(s.levels), value=s.band, label="Band", elem_id="band", min_width=95, scale=2),
            gr.Dropdown(list(CHANNELS), value=s.channel, label="Channel", elem_id="channel", min_width=130, scale=2),
            gr.Number(
                s.number,
                precision=0,
                label="Channel number",
                elem_id="number",
                min_width=90,
                scale=1,
                visible=False,
            ),
            gr.Slider(
                *SIGMAS, value=s.sigma, step=0.01, label="Sigma (cycles/pixel)", elem_id="sigma", min_width=185, scale=3
            ),
            gr.Dropdown(
                models_of(first.described.models), value=s.model, label="Model", elem_id="model", min_width=115, scale=2
            ),
            site,
        )


def _views(microscope: Microscope, table: Callable[[Any], Any], site: gr.Radio) -> tuple[Views, trainer.Trainer]:
    first = microscope.opening
    tab, answer, figures, forms = {}, {}, {}, []
    with gr.Tabs(selected=first.settings.view) as tabs:
        for view, card in CARDS.items():
            shown = view == first.settings.view
            with gr.Tab(view, id=view) as tab[view]:
                gr.HTML(_question(view), apply_default_css=False)
                if view == "Attribution":
                    site.render()
                if view == "Training":
                    forms.append(trainer.lay_out(microscope))
                answer[view] = gr.HTML(first.answer if shown else "", apply_default_css=False)
                figures[view] = [
                    components.figure(first.figures[i] if shown else "", label=label, index=i, table=table)
                    for i, label in enumerate(card.figures)
                ]
    (form,) = forms
    return Views(tabs, tab, answer, figures), form


def _question(view: str) -> str:
    card = CARDS[view]
    follows = ", ".join(word for control, word in _WORDS.items() if control in card.follows)
    told = f" <span class='follows'>Follows {follows}.</span>" if follows else ""
    return f"<p class='question'><b>{card.question}</b>{told}</p>"


def dimmed() -> str:
    """Style: in each view the controls that it does not follow stand back."""
    rules = []
    for view in VIEWS:
        slug = view.lower().replace(" ", "-")
        others = [c for c in [*_WORDS, "number"] if {"number": "channel"}.get(c, c) not in CARDS[view].follows]
        rules.append(", ".join(f"body[data-view='{slug}'] #{control}" for control in others) + " { opacity: .4; }")
    return "\n".join(rules)
