"""A study: which methods are compared on which pairs, as validated dataclasses that YAML files fill.

A file of pairs says what there is (data sets, models, trained teachers, pairs); a study says what is run on them and which
table it fills. `configs/benchmark/` has both.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sfkd._checks import unknown
from sfkd.config import Data, Method, Model, Precompute, Recipe, RecipeError, Schedule, Teacher, read_mapping
from sfkd.distillers import distiller_options

_STRICT = ConfigDict(extra="forbid", validate_default=True)


@dataclass(config=_STRICT, kw_only=True)
class Set:
    """A data set as students see it: `views` fixed augmentations, of which an epoch takes one."""

    data: Data
    schedule: Schedule
    views: int = Field(ge=1)


@dataclass(config=_STRICT, kw_only=True)
class TrainedTeacher:
    """A teacher, trained on the labels of all images of its set that no study holds out."""

    set: str
    model: Model
    schedule: Schedule
    held_out: int | None = Field(default=None, ge=1)


@dataclass(config=_STRICT, kw_only=True)
class Pair:
    """A teacher and a student."""

    teacher: str
    student: Model


@dataclass(config=_STRICT, kw_only=True)
class Pairs:
    """What there is to compare on. Runs and caches lie in `folder`, trained teachers in `teachers_folder`."""

    folder: str
    teachers_folder: str
    sets: dict[str, Set]
    teachers: dict[str, TrainedTeacher]
    pairs: dict[str, Pair]

    def teacher_folder(self, name: str) -> Path:
        """Where a teacher lies."""
        return Path(self.teachers_folder) / name

    def teacher_recipe(self, name: str) -> Recipe:
        """The recipe that trains a teacher."""
        teacher = self.teachers[name]
        data = dataclasses.replace(
            self.sets[teacher.set].data, train_samples=None, held_out=teacher.held_out, labelled=None
        )
        out = str(self.teacher_folder(name))
        return Recipe(out=out, student=teacher.model, data=data, schedule=teacher.schedule, method=Method(name="none"))


@dataclass(config=_STRICT, kw_only=True)
class Cell:
    """A method, with options where they are not its defaults, and a name where it stands in a study more than once."""

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    variant: str = ""


@dataclass(config=_STRICT, kw_only=True)
class Study:
    """What is run: every cell on every pair, with every seed; one row of `table` each.

    `data` and `schedule` replace keys of the sets', as in `{labelled: 2000}` or `{held_out: 5000}`.
    """

    pairs_file: str
    table: str
    regime: str
    pairs: list[str]
    seeds: list[int]
    cells: list[Cell]
    data: dict[str, Any] = Field(default_factory=dict)
    schedule: dict[str, Any] = Field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Run:
    """One row to be: its key in the table, the recipe that makes it, and the teacher that must be trained before."""

    pair: str
    regime: str
    method: str
    variant: str
    seed: int
    options: str
    teacher: str
    recipe: Recipe = field(repr=False)

    @property
    def key(self) -> tuple[str, ...]:
        return self.pair, self.regime, self.method, self.variant, str(self.seed), self.options


def load_study(path: str | Path) -> tuple[Study, Pairs]:
    """A study and the pairs that it names.

    Raises:
        RecipeError: a file that is missing or wrong; names of pairs, teachers, sets or methods that are not there.
    """
    study: Study = _parsed(Path(path), Study)
    pairs: Pairs = _parsed(Path(path).parent / study.pairs_file, Pairs)
    for kind, names, choices in (
        ("pair", study.pairs, pairs.pairs),
        ("teacher", [pair.teacher for pair in pairs.pairs.values()], pairs.teachers),
        ("set", [teacher.set for teacher in pairs.teachers.values()], pairs.sets),
    ):
        for name in names:
            if name not in choices:
                raise RecipeError(f"{path}: {unknown(kind, name, choices)}")
    for cell in study.cells:
        known = distiller_options(cell.method)
        for option in cell.options:
            if option not in known:
                raise RecipeError(f"{path}: {unknown(f'option of {cell.method}', option, known)}")
    named = [(cell.method, cell.variant) for cell in study.cells]
    if len(set(named)) < len(named):
        raise RecipeError(f"{path}: two cells of one method need different variants, got {named}.")
    return study, pairs


def runs_of(study: Study, pairs: Pairs) -> list[Run]:
    """Every run of a study, seed by seed, so that a table that is not complete is even."""
    return [
        _run(study, pairs, name, cell, seed) for seed in study.seeds for name in study.pairs for cell in study.cells
    ]


def _run(study: Study, pairs: Pairs, name: str, cell: Cell, seed: int) -> Run:
    pair = pairs.pairs[name]
    of_set = pairs.sets[pairs.teachers[pair.teacher].set]
    folder = Path(pairs.folder)
    options = distiller_options(cell.method) | cell.options
    described = json.dumps(options, sort_keys=True, default=list)
    setting = [described, study.data, study.schedule, dataclasses.asdict(of_set)]
    digest = hashlib.sha256(json.dumps(setting, sort_keys=True, default=list).encode()).hexdigest()[:8]
    label = "-".join(filter(None, (cell.method, cell.variant.replace(" ", "_").replace("/", "_"), digest)))
    recipe = Recipe(
        out=str(folder / study.regime / name / label / str(seed)),
        student=pair.student,
        teacher=Teacher(run=str(pairs.teacher_folder(pair.teacher))),
        method=Method(name=cell.method, options=cell.options),
        data=dataclasses.replace(of_set.data, **study.data),
        schedule=dataclasses.replace(of_set.schedule, **study.schedule),
        precompute=Precompute(folder=str(folder / "outputs" / pair.teacher), views=of_set.views),
        seed=seed,
    )
    return Run(name, study.regime, cell.method, cell.variant, seed, described, pair.teacher, recipe)


def _parsed(path: Path, kind: type[Any]) -> Any:
    try:
        values = read_mapping(path)
    except FileNotFoundError as error:
        raise RecipeError(f"{path} is no readable YAML file: {error}") from error
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise RecipeError(f"{path} — " + "; ".join(lines)) from None
