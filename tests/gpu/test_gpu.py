"""What only a machine with CUDA can show. `make test-gpu` runs it; without a GPU every test says that it was skipped.

The authors had no GPU: nothing here has run yet.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import CONVNEXT, assert_same_weights, interrupted, quietly, weights
from torch import Tensor

from sfkd import Backbone, create_distiller, list_distillers
from sfkd.config import Recipe
from sfkd.runs import RunFolder
from sfkd.watch import Watch

RecipeOf = Callable[..., Recipe]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


@pytest.fixture
def pair(distilled: dict[str, Any]) -> dict[str, Any]:
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    return {"teacher": teacher, "method": {"name": "sfkd"}}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", list_distillers())
def test_a_step_never_waits_for_the_device(
    tiny: Callable[..., Backbone], images: Tensor, method: str, precision: str
) -> None:
    """CUDA itself raises on any synchronising call."""
    options = {"num_samples": 8} if method == "crd" else {}
    distiller = create_distiller(method, student=tiny("swin"), teacher=tiny("convnext"), **options).cuda().train()
    optimizer, watch = torch.optim.AdamW(distiller.parameters()), Watch(torch.device("cuda"))
    x, y, index = images.cuda(), torch.tensor([1, -1, 0, 3]).cuda(), torch.arange(4).cuda()

    def step(number: int) -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            result = distiller(x, y, index)
        result.loss.backward()
        optimizer.step()
        watch.add(result, number)

    step(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", list_distillers())
def test_losses_are_those_of_the_cpu(tiny: Callable[..., Backbone], images: Tensor, method: str) -> None:
    options = {"num_samples": 8} if method == "crd" else {}
    distiller = create_distiller(method, student=tiny("swin"), teacher=tiny("convnext"), **options).eval()
    targets, index = torch.tensor([1, 7, 0, 3]), torch.arange(4)
    here = distiller(images, targets, index).loss
    there = distiller.cuda()(images.cuda(), targets.cuda(), index.cuda()).loss
    torch.testing.assert_close(there.cpu(), here, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_every_precision_trains(tmp_path: Path, recipe: RecipeOf, pair: dict[str, Any], precision: str) -> None:
    rows = quietly(recipe(tmp_path / precision, mixed_precision=precision, **pair)).metrics()
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("switch", ["channels_last", "compile"])
def test_switches_change_little(tmp_path: Path, recipe: RecipeOf, pair: dict[str, Any], switch: str) -> None:
    plain = quietly(recipe(tmp_path / "plain", **pair)).metrics()
    switched = quietly(recipe(tmp_path / switch, engine={switch: True}, **pair)).metrics()
    assert switched[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.02)


def test_stopped_and_resumed(tmp_path: Path, recipe: RecipeOf, pair: dict[str, Any]) -> None:
    options = pair | {"mixed_precision": "fp16"}
    torch.use_deterministic_algorithms(True, warn_only=True)
    whole = quietly(recipe(tmp_path / "whole", **options))
    interrupted(recipe(tmp_path / "parts", **options))
    parts = quietly(recipe(tmp_path / "parts", **options))
    torch.use_deterministic_algorithms(False)
    assert_same_weights(weights(whole), weights(parts))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(
    "launcher",
    [
        ("--multi_gpu",),
        ("--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "NO_WRAP"),
    ],
    ids=["ddp", "fsdp"],
)
def test_two_gpus(tmp_path: Path, recipe_values: Any, pair: dict[str, Any], launcher: tuple[str, ...]) -> None:
    values = recipe_values(tmp_path / "run", **pair | {"student": CONVNEXT}, schedule={"batch_size": 8})
    if "--multi_gpu" in launcher:
        values["engine"] = {"sync_batchnorm": True}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", *launcher]
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"}
    command = [*accelerate, "-m", "sfkd.cli", "train", str(file), "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "global batch 16" in done.stdout
    assert RunFolder(tmp_path / "run").finished
