"""What every view is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from measured import Measured
from pairs import Pair
from settings import Settings
from work import Work


@dataclass(frozen=True)
class Look:
    """What a view looks at: valid settings of the pair, what has been measured, and how to tell how far it is.

    `job` is the folder of the run that the training view watches.
    """

    settings: Settings
    pair: Pair
    measured: Measured
    work: Work
    job: Path | None = None


@dataclass(frozen=True)
class Drawn:
    """A figure, the Python that makes it again, and its file name without ending.

    `note` says how to read it, where the figure's own line under its title would repeat the answer.
    """

    figure: go.Figure
    python: str
    name: str
    note: str | None = None


@dataclass(frozen=True)
class Shown:
    """What a view shows: its answer in a sentence, and its figures in the order of the catalogue."""

    answer: str
    figures: tuple[Drawn, ...] = ()


View = Callable[[Look], Shown]


def compared(what: str, values: Mapping[str, float], names: Mapping[str, str], form: str) -> str:
    """A number of each model in a sentence, and whether distillation brought it nearer to the teacher's.

    Args:
        values: role → number. names: role → name. form: of a number, such as "{:.0f} %".
    """
    told = ", ".join(f"{form.format(value)} in the {names[role]}" for role, value in values.items())
    if "alone" not in values:
        return f"{what}: {told}."
    before, after = (abs(values[role] - values["teacher"]) for role in ("alone", "student"))
    if form.format(before) == form.format(after):
        return f"{what}: {told}; distillation left its distance from the teacher as it was."
    word = "nearer to" if after < before else "further from"
    return f"{what}: {told}; distillation brought it {word} the teacher's."


def retitled(figure: go.Figure, old: str, new: str) -> str:
    """Put `new` for `old` in the title of a figure, and return the line of Python that does it."""
    figure.layout.title.text = figure.layout.title.text.replace(old, new, 1)
    return f'figure.layout.title.text = figure.layout.title.text.replace("{old}", "{new}", 1)'
