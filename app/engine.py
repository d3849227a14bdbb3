"""Settings in, what the page shows out. Loads the models; everything that needs torch lies behind it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

import torch
from cache import Cache
from catalogue import CARDS
from described import Described
from measured import Measured, analysis_of
from messages import UserError, readable
from pairs import Pairs
from payload import payload
from pictures import Pictures
from runs_root import RunsRoot
from settings import Settings
from threads import threads
from views import SHOW, Drawn, Look
from work import Stopped, Work

from sfkd.loading import load_pictures
from sfkd_viz import figure_data


@dataclass(frozen=True)
class Sheet:
    """What a view shows, ready for the page.

    Attributes:
        settings: as they were used, with a layer and a model that the pair has. query: of the page's address.
        answer: HTML. figures: JSON of each figure of the view, empty where there is nothing to draw.
        verdict: what the models say about the image, as HTML.
    """

    settings: Settings
    query: str
    answer: str
    figures: tuple[str, ...]
    verdict: str


class Engine:
    """The open pairs, the pictures and what has been measured.

    Args:
        device: where features are computed.
        kept: bytes of drawn views that are kept; 0 draws each anew. 32 MiB are some 1,500 views.
    """

    def __init__(self, runs: RunsRoot, device: str, *, kept: int = 2**25) -> None:
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device {device!r} is not available here: {str(error).splitlines()[0]}") from error
        self.pictures = Pictures()
        self.pairs = Pairs(runs, device)
        self.measured = Measured(self.pictures, device)
        self._sheets: Cache[Sheet] = Cache(kept, lambda sheet: sum(map(len, sheet.figures)))

    def describe(self, key: str, *, download: bool = False) -> Described:
        """Names, layers and header of a pair; opens it."""
        return self.pairs.pair(key, download=download).described

    def show(self, settings: Settings, work: Work, job: Path | None = None) -> Sheet:
        """A view of a pair. What cannot be shown is said in the answer.

        Args:
            settings: valid ones. job: the run that the training view watches.

        Raises:
            Stopped: the work was stopped. UserError: a pair that cannot be opened.
        """
        work.at("Opening the models")
        look = self.look(settings, work, job)
        if settings.view == "Training":
            return self._show(look)
        stored = analysis_of(look.pair)
        written = stored.stat().st_mtime_ns if stored is not None and stored.is_file() else 0
        key = (look.settings, look.pair.content, written)
        return self._sheets.get_or(key, lambda: self._show(look), work.go_on)

    def look(self, settings: Settings, work: Work, job: Path | None = None) -> Look:
        """What a view of these settings looks at."""
        pair = self.pairs.pair(settings.pair)
        return Look(settings.of_pair(list(pair.models), pair.described.layers), pair, self.measured, work, job)

    def table(self, settings: Settings, figure: int, job: Path | None = None) -> tuple[str, str]:
        """File name and CSV of what a figure of a view draws."""
        drawn = self.drawn(settings, figure, job)
        return f"{drawn.name}.csv", figure_data(drawn.figure).to_csv(index=False)

    @readable
    def drawn(self, settings: Settings, figure: int, job: Path | None = None) -> Drawn:
        """One figure of a view."""
        return SHOW[settings.view](self.look(settings, Work(), job)).figures[figure]

    def _show(self, look: Look) -> Sheet:
        settings, described = look.settings, look.pair.described
        query = settings.brief(list(look.pair.models), described.layers).query()
        labels = CARDS[settings.view].figures
        try:
            with threads(1):
                shown = readable(SHOW[settings.view])(look)
                verdict = self.verdict(look)
        except Stopped:
            raise
        except UserError as error:
            said = f"<p class='answer wrong' role='alert'>{html.escape(str(error))}</p>"
            return Sheet(settings, query, said, ("",) * len(labels), "")
        drawn = [payload(figure, settings, query, label) for figure, label in zip(shown.figures, labels, strict=False)]
        answer = f"<p class='answer'>{html.escape(shown.answer)}</p>"
        return Sheet(settings, query, answer, (*drawn, *[""] * (len(labels) - len(drawn))), verdict)

    def verdict(self, look: Look) -> str:
        """What the models say about the image, as HTML."""
        pair, source = look.pair, look.settings.image
        said = [f"<b>{html.escape(self.pictures.describe(source))}</b>"]
        if not source.startswith("mean:"):
            said += [f"{html.escape(name)}: {self._answer(look, role)}" for role, name in pair.names.items()]
        return f"<p class='verdict'>{' · '.join(said)}</p>"

    def _answer(self, look: Look, role: str) -> str:
        probabilities = look.measured.output(look.pair, role, look.settings.image, look.work).logits.softmax(1)[0]
        confidence, label = probabilities.max(0)
        classes = load_pictures().classes
        name = classes[int(label)] if look.pair.labelled else f"class {int(label)}"
        return f"{html.escape(name)} {100 * float(confidence):.0f} %"
