"""Tiny models, tiny data in MNIST's file format, and one finished run, shared by the tests."""

from __future__ import annotations

import copy
import gzip
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_page import CHROMIUM, FLAGS
from helpers import TINY
from playwright.sync_api import Browser, sync_playwright
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor

from sfkd import Backbone
from sfkd.config import Recipe, parse_recipe
from sfkd.runs import RunFolder
from sfkd.train import train


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """On maps this small a second thread, or a GPU, costs more than it gives; and runs can be compared bit for bit."""
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of one file: Playwright's event loop would be in the way of the others'."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Backbone]:
    """A small grey-image `Backbone` for 32 pixels and 10 classes: convnext, swin, vit, mixer or resnet."""

    def build(name: str, **changes: Any) -> Backbone:
        if name == "mixer":  # timm's names fix their sizes
            sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "num_blocks": 4}
            return Backbone(MlpMixer(num_classes=10, in_chans=1, **sizes), input_size=(1, 32, 32), **changes)
        spec = TINY[name]
        model = Backbone(spec["name"], in_chans=1, num_classes=10, **spec["kwargs"] | changes)
        model.input_size = (1, 32, 32)
        return model

    return build


def write_idx(path: Path, values: np.ndarray, *, zipped: bool = False) -> None:
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if zipped else content)


def write_digits(folder: Path, *, train: int, test: int, zipped: bool = False) -> Path:
    """Ten coarse patterns with noise, 28×28; the test images are the first training images."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    patterns = random.uniform(0, 200, (10, 4, 4)).repeat(7, 1).repeat(7, 2)
    labels = np.arange(train) % 10
    pixels = patterns[labels] + random.uniform(0, 55, (train, 28, 28))
    for prefix, count in (("train", train), ("t10k", test)):
        suffix = ".gz" if zipped else ""
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", pixels[:count], zipped=zipped)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels[:count], zipped=zipped)
    return folder


@pytest.fixture(scope="session")
def digits() -> Callable[..., Path]:
    """Writes the ten patterns as idx files: `digits(folder, train=…, test=…, zipped=…)`."""
    return write_digits


@pytest.fixture(scope="session")
def idx() -> Callable[..., None]:
    """Writes an array as an idx file: `idx(path, array, zipped=…)`."""
    return write_idx


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 training and 32 test images."""
    return write_digits(tmp_path_factory.mktemp("digits"), train=64, test=32)


@pytest.fixture(scope="session")
def recipe_values(data_root: Path) -> Callable[..., dict[str, Any]]:
    """Plain values of a recipe; keywords replace top-level keys, `data` and `schedule` are merged."""

    def values(out: Path, **changes: Any) -> dict[str, Any]:
        data = {"name": "torch/mnist", "root": str(data_root), "num_classes": 10, "input_size": [1, 32, 32]}
        data |= {"mean": [0.4], "std": [0.3], "augmentation": "none"} | changes.pop("data", {})
        schedule = {"epochs": 2, "batch_size": 16, "lr": 2e-3} | changes.pop("schedule", {})
        base = {"student": TINY["swin"], "method": {"name": "none"}, "data": data, "schedule": schedule}
        return copy.deepcopy({"out": str(out), **base, **changes})

    return values


@pytest.fixture(scope="session")
def recipe(recipe_values: Callable[..., dict[str, Any]]) -> Callable[..., Recipe]:
    return lambda out, **changes: parse_recipe(recipe_values(out, **changes))


@pytest.fixture(scope="session")
def distilled() -> dict[str, Any]:
    """Top-level keys of a recipe that trains a teacher, the student alone and the student with SFKD."""
    teacher = TINY["convnext"] | {"schedule": {"epochs": 1, "batch_size": 16}}
    return {"teacher": teacher, "baseline": True, "method": {"name": "sfkd", "options": {"layers": None}}}


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, recipe: Callable[..., Recipe], distilled: dict[str, Any]
) -> RunFolder:
    """A finished SFKD run with its teacher and baseline. Read only."""
    return train(recipe(tmp_path_factory.mktemp("run") / "sfkd", **distilled), progress=False, say=lambda _: None)
