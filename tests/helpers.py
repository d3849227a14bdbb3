"""What the tests of training share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file
from torch import Tensor

from sfkd.config import Recipe
from sfkd.runs import RunFolder
from sfkd.train import train

ROOT = Path(__file__).resolve().parent.parent
CONVNEXT = {"name": "convnext_atto", "kwargs": {"patch_size": 1, "dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}}


def script(name: str) -> ModuleType:
    """A file of benchmarks/, which is no module of a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
