"""Layout and wiring of the page; every number and figure comes from `callbacks`."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from callbacks import CHANNELS, VIEWS, Microscope, Pair, wavelets
from messages import MissingWeights, UserError
from pictures import ALL_SAMPLES

LAUNCH_OPTIONS: dict[str, Any] = {
    "ssr_mode": False,
    "pwa": False,
    "run_history": False,
    "footer_links": [],
    "show_error": False,
    "quiet": True,
    # Gradio asks its own page once, for three seconds, and gives up; a busy machine is slower than that
    "_frontend": False,
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
#strip .grid-wrap { max-height: none; min-height: 0; height: auto; padding: 4px; }
#strip .grid-container { grid-template-columns: repeat(12, minmax(0, 1fr)) !important; grid-auto-rows: auto; gap: 4px; }
#strip .caption-label { font-size: 10px; padding: 0 4px; }
""",
}
_RESIZE = "() => { setTimeout(() => window.dispatchEvent(new Event('resize')), 60) }"
_IS_DARK = "() => document.body.classList.contains('dark')"


@dataclass(frozen=True)
class _Opener:
    """Choose a run, or type two models."""

    run: gr.Dropdown
    teacher: gr.Textbox
    student: gr.Textbox
    pretrained: gr.Checkbox
    open: gr.Button
    offer: gr.Row
    missing: gr.Markdown
    use_random: gr.Button


@dataclass(frozen=True)
class _Images:
    """Choose what the models look at."""

    strip: gr.Gallery
    sources: list[str]
    verdict: gr.HTML
    upload: gr.UploadButton
    average: gr.Button


@dataclass(frozen=True)
class _Controls:
    """What all views follow, in the order of `_Wiring.draw`'s arguments."""

    layer: gr.Dropdown
    wavelet: gr.Dropdown
    levels: gr.Slider
    channel: gr.Dropdown
    number: gr.Number
    sigma: gr.Slider

    def all(self) -> list[Any]:
        return [self.layer, self.wavelet, self.levels, self.channel, self.number, self.sigma]


def build(microscope: Microscope) -> gr.Blocks:
    """The page for one microscope."""
    first = microscope.pair(microscope.first)
    with gr.Blocks(title="SFKD microscope", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# What moves between architectures\nSpatial-frequency components of a teacher and its students, by layer."
        )
        header = gr.HTML(first.note)
        opener = _opener(microscope)
        images = _images(microscope)
        controls = _controls(first)
        tabs, plots = _views()
        key, source, view = gr.State(microscope.first), gr.State(images.sources[0]), gr.State(VIEWS[0])
        dark = gr.Checkbox(False, visible="hidden", label="dark theme")
        wiring = _Wiring(microscope, key, source, view, dark, header, images, controls, plots)
        wiring.connect_drawing(page, tabs)
        wiring.connect_images()
        wiring.connect_opener(opener)
    return page


def _opener(microscope: Microscope) -> _Opener:
    runs = microscope.runs()
    shown = next(name for name, key in runs.items() if key == microscope.first)
    with gr.Accordion("Open another pair", open=False), gr.Row():
        run = gr.Dropdown(list(runs), value=shown, label="Run", scale=1)
        teacher = gr.Textbox(label="Teacher (timm name)", placeholder="swin_tiny_patch4_window7_224", scale=2)
        student = gr.Textbox(label="Student (timm name)", placeholder="resnet18", scale=2)
        pretrained = gr.Checkbox(False, label="Pretrained weights", info="downloaded if not on this disk")
        button = gr.Button("Open models", variant="primary", scale=1)
    with gr.Row(visible=False) as offer:
        missing = gr.Markdown()
        use_random = gr.Button("Open with random weights", scale=0)
    return _Opener(run, teacher, student, pretrained, button, offer, missing, use_random)


def _images(microscope: Microscope) -> _Images:
    offered = microscope.pictures.gallery()
    with gr.Row():
        with gr.Column(scale=5):
            strip = gr.Gallery(
                [(picture, caption) for _, picture, caption in offered],
                label="Sample images",
                show_label=False,
                columns=12,
                height="auto",
                allow_preview=False,
                object_fit="contain",
                selected_index=0,
                elem_id="strip",
                interactive=False,
                buttons=[],
            )
            verdict = gr.HTML()
        with gr.Column(scale=1, min_width=160):
            upload = gr.UploadButton("Upload a picture", type="filepath")
            average = gr.Button("Average over all samples")
    return _Images(strip, [source for source, _, _ in offered], verdict, upload, average)


def _controls(first: Pair) -> _Controls:
    with gr.Row():
        return _Controls(
            gr.Dropdown(first.layers, value=first.layers[0], label="Layer: student ↔ teacher"),
            gr.Dropdown(wavelets(), value="haar", label="Wavelet"),
            gr.Slider(1, 4, value=2, step=1, label="Levels"),
            gr.Dropdown(list(CHANNELS), value="mean energy", label="Channel"),
            gr.Number(0, precision=0, minimum=0, label="Channel number", visible=False),
            gr.Slider(0.02, 0.7, value=0.25, step=0.01, label="Sigma, cycles/pixel"),
        )


def _views() -> tuple[dict[str, gr.Tab], dict[str, list[gr.Plot]]]:
    tabs, plots = {}, {}
    for name in VIEWS:
        with gr.Tab(name) as tabs[name]:
            gr.Markdown(_HELP[name])
            plots[name] = [_figure(label) for label in _FIGURES.get(name, [name])]
    return tabs, plots


