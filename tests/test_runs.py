from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sfkd import Backbone, WeightsError, load_run
from sfkd.config import Recipe
from sfkd.loading import build_teacher, model_transform
from sfkd.runs import Checkpoint, RunError, RunFolder, environment, save_model, save_safetensors, write_atomically

RecipeOf = Callable[..., Recipe]


@pytest.fixture
def copied(finished_run: RunFolder, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(finished_run.path, tmp_path / "copy"))


# -- atomic writes --------------------------------------------------------------------------------------------------------


def test_text_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("old", "new ×"):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def half(self: Path, text: str, encoding: str) -> None:
        with self.open("w", encoding=encoding) as file:
            file.write(text[:2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(RunError, match="could not be written, what was there before is kept: disk full"):
        write_atomically(path, "new text")
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failed_checkpoint_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(Checkpoint(1, 0, {"a": torch.ones(2)}, {}))

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", half)
    with pytest.raises(RunError, match="could not be written, what was there before is kept: disk full"):
        folder.save_checkpoint(Checkpoint(2, 0, {"a": torch.zeros(2)}, {}))
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.epoch == 1
    assert os.listdir(tmp_path) == ["checkpoint.safetensors"]


def test_a_failed_model_leaves_the_last_one(
    tmp_path: Path, tiny: Callable[..., Backbone], recipe: RecipeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = recipe(tmp_path).data
    model = tiny("convnext")
    save_model(model, tmp_path / "student", data)
    before = sorted(os.listdir(tmp_path / "student"))

    def half(model: Any, path: str, **_: Any) -> None:
        Path(path).mkdir()
        (Path(path) / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("timm.models.save_for_hf", half)
    with pytest.raises(RunError, match="could not be written, what was there before is kept: disk full"):
        save_model(model, tmp_path / "student", data)
    assert os.listdir(tmp_path) == ["student"]
    assert sorted(os.listdir(tmp_path / "student")) == before
    assert load_file(tmp_path / "student" / "model.safetensors").keys() == model.model.state_dict().keys()


def test_what_a_kill_left_half_written_is_cleared(tmp_path: Path, recipe: RecipeOf) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(recipe(folder.path), {})
    (folder.path / ".checkpoint.safetensors.123.partial").write_bytes(b"half")
    (folder.path / ".student.123.partial").mkdir()
    (folder.path / ".student.123.partial" / "config.json").touch()
    folder.begin(recipe(folder.path), {})
    assert sorted(os.listdir(folder.path)) == ["config.yaml", "environment.json"]


# -- the folder's files -----------------------------------------------------------------------------------------------------


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.load_checkpoint() is None
    tensors = {"a": torch.randn(3, 4), "b": torch.tensor(7), "c": torch.randn(2).bfloat16(), "d": torch.randn(4, 3).T}
    state = {"groups": [{"lr": 1e-3, "betas": [0.9, 0.999], "foreach": None}], "nested": {"x": True}}
    folder.save_checkpoint(Checkpoint(12, 7, tensors, state))
    back = folder.load_checkpoint()
    assert back is not None
    assert (back.epoch, back.step, back.state) == (12, 7, state)
    assert back.tensors.keys() == tensors.keys()
    assert all(torch.equal(back.tensors[k], v) and back.tensors[k].dtype == v.dtype for k, v in tensors.items())


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "checkpoint.safetensors")
    with pytest.raises(WeightsError, match="no checkpoint of this program"):
        RunFolder(tmp_path).load_checkpoint()
    (tmp_path / "checkpoint.safetensors").write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="no readable safetensors file"):
        RunFolder(tmp_path).load_checkpoint()


def test_metrics_round_trip(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.metrics() == []
    rows = [{"epoch": 1, "loss": 1 / 3, "top1": 12.5}, {"epoch": 2, "loss": 1e-9, "top1": 99.0}]
    folder.write_metrics(rows)
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()[0] == "epoch,loss,top1"
    assert folder.metrics() == [pytest.approx(row, rel=1e-5) for row in rows]
    folder.write_metrics(folder.metrics())
    assert folder.metrics()[1]["epoch"] == 2


def test_another_recipe_is_refused_with_the_difference(tmp_path: Path, recipe: RecipeOf, distilled: Any) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(recipe(folder.path, **distilled), {"seed": 0})
    folder.begin(recipe(folder.path, **distilled), {"seed": 1})
    assert json.loads((folder.path / "environment.json").read_text(encoding="utf-8")) == {"seed": 0}
    changed = recipe(folder.path, **distilled | {"seed": 3}, schedule={"lr": 0.1})
    with pytest.raises(
        RunError, match=r"another recipe \(schedule\.lr: 0\.002 → 0\.1; seed: 0 → 3\): choose another out"
    ):
        folder.begin(changed, {})
    with pytest.raises(RunError, match=r"teacher"):
        folder.begin(recipe(folder.path), {})
    assert folder.recipe() == recipe(folder.path, **distilled)


def test_a_moved_folder_goes_on(tmp_path: Path, recipe: RecipeOf) -> None:
    RunFolder(tmp_path / "a").begin(recipe(tmp_path / "a"), {})
    moved = RunFolder((tmp_path / "a").rename(tmp_path / "b"))
    moved.begin(recipe(tmp_path / "b"), {})


def test_environment_names_what_a_number_depends_on() -> None:
    described = environment(3, 64, 2, "cpu")
    assert (described["seed"], described["global_batch"], described["processes"]) == (3, 64, 2)
    assert torch.__version__.startswith(described["packages"]["torch"].partition("+")[0])
    assert None not in described["packages"].values()
    json.dumps(described)


# -- finished runs ----------------------------------------------------------------------------------------------------------


def test_a_finished_run_opens(finished_run: RunFolder, images: torch.Tensor) -> None:
    run = load_run(finished_run)
    assert run.teacher is not None
    assert run.baseline is not None
    assert set(run.top1) == {"teacher", "baseline", "student"}
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    assert run.distiller.student is run.student
    assert not any(m.training for model in (run.distiller, run.baseline) for m in model.modules())
    saved = load_file(finished_run.distiller)
    own = run.distiller.extra_state()
    assert saved.keys() == own.keys()
    assert all(torch.equal(own[k], v) for k, v in saved.items())
    assert own["spatial_frequency.0.target.standardize.batches"] == 8  # 2 epochs of 64 images, 16 a batch
    for role, model in (("teacher", run.teacher), ("baseline", run.baseline)):
        weights = load_file(finished_run.path / role / "student" / "model.safetensors")
        assert all(torch.equal(v, weights[k]) for k, v in model.model.state_dict().items())
    assert not torch.equal(run.student(images).logits, run.baseline(images).logits)


@torch.no_grad()
def test_timm_opens_the_student(finished_run: RunFolder, images: torch.Tensor) -> None:
    run = load_run(finished_run)
    model = timm.create_model(f"local-dir:{finished_run.student}", pretrained=True).eval()
    assert torch.equal(model(images), run.student(images).logits)
    assert model.pretrained_cfg["input_size"] == (1, 32, 32)
    assert (model.pretrained_cfg["mean"], model.pretrained_cfg["std"]) == ([0.4], [0.3])
    ours = Backbone(f"local-dir:{finished_run.student}").eval()
    assert torch.equal(ours(images).logits, model(images))
    assert ours.input_size == (1, 32, 32)
    assert Backbone(f"local-dir:{finished_run.student}", num_classes=3)(images).logits.shape == (4, 3)


def test_a_picture_is_fitted_to_the_model_that_gets_it(finished_run: RunFolder, tiny: Callable[..., Backbone]) -> None:
    white = Image.new("RGB", (90, 60), (255, 255, 255))
    student = load_run(finished_run.path).student
    torch.testing.assert_close(
        model_transform(student)(white), torch.full((1, 32, 32), (1 - 0.4) / 0.3), rtol=0, atol=0.02
    )
    grey = model_transform(tiny("mixer"))(white)  # says nothing of its normalisation
    torch.testing.assert_close(grey, torch.ones(1, 32, 32), rtol=0, atol=0.02)


def test_export_is_smaller_and_whole(finished_run: RunFolder, tmp_path: Path, images: torch.Tensor) -> None:
    assert (finished_run.path / "checkpoint.safetensors").is_file()
    (finished_run.path / "README.md").write_text("A card.\n", encoding="utf-8")
    target = finished_run.export(tmp_path / "deep" / "export")
    exported = {str(path.relative_to(target.path)) for path in target.path.rglob("*") if path.is_file()}
    one = {"config.yaml", "metrics.csv", "environment.json", "student/config.json", "student/model.safetensors"}
    nested = {f"{role}/{name}" for role in ("teacher", "baseline") for name in one}
    assert exported == one | nested | {"distiller.safetensors", "README.md"}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in target.path.rglob("*") if path.is_file())
    before, after = load_run(finished_run), load_run(target)
    for view, other in zip(
        before.distiller.inspect(images).values(), after.distiller.inspect(images).values(), strict=True
    ):
        assert torch.equal(view.teacher, other.teacher)
        assert torch.equal(view.refined, other.refined)
    assert after.top1 == before.top1


def test_an_unfinished_run_is_neither_opened_nor_exported(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "student")
    with pytest.raises(RunError, match="has not finished training: run `sfkd train`"):
        load_run(copied)
    with pytest.raises(RunError, match="has not finished training"):
        RunFolder(copied).export(tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_run_can_be_the_teacher_of_another(finished_run: RunFolder, tmp_path: Path, recipe: RecipeOf) -> None:
    described = recipe(tmp_path / "next", teacher={"run": str(finished_run.path), "layers": ["layers.0"]})
    teacher = build_teacher(described, RunFolder(described.out))
    assert teacher is not None
    assert teacher.layer_names == ["layers.0"]
    weights = load_file(finished_run.student / "model.safetensors")
    assert all(torch.equal(v, weights[k]) for k, v in teacher.model.state_dict().items())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" * 64)


def reshape(path: Path) -> None:
    state = load_file(path)
    name = next(name for name, value in sorted(state.items()) if value.ndim == 2)
    save_file(state | {name: state[name][:-1].contiguous()}, path)


def drop(path: Path) -> None:
    state = load_file(path)
    state.pop(sorted(state)[0])
    save_file(state, path)


def extend(path: Path) -> None:
    save_file(load_file(path) | {"surprise": torch.ones(1)}, path)


@pytest.mark.parametrize(
    "file", ["student/model.safetensors", "teacher/student/model.safetensors", "distiller.safetensors"]
)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "no readable safetensors file"),
        (garble, "no readable safetensors file"),
        (reshape, r"does not fit .*the model wants \(.*the file has \("),
        (drop, r"does not fit .*missing .* \(1 in all\)"),
        (extend, r"does not fit .*unexpected surprise \(1 in all\)"),
        (Path.unlink, "missing|no readable|has not finished"),
    ],
)
def test_damaged_weights_are_one_clear_error(
    copied: Path, file: str, damage: Callable[[Path], None], message: str
) -> None:
    if damage is reshape and file == "distiller.safetensors":
        state = load_file(copied / file)
        save_file(state | {"spatial_frequency.0.target.standardize.mean": torch.zeros(3)}, copied / file)
    else:
        damage(copied / file)
    with pytest.raises((WeightsError, RunError), match=message) as caught:
        load_run(copied)
    assert "\n" not in str(caught.value)


