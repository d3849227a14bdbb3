"""Open what a recipe names or a run folder holds: models, distiller, sample images."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sfkd.config import Method, Model, Recipe, dump_recipe
from sfkd.distillers import Distiller, create_distiller
from sfkd.features import Backbone, Normalization
from sfkd.runs import RunError, RunFolder, save_model, write_atomically
from sfkd.transforms import eval_transform
from sfkd.weights import load_weights, read_safetensors

DEMO = Path(__file__).parent / "demo"


@dataclass(frozen=True)
class Run:
    """A finished run, in eval mode on the CPU.

    Attributes:
        path: its folder.
        teacher: None for a run without one.
        student: the trained student.
        baseline: the same student trained alone, None where the recipe did not ask for it.
        distiller: with its trained parts.
        config: the recipe.
        metrics: rows of metrics.csv.
    """

    path: Path
    teacher: Backbone | None
    student: Backbone
    baseline: Backbone | None
    distiller: Distiller
    config: Recipe
    metrics: list[dict[str, float]]

    @property
    def top1(self) -> dict[str, float]:
        """Last test top-1 in percent by role: teacher, baseline, student; those that the folder knows."""
        folder = RunFolder(self.path)
        rows = {"teacher": folder.nested("teacher"), "baseline": folder.nested("baseline"), "student": folder}
        found = {role: run.metrics() for role, run in rows.items() if run is not None}
        return {role: metrics[-1]["top1"] for role, metrics in found.items() if metrics}


def build_model(spec: Model, config: Recipe) -> Backbone:
    """The backbone that a recipe names, with the recipe's classes and input."""
    given = Normalization(config.data.mean, config.data.std)
    own = Normalization(spec.mean, spec.std) if spec.mean and spec.std else None
    if spec.run is not None:
        folder = RunFolder(spec.run)
        folder.recipe()
        if not folder.finished:
            raise RunError(f"{spec.run} has not finished training: run `sfkd train` on its recipe again to go on.")
        model = Backbone(f"local-dir:{folder.student}", layers=spec.layers)
    else:
        channels, height, width = config.data.input_size
        kwargs: dict[str, Any] = {"num_classes": config.data.num_classes, "in_chans": channels} | spec.kwargs
        model = Backbone(spec.name, pretrained=spec.pretrained, layers=spec.layers, **kwargs)
        # convolutional nets take any size and keep reporting the one of their weights
        model.input_size = (channels, height, width)
        if not spec.pretrained and not spec.name.startswith("local-dir:"):
            own = own or given  # random weights were trained with nothing else
    model.expect(given, own)
    return model


def build_teacher(config: Recipe, folder: RunFolder) -> Backbone | None:
    """The recipe's teacher: the one in `teacher/` of the run where there is one."""
    if config.teacher is None:
        return None
    nested = folder.nested("teacher")
    if nested is not None:
        return build_model(Model(run=str(nested.path), layers=config.teacher.layers), config)
    if config.teacher.schedule is not None:
        raise RunError(f"{folder.path} lacks teacher/, the teacher that it was distilled from: copy it with the rest.")
    return build_model(config.teacher, config)


def export_run(path: str | Path, destination: str | Path) -> Path:
    """Copy a finished run without its checkpoints, with its teacher where that came from elsewhere.

    `student/`, `teacher/student/` and `baseline/student/` of the copy are timm's `local-dir:` layout.

    Raises:
        RunError: a run that is not finished, or lies where it should go.
    """
    folder = RunFolder(path)
    config = folder.recipe()
    target = folder.export(destination)
    teacher = config.teacher
    if teacher is None or target.nested("teacher") is not None:
        return target.path
    if teacher.run is not None:
        RunFolder(teacher.run).export(target.path / "teacher")
    else:
        model = build_model(teacher, config)
        spec = Model(
            name=teacher.name, kwargs=teacher.kwargs, layers=teacher.layers, mean=teacher.mean, std=teacher.std
        )
        alone = dataclasses.replace(
            config, student=spec, teacher=None, baseline=False, precompute=None, method=Method(name="none")
        )
        save_model(model, target.path / "teacher" / "student", config.data)
        write_atomically(target.path / "teacher" / "config.yaml", dump_recipe(alone))
    return target.path


