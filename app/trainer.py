"""The form of the training view: what to train, and how it goes; its layout and its events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import gradio as gr
import job_html
from jobs import Watched
from messages import UserError, readable
from microscope import Microscope
from recipes import Wish
from settings import Settings

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False, "preprocess": False}
_EVERY = 1.0  # seconds; a training tells of itself as often
Updates = dict[Any, Any]


@dataclass(frozen=True)
class Trainer:
    """The parts of the form.

    `job` names the run that is watched; `seen` what of it is drawn. Both lie in the browser.
    """

    recipe: gr.Dropdown
    name: gr.Textbox
    teacher: gr.Textbox
    student: gr.Textbox
    epochs: gr.Number
    download: gr.Checkbox
    start: gr.Button
    watched: gr.Dropdown
    stop: gr.Button
    go_on: gr.Button
    open: gr.Button
    state: gr.HTML
    timer: gr.Timer
    job: gr.Textbox
    seen: gr.Textbox


def lay_out(microscope: Microscope) -> Trainer:
    """The form, in the tab that is open."""
    recipes = microscope.recipes.names()
    with gr.Row(elem_classes="controls"):
        recipe = gr.Dropdown(recipes, value=recipes[0] if recipes else None, label="Recipe", min_width=130, scale=2)
        name = gr.Textbox(label="Name of the run", placeholder="mine", min_width=120, scale=2)
        teacher = gr.Textbox(label="Teacher (timm name)", placeholder="the recipe's", min_width=150, scale=3)
        student = gr.Textbox(label="Student (timm name)", placeholder="the recipe's", min_width=150, scale=3)
        epochs = gr.Number(0, label="Epochs (0: the recipe's)", precision=0, min_width=160, scale=2)
        download = gr.Checkbox(False, label="Allow downloads", info="of weights and data", min_width=130, scale=1)
    with gr.Row(elem_classes="images"):
        start = gr.Button("Start training", variant="primary", size="sm", scale=0, min_width=130)
        watched = gr.Dropdown([], label="Trainings started here", container=False, min_width=200, scale=3)
        stop = gr.Button("Stop", size="sm", interactive=False, scale=0, min_width=90)
        go_on = gr.Button("Go on", size="sm", interactive=False, scale=0, min_width=90)
        opened = gr.Button("Open in the other views", size="sm", interactive=False, scale=0, min_width=180)
    state = gr.HTML("", apply_default_css=False)
    return Trainer(
        *(recipe, name, teacher, student, epochs, download, start, watched, stop, go_on, opened, state),
        gr.Timer(_EVERY, active=False),
        gr.Textbox("", label="job", visible="hidden"),
        gr.Textbox("", label="seen", visible="hidden"),
    )


class Drawing(Protocol):
    """What the rest of the page does for the form; `shows` are the parts that it may change."""

    shows: list[Any]

    def show(self, request: gr.Request, settings: Settings) -> Updates:
        """The view of settings."""

    def alert(self, text: str) -> Updates:
        """What went wrong, in words."""


class Training:
    """The form's events, and all drawing of the training view.

    Args:
        inputs: parts of the page that hold its settings; settings: of their values.
        page: what draws a view and tells of mistakes.
    """

    def __init__(
        self,
        microscope: Microscope,
        form: Trainer,
        *,
        inputs: list[Any],
        settings: Callable[[Any], Settings],
        page: Drawing,
    ) -> None:
        self.microscope, self.form, self.page = microscope, form, page
        self.inputs, self.settings = [form.seen, *inputs], settings

    def connect(self, view: gr.Textbox) -> None:
        """Tie the form to what it does; `view` holds the view that is open."""
        form, outputs = self.form, [*self.form.__dict__.values(), *self.page.shows]
        wish = [form.recipe, form.name, form.teacher, form.student, form.epochs, form.download]
        gr.on([form.timer.tick, view.change], self.tell, self.inputs, outputs, **_PRIVATE)
        form.watched.input(self.choose, [form.watched, *self.inputs], outputs, **_PRIVATE)
        form.start.click(self.start, [*wish, *self.inputs], outputs, **_PRIVATE)
        form.stop.click(self.stop, self.inputs, outputs, **_PRIVATE)
        form.go_on.click(self.go_on, self.inputs, outputs, **_PRIVATE)

    def start(self, request: gr.Request, *values: Any) -> Updates:
        """Train what the form says."""
        recipe, name, teacher, student, epochs, download, *page = values
        wish = Wish(recipe or "", (name or "").strip(), teacher or "", student or "", int(epochs or 0), bool(download))
        return self._do(lambda: self.microscope.train(wish), request, page, wish.name)

    def stop(self, request: gr.Request, *page: Any) -> Updates:
        """Ask the job that is watched to end."""
        return self._do(lambda: self.microscope.jobs.stop(self.settings(page[1:]).job), request, page)

    def go_on(self, request: gr.Request, *page: Any) -> Updates:
        """Start the job that is watched again."""
        return self._do(lambda: self.microscope.jobs.go_on(self.settings(page[1:]).job), request, page)

    def _do(self, act: Callable[[], Any], request: gr.Request, page: Sequence[Any], job: str = "") -> Updates:
        try:
            readable(act)()
        except UserError as error:
            return self.page.alert(str(error))
        return self._tell(request, page, job)

    def choose(self, request: gr.Request, job: str, *page: Any) -> Updates:
        """Watch another job."""
        return self._tell(request, page, job)

    def tell(self, request: gr.Request, *page: Any) -> Updates:
        """How it goes: once a second while something trains, and whenever the view is opened."""
        return self._tell(request, page)

    def _tell(self, request: gr.Request, page: Sequence[Any], job: str = "") -> Updates:
        """The state of the job that is watched, else of the one that runs; the curves where they have changed."""
        form, settings = self.form, self.settings(page[1:])
        if settings.view != "Training":
            return {form.timer: gr.update(active=False)}
        running, known = self.microscope.jobs.running(), self.microscope.jobs.names()
        job = job or settings.job or (running.name if running else "")
        watched = self.microscope.jobs.watch(job) if job in known else None
        settings = replace(settings, job=job if watched else "")
        updates = {form.job: settings.job, form.watched: gr.update(choices=known, value=settings.job or None)}
        updates |= self._state(watched)
        seen = f"{settings.pair}|{settings.job}|{watched.written if watched else ''}"
        return updates if seen == page[0] else {**updates, form.seen: seen, **self.page.show(request, settings)}

    def _state(self, watched: Watched | None) -> Updates:
        form = self.form
        state = watched.state if watched else None
        busy = state in ("running", "stopping")
        return {
            form.state: job_html.told(watched) if watched else "",
            form.timer: gr.update(active=busy),
            form.stop: gr.update(interactive=busy),
            form.go_on: gr.update(interactive=state in ("stopped", "failed")),
            form.open: gr.update(interactive=state == "finished"),
        }
