"""Training curves of a run and of the runs nested in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sfkd.runs import RunError, RunFolder

if TYPE_CHECKING:
    from pandas import DataFrame

ROLES = ("student", "baseline", "teacher")
_SPEED = ("images_per_second", "seconds")


@dataclass(frozen=True)
class TrainingCurves:
    """What a run wrote after each epoch.

    Attributes:
        name: of the run folder. method: of its recipe.
        runs: role ("student", and "baseline", "teacher" where their runs are nested) → column of `metrics.csv` → `[E]`,
            NaN where a row has no value. top-1 in percent, lr as in the optimiser, seconds per epoch.
        epochs: role → epochs that the recipe asks for; more than were written while a run is not finished.
    """

    name: str
    method: str
    runs: dict[str, dict[str, np.ndarray]]
    epochs: dict[str, int]

    @property
    def finished(self) -> bool:
        """Whether every run has all of its epochs."""
        return all(self.written(role) >= self.epochs[role] for role in self.runs)

    def written(self, role: str) -> int:
        """Epochs that the run of a role has behind it."""
        return int(self.runs[role]["epoch"].max(initial=0))

    def to_dataframe(self) -> DataFrame:
        """A row a role, epoch and column of `metrics.csv`: `role`, `epoch`, `quantity`, `kind`, `unit`, `value`."""
        from pandas import DataFrame, concat

        tables = [
            DataFrame(
                {
                    "role": role,
                    "epoch": columns["epoch"],
                    "quantity": name,
                    "kind": kind_of(name),
                    "unit": unit_of(name),
                    "value": values,
                }
            )
            for role, columns in self.runs.items()
            for name, values in columns.items()
            if name != "epoch"
        ]
        return concat(tables, ignore_index=True)


def training_curves(run: Any) -> TrainingCurves:
    """Every column of a run's `metrics.csv` against the epoch, and those of its `teacher/` and `baseline/`.

    Args:
        run: path of a run folder, finished or not (`config.yaml` and `metrics.csv` are enough), a `sfkd.runs.RunFolder`
            or what `sfkd.load_run` returns.

    Raises:
        TypeError: none of these.
        ValueError: no run folder there, or one without a finished epoch.
    """
    path = getattr(run, "path", run)
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"training_curves expects a run folder's path or a loaded run, got {type(run).__name__}.")
    folder = RunFolder(os.fspath(path))
    recipe = folder.recipe()
    nested = {"baseline": folder.nested("baseline"), "teacher": folder.nested("teacher")}
    folders = {"student": folder} | {role: inner for role, inner in nested.items() if inner is not None}
    columns = {role: _columns(inner.metrics()) for role, inner in folders.items()}
    runs = {role: values for role, values in columns.items() if values}
    if not runs:
        raise RunError(f"{folder.path} has no finished epoch yet: metrics.csv is missing or empty.")
    epochs = {role: folders[role].recipe().schedule.epochs for role in runs}
    return TrainingCurves(folder.path.resolve().name, recipe.method.name, runs, epochs)


def kind_of(column: str) -> str:
    """What a column of `metrics.csv` holds: "top-1", "lr", "speed", "weight", "ratio" or "loss".

    Names that nobody foresaw are loss parts, which methods name freely.

    Examples:
        >>> kind_of("top1_without_ema"), kind_of("weight_gffl"), kind_of("bands/layer1")
        ('top-1', 'weight', 'loss')
    """
    if column.startswith(("top1", "top5")):
        return "top-1"
    if column == "lr" or column.startswith("lr_"):
        return "lr"
    if column in _SPEED:
        return "speed"
    if column.startswith("weight_"):
        return "weight"
    return "ratio" if column.startswith("target_ratio") else "loss"


def unit_of(column: str) -> str:
    """Unit of a column: "%", "images/s", "s" or "1"."""
    units = {"images_per_second": "images/s", "seconds": "s"}
    return "%" if kind_of(column) == "top-1" else units.get(column, "1")


def _columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if rows and "epoch" not in names:
        raise RunError(
            f"metrics.csv expects a column epoch, got {', '.join(names)}: it was not written by `sfkd train`."
        )
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
