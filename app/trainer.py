"""The form of the training view: what to train, and how it goes; its layout and its events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import gradio as gr
import job_html
from asked import Asked
from jobs import Watched
from messages import UserError, readable
from microscope import Microscope
from recipes import Wish

# the page's clock, in the place of an event's first value
CLOCK = "(_, ...values) => [performance.now(), ...values]"
_ASKED: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "queue": False,
    "preprocess": False,
    "js": CLOCK,
}
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
        teacher = gr.Textbox(label="Teacher (timm name)", placeholder="the recipe's", min_width=150, scale=2)
        student = gr.Textbox(label="Student (timm name)", placeholder="the recipe's", min_width=150, scale=2)
        epochs = gr.Number(0, label="Epochs (0: the recipe's)", precision=0, min_width=160, scale=2)
        download = gr.Checkbox(False, label="Allow downloads", info="of weights and data", min_width=150, scale=1)
    with gr.Row(elem_classes=["images", "watch"]):
        start = gr.Button("Start training", variant="primary", size="sm", scale=0, min_width=130)
        watched = gr.Dropdown([], label="Trainings started here", min_width=200, scale=3)
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

    def asked(self, request: gr.Request, values: Sequence[Any]) -> Asked:
        """What an event asks for."""

    def show(self, asked: Asked) -> Updates:
        """A view."""

    def alert(self, text: str) -> Updates:
        """What went wrong, in words."""


class Training:
    """The form's events, and all drawing of the training view. `page` draws it and tells of mistakes."""

    def __init__(self, microscope: Microscope, form: Trainer, page: Drawing) -> None:
        self.microscope, self.form, self.page = microscope, form, page

    def connect(self, given: list[Any], view: gr.Textbox) -> None:
        """Tie the form to what it does; `given` are the page's clock and settings, `view` is what holds the view."""
        form = self.form
        wish = [form.recipe, form.name, form.teacher, form.student, form.epochs, form.download]
        asks: dict[str, Any] = {"outputs": [*form.__dict__.values(), *self.page.shows], **_ASKED}
        form.timer.tick(self.tell, [*given, form.seen], **asks)
        view.change(self.tell, given, **asks)
        form.watched.input(self.choose, [*given, form.watched], **asks)
        form.start.click(self.start, [*given, *wish], **asks)
        form.stop.click(self.stop, given, **asks)
        form.go_on.click(self.go_on, given, **asks)

    def start(self, request: gr.Request, *values: Any) -> Updates:
        """Train what the form says."""
        asked = self.page.asked(request, values)
        recipe, name, teacher, student, epochs, download = asked.more
        wish = Wish(recipe or "", (name or "").strip(), teacher or "", student or "", int(epochs or 0), bool(download))
        return self._do(lambda: self.microscope.train(wish), asked, wish.name)

    def stop(self, request: gr.Request, *values: Any) -> Updates:
        """Ask the job that is watched to end."""
        asked = self.page.asked(request, values)
        return self._do(lambda: self.microscope.jobs.stop(asked.settings.job), asked)

    def go_on(self, request: gr.Request, *values: Any) -> Updates:
        """Start the job that is watched again."""
        asked = self.page.asked(request, values)
        return self._do(lambda: self.microscope.jobs.go_on(asked.settings.job), asked)

    def choose(self, request: gr.Request, *values: Any) -> Updates:
        """Watch another job."""
        asked = self.page.asked(request, values)
        return self._tell(asked, str(asked.more[0] or ""))

    def tell(self, request: gr.Request, *values: Any) -> Updates:
        """How it goes: once a second while something trains, then with what was drawn last; and when a view is opened."""
        asked = self.page.asked(request, values)
        return self._tell(asked, seen="".join(asked.more))

    def _do(self, act: Callable[[], Any], asked: Asked, job: str = "") -> Updates:
        try:
            readable(act)()
        except UserError as error:
            return self.page.alert(str(error))
        return self._tell(asked, job)

    def _tell(self, asked: Asked, job: str = "", *, seen: str = "") -> Updates:
        """The state of the job that is watched, else of the one that runs; the curves where they are not what was `seen`."""
        form, settings = self.form, asked.settings
        if settings.view != "Training":
            return {form.timer: gr.update(active=False)}
        running, known = self.microscope.jobs.running(), self.microscope.jobs.names()
        job = job or settings.job or (running.name if running else "")
        watched = self.microscope.jobs.watch(job) if job in known else None
        settings = replace(settings, job=job if watched else "")
        updates = {form.job: settings.job, form.watched: gr.update(choices=known, value=settings.job or None)}
        updates |= self._state(watched)
        now = f"{settings.pair}|{settings.job}|{watched.written if watched else ''}"
        if now == seen:
            return updates
        return {**updates, form.seen: now, **self.page.show(replace(asked, settings=settings))}

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
