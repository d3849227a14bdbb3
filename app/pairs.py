"""Pairs of models: from a run folder under the runs root, the bundled one, or two timm names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from cache import Cache
from described import Described, header_of_names, header_of_run
from messages import MissingWeights, UserError, readable
from runs_root import RunsRoot
from settings import BUNDLED, JOIN, pair_of

from sfkd import Backbone, WeightsError, create_distiller, load_demo, load_run, pair_layers
from sfkd.distillers.sfkd import SFKD, SpatialFrequencyLayer
from sfkd.loading import DEMO, Run

MOST_OPEN = 4
MOST_PARAMETERS = 10**9  # of a model that is opened by name: 4 GB


class Joint(NamedTuple):
    """Alignment and DS2S of a layer pair; `own` where the run trained them, else they are new."""

    module: SpatialFrequencyLayer
    asked_levels: int
    own: bool


@dataclass(frozen=True)
class Pair:
    """Models side by side, and what joins teacher and student.

    Attributes:
        content: changes where the weights under the key do. described: names and layers.
        models: role ("teacher", "alone", "student") → model, in the order in which figures show them.
        joints: by layer pair, as `described.layers` names them. run: None for timm names. folder: of the run, None for
            others.
    """

    content: str
    described: Described
    models: dict[str, Backbone]
    joints: dict[str, Joint]
    run: Run | None
    folder: Path | None

    @property
    def names(self) -> dict[str, str]:
        """Role → name in figures."""
        return self.described.models

    @property
    def labelled(self) -> bool:
        """Whether the labels of the sample images are classes of these models."""
        return self.run is not None and self.run.config.data.name.endswith("fashion_mnist")

    def layer_of(self, role: str, choice: str) -> str:
        """The layer of a model in a layer pair."""
        student, teacher = choice.split(JOIN)
        return teacher if role == "teacher" else student


class Pairs:
    """The pairs that are open, at most four."""

    def __init__(self, runs: RunsRoot, device: str) -> None:
        self.runs, self.device = runs, device
        self._open: Cache[Pair] = Cache(MOST_OPEN)

    @readable
    def pair(self, key: str, *, download: bool = False) -> Pair:
        """The pair of a key of `Settings`; a run that was trained again is read again.

        Args:
            download: whether pretrained weights may be fetched. A link alone never fetches any.
        """
        kind, *rest = pair_of(key) or [""]
        if kind == BUNDLED:
            return self._open.get_or(key, lambda: _of_run(key, DEMO, key, self.device))
        if kind == "run":
            folder = self.runs.finished().get(rest[0])
            if folder is None:
                raise UserError(f"There is no finished run {rest[0]!r} under the runs folder of this app.")
            weights = folder / "student" / "model.safetensors"
            content = f"{folder.resolve()}|{weights.stat().st_mtime_ns if weights.is_file() else None}"
            return self._open.get_or(content, lambda: _of_run(key, folder, content, self.device))
        if kind == "timm":
            if rest[2] == "pretrained" and not download and self._open.get(key) is None:
                raise UserError("A link does not fetch weights: open these models with the button under “Other pair”.")
            return self._open.get_or(key, lambda: _of_names(key, *rest, device=self.device))
        raise UserError("This pair is not known here: choose a run or type two model names.")


def _of_run(key: str, path: Path, content: str, device: str) -> Pair:
    run = load_demo().run if key == BUNDLED else load_run(path)
    if run.teacher is None:
        raise UserError(f"{path.name} was trained without a teacher: there is nothing to compare.")
    models = {"teacher": run.teacher, "alone": run.baseline, "student": run.student}
    names = {"teacher": "teacher", "alone": "student alone", "student": f"student ({run.config.method.name})"}
    present = {role: model.to(device) for role, model in models.items() if model is not None}
    joints = _joints(run.student, run.teacher, run.distiller if isinstance(run.distiller, SFKD) else None, device)
    header = header_of_run(run, "bundled run" if key == BUNDLED else f"run {path.name}")
    described = Described(key, {role: names[role] for role in present}, list(joints), header)
    return Pair(content, described, present, joints, run, None if key == BUNDLED else path)


def _of_names(key: str, teacher: str, student: str, weights: str, *, device: str) -> Pair:
    models = {}
    for role, name in (("teacher", teacher), ("student", student)):
        _check_size(name)
        try:
            torch.manual_seed(0)
            models[role] = Backbone(name, pretrained=weights == "pretrained").eval().to(device)
        except WeightsError as error:
            raise MissingWeights(str(error)) from error
    pair_layers(models["student"].layer_names, models["teacher"].layer_names)
    joints = _joints(models["student"], models["teacher"], None, device)
    header = header_of_names({role: model.name for role, model in models.items()}, pretrained=weights == "pretrained")
    described = Described(key, {role: role for role in models}, list(joints), header)
    return Pair(key, described, models, joints, None, None)


def _check_size(name: str) -> None:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Backbone(name).parameters())
    if parameters > MOST_PARAMETERS:
        raise UserError(
            f"{name} has {parameters / 1e9:.1f} billion parameters; the page opens models of at most "
            f"{MOST_PARAMETERS / 1e9:g} billion. Measure it in a script with sfkd_viz."
        )


def _joints(student: Backbone, teacher: Backbone, own: SFKD | None, device: str) -> dict[str, Joint]:
    """Every layer of the student beside the teacher's: those that the run compared as it did, the others new."""
    new = None
    if own is None or len(own.pairs) < len(student.layer_names):
        torch.manual_seed(0)
        new = create_distiller("sfkd", student=student, teacher=teacher, layers=None)
    found: dict[str, tuple[str, Joint]] = {}
    for distiller in (new, own):
        if isinstance(distiller, SFKD):
            modules = distiller.to(device).eval().spatial_frequency
            for (name, partner), module in zip(distiller.pairs, modules, strict=True):
                assert isinstance(module, SpatialFrequencyLayer)
                found[name] = f"{name}{JOIN}{partner}", Joint(module, distiller.asked_levels, distiller is own)
    return dict(found.values())