def build_distiller(config: Recipe, student: Backbone, teacher: Backbone | None) -> Distiller:
    """The recipe's distiller around these models."""
    options = {"label_smoothing": config.schedule.label_smoothing} | config.method.options
    return create_distiller(config.method.name, student=student, teacher=teacher, **options)


def load_run(path: str | Path) -> Run:
    """Open a finished run folder. Nothing is unpickled and nothing is downloaded that the recipe does not ask for.

    Raises:
        RunError (a ValueError): no folder, no run, not finished. WeightsError: weights that are damaged or do not fit.
    """
    path = Path(path)
    folder = RunFolder(path)
    config = folder.recipe()
    if not folder.finished:
        raise RunError(f"{path} has not finished training: run `sfkd train` on its recipe again to go on.")
    teacher = build_teacher(config, folder)
    student = build_model(Model(run=str(path), layers=config.student.layers), config)
    nested = folder.nested("baseline")
    baseline = build_model(Model(run=str(nested.path), layers=config.student.layers), config) if nested else None
    distiller = build_distiller(config, student, teacher)
    if own := distiller.extra_state():
        saved = read_safetensors(folder.distiller)
        models = {name: value for name, value in distiller.state_dict().items() if name not in own}
        load_weights(distiller, models | saved, str(folder.distiller))
    distiller.eval()
    if baseline is not None:
        baseline.eval()
    return Run(path, teacher, student, baseline, distiller, config, folder.metrics())


class Samples(NamedTuple):
    """Sample images of the bundled run, normalised for its models.

    `images` `[N, C, H, W]` with `labels` `[N]` from the test set, `classes` their names; `photographs` name →
    `[C, H, W]`.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    photographs: dict[str, Tensor]


class SamplePictures(NamedTuple):
    """The same as they lie on disk: PIL images, labels, class names, photographs by name."""

    images: list[Image.Image]
    labels: list[int]
    classes: list[str]
    photographs: dict[str, Image.Image]


class Demo(NamedTuple):
    """The bundled run and its sample images."""

    run: Run
    samples: Samples


@lru_cache(maxsize=1)
def load_demo() -> Demo:
    """The bundled pair, offline: a CNN teacher, a windowed transformer distilled from it with SFKD, the same one alone.

    See `sfkd/demo/README.md` for data, recipe and numbers.
    """
    run = load_run(DEMO)
    data = run.config.data
    transform = eval_transform(data.input_size, data.mean, data.std)
    pictures = load_pictures()
    photographs = {name: transform(photograph) for name, photograph in pictures.photographs.items()}
    images = torch.stack([transform(image) for image in pictures.images])
    return Demo(run, Samples(images, torch.tensor(pictures.labels), pictures.classes, photographs))


@lru_cache(maxsize=1)
def load_pictures(folder: Path = DEMO / "samples") -> SamplePictures:
    """The sheet of test images with labels, and the photographs, that come with the package."""
    described = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    side, columns = described["side"], described["columns"]
    with Image.open(folder / "test_images.png") as sheet:
        sheet.load()
    corners = [(i % columns * side, i // columns * side) for i in range(len(described["labels"]))]
    images = [sheet.crop((x, y, x + side, y + side)) for x, y in corners]
    photographs = {path.stem: Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))}
    return SamplePictures(images, described["labels"], described["classes"], photographs)


def model_transform(model: Backbone) -> Any:
    """PIL image → what `model` expects: its own input size, mean and standard deviation (0.5 where it says none)."""
    channels, height, width = model.input_size
    plain = Normalization((0.5,) * channels, (0.5,) * channels)
    return eval_transform((channels, height, width), *(model.normalization or plain))