def test_a_damaged_model_description(copied: Path) -> None:
    (copied / "student" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match="cannot be read as an exported timm model"):
        load_run(copied)
    (copied / "student" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"no exported model: config\.json is missing"):
        load_run(copied)


def test_a_lost_teacher_is_not_replaced_by_a_random_one(copied: Path) -> None:
    shutil.rmtree(copied / "teacher")
    with pytest.raises(RunError, match="lacks teacher/, the teacher that it was distilled from"):
        load_run(copied)


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run folder at .*nowhere"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"is no run folder: config\.yaml is missing"):
        load_run(tmp_path)


def test_a_run_that_stopped_before_its_student_says_what_goes_on(tmp_path: Path, finished_run: RunFolder) -> None:
    shutil.copytree(finished_run.path / "teacher", tmp_path / "teacher")
    with pytest.raises(RunError, match=r"has only its teacher so far: give its `sfkd train` command again"):
        load_run(tmp_path)


def test_only_timm_models_are_saved_for_timm(tmp_path: Path, recipe: RecipeOf) -> None:
    model = Backbone(torch.nn.Sequential(torch.nn.Flatten()), layers=["0"], input_size=(1, 1, 2))
    with pytest.raises(RunError, match="Sequential is no timm model"):
        save_model(model, tmp_path / "student", recipe(tmp_path).data)


def test_save_safetensors_takes_views_and_gradients(tmp_path: Path) -> None:
    value = torch.randn(4, 6, requires_grad=True)
    save_safetensors(tmp_path / "a.safetensors", {"a": value[:, ::2], "b": torch.tensor(1.0)})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], value[:, ::2])