@dataclass(frozen=True)
class _Wiring:
    """Events of the page. Only the view that is open is drawn."""

    microscope: Microscope
    key: gr.State
    source: gr.State
    view: gr.State
    dark: gr.Checkbox
    header: gr.HTML
    images: _Images
    controls: _Controls
    plots: dict[str, list[gr.Plot]]

    def draws(self) -> dict[str, Any]:
        """The event that draws the open view."""
        return {
            "fn": self.draw,
            "inputs": [self.dark, self.view, self.key, self.source, *self.controls.all()],
            "outputs": [plot for name in VIEWS for plot in self.plots[name]],
            "trigger_mode": "always_last",
            "concurrency_id": "draw",
            "concurrency_limit": 2,
            "show_progress": "minimal",
            "api_visibility": "private",
        }

    def says(self) -> dict[str, Any]:
        """The event that tells what the models see."""
        return {
            "fn": self.say,
            "inputs": [self.key, self.source],
            "outputs": self.images.verdict,
            "api_visibility": "private",
        }

    def connect_drawing(self, page: gr.Blocks, tabs: dict[str, gr.Tab]) -> None:
        controls = self.controls
        page.load(None, None, self.dark, js=_IS_DARK, **_PRIVATE).then(**self.draws()).then(**self.says())
        for control in controls.all():
            control.change(**self.draws())
        controls.channel.change(
            lambda what: gr.update(visible=CHANNELS[what] is None), controls.channel, controls.number, **_PRIVATE
        )
        for name, tab in tabs.items():
            tab.select(functools.partial(str, name), None, self.view, js=_RESIZE, **_PRIVATE).then(**self.draws())

    def connect_images(self) -> None:
        images = self.images
        images.strip.select(self.pick, None, self.source, **_PRIVATE).then(**self.draws()).then(**self.says())
        images.average.click(lambda: ALL_SAMPLES, None, self.source, **_PRIVATE).then(**self.draws()).then(
            **self.says()
        )
        upload = images.upload.upload(
            _readable(self.microscope.pictures.upload), images.upload, self.source, **_PRIVATE
        )
        upload.success(**self.draws()).success(**self.says())

    def connect_opener(self, opener: _Opener) -> None:
        outputs = [self.key, self.header, self.controls.layer, opener.offer, opener.missing, opener.run]
        names = [opener.teacher, opener.student]
        events = [
            opener.run.input(self.choose, opener.run, outputs, **_PRIVATE),
            opener.open.click(self.open_names, [*names, opener.pretrained], outputs, **_PRIVATE),
            opener.use_random.click(self.open_names, names, outputs, **_PRIVATE),
        ]
        for event in events:
            event.success(**self.draws()).success(**self.says())

    def draw(self, dark: bool, view: str, key: str, source: str, *values: Any) -> list[Any]:
        layer, wavelet, levels, channel, number, sigma = values
        drawn = _readable(self.microscope.draw)(
            view,
            key,
            source,
            layer,
            wavelet=wavelet,
            levels=levels,
            channel=channel,
            channel_number=number or 0,
            sigma=sigma,
            dark=dark,
        )
        return [f for name in VIEWS for f in (drawn if name == view else [gr.skip()] * len(self.plots[name]))]

    def say(self, key: str, source: str) -> str:
        return _readable(self.microscope.verdict)(key, source)

    def pick(self, event: gr.SelectData) -> str:
        return self.images.sources[event.index]

    def choose(self, name: str) -> list[Any]:
        return self._opened(_readable(self.microscope.runs)()[name])

    def open_names(self, teacher: str, student: str, pretrained: bool = False) -> list[Any]:
        try:
            key = _readable(self.microscope.open_names)(teacher, student, pretrained=pretrained)
        except MissingWeights as error:
            message = f"**No weights.** {html.escape(str(error))}"
            return [gr.skip(), gr.skip(), gr.skip(), gr.update(visible=True), message, gr.skip()]
        return self._opened(key)

    def _opened(self, key: str) -> list[Any]:
        pair = _readable(self.microscope.pair)(key)
        layers = gr.update(choices=pair.layers, value=pair.layers[0])
        shown = next((name for name, known in _readable(self.microscope.runs)().items() if known == key), None)
        return [key, pair.note, layers, gr.update(visible=False), "", gr.update(value=shown)]


_HELP = {
    "Sub-bands": "Where in the image, at which scale and orientation, does a layer carry its energy? "
    "Bright details (H, V, D) mean edges and texture; energy in A means smooth, global content.",
    "Spectra": "How is energy spread over spatial frequencies? A student that took over a teacher's low frequencies moves "
    "towards its curve on the left.",
    "Gaussian masks": "What does a Gaussian of width sigma let through? This is what the frequency loss of SFKD compares.",
    "DS2S": "What does the refinement do to the student's sub-bands on their way to the teacher's? "
    "Wavelet and levels here are those the pair was trained with.",
}


_FIGURES = {"Spectra": ["Energy spectra", "Radial spectra"]}
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}


def _figure(label: str) -> gr.Plot:
    with gr.HTML(html_template=f'<div role="figure" aria-label="{label}">@children</div>'):
        return gr.Plot(show_label=False, label=label)


def _readable(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `UserError` as a message on the page, without a traceback; missing weights have an answer of their own."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except MissingWeights:
            raise
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return wrapped
