from __future__ import annotations

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import CONVNEXT, ROOT, assert_same_weights, interrupted, quietly, weights
from torch import Tensor

import sfkd.train
from sfkd import Distiller, load_run
from sfkd.config import Method, Recipe
from sfkd.runs import RunError, RunFolder
from sfkd.train import TrainingDiverged, train

RecipeOf = Callable[..., Recipe]
ValuesOf = Callable[..., dict[str, Any]]


def epochs(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def test_overfits_64_images(tmp_path: Path, recipe: RecipeOf, digits: Callable[..., Path]) -> None:
    """The test set is the training set, so the last top-1 is the training accuracy."""
    root = str(digits(tmp_path / "data", train=64, test=64))
    schedule = {"epochs": 12, "lr": 5e-3, "weight_decay": 0.0}
    folder = quietly(recipe(tmp_path / "run", student=CONVNEXT, data={"root": root}, schedule=schedule))
    rows = folder.metrics()
    assert rows[0]["top1"] < 60
    assert rows[-1]["top1"] > 95
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_teacher_and_baseline_lie_in_nested_runs(finished_run: RunFolder) -> None:
    recipe = finished_run.recipe()
    for role, nested in (("teacher", recipe.teacher_recipe()), ("baseline", recipe.baseline_recipe())):
        folder = finished_run.nested(role)
        assert folder is not None
        assert nested is not None
        assert folder.finished
        # config.yaml has the options of the method in full
        assert dataclasses.replace(folder.recipe(), method=nested.method) == nested
        assert folder.recipe().method == Method(name="none", options={"ce_weight": 1.0})
        assert epochs(folder.path) == list(range(1, nested.schedule.epochs + 1))
    columns = list(finished_run.metrics()[0])
    parts = ["ce", "kd", "bands", "gffl"]
    assert columns == ["epoch", "loss", *parts, "target_ratio", "lr", "images_per_second", "seconds", "top1"]
    row, options = finished_run.metrics()[-1], recipe.method.options
    weights = [options[name] for name in ("ce_weight", "kd_weight", "feature_weight", "feature_weight")]
    assert row["loss"] == pytest.approx(sum(w * row[part] for w, part in zip(weights, parts, strict=True)), rel=1e-4)


def test_a_finished_run_is_left_as_it_is(finished_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.path.rglob("*.safetensors")}
    monkeypatch.setattr(sfkd.train._Training, "run", lambda self: pytest.fail("trained again"))
    said: list[str] = []
    train(finished_run.recipe(), progress=False, say=said.append)
    assert {path: path.stat().st_mtime_ns for path in finished_run.path.rglob("*.safetensors")} == before
    assert len(said) == 3
    assert all("finished already, top-1" in line for line in said)


def test_student_and_baseline_start_from_the_same_weights(
    tmp_path: Path, recipe: RecipeOf, distilled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, dict[str, Tensor]] = {}

    def record(self: Any) -> None:
        starts[self.recipe.method.name] = {k: v.clone() for k, v in self.distiller.student.state_dict().items()}

    monkeypatch.setattr(sfkd.train._Training, "run", record)
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    quietly(recipe(tmp_path / "run", **distilled | {"teacher": teacher}))
    assert_same_weights(starts["none"], starts["sfkd"])


def test_every_epoch_sees_every_image_in_another_order(
    tmp_path: Path, recipe: RecipeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = Distiller.forward

    def recorded(self: Distiller, images: Tensor, targets: Tensor, index: Tensor, *rest: Any) -> Any:
        seen.extend(index.tolist())
        return forward(self, images, targets, index, *rest)

    monkeypatch.setattr(Distiller, "forward", recorded)
    quietly(recipe(tmp_path / "run", student=CONVNEXT))
    first, second = seen[:64], seen[64:]
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, recipe: RecipeOf) -> None:
    options: dict[str, Any] = {"data": {"augmentation": "crop"}, "schedule": {"epochs": 1}}
    first, again, other = (
        weights(quietly(recipe(tmp_path / name, seed=seed, **options))) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert_same_weights(first, again)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of every step of AdamW that the test takes."""
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    return rates


def test_the_learning_rate_warms_up_and_ends_near_its_minimum(
    tmp_path: Path, recipe: RecipeOf, rates: list[float]
) -> None:
    schedule = {"epochs": 4, "warmup_epochs": 2, "lr": 1e-3, "min_lr": 1e-5}
    quietly(recipe(tmp_path / "run", student=CONVNEXT, schedule=schedule))
    assert len(rates) == 16
    assert rates[0] == pytest.approx(1e-5)
    assert rates[:9] == sorted(rates[:9])
    assert rates[8] == max(rates) == pytest.approx(1e-3)
    assert rates[8:] == sorted(rates[8:], reverse=True)
    assert rates[-1] < 0.05 * 1e-3


# -- stop and go on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb", "adabelief", "laprop", "muon", "adafactor"])
def test_any_optimizer_goes_on_exactly(tmp_path: Path, recipe: RecipeOf, optimizer: str) -> None:
    """Some keep tensors in their groups, or plain numbers in their state."""
    options = {"student": CONVNEXT, "schedule": {"optimizer": optimizer, "epochs": 3}, "data": {"augmentation": "crop"}}
    whole = quietly(recipe(tmp_path / "whole", **options))
    interrupted(recipe(tmp_path / "parts", **options), before_epoch=3)
    assert epochs(tmp_path / "parts") == [1, 2]
    parts = quietly(recipe(tmp_path / "parts", **options))
    assert_same_weights(weights(whole), weights(parts))
    assert epochs(parts.path) == [1, 2, 3]


def test_a_kill_between_metrics_and_checkpoint_repeats_the_epoch(
    tmp_path: Path, recipe: RecipeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = recipe(tmp_path / "run", student=CONVNEXT)
    save = RunFolder.save_checkpoint

    def killed(self: RunFolder, checkpoint: Any) -> None:
        if checkpoint.epoch == 2:
            raise KeyboardInterrupt
        save(self, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            quietly(described)
    assert epochs(tmp_path / "run") == [1, 2]
    assert epochs(quietly(described).path) == [1, 2]


def test_a_kill_after_the_last_epoch_only_saves_the_model(
    tmp_path: Path, recipe: RecipeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = recipe(tmp_path / "run", student=CONVNEXT)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sfkd.train, "save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            quietly(described)
    assert not RunFolder(tmp_path / "run").finished
    monkeypatch.setattr(sfkd.train._Training, "_epoch", lambda self, epoch: pytest.fail("trained again"))
    assert quietly(described).finished
    assert epochs(tmp_path / "run") == [1, 2]


def cli(*arguments: str, launcher: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *launcher, "-m", "sfkd.cli", *arguments]


def environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    return inherited | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}


def finish(command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def write(path: Path, values: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, recipe_values: ValuesOf, recipe: RecipeOf, distilled: Any
) -> None:
    """SIGKILL once the first checkpoint of the distilled student is there, then the same command again.

    Augmentation and the student's drop path draw random numbers in every batch.
    """
    options = distilled | {"schedule": {"epochs": 12}, "data": {"augmentation": "crop"}}
    file = write(tmp_path / "recipe.yaml", recipe_values(tmp_path / "killed", **options))
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    command = cli("train", file, "--quiet")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        while not checkpoint.is_file() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert not RunFolder(tmp_path / "killed").finished
    done = len(epochs(tmp_path / "killed"))
    assert done < 12
    assert "going on after epoch" in finish(command)
    whole = quietly(recipe(tmp_path / "whole", **options))
    assert any(name.startswith("distiller.") for name in weights(whole))
    assert_same_weights(weights(whole), weights(tmp_path / "killed"))
    for role in ("teacher", "baseline"):
        assert_same_weights(weights(whole.path / role), weights(tmp_path / "killed" / role))
    assert epochs(tmp_path / "killed") == list(range(1, 13))
    assert list((tmp_path / "killed").rglob("*.partial")) == []


def test_two_processes_do_what_one_does(
    tmp_path: Path, recipe_values: ValuesOf, recipe: RecipeOf, distilled: Any
) -> None:
    """The same global batch without augmentation, drop path or batch norm; sums differ only in their order."""
    student = recipe(tmp_path).student
    student = {"name": student.name, "kwargs": student.kwargs | {"drop_path_rate": 0.0}}
    teacher = distilled["teacher"] | {"schedule": {"epochs": 1, "batch_size": 8}}
    # by error: a correlation across the batch is that of one process
    method = {"name": "sfkd", "options": {"comparison": "error", "feature_weight": 1.0}}
    options = distilled | {"student": student, "baseline": False, "method": method}
    two = recipe_values(tmp_path / "two", **options | {"teacher": teacher}, schedule={"batch_size": 8, "epochs": 3})
    one = recipe(tmp_path / "one", **options, schedule={"batch_size": 16, "epochs": 3})
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    said = finish(cli("train", write(tmp_path / "two.yaml", two), "--quiet", launcher=launcher))
    assert said.count("done, top-1") == 2  # teacher and student, said by one process
    assert "global batch 16" in said
    quietly(one)
    for folder in (".", "teacher"):
        ours, theirs = (RunFolder(tmp_path / name / folder) for name in ("one", "two"))
        assert len(ours.metrics()) == len(theirs.metrics())
        for a, b in zip(ours.metrics(), theirs.metrics(), strict=True):
            assert a.keys() == b.keys()
            for name in a.keys() - {"seconds", "images_per_second", "top1"}:
                assert b[name] == pytest.approx(a[name], rel=1e-3), name
            assert abs(a["top1"] - b["top1"]) < 7  # two of 32 images
        mine, other = weights(ours), weights(theirs)
        for name in mine:
            torch.testing.assert_close(mine[name], other[name], rtol=0.02, atol=2e-3, msg=name)


# -- precision and mistakes -------------------------------------------------------------------------------------------------


def test_mixed_precision_after_full_precision_in_one_process(tmp_path: Path, recipe: RecipeOf, distilled: Any) -> None:
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    options = distilled | {"teacher": teacher, "baseline": False, "schedule": {"epochs": 1}}
    full = quietly(recipe(tmp_path / "full", **options))
    mixed = quietly(recipe(tmp_path / "mixed", mixed_precision="bf16", **options))
    assert not all(torch.equal(a, b) for a, b in zip(weights(full).values(), weights(mixed).values(), strict=True))
    assert mixed.metrics()[0]["loss"] == pytest.approx(full.metrics()[0]["loss"], rel=0.05)
    assert {value.dtype for name, value in weights(mixed).items() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("part", ["kd", "gffl"])
def test_a_loss_that_is_not_finite_names_its_part(
    tmp_path: Path, recipe: RecipeOf, distilled: Any, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = {"kd": "sfkd.distillers.kd.kd_loss", "gffl": "sfkd.losses.maps.gaussian_frequency_loss"}[part]
    monkeypatch.setattr(target, lambda student, *_, **__: student.sum() * float("nan"))
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    described = recipe(tmp_path / "run", **distilled | {"teacher": teacher, "baseline": False})
    with pytest.raises(TrainingDiverged, match=rf"{part} became NaN or infinite in epoch 1\b.*lower schedule\.lr"):
        quietly(described)
    assert not RunFolder(described.out).finished


def test_the_state_before_a_divergence_is_kept(
    tmp_path: Path, recipe: RecipeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = recipe(tmp_path / "run", student=CONVNEXT)
    epoch = sfkd.train._Training._epoch

    def poisoned(self: Any, number: int) -> dict[str, float]:
        if number == 2:
            torch.nn.init.constant_(next(self.distiller.student.parameters()), float("nan"))
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(sfkd.train._Training, "_epoch", poisoned)
        with pytest.raises(TrainingDiverged, match=r"ce became NaN.*epoch 2, step 1.*The last checkpoint is kept"):
            quietly(described)
    folder = RunFolder(described.out)
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.epoch == 1
    assert all(value.isfinite().all() for value in checkpoint.tensors.values())
    assert quietly(described).finished


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"batch_size": 65}}, "64 training images give no full batch of 65.*lower schedule.batch_size"),
        ({"schedule": {"optimizer": "adamm"}}, "schedule.optimizer: timm knows no optimizer 'adamm'"),
    ],
)
def test_recipes_that_cannot_be_trained(tmp_path: Path, recipe: RecipeOf, changes: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        quietly(recipe(tmp_path / "run", **changes))


def test_progress_says_what_counts(tmp_path: Path, recipe: RecipeOf, distilled: Any) -> None:
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    said: list[str] = []
    train(
        recipe(tmp_path / "run", **distilled | {"teacher": teacher, "baseline": False}), progress=False, say=said.append
    )
    text = "\n".join(said)
    assert "sfkd, global batch 16, lr 0.002, seed 0" in text
    assert "near chance, is it trained for these classes?" in text
    assert "epoch 2/2, loss" in text
    assert "after the last epoch (the one that is kept)" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {"name": "resnet81"}}, "unknown timm model 'resnet81'"),
        ({"student": CONVNEXT | {"layers": ["stages.9"]}}, "unknown layer of convnext_atto 'stages.9'"),
        ({"method": {"name": "sfkd", "options": {"sigmma": 1}}}, "unknown option of sfkd 'sigmma'"),
    ],
)
def test_mistakes_show_before_the_teacher_is_trained(
    tmp_path: Path, recipe: RecipeOf, distilled: Any, changes: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quietly(recipe(tmp_path / "run", **distilled | changes))
    assert not (tmp_path / "run").exists()


def test_a_teacher_with_its_own_normalisation_sees_what_it_was_trained_with(
    tmp_path: Path, recipe: RecipeOf, finished_run: RunFolder
) -> None:
    """The teacher of a run normalised with (0.4, 0.3) beside a student whose data have other numbers."""
    teacher = {"run": str(finished_run.path / "teacher")}
    said: list[str] = []
    described = recipe(
        tmp_path / "run",
        student=CONVNEXT,
        teacher=teacher,
        method={"name": "kd"},
        data={"mean": [0.1], "std": [0.9]},
        schedule={"epochs": 1},
    )
    folder = train(described, progress=False, say=said.append)
    trained = finished_run.nested("teacher")
    assert trained is not None
    assert f"teacher top-1 {trained.metrics()[-1]['top1']:.2f} %" in "\n".join(said)
    run = load_run(folder)
    assert run.teacher is not None
    assert run.teacher.own_normalization == ((0.4,), (0.3,))
    assert run.student.own_normalization == run.teacher.normalization == ((0.1,), (0.9,))


def test_the_learning_rate_falls_in_steps(tmp_path: Path, recipe: RecipeOf, rates: list[float]) -> None:
    schedule = {"epochs": 6, "warmup_epochs": 1, "warmup_lr": 1e-6, "lr": 1e-2, "decay": "step", "decay_epochs": 2}
    quietly(recipe(tmp_path / "run", student=CONVNEXT, schedule=schedule))
    assert rates[0] == pytest.approx(1e-6)
    assert rates[4:12] == pytest.approx([1e-2] * 8)
    assert rates[12:20] == pytest.approx([1e-3] * 8)
    assert rates[20:] == pytest.approx([1e-4] * 4)
