"""Tiny models, distillers and trainings that several test files share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import sfkd.train
from sfkd import Backbone, Distiller, create_distiller
from sfkd.config import Recipe
from sfkd.runs import RunFolder
from sfkd.train import train

ROOT = Path(__file__).resolve().parent.parent
TINY: dict[str, dict[str, Any]] = {
    "convnext": {"name": "convnext_atto", "kwargs": {"patch_size": 1, "dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}},
    "swin": {
        "name": "swin_tiny_patch4_window7_224",
        "kwargs": {
            "img_size": 32,
            "patch_size": 2,
            "window_size": 4,
            "embed_dim": 16,
            "depths": [1, 1, 1],
            "num_heads": [1, 2, 4],
        },
    },
    "vit": {
        "name": "vit_tiny_patch16_224",
        "kwargs": {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
    },
    "resnet": {"name": "test_resnet", "kwargs": {}},
}
CONVNEXT = TINY["convnext"]
TARGETS, INDEX = torch.tensor([1, 7, 0, 3]), torch.tensor([5, 0, 19, 2])
UNLABELLED = torch.full((4,), -1)

Tiny = Callable[..., Backbone]


def script(name: str) -> ModuleType:
    """A file of benchmarks/, which is no module of a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(tiny: Tiny, method: str, pair: tuple[str, str] = ("convnext", "swin"), **options: Any) -> Distiller:
    """A distiller of two of the models of the fixture `tiny`, teacher and student."""
    teacher, student = pair
    torch.manual_seed(0)
    if method == "crd":
        options = {"num_samples": 20, "negatives": 64, **options}
    if method == "sfkd":
        options = {"layers": None, **options}  # all, so that every layer is looked at
    return create_distiller(method, student=tiny(student), teacher=tiny(teacher), **options)


def quietly(recipe: Recipe) -> RunFolder:
    return train(recipe, progress=False, say=lambda _: None)


def interrupted(recipe: Recipe, *, before_epoch: int = 2) -> None:
    """Train, and stop before that epoch as Ctrl+C would."""
    epoch = sfkd.train._Training._epoch

    def stopped(self: Any, number: int) -> dict[str, float]:
        if number == before_epoch:
            raise KeyboardInterrupt
        return epoch(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sfkd.train._Training, "_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            quietly(recipe)


def weights(folder: RunFolder | Path) -> dict[str, Tensor]:
    """Student and distiller tensors of a finished run."""
    run = RunFolder(Path(folder))
    own = load_file(run.distiller) if run.distiller.is_file() else {}
    return load_file(run.student / "model.safetensors") | {f"distiller.{k}": v for k, v in own.items()}


def assert_same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
