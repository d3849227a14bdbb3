"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sfkd.config import Recipe
from sfkd.runs import RunFolder
from sfkd.train import train

CONVNEXT = {"name": "convnext_atto", "kwargs": {"patch_size": 1, "dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}}


def quietly(recipe: Recipe) -> RunFolder:
    return train(recipe, progress=False, say=lambda _: None)


def weights(folder: RunFolder | Path) -> dict[str, Tensor]:
    """Student and distiller tensors of a finished run."""
    run = RunFolder(Path(folder))
    own = load_file(run.distiller) if run.distiller.is_file() else {}
    return load_file(run.student / "model.safetensors") | {f"distiller.{k}": v for k, v in own.items()}


def assert_same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
