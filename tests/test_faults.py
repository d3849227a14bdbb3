"""Full disks, damaged and foreign checkpoints: one clear line, and what was there before is kept."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import CONVNEXT, assert_same_weights, interrupted, quietly, weights
from safetensors.torch import load_file, save_file

from sfkd import WeightsError
from sfkd.cli import main
from sfkd.config import Recipe
from sfkd.runs import RunFolder, save_safetensors

RecipeOf = Callable[..., Recipe]


@pytest.fixture
def half(tmp_path: Path, recipe: RecipeOf) -> Recipe:
    """A run that was stopped after the first of two epochs."""
    described = recipe(tmp_path / "run", student=CONVNEXT)
    interrupted(described)
    return described


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)


def of_another_model(path: Path) -> None:
    tensors = {name: torch.zeros(3) if name.endswith("head.fc.bias") else v for name, v in load_file(path).items()}
    save_file(tensors, path, {"epoch": "1", "state": "{}"})


def without_optimizer(path: Path) -> None:
    save_file(load_file(path), path, {"epoch": "1", "state": "{}"})


def no_numbers(path: Path) -> None:
    save_file(load_file(path), path, {"epoch": "one", "state": "{}"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "checkpoint.safetensors is no readable safetensors file"),
        (foreign, "checkpoint.safetensors is no checkpoint of this program.*delete it to start anew"),
        (no_numbers, "is no checkpoint of this program"),
        (of_another_model, r"checkpoint.safetensors does not fit StudentAlone: .*head.fc.bias.*wants \(10,\)"),
        (without_optimizer, "holds no state that this recipe could go on from"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(half: Recipe, damage: Callable[[Path], None], message: str) -> None:
    checkpoint = RunFolder(half.out).checkpoint
    damage(checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(WeightsError, match=message) as caught:
        quietly(half)
    assert "\n" not in str(caught.value)
    assert checkpoint.read_bytes() == before


def test_a_full_disk_keeps_the_last_checkpoint(half: Recipe, recipe: RecipeOf, tmp_path: Path) -> None:
    """The limit on the size of a file stands in for the disk; what is over it fails half way through the write."""
    whole = quietly(recipe(tmp_path / "whole", student=CONVNEXT))
    folder = RunFolder(half.out)
    before = folder.checkpoint.read_bytes()
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load((folder.path / "config.yaml").read_text())), encoding="utf-8")

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))

    command = [sys.executable, "-m", "sfkd.cli", "train", str(file), "--quiet"]
    done = subprocess.run(command, preexec_fn=limited, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("sfkd:")]
    assert "checkpoint.safetensors could not be written, what was there before is kept" in line
    assert "Traceback" not in done.stderr
    assert folder.checkpoint.read_bytes() == before
    assert list(folder.path.glob(".*.partial")) == []
    assert_same_weights(weights(quietly(half)), weights(whole))


def test_a_kill_inside_saving_leaves_a_whole_checkpoint(half: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the new file was written beside, before it is renamed."""
    folder = RunFolder(half.out)
    before = folder.checkpoint.read_bytes()

    class Killed(BaseException):
        pass

    def killed(self: Path, target: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            save_safetensors(folder.checkpoint, {"x": torch.zeros(2)})
    assert folder.checkpoint.read_bytes() == before
    assert quietly(half).finished


# -- places where nothing can be written ------------------------------------------------------------------------------

COMMANDS: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "train": lambda recipe, run, place: ["train", recipe, f"out={place}", "--quiet"],
    "export": lambda recipe, run, place: ["export", run, place],
    "analyze": lambda recipe, run, place: ["analyze", run, "--out", place, "--images", 8, "--quiet"],
}


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_one_line(
    command: str, half: Recipe, finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of the system that takes no files, and one below a file."""
    recipe = RunFolder(half.out).path / "config.yaml"
    (tmp_path / "file").write_text("")
    for place in (Path("/proc/nowhere"), tmp_path / "file" / "below"):
        assert main([str(word) for word in COMMANDS[command](recipe, finished_run.path, place)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(place) in line, line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_fills_leaves_nothing_half_written(
    command: str, half: Recipe, finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, recipe = tmp_path / "place", RunFolder(half.out).path / "config.yaml"
    words = [str(word) for word in COMMANDS[command](recipe, finished_run.path, place)]
    with largest_file(4096):
        assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "could not be written" in line, line
    assert not RunFolder(place).finished
    assert main(words) == 0  # once there is room again
