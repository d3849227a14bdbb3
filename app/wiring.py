"""Events of the page: what a control does. Only the view that is open is drawn."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from alerts import told
from api import Api
from asked import Asked
from components import picked, remark, so_far
from described import Described
from messages import MissingWeights, UserError
from microscope import Microscope, Seen
from settings import CHANNELS, MOST_SAMPLES, VIEWS, Settings, bands, key_of_names
from trainer import CLOCK, Training
from ui import Page, lay_out, models_of
from work import Stopped, Task

PATIENCE = 0.4  # seconds after which a computation shows how far it is
_TICK = 0.25
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_QUICK: dict[str, Any] = {**_PRIVATE, "queue": False, "preprocess": False}
_ASKED: dict[str, Any] = {**_QUICK, "js": CLOCK}
Updates = dict[Any, Any]


def build(microscope: Microscope) -> gr.Blocks:
    """The page of a microscope."""

    def table(asked: Any) -> list[str]:
        """File name and CSV of a figure: (query of the page, number of the figure)."""
        query, figure = asked
        try:
            return list(microscope.table(str(query), int(figure)))
        except (UserError, IndexError) as error:
            return ["error.csv", f"{error}\n"]

    with gr.Blocks(title="SFKD microscope", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        page = lay_out(microscope, table)
        Wiring(microscope, page).connect(blocks)
        _offer(Api(microscope))
    return blocks


def _offer(api: Api) -> None:
    """Every method of the API as an endpoint of its name."""
    for name, method in inspect.getmembers(api, inspect.ismethod):
        if not name.startswith("_"):
            described = inspect.getdoc(method)
            gr.api(told(method), api_name=name, api_description=described, concurrency_id="api", concurrency_limit=2)


class Wiring:
    """Functions that Gradio calls, and what calls them."""

    def __init__(self, microscope: Microscope, page: Page) -> None:
        self.microscope, self.page = microscope, page
        controls, hidden = page.controls, page.hidden
        self.inputs: dict[str, Any] = {
            "view": hidden.view,
            "pair": hidden.pair,
            "image": page.images.strip,
            "layer": controls.layer,
            "wavelet": controls.wavelet,
            "levels": controls.levels,
            "band": controls.band,
            "channel": controls.channel,
            "number": controls.number,
            "sigma": controls.sigma,
            "model": controls.model,
            "site": controls.site,
            "job": page.trainer.job,
        }
        self.nothing: Updates = {page.progress: gr.skip()}
        self.shows = [
            *page.views.answer.values(),
            *(figure for figures in page.views.figures.values() for figure in figures),
            page.images.verdict,
            page.progress,
            hidden.address,
            hidden.ticket,
            page.header.remark,
        ]
        self.opens = [
            *self.shows,
            *(c for part in (page.header, controls, hidden) for c in part.__dict__.values() if c not in self.shows),
            page.images.strip,
            page.views.tabs,
            page.trainer.job,
        ]

    # -- events -------------------------------------------------------------------------------------------------------

    def connect(self, blocks: gr.Blocks) -> None:
        """Tie every control to what it does."""
        page, controls, header, images, form = (
            self.page,
            self.page.controls,
            self.page.header,
            self.page.images,
            self.page.trainer,
        )
        given, names = [page.hidden.clock, *self.inputs.values()], [header.teacher, header.student]
        shows, opens = {"outputs": self.shows, **_ASKED}, {"outputs": self.opens, **_ASKED}
        draws: dict[str, Any] = {"inputs": [*given, page.hidden.address], "trigger_mode": "always_last", **shows}
        moved = [c.input for name, c in self.inputs.items() if name not in ("view", "pair", "job")]
        gr.on([*moved, page.hidden.view.change], self.draw, **draws)
        for view, tab in page.views.tab.items():
            tab.select(None, None, page.hidden.view, js=f"() => {view!r}", **_PRIVATE)
        controls.levels.input(self.offer_bands, [controls.levels, controls.band], controls.band, **_QUICK)
        controls.channel.input(self.offer_number, controls.channel, controls.number, **_QUICK)
        uploaded = images.upload.upload(self.upload, images.upload, [images.strip, header.remark], **_PRIVATE)
        uploaded.then(self.draw, **draws)
        images.average.click(self.average, [*given, images.count], [images.strip, images.count, *self.shows], **_ASKED)
        header.run.input(self.choose, [*given, header.run], **opens)
        header.open.click(self.open_names, [*given, *names, header.pretrained], **opens)
        header.use_random.click(self.open_names, [*given, *names], **opens)
        form.open.click(self.open_job, given, **opens)
        Training(self.microscope, form, self).connect(given, page.hidden.view)
        blocks.load(self.load, None, self.opens, **_QUICK)
        blocks.unload(self.leave)
        follows: dict[str, Any] = {"concurrency_id": "long", "concurrency_limit": 16, "trigger_mode": "multiple"}
        page.hidden.ticket.change(self.follow, page.hidden.ticket, self.opens, **follows, **_PRIVATE)
        page.progress.cancel(self.stop, None, [page.progress, header.remark], **_QUICK)
        page.hidden.address.change(None, page.hidden.address, None, js="(query) => sfkd.address(query)", **_PRIVATE)

    # -- functions ----------------------------------------------------------------------------------------------------

    def draw(self, request: gr.Request, *values: Any) -> Updates:
        """The open view; nothing where it is shown already, as after a link was opened."""
        asked = self.asked(request, values)
        (shown,) = asked.more
        if asked.settings.view == "Training":  # which draws itself
            return self.nothing
        if self.microscope.same(shown, asked.settings):
            self.microscope.desk.overtake(asked.visitor, asked.at)
            return self.nothing
        return self.show(asked)

    def show(self, asked: Asked, *, opens: bool = False, download: bool = False) -> Updates:
        """A view; `opens` and `download` as in `Microscope.begin`."""
        return self._soon(self.microscope.begin(asked, opens=opens, download=download))

    def load(self, request: gr.Request) -> Updates:
        """What the address asks for; the opening is there already."""
        query = {name: text for name, text in request.query_params.items() if not name.startswith("__")}
        self.microscope.warm(after=2.0)
        runs = {self.page.header.run: gr.update(choices=self.microscope.choices())}
        if not query:
            return runs
        return {**runs, **self._soon(self.microscope.begin_link(_visitor(request), query))}

    def leave(self, request: gr.Request) -> None:
        """The visitor closed the page."""
        self.microscope.desk.leave(_visitor(request))

    def stop(self, request: gr.Request) -> Updates:
        """The visitor stops a long computation."""
        self.microscope.desk.stop(_visitor(request))
        return self.alert("Stopped. A control that changes, or another view, begins anew.")

    def follow(self, ticket: str, request: gr.Request) -> Iterator[Updates]:
        """How far a long computation is, and at its end what it found."""
        yield self.nothing  # a generator that yields nothing empties all that it may change
        desk, visitor = self.microscope.desk, _visitor(request)
        task = desk.task(visitor, ticket)
        while task is not None and not task.done(_TICK):
            yield {self.page.progress: so_far(task.work.words, task.work.share)}
            task = desk.task(visitor, ticket)
        found = self.nothing if task is None else self._done(task)
        if found is self.nothing and not desk.busy(visitor):
            found = {self.page.progress: None}  # what was said last may have come to the page after the stop did
        yield found

    def average(self, request: gr.Request, *values: Any) -> Updates:
        """Look at the first samples, all at once."""
        asked = self.asked(request, values)
        count = min(max(int(asked.more[0] or 1), 1), MOST_SAMPLES)
        settings = replace(asked.settings, image=f"mean:{count}")
        images = {self.page.images.strip: picked(settings.image), self.page.images.count: count}
        return {**images, **self.show(replace(asked, settings=settings))}

    def upload(self, path: str | None) -> Updates:
        """Look at a picture of the visitor's."""
        try:
            own = self.microscope.engine.pictures.upload(path)
        except UserError as error:
            return {self.page.header.remark: remark(str(error), alert=True)}
        return {self.page.images.strip: picked(own.source, own), self.page.header.remark: ""}

    def choose(self, request: gr.Request, *values: Any) -> Updates:
        """Open another run."""
        asked = self.asked(request, values)
        settings = replace(asked.settings, pair=str(asked.more[0])).valid()
        return self.show(replace(asked, settings=settings), opens=True)

    def open_job(self, request: gr.Request, *values: Any) -> Updates:
        """Look at what a training made."""
        asked = self.asked(request, values)
        settings = replace(asked.settings, pair=f"run|{asked.settings.job}", view=VIEWS[0], job="").valid()
        return self.show(replace(asked, settings=settings), opens=True)

    def open_names(self, request: gr.Request, *values: Any) -> Updates:
        """Open two timm models; random weights unless the event says others."""
        asked = self.asked(request, values)
        teacher, student, *pretrained = asked.more
        try:
            key = key_of_names(teacher, student, pretrained=any(pretrained))
        except UserError as error:
            return self.alert(str(error))
        return self.show(replace(asked, settings=replace(asked.settings, pair=key)), opens=True, download=True)

    def offer_bands(self, levels: float, band: str) -> Any:
        """Bands of so many levels."""
        choices = bands(int(levels))
        return gr.update(choices=choices, value=band if band in choices else choices[0])

    def offer_number(self, channel: str) -> Any:
        """The channel's number, where one channel is chosen."""
        return gr.update(visible=CHANNELS[channel] is None)

    # -- what they share ----------------------------------------------------------------------------------------------

    def asked(self, request: gr.Request, values: Sequence[Any]) -> Asked:
        """An event's values, the clock first, then `inputs`, then what the event adds; all as the browser sends them.

        Gradio would refuse choices that another server process had offered.
        """
        clock, *given = values[: len(self.inputs) + 1]
        named = dict(zip(self.inputs, given, strict=True))
        picture = named["image"] if isinstance(named["image"], dict) else {}
        settings = Settings.of({**named, "image": picture.get("source")})
        at = float(clock) if isinstance(clock, int | float) else 0.0
        return Asked(_visitor(request), at, settings, tuple(values[len(self.inputs) + 1 :]))

    def _soon(self, task: Task) -> Updates:
        """What a task found, or where it can be followed if it takes longer."""
        if task.done(PATIENCE):
            return self._done(task)
        return {self.page.hidden.ticket: task.ticket, self.page.progress: so_far(task.work.words, task.work.share)}

    def _done(self, task: Task) -> Updates:
        """What a task found; of one that was stopped nothing, since whoever stopped it shows what is next."""
        header = self.page.header
        try:
            seen: Seen = task.result()
        except Stopped:
            return self.nothing
        except MissingWeights as error:
            return {**self.alert(f"No weights. {error}"), header.use_random: gr.update(visible=True)}
        except UserError as error:
            return self.alert(str(error))
        sheet, views = seen.sheet, self.page.views
        return {
            **dict(zip(views.figures[sheet.settings.view], sheet.figures, strict=True)),
            views.answer[sheet.settings.view]: sheet.answer,
            self.page.images.verdict: sheet.verdict,
            self.page.hidden.address: sheet.query,
            self.page.progress: None,
            # an empty one would take away an alert that came while this was drawn; the page drops it at the next click
            **({header.remark: remark(seen.remark)} if seen.remark else {}),
            **({} if seen.described is None else self._opened(seen, seen.described)),
        }

    def alert(self, text: str) -> Updates:
        """What went wrong, in words; the page stays as it is."""
        return {self.page.header.remark: remark(text, alert=True), self.page.progress: None}

    def _opened(self, seen: Seen, described: Described) -> Updates:
        page, controls, settings = self.page, self.page.controls, seen.sheet.settings
        runs = self.microscope.choices()
        known = settings.pair in dict(runs).values()
        plain = {
            page.hidden.pair: settings.pair,
            page.hidden.view: settings.view,
            page.header.cards: described.header,
            page.header.run: gr.update(choices=runs, value=settings.pair if known else None),
            page.trainer.job: settings.job,
            page.header.use_random: gr.update(visible=False),
            page.images.strip: picked(settings.image, seen.own),
            page.views.tabs: gr.update(selected=settings.view),
        }
        chosen = {
            controls.layer: gr.update(choices=described.layers, value=settings.layer),
            controls.model: gr.update(choices=models_of(described.models), value=settings.model),
            controls.band: gr.update(choices=bands(settings.levels), value=settings.band),
            controls.number: gr.update(value=settings.number, visible=CHANNELS[settings.channel] is None),
        }
        same = {
            getattr(controls, name): getattr(settings, name)
            for name in ("wavelet", "levels", "channel", "sigma", "site")
        }
        return {**plain, **chosen, **same}


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)
