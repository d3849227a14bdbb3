from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from helpers import CONVNEXT, assert_same_weights, quietly, weights

from sfkd import load_run
from sfkd.cli import _signals, main
from sfkd.config import Recipe
from sfkd.runs import RunFolder
from sfkd.train import TrainingStopped, train

ValuesOf = Callable[..., dict[str, Any]]


@pytest.fixture
def file(tmp_path: Path, recipe_values: ValuesOf) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values(tmp_path / "run")), encoding="utf-8")
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr of a command that must fail with exit status 2."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("sfkd: ")
    return lines[0]


@pytest.mark.parametrize(
    "order", [["FILE", "--quiet", "OVERRIDE"], ["FILE", "OVERRIDE", "--quiet"], ["--quiet", "FILE", "OVERRIDE"]]
)
def test_train_evaluate_export(
    file: Path, tmp_path: Path, order: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Overrides and options in any order."""
    words = {"FILE": str(file), "OVERRIDE": "schedule.epochs=1"}
    assert main(["train", *(words.get(word, word) for word in order)]) == 0
    out, err = capsys.readouterr()
    assert "epoch 1/1" in out
    assert "it/s" not in err
    folder = RunFolder(tmp_path / "run")
    assert folder.finished
    assert len(folder.metrics()) == 1
    assert main(["evaluate", str(folder.path)]) == 0
    top1 = re.fullmatch(r"student: top-1 ([\d.]+) % \(\d+ of 32\)\n", capsys.readouterr().out)
    assert top1 is not None
    assert float(top1[1]) == pytest.approx(folder.metrics()[-1]["top1"], abs=0.01)
    assert main(["export", str(folder.path), str(tmp_path / "export")]) == 0
    assert RunFolder(tmp_path / "export").finished


def test_evaluate_shows_every_model_and_takes_another_root(
    finished_run: RunFolder, tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run.path, tmp_path / "run")
    moved = shutil.copytree(data_root, tmp_path / "moved")
    for config in run.rglob("config.yaml"):
        config.write_text(config.read_text(encoding="utf-8").replace(str(data_root), "/nowhere"), encoding="utf-8")
    assert "no data set" in fails(capsys, "evaluate", run)
    assert main(["evaluate", str(run), "--root", str(moved)]) == 0
    found = dict(re.findall(r"^([a-z ]+): top-1 ([\d.]+) %", capsys.readouterr().out, re.MULTILINE))
    assert list(found) == ["teacher", "student alone", "student"]
    assert float(found["student"]) == pytest.approx(finished_run.metrics()[-1]["top1"], abs=0.01)
    nested = finished_run.nested("teacher")
    assert nested is not None
    assert float(found["teacher"]) == pytest.approx(nested.metrics()[-1]["top1"], abs=0.01)


def test_list_names_distillers_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(lines)[:4] == ["none", "kd", "fitnet", "sfkd"]
    assert "temperature=1.0" in lines["kd"]
    assert "wavelet='haar'" in lines["sfkd"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.epoch=1", "schedule.epoch: unknown key 'epoch'. Did you mean 'epochs'"),
        ("schedule.epochs", "overrides are key=value"),
        ("method.name=sfdk", "unknown distiller 'sfdk'. Did you mean 'sfkd'"),
        ("method.name=kd", "KD distils from a teacher"),
        ("method.options.strength=1", "unknown option of none 'strength'"),
        ("student.name=resnet81", "unknown timm model 'resnet81'"),
        ("student.kwargs.wings=2", "could not build 'swin_tiny"),
        ("student.layers=[stage9]", "unknown layer of swin"),
        ("data.root=/nowhere", "no data set 'torch/mnist' (train) in /nowhere"),
        ("schedule.optimizer=adamm", "timm knows no optimizer 'adamm'"),
        ("teacher.run=/nowhere", "no run folder at /nowhere"),
        ("mixed_precision=fp8", "mixed_precision"),
        ("out=/proc/nowhere", "/proc/nowhere"),
    ],
)
def test_a_mistake_is_one_line(file: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(capsys, "train", file, "--quiet", override)


@pytest.mark.parametrize("content", ["a: [1\nb: 2\n", "- 1\n", "", "\t"])
def test_a_broken_recipe_is_one_line(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content, encoding="utf-8")
    assert str(path) in fails(capsys, "train", path)


def test_folders_that_are_no_run_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no recipe at" in fails(capsys, "train", tmp_path / "nowhere.yaml")
    assert "no run folder at" in fails(capsys, "evaluate", tmp_path / "nowhere")
    assert "config.yaml is missing" in fails(capsys, "evaluate", tmp_path)
    assert "config.yaml is missing" in fails(capsys, "export", tmp_path, tmp_path / "export")


def test_another_recipe_in_the_same_folder(
    finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run.path, tmp_path / "run")
    line = fails(capsys, "train", run / "config.yaml", f"out={run}", "schedule.lr=0.5")
    assert "was begun with another recipe (schedule.lr: 0.002 → 0.5)" in line


def test_damaged_weights(finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(finished_run.path, tmp_path / "run")
    (run / "student" / "model.safetensors").write_bytes(b"garbage")
    assert "no readable safetensors file" in fails(capsys, "evaluate", run)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder"):
        main(["--debug", "evaluate", str(tmp_path / "nowhere")])


def test_a_stop_says_how_to_go_on(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sfkd.train.train", stopped)
    assert main(["train", str(file)]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["teach"], ["train"], ["list", "extra"], ["train", "x.yaml", "--loud"], ["evaluate", "a", "b=c"]]
)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: sfkd" in capsys.readouterr().err


# -- stopping, dry runs, exports -------------------------------------------------------------------------------------------


def test_a_request_to_stop_saves_the_step_and_says_so(
    tmp_path: Path, recipe_values: ValuesOf, recipe: Callable[..., Recipe]
) -> None:
    """SIGTERM once it trains: the state of that very step is kept, and the same command goes on from it."""
    options: dict[str, Any] = {"student": CONVNEXT, "schedule": {"epochs": 400, "batch_size": 16}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe_values(tmp_path / "run", **options)), encoding="utf-8")
    command = [sys.executable, "-m", "sfkd.cli", "train", str(file), "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    progress = tmp_path / "run" / "progress.json"
    while not progress.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert re.search(r"stopped after epoch \d+, step \d+\. The same command goes on from there\.", said)
    told = json.loads(progress.read_text(encoding="utf-8"))
    assert told.keys() == {"epoch", "epochs", "step", "steps", "loss", "images_per_second", "seconds_left"}
    assert (told["epochs"], told["steps"]) == (400, 4)
    checkpoint = RunFolder(tmp_path / "run").load_checkpoint()
    assert checkpoint is not None
    assert 4 * checkpoint.epoch + checkpoint.step >= 4 * (told["epoch"] - 1) + told["step"]
    assert not RunFolder(tmp_path / "run").finished


def test_a_stopped_training_ends_like_one_that_was_not(tmp_path: Path, recipe: Callable[..., Recipe]) -> None:
    options: dict[str, Any] = {"student": CONVNEXT, "schedule": {"accumulate": 2, "batch_size": 8}}
    whole = quietly(recipe(tmp_path / "whole", **options))
    for steps in (3, 2):  # stops within the first epoch, then within the second
        asked: list[int] = []

        def stop(asked: list[int] = asked, steps: int = steps) -> bool:
            asked.append(1)
            return len(asked) > steps

        with pytest.raises(TrainingStopped, match="stopped after epoch"):
            train(recipe(tmp_path / "parts", **options), progress=False, say=lambda _: None, stop=stop)
    checkpoint = RunFolder(tmp_path / "parts").load_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.epoch, checkpoint.step) == (1, 1)
    assert_same_weights(weights(whole), weights(quietly(recipe(tmp_path / "parts", **options))))


def test_a_second_interrupt_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with _signals() as came:
        signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_dry_run_writes_nothing(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(file), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "global batch: 16 × 1 accumulated × 1 process(es) = 16; 4 steps an epoch, 2 epochs" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("source", ["trained", "elsewhere", "named"])
def test_an_export_has_its_teacher(
    finished_run: RunFolder, tmp_path: Path, recipe: Callable[..., Recipe], images: Any, source: str
) -> None:
    """Wherever the teacher came from, the copy opens alone, and timm alone opens both models."""
    if source == "trained":
        run = finished_run
    else:
        shutil.copytree(finished_run.path / "teacher", tmp_path / "other")
        teacher = {"run": str(tmp_path / "other")} if source == "elsewhere" else CONVNEXT
        run = quietly(recipe(tmp_path / "run", teacher=teacher, method={"name": "sfkd"}, schedule={"epochs": 1}))
    before = None if source == "named" else load_run(run).teacher
    assert main(["export", str(run.path), str(tmp_path / "copy")]) == 0
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    shutil.move(tmp_path / "copy", tmp_path / "moved")
    copy = load_run(tmp_path / "moved")
    assert copy.teacher is not None
    with torch.no_grad():
        for role, model in (("teacher/student", copy.teacher), ("student", copy.student)):
            alone = timm.create_model(f"local-dir:{tmp_path / 'moved' / role}", pretrained=True).eval()
            assert torch.equal(alone(images), model(images).logits)
        if before is not None:
            assert torch.equal(before(images).logits, copy.teacher(images).logits)


def test_an_export_onto_itself_is_refused(finished_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert "would be exported onto itself" in fails(capsys, "export", finished_run.path, finished_run.path)
