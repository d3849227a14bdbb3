from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT

from sfkd.config import RecipeError, dump_recipe, load_recipe, parse_recipe


def values(**changes: Any) -> dict[str, Any]:
    data = {"name": "torch/cifar10", "root": "data", "num_classes": 10}
    return {"out": "runs/x", "student": {"name": "resnet18"}, "data": data} | changes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values()), encoding="utf-8")
    return path


def test_defaults_are_filled_in() -> None:
    recipe = parse_recipe(values())
    assert (recipe.method.name, recipe.schedule.epochs, recipe.seed) == ("sfkd", 10, 0)
    assert recipe.data.input_size == (3, 224, 224)
    assert recipe.teacher is None


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("schedule.epochs=3", ("schedule", "epochs"), 3),
        ("schedule.lr=2e-3", ("schedule", "lr"), 2e-3),
        ("out=runs/y", ("out",), "runs/y"),
        ("method.options={temperature: 4}", ("method", "options"), {"temperature": 4}),
        ("method.options.temperature=4.5", ("method", "options"), {"temperature": 4.5}),
        ("student.kwargs.depths=[1, 2]", ("student", "kwargs"), {"depths": [1, 2]}),
        ("data.train_samples=null", ("data", "train_samples"), None),
        ("baseline=true", ("baseline",), True),
        ("student.layers=[layer1]", ("student", "layers"), ["layer1"]),
    ],
)
def test_overrides(file: Path, override: str, path: tuple[str, ...], expected: Any) -> None:
    found: Any = load_recipe(file, [override])
    for name in path:
        found = getattr(found, name)
    assert found == expected


def test_later_overrides_win(file: Path) -> None:
    assert load_recipe(file, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "overrides are key=value.*got 'seed'"),
        ("=3", "overrides are key=value"),
        ("out.deeper=3", "'out' holds a value, not a group"),
        ("seed=[1", "no YAML value"),
        ("schedule.epoch=3", r"schedule\.epoch: unknown key 'epoch'\. Did you mean 'epochs'.*batch_size"),
    ],
)
def test_wrong_overrides(file: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(file, [override])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"studnet": {}}, r"studnet: unknown key 'studnet'\. Did you mean 'student'"),
        ({"schedule": {"epohcs": 1}}, r"schedule\.epohcs: unknown key.*'epochs'"),
        ({"teacher": {"name": "x", "schedule": {"ep": 1}}}, r"teacher\.schedule\.ep: unknown key 'ep'.*epochs"),
        ({"teacher": {"nmae": "x"}}, r"teacher\.nmae: unknown key.*'name'"),
        ({"schedule": {"epochs": "many"}}, r"schedule\.epochs: .*integer.*got 'many'"),
        ({"schedule": {"epochs": 0}}, r"schedule\.epochs: .*greater than or equal to 1.*got 0"),
        ({"schedule": {"epochs": 1.5}}, r"schedule\.epochs: .*got 1\.5"),
        ({"schedule": {"lr": -1}}, r"schedule\.lr: .*greater than 0"),
        ({"mixed_precision": "fp8"}, "mixed_precision: .*'bf16'.*got 'fp8'"),
        ({"student": {}}, "student: .*one of them"),
        ({"student": {"name": "a", "run": "b"}}, "student: .*one of them"),
        ({"student": "resnet18"}, "student: .*got 'resnet18'"),
        ({"data": {"root": "x", "num_classes": 2}}, r"data\.name: this key is required"),
        ({"data": values()["data"] | {"mean": [0.5]}}, r"data: .*3 channel\(s\), 1 mean\(s\), 3 std\(s\)"),
        ({"data": values()["data"] | {"augmentation": "cutout"}}, r"data\.augmentation: .*'imagenet'"),
        ({"data": values()["data"] | {"input_size": [3, 32]}}, r"data\.input_size"),
    ],
)
def test_wrong_values_name_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(values(**changes))


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(RecipeError, match=r"seed: .*; schedule\.epochs: |schedule\.epochs: .*; seed: "):
        parse_recipe(values(seed=-1, schedule={"epochs": 0}))


def test_dump_and_load_are_inverse(tmp_path: Path) -> None:
    teacher = {"name": "vit", "kwargs": {"depth": 3}, "layers": ["blocks.1"], "schedule": {"epochs": 2}}
    recipe = parse_recipe(
        values(teacher=teacher, method={"name": "kd", "options": {"temperature": 1.5}}, baseline=True)
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert set(yaml.safe_load(dump_recipe(recipe))["schedule"]) >= {"min_lr", "warmup_epochs", "label_smoothing"}


def test_nested_recipes_train_on_the_labels_alone() -> None:
    teacher = {"name": "vit_tiny", "kwargs": {"depth": 2}, "layers": ["blocks.1"], "schedule": {"epochs": 7}}
    recipe = parse_recipe(values(teacher=teacher, baseline=True, seed=5, mixed_precision="bf16"))
    of_teacher, of_baseline = recipe.teacher_recipe(), recipe.baseline_recipe()
    assert of_teacher is not None
    assert of_baseline is not None
    assert (of_teacher.out, of_baseline.out) == (str(Path("runs/x/teacher")), str(Path("runs/x/baseline")))
    assert (of_teacher.student.name, of_teacher.student.kwargs) == ("vit_tiny", {"depth": 2})
    assert of_teacher.schedule.epochs == 7
    assert (of_baseline.student, of_baseline.schedule) == (recipe.student, recipe.schedule)
    for nested in (of_teacher, of_baseline):
        assert (nested.method.name, nested.teacher, nested.baseline) == ("none", None, False)
        assert (nested.seed, nested.mixed_precision, nested.data) == (5, "bf16", recipe.data)
        assert nested.teacher_recipe() is nested.baseline_recipe() is None


def test_a_teacher_that_comes_trained_has_no_recipe() -> None:
    recipe = parse_recipe(values(teacher={"run": "runs/t"}))
    assert recipe.teacher_recipe() is None
    assert recipe.baseline_recipe() is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "mapping of keys, got list"),
        (b"a: [1\n", "no readable YAML"),
        (b"\xff\xfe\x00", "no readable YAML"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe at"):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_that_come_with_the_project_are_valid(path: Path) -> None:
    assert load_recipe(path).out
