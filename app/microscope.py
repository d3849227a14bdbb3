"""Everything behind one running app. It starts without torch: the engine comes with the first thing that needs it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import opening
from asked import Asked
from described import Described
from jobs import Job, Jobs
from messages import UserError
from opening import Opening
from recipes import Recipes, Wish
from runs_root import RunsRoot
from settings import BUNDLED, Settings
from work import Desk, Task, Work

if TYPE_CHECKING:
    from engine import Engine, Sheet
    from pictures import Thumbnail

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """What there is to show.

    Attributes:
        described: the pair, where it may be another one than before. own: the upload that is looked at, for the strip.
        remark: what could not be had, in words.
    """

    sheet: Sheet
    described: Described | None = None
    own: Thumbnail | None = None
    remark: str = ""


class Microscope:
    """The parts of the app that outlive a visit.

    Args:
        runs: the runs that may be opened; the one named on the command line is opened first.
        recipes: folder of the recipes that may be trained.
        device: where features are computed.
    """

    def __init__(self, runs: RunsRoot, recipes: Path, device: str = "cpu") -> None:
        self.runs, self.device, self.desk = runs, device, Desk()
        self.jobs, self.recipes = Jobs(runs), Recipes(recipes)
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._warming = threading.Event()
        self.first = BUNDLED if runs.first is None else f"run|{runs.first_name}"
        stored = opening.stored() if runs.first is None and device == "cpu" else None
        self.opening: Opening = stored or opening.make(self.engine, self.first)

    @property
    def engine(self) -> Engine:
        """The part that needs torch; made once."""
        with self._lock:
            if self._engine is None:
                from engine import Engine

                self._engine = Engine(self.runs, self.device)
            return self._engine

    def warm(self, after: float) -> None:
        """Get the engine and the first pair ready in the background, once, `after` seconds from now."""
        if not self._warming.is_set():
            self._warming.set()
            timer = threading.Timer(after, self._warm)
            timer.daemon = True
            timer.start()

    def _warm(self) -> None:
        try:
            self.engine.describe(self.first)
            self.engine.show(Settings(view="Sub-bands", pair=self.first), Work())
        except UserError as error:
            log.warning("the first pair cannot be opened: %s", error)

    def choices(self) -> list[tuple[str, str]]:
        """Runs to choose from: what the page shows, key."""
        return [("bundled pair", BUNDLED), *((name, f"run|{name}") for name in self.runs.finished())]

    def same(self, query: str, settings: Settings) -> bool:
        """Whether a page with this address shows these settings. Opens nothing."""
        shown, _ = Settings.read(dict(parse_qsl(query)))
        first = self.opening.described
        if shown.pair == first.key:  # of other pairs the first layer is not known here
            shown, settings = (s.brief(list(first.models), first.layers) for s in (shown, settings))
        return shown == settings

    def table(self, query: str, figure: int) -> tuple[str, str]:
        """File name and CSV of a figure of a page with this address."""
        settings, _ = Settings.read(dict(parse_qsl(query)))
        return self.engine.table(settings, figure, self._watched(settings))

    def train(self, wish: Wish) -> Job:
        """Start a training."""
        import torch

        recipe = self.recipes.made(wish, self.runs.folder(wish.name))
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        return self.jobs.start(wish.name, recipe, device=str(device), download=wish.download)

    def begin(self, asked: Asked, *, opens: bool = False, download: bool = False) -> Task:
        """Start to show a view; `Task.result` is what is `Seen`.

        Args:
            opens: whether the pair may be another one than before. download: whether weights may be fetched for it.
        """
        settings = asked.settings

        def do(work: Work) -> Seen:
            work.at("Loading the libraries")
            engine = self.engine
            work.at("Opening the models")
            described = engine.describe(settings.pair, download=download) if opens else None
            return Seen(engine.show(settings, work, self._watched(settings)), described)

        return self.desk.begin(asked.visitor, do, at=asked.at)

    def begin_link(self, visitor: str, query: Mapping[str, str]) -> Task:
        """Start to show what an address asks for; what it cannot have is said in `Seen.remark`."""
        settings, refused = Settings.read(query)

        def do(work: Work) -> Seen:
            work.at("Loading the libraries")
            engine = self.engine
            work.at("Opening the models")
            told = (
                [f"This address asks for what is not there ({', '.join(refused)}): the usual is shown."]
                if refused
                else []
            )
            try:
                described, found = engine.describe(settings.pair), settings
            except UserError as error:
                told.append(str(error))
                described, found = engine.describe(self.first), replace(settings, pair=self.first)
            own = engine.pictures.own(found.image)
            if found.image.startswith("upload:") and own is None:
                told.append("The uploaded picture of this address is no longer kept here: upload it again.")
                found = replace(found, image=Settings().image)
            return Seen(engine.show(found, work, self._watched(found)), described, own, " ".join(told))

        return self.desk.begin(visitor, do)

    def _watched(self, settings: Settings) -> Path | None:
        """Folder of the run that the training view watches."""
        return self.runs.folder(settings.job) if settings.job in self.jobs.names() else None
