"""SIGKILL at random moments, one killed process of two, a clock that jumps: what goes on ends like what never stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import CONVNEXT, ROOT, assert_same_weights, quietly, weights

from sfkd.config import parse_recipe
from sfkd.runs import RunFolder

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}


def start(file: Path, *launcher: str) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, "-m", "sfkd.cli", "train", str(file), "--quiet"]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture
def written(tmp_path: Path, recipe_values: Callable[..., dict[str, Any]]) -> Callable[..., tuple[Path, dict[str, Any]]]:
    def write(name: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
        values = recipe_values(tmp_path / name, **changes)
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        return file, values

    return write


def step(folder: Path) -> int:
    """Steps behind the last checkpoint, 0 without one; there is one whole checkpoint at any moment."""
    try:
        checkpoint = RunFolder(folder).load_checkpoint()
    except RuntimeError:  # safetensors opens a file twice; another one has come into its place meanwhile
        checkpoint = RunFolder(folder).load_checkpoint()
    return 0 if checkpoint is None else 4 * checkpoint.epoch + checkpoint.step


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments_it_ends_with_the_same_weights(
    written: Callable[..., Any], distilled: dict[str, Any], tmp_path: Path, kills: int
) -> None:
    """A checkpoint at every step, so that many of the kills come inside saving."""
    options = {k: v for k, v in distilled.items() if k != "baseline"}
    options |= {"schedule": {"epochs": 30}, "engine": {"checkpoint_every": 1}, "data": {"augmentation": "crop"}}
    file, values = written("killed", **options)
    chance, folder, survived = random.Random(kills), tmp_path / "killed", 0
    while survived < kills and not RunFolder(folder).finished:
        before = step(folder)
        process = start(file)
        while process.poll() is None and step(folder) <= before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        said = process.communicate()[0]
        assert process.returncode in (0, -signal.SIGKILL), said
        survived += process.returncode != 0
    assert survived == kills or kills > 3  # a fast machine may be done before the twentieth
    process = start(file)
    assert process.wait() == 0, process.communicate()[0]
    process.communicate()
    whole = quietly(parse_recipe(values | {"out": str(tmp_path / "whole")}))
    assert_same_weights(weights(whole), weights(folder))
    metrics = [row["epoch"] for row in RunFolder(folder).metrics()]
    assert metrics == list(range(1, 31))
    for killed, untouched in zip(RunFolder(folder).metrics(), whole.metrics(), strict=True):
        assert killed["loss"] == pytest.approx(untouched["loss"], rel=1e-6)
    assert list(folder.rglob("*.partial")) == []
    assert (folder / "progress.json").is_file()


def test_when_one_process_is_killed_the_others_stop_with_a_reason(written: Callable[..., Any], tmp_path: Path) -> None:
    file, _ = written("pair", student=CONVNEXT, schedule={"epochs": 100_000, "batch_size": 8})
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(file, *launcher)
    try:
        while not (tmp_path / "pair" / "metrics.csv").is_file():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        import psutil

        workers = [
            child for child in psutil.Process(process.pid).children(recursive=True) if "sfkd.cli" in child.cmdline()
        ]
        workers[1].kill()
        said, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "exitcode  : -9" in said or "Signal 9" in said, said[-2000:]
        assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    finally:
        process.kill()
        process.wait()


def test_a_clock_that_jumps_changes_nothing(
    written: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back by a day in the middle: no number of the run is read from the clock on the wall."""
    _, values = written("run", student=CONVNEXT)
    plain = quietly(parse_recipe(values | {"out": str(tmp_path / "plain")}))
    now, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now() - 86_400 * (next(calls) > 3))
    jumped = quietly(parse_recipe(values | {"out": str(tmp_path / "jumped")}))
    assert_same_weights(weights(plain), weights(jumped))
    assert all(row["seconds"] > 0 and row["images_per_second"] > 0 for row in jumped.metrics())
