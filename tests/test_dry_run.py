"""A dry run says what a run takes: checked against what is known otherwise; every recipe builds and steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import CONVNEXT, ROOT
from torch import nn

import sfkd.dry_run
from sfkd import Backbone
from sfkd.config import Recipe, load_recipe
from sfkd.dry_run import DryRun, dry_run
from sfkd.transforms import DataError

RecipeOf = Callable[..., Recipe]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PUBLISHED = {
    "cifar100_cnn": {"epochs": 300, "global_batch": 128, "steps": 390, "lr": 0.05, "weight_decay": 2e-3},
    "cifar100_vit": {"epochs": 300, "global_batch": 128, "steps": 390, "lr": 5e-4, "weight_decay": 0.05},
    "imagenet_cnn": {"epochs": 100, "global_batch": 512, "steps": 2502, "lr": 0.1, "weight_decay": 1e-4},
    "imagenet_vit": {"epochs": 300, "global_batch": 1024, "steps": 1251, "lr": 5e-4, "weight_decay": 0.05},
}


def quiet(recipe: Recipe) -> DryRun:
    return dry_run(recipe, say=lambda _: None)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_builds_and_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfkd.dry_run, "_TRIED_PIXELS", 2 * 224 * 224)
    published = PUBLISHED.get(path.stem)
    if path.stem.startswith("imagenet"):
        monkeypatch.setenv("WORLD_SIZE", "8")
    found, recipe = quiet(load_recipe(path)), load_recipe(path)
    assert all(abs(value) < 1e4 for value in found.parts.values())
    assert found.parameters["student"] < found.parameters["teacher"] or recipe.data.input_size[1] < 64
    compared = slice(None) if "layers" in recipe.method.options else slice(-1, None)  # the last alone is the default
    assert [name for name, about in found.layers.items() if "↔" in about] == list(found.layers)[compared]
    if published is not None:
        schedule = recipe.schedule
        assert (schedule.epochs, schedule.lr, schedule.weight_decay) == tuple(
            published[name] for name in ("epochs", "lr", "weight_decay")
        )
        assert (found.global_batch, found.steps) == (published["global_batch"], published["steps"])


def test_numbers_are_those_of_the_models(tmp_path: Path, recipe: RecipeOf) -> None:
    described = recipe(tmp_path / "run", student=CONVNEXT, schedule={"optimizer": "adamw"})
    found = quiet(described)
    model = Backbone(CONVNEXT["name"], in_chans=1, num_classes=10, **CONVNEXT["kwargs"])
    count = sum(p.numel() for p in model.parameters())
    assert found.parameters == {"student": count, "teacher": 0, "beside": 0}
    assert (found.samples, found.steps, found.global_batch, found.tried) == (64, 4, 16, 16)
    # weights, gradients, and Adam's two moments, 4 bytes each; a step counter a parameter
    assert found.memory["weights and optimizer"] == pytest.approx(16 * count, rel=0.01)
    assert found.run_seconds == pytest.approx(8 * found.step_seconds)
    assert not (tmp_path / "run").exists()


def test_activations_are_those_that_backward_keeps(
    tmp_path: Path, recipe: RecipeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two linear layers keep the image (for the weights' gradient) and the hidden map of 100 numbers."""
    hidden = (nn.Linear(32 * 32, 100), nn.Sigmoid(), nn.Unflatten(1, (100, 1, 1)))
    net = nn.Sequential(nn.Flatten(), *hidden, nn.Flatten(), nn.Linear(100, 10))
    model = Backbone(net, layers=["3"], input_size=(1, 32, 32))
    monkeypatch.setattr(sfkd.dry_run, "build_model", lambda *_: model)
    found = quiet(recipe(tmp_path / "run", schedule={"batch_size": 4}))
    an_image = found.memory["activations"] / 4
    assert 4 * (1024 + 100 + 10) <= an_image <= 4 * (1024 + 100 + 100 + 10 * 4 + 16)


def test_what_is_said(tmp_path: Path, recipe: RecipeOf, distilled: Any) -> None:
    said: list[str] = []
    dry_run(recipe(tmp_path / "run", **distilled), say=said.append)
    text = "\n".join(said)
    assert "sfkd, teacher convnext_atto, student swin_tiny_patch4_window7_224" in text
    assert "64 training images of 1×32×32 (found)" in text
    assert "layer: layers.0 [16, 16, 16] ↔ stages.0 [8, 32, 32]" in text
    assert "lr: 0.002 → 1e-05 (cosine, 0.5 epochs of warm-up), adamw, weight decay 0.05" in text
    assert "loss on noise: ce " in text
    steps = recipe(tmp_path / "run", student=CONVNEXT, schedule={"lr": 0.1, "warmup_epochs": 0, "decay": "step"})
    dry_run(steps, say=said.append)
    assert any(line.startswith("lr: 0.1 (a tenth every 30 epochs, 0 epochs of warm-up)") for line in said)


def test_processes_share_the_global_batch(tmp_path: Path, recipe: RecipeOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = quiet(recipe(tmp_path / "run", student=CONVNEXT, schedule={"batch_size": 8, "accumulate": 2}))
    assert (found.global_batch, found.steps) == (32, 2)


def test_data_that_nobody_knows_are_asked_for(tmp_path: Path, recipe: RecipeOf) -> None:
    with pytest.raises(DataError, match="no data set 'folder'"):
        quiet(recipe(tmp_path / "run", data={"name": "folder", "root": str(tmp_path)}))


def test_weights_are_not_downloaded(tmp_path: Path, recipe: RecipeOf) -> None:
    assert quiet(recipe(tmp_path / "run", student=CONVNEXT | {"pretrained": True})).steps == 4
