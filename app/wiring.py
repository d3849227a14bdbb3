"""Events of the page: what a control does. Only the view that is open is drawn."""

from __future__ import annotations

import functools
import html
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from alerts import told
from api import Api
from components import picked, so_far
from messages import MissingWeights, UserError
from microscope import Microscope, Seen
from settings import CHANNELS, MOST_SAMPLES, VIEWS, Settings, bands, key_of_names
from trainer import Training
from ui import Page, lay_out, models_of
from work import Stopped, Task

PATIENCE = 0.4  # seconds after which a computation shows how far it is
_TICK = 0.25
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_QUICK: dict[str, Any] = {**_PRIVATE, "queue": False}
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
        self.inputs = {
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
            controls.layer,
            controls.model,
        ]
        self.opens = [
            *self.shows,
            *page.header.__dict__.values(),
            *(c for c in (*controls.__dict__.values(), *hidden.__dict__.values()) if c not in self.shows),
            page.images.strip,
            page.views.tabs,
            page.trainer.job,
        ]

    # -- events -------------------------------------------------------------------------------------------------------

    def connect(self, blocks: gr.Blocks) -> None:
        """Tie every control to what it does."""
        page, controls, given = self.page, self.page.controls, list(self.inputs.values())
        draws: dict[str, Any] = {
            "inputs": [page.hidden.address, *given],
            "outputs": self.shows,
            "trigger_mode": "always_last",
            **_QUICK,
        }
        moved = [c.input for name, c in self.inputs.items() if name not in ("view", "pair", "job")]
        gr.on([*moved, page.hidden.view.change], self.draw, **draws)
        for view, tab in page.views.tab.items():
            tab.select(None, None, page.hidden.view, js=f"() => {view!r}", **_PRIVATE)
        controls.levels.input(self.offer_bands, [controls.levels, controls.band], controls.band, **_QUICK)
        controls.channel.input(self.offer_number, controls.channel, controls.number, **_QUICK)
        page.images.average.click(self.average, [page.images.count, *given], [page.images.strip, *self.shows], **_QUICK)
        page.images.upload.upload(
            self.upload, [page.images.upload, *given], [page.images.strip, *self.shows], **_PRIVATE
        )
        header = page.header
        names = [header.teacher, header.student]
        header.run.input(self.choose, [header.run, *given], self.opens, **_QUICK)
        header.open.click(self.open_names, [*names, header.pretrained, *given], self.opens, **_QUICK)
        random = functools.partial(self.open_names, pretrained=False)
        header.use_random.click(random, [*names, *given], self.opens, **_QUICK)
        form = page.trainer
        Training(self.microscope, form, inputs=given, settings=self.settings, draw=self.show, shows=self.shows).connect(
            page.hidden.view
        )
        form.open.click(self.open_job, [form.job, *given], self.opens, **_QUICK)
        blocks.load(self.load, None, self.opens, **_QUICK)
        blocks.unload(self.leave)
        page.hidden.ticket.change(
            self.follow,
            [page.hidden.ticket],
            self.opens,
            concurrency_id="long",
            concurrency_limit=16,
            trigger_mode="multiple",
            **_PRIVATE,
        )
        page.progress.cancel(self.stop, None, page.progress, **_QUICK)
        page.hidden.address.change(None, page.hidden.address, None, js="(query) => sfkd.address(query)", **_PRIVATE)

    # -- functions ----------------------------------------------------------------------------------------------------

    def draw(self, shown: str, request: gr.Request, *values: Any) -> Updates:
        """The open view; nothing where it is shown already, as after a link was opened."""
        settings = self.settings(values)
        if settings.view == "Training" or self.microscope.same(shown, settings):
            return self.nothing  # the training view draws itself
        return self.show(request, settings)

    def show(self, request: gr.Request, settings: Settings) -> Updates:
        """A view of settings."""
        return self._soon(self.microscope.begin(_visitor(request), settings))

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
        self.microscope.desk.leave(_visitor(request))
        return {self.page.progress: None}

    def follow(self, ticket: str, request: gr.Request) -> Iterator[Updates]:
        """How far a long computation is, and at its end what it found."""
        visitor = _visitor(request)
        task = self.microscope.desk.task(visitor, ticket)
        if task is None:
            return
        while not task.done(_TICK):
            yield {self.page.progress: so_far(task.work.words, task.work.share)}
        try:
            yield {**self._done(task), self.page.progress: None}
        except Stopped:
            return
        except gr.Error:
            yield {self.page.progress: None}
            raise

    def average(self, count: float | None, request: gr.Request, *values: Any) -> Updates:
        """Look at the first samples, all at once."""
        source = f"mean:{min(max(int(count or 1), 1), MOST_SAMPLES)}"
        settings = replace(self.settings(values), image=source).valid()
        return {
            self.page.images.strip: settings.image,
            **self._soon(self.microscope.begin(_visitor(request), settings)),
        }

    def upload(self, path: str | None, request: gr.Request, *values: Any) -> Updates:
        """Look at a picture of the visitor's."""
        own = told(self.microscope.engine.pictures.upload)(path)
        settings = replace(self.settings(values), image=own.source)
        return {
            self.page.images.strip: picked(own.source, own),
            **self._soon(self.microscope.begin(_visitor(request), settings)),
        }

    def choose(self, key: str, request: gr.Request, *values: Any) -> Updates:
        """Open another run."""
        settings = replace(self.settings(values), pair=key).valid()
        return self._soon(self.microscope.begin(_visitor(request), settings, opens=True))

    def open_job(self, job: str, request: gr.Request, *values: Any) -> Updates:
        """Look at what a training made."""
        settings = replace(self.settings(values), pair=f"run|{job}", view=VIEWS[0], job="").valid()
        return self._soon(self.microscope.begin(_visitor(request), settings, opens=True))

    def open_names(
        self, teacher: str, student: str, *values: Any, request: gr.Request, pretrained: bool | None = None
    ) -> Updates:
        """Open two timm models."""
        if pretrained is None:
            pretrained, *values = values  # type: ignore[assignment]
        key = told(key_of_names)(teacher, student, pretrained=bool(pretrained))
        settings = replace(self.settings(values), pair=key)
        return self._soon(self.microscope.begin(_visitor(request), settings, opens=True, download=True))

    def offer_bands(self, levels: float, band: str) -> Any:
        """Bands of so many levels."""
        choices = bands(int(levels))
        return gr.update(choices=choices, value=band if band in choices else choices[0])

    def offer_number(self, channel: str) -> Any:
        """The channel's number, where one channel is chosen."""
        return gr.update(visible=CHANNELS[channel] is None)

    # -- what they share ----------------------------------------------------------------------------------------------

    def settings(self, values: Sequence[Any]) -> Settings:
        """The controls as one value; what is none of a control's becomes its default."""
        given = dict(zip(self.inputs, values, strict=True))
        given["image"] = given["image"]["source"]
        given |= {"levels": int(given["levels"]), "number": int(given["number"] or 0), "sigma": float(given["sigma"])}
        return Settings(**{name: value for name, value in given.items() if value is not None}).valid()

    def _soon(self, task: Task) -> Updates:
        """What a task found, or where it can be followed if it takes longer."""
        if not task.done(PATIENCE):
            return {self.page.hidden.ticket: task.ticket, self.page.progress: so_far(task.work.words, task.work.share)}
        try:
            return {**self._done(task), self.page.progress: None}
        except Stopped:
            return self.nothing

    def _done(self, task: Task) -> Updates:
        try:
            seen: Seen = task.result()
        except Stopped:
            raise
        except MissingWeights as error:
            said = f"<p class='remark' role='alert'><b>No weights.</b> {html.escape(str(error))}</p>"
            return {self.page.header.remark: said, self.page.header.use_random: gr.update(visible=True)}
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        sheet, views, controls = seen.sheet, self.page.views, self.page.controls
        shown = dict(zip(views.figures[sheet.settings.view], sheet.figures, strict=True))
        updates = {
            **shown,
            views.answer[sheet.settings.view]: sheet.answer,
            self.page.images.verdict: sheet.verdict,
            self.page.hidden.address: sheet.query,
            controls.layer: sheet.settings.layer,
            controls.model: sheet.settings.model,
        }
        return updates if seen.described is None else {**updates, **self._opened(seen)}

    def _opened(self, seen: Seen) -> Updates:
        page, controls, settings, described = self.page, self.page.controls, seen.sheet.settings, seen.described
        assert described is not None
        runs = self.microscope.choices()
        plain = {
            page.hidden.pair: settings.pair,
            page.hidden.view: settings.view,
            page.header.cards: described.header,
            page.header.run: gr.update(
                choices=runs, value=settings.pair if settings.pair in dict(runs).values() else None
            ),
            page.trainer.job: settings.job,
            page.header.remark: f"<p class='remark' role='status'>{html.escape(seen.remark)}</p>"
            if seen.remark
            else "",
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
