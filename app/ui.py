"""Layout and wiring of the page; every number and figure comes from `callbacks`."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from typing import Any

import gradio as gr
from callbacks import ALL_SAMPLES, CHANNELS, VIEWS, Microscope, MissingWeights, UserError, wavelets

LAUNCH_OPTIONS: dict[str, Any] = {
    "ssr_mode": False,
    "pwa": False,
    "run_history": False,
    "footer_links": [],
    "show_error": False,
    "max_file_size": "20mb",
    "theme": gr.themes.Soft(
        primary_hue="blue",
        neutral_hue="slate",
        font=["Inter", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "monospace"],
    ),
    "css": """
.gradio-container { max-width: 1400px !important; margin: auto; }
.cards { display: flex; gap: 12px; flex-wrap: wrap; }
.card { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 8px 14px; min-width: 200px;
        background: var(--background-fill-secondary); font-size: 13px; overflow-wrap: anywhere; flex: 1; }
.top1 { float: right; font-weight: 600; font-variant-numeric: tabular-nums; font-size: 15px; }
.data, .verdict { font-size: 13px; opacity: .85; margin-top: 6px; }
.badge { border-radius: 6px; padding: 2px 8px; background: var(--background-fill-secondary); font-weight: 600; }
.badge.warn { background: #b45309; color: white; }
#strip .grid-wrap { max-height: 150px; }
""",
}
_RESIZE = "() => { setTimeout(() => window.dispatchEvent(new Event('resize')), 60) }"
_IS_DARK = "(...values) => [document.body.classList.contains('dark'), ...values.slice(1)]"


def build(microscope: Microscope) -> gr.Blocks:
    """The page for one microscope."""
    first = microscope.pair(microscope.first)
    gallery = microscope.gallery()
    sources = [source for source, _, _ in gallery]
    start = sources[0]
    with gr.Blocks(title="SFKD microscope", analytics_enabled=False) as page:
        key, source = gr.State(microscope.first), gr.State(start)
        view = gr.State(VIEWS[0])
        dark = gr.Checkbox(False, visible="hidden", label="dark theme")

        gr.Markdown(
            "# What moves between architectures\nSpatial-frequency components of a teacher and its students, layer by layer."
        )
        header = gr.HTML(first.note)
        with gr.Accordion("Open another pair", open=False), gr.Row():
            run = gr.Dropdown(list(microscope.runs()), value=_name_of(microscope), label="Run", scale=1)
            teacher = gr.Textbox(label="Teacher (timm name)", placeholder="swin_tiny_patch4_window7_224", scale=2)
            student = gr.Textbox(label="Student (timm name)", placeholder="resnet18", scale=2)
            pretrained = gr.Checkbox(False, label="Pretrained weights", info="downloaded if not on this disk")
            open_pair = gr.Button("Open models", variant="primary", scale=1)
        with gr.Row(visible=False) as offer:
            missing = gr.Markdown()
            use_random = gr.Button("Open with random weights", scale=0)

        with gr.Row():
            with gr.Column(scale=5):
                strip = gr.Gallery(
                    [(picture, caption) for _, picture, caption in gallery],
                    label="Image",
                    columns=12,
                    height=190,
                    allow_preview=False,
                    object_fit="contain",
                    selected_index=0,
                    elem_id="strip",
                    interactive=False,
                )
                verdict = gr.HTML()
            with gr.Column(scale=1, min_width=160):
                upload = gr.UploadButton("Upload a picture", file_types=["image"], type="filepath")
                average = gr.Button("Average over all samples")

        with gr.Row():
            layer = gr.Dropdown(first.layers, value=first.layers[0], label="Layer: student ↔ teacher")
            wavelet = gr.Dropdown(wavelets(), value="haar", label="Wavelet")
            levels = gr.Slider(1, 4, value=2, step=1, label="Levels")
            channel = gr.Dropdown(list(CHANNELS), value="mean energy", label="Channel")
            number = gr.Number(0, precision=0, minimum=0, label="Channel number", visible=False)
            sigma = gr.Slider(0.02, 0.7, value=0.25, step=0.01, label="Sigma (cycles/pixel)")

        plots: dict[str, list[gr.Plot]] = {}
        tabs = {}
        for name in VIEWS:
            with gr.Tab(name) as tabs[name]:
                gr.Markdown(_HELP[name])
                labels = ["Energy spectra", "Radial spectra"] if name == "Spectra" else [name]
                plots[name] = [_figure(label) for label in labels]

        controls = [view, key, source, layer, wavelet, levels, channel, number, sigma]
        figures = [plot for name in VIEWS for plot in plots[name]]

        @_readable
        def draw(is_dark: bool, *values: Any) -> list[Any]:
            shown, pair, image, chosen, wave, depth, what, which, width = values
            drawn = microscope.draw(
                shown,
                pair,
                image,
                chosen,
                wavelet=wave,
                levels=depth,
                channel=what,
                channel_number=which or 0,
                sigma=width,
                dark=is_dark,
            )
            return [f for name in VIEWS for f in (drawn if name == shown else [gr.skip()] * len(plots[name]))]

        @_readable
        def say(pair: str, image: str) -> str:
            return microscope.verdict(pair, image)

        draws: dict[str, Any] = {
            "fn": draw,
            "inputs": [dark, *controls],
            "outputs": figures,
            "trigger_mode": "always_last",
            "concurrency_id": "draw",
            "concurrency_limit": 2,
            "show_progress": "minimal",
            "api_visibility": "private",
        }
        says: dict[str, Any] = {"fn": say, "inputs": [key, source], "outputs": verdict, "api_visibility": "private"}
        private: dict[str, Any] = {"api_visibility": "private"}

        page.load(js=_IS_DARK, **draws).then(**says)
        for control in (layer, wavelet, channel, number, sigma, levels):
            control.change(**draws)
        channel.change(lambda what: gr.update(visible=CHANNELS[what] is None), channel, number, **private)
        for name, tab in tabs.items():
            tab.select(functools.partial(str, name), None, view, js=_RESIZE, **private).then(**draws)

        def pick(event: gr.SelectData) -> str:
            return sources[event.index]

        strip.select(pick, None, source, **private).then(**draws).then(**says)
        average.click(lambda: ALL_SAMPLES, None, source, **private).then(**draws).then(**says)
        upload.upload(_readable(microscope.upload), upload, source, **private).success(**draws).success(**says)

        def opened(new: str) -> list[Any]:
            pair = microscope.pair(new)
            return [new, pair.note, gr.update(choices=pair.layers, value=pair.layers[0]), gr.update(visible=False), ""]

        @_readable
        def choose(name: str) -> list[Any]:
            return opened(microscope.runs()[name])

        @_readable
        def open_names(names_teacher: str, names_student: str, with_weights: bool) -> list[Any]:
            try:
                return opened(microscope.open_names(names_teacher, names_student, pretrained=with_weights))
            except MissingWeights as error:
                keep = [gr.skip()] * 3
                return [*keep, gr.update(visible=True), f"**No weights.** {html.escape(str(error))}"]

        pair_outputs = [key, header, layer, offer, missing]
        names = [teacher, student]
        run.input(choose, run, pair_outputs, **private).success(**draws).success(**says)
        open_pair.click(open_names, [*names, pretrained], pair_outputs, **private).success(**draws).success(**says)
        use_random.click(lambda t, s: open_names(t, s, False), names, pair_outputs, **private).success(**draws).success(
            **says
        )
    return page


_HELP = {
    "Sub-bands": "Where in the image, at which scale and orientation, does a layer carry its energy? "
    "Bright details (H, V, D) mean edges and texture; energy in A means smooth, global content.",
    "Spectra": "How is energy spread over spatial frequencies? A student that took over a teacher's low frequencies moves "
    "towards its curve on the left.",
    "Gaussian masks": "What does a Gaussian of width sigma let through? This is what the frequency loss of SFKD compares.",
    "DS2S": "What does the refinement do to the student's sub-bands on their way to the teacher's? "
    "Wavelet and levels here are those the pair was trained with.",
}


def _figure(label: str) -> gr.Plot:
    with gr.HTML(html_template=f'<div role="figure" aria-label="{label}">@children</div>'):
        return gr.Plot(show_label=False, label=label)


def _name_of(microscope: Microscope) -> str:
    return next(name for name, key in microscope.runs().items() if key == microscope.first)


def _readable(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `UserError` as a message on the page, without a traceback."""

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        try:
            return function(*args)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return wrapped
