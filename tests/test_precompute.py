"""A teacher whose outputs were computed beforehand: the same as one that runs, but for half precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CONVNEXT, assert_same_weights, quietly, weights

from sfkd import Backbone, list_distillers, precompute
from sfkd.batches import TrainingBatches
from sfkd.config import Recipe
from sfkd.data import create_dataset
from sfkd.distillers import distiller_options
from sfkd.loading import build_model
from sfkd.precompute import TeacherCache, teacher_cache
from sfkd.runs import RunError, RunFolder

RecipeOf = Callable[..., Recipe]
CPU = torch.device("cpu")


@pytest.fixture
def asked(tmp_path: Path, recipe: RecipeOf, distilled: Any) -> RecipeOf:
    """A recipe with an untrained teacher, three views and augmentation."""

    def build(**changes: Any) -> Recipe:
        teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"} | changes.pop("teacher", {})
        data = {"augmentation": "crop"} | changes.pop("data", {})
        options: dict[str, Any] = {"precompute": {"folder": str(tmp_path / "cache"), "views": 3}} | changes
        out = tmp_path / options.pop("out", "run")
        return recipe(out, teacher=teacher, data=data, **{"method": {"name": "sfkd"}, **options})

    return build


def teacher_of(recipe: Recipe) -> Backbone:
    torch.manual_seed(3)
    assert recipe.teacher is not None
    return build_model(recipe.teacher, recipe).eval()


def cached(recipe: Recipe, teacher: Backbone | None = None, **options: Any) -> TeacherCache:
    options = {"device": CPU, "processes": 1, "progress": False, "say": lambda _: None} | options
    return teacher_cache(recipe, teacher or teacher_of(recipe), **options)


def test_outputs_are_those_of_the_running_teacher(asked: RecipeOf) -> None:
    recipe, index = asked(), torch.tensor([5, 0, 63, 17])
    teacher = teacher_of(recipe)
    cache = cached(recipe, teacher)
    assert (cache.views, cache.samples, list(cache.layers)) == (3, 64, teacher.layer_names)
    views = []
    for view in range(3):
        dataset = create_dataset(recipe.data, "train")
        dataset.epoch = view
        images = torch.stack([dataset[int(i)][0] for i in index])
        given, labels, output = cache.batch(view, index)
        assert torch.equal(given, images)
        assert labels.tolist() == [dataset[int(i)][1] for i in index]
        with torch.no_grad():
            expected = teacher(images)
        torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-5)
        for name, x in expected.features.items():
            torch.testing.assert_close(output.features[name], x, rtol=1e-3, atol=1e-4)
            assert output.features[name].dtype == torch.float32
        views.append(images)
    assert not torch.equal(views[0], views[1])


def test_epochs_take_the_views_in_turn(asked: RecipeOf) -> None:
    recipe = asked()
    cache = cached(recipe)
    batches = TrainingBatches(recipe, device=CPU, cache=cache)
    for epoch in (1, 2, 3, 4):
        (batch, *_) = next(batches.epoch(epoch))
        given, labels, output = cache.batch((epoch - 1) % 3, batch.numbers)
        assert torch.equal(batch.images, given)
        assert torch.equal(batch.targets, labels)
        assert batch.teacher is not None
        assert torch.equal(batch.teacher.logits, output.logits)


def test_labels_are_left_out_as_the_recipe_says(asked: RecipeOf) -> None:
    cached(asked())
    recipe = asked(data={"labelled": 9})
    seen = [b for step in TrainingBatches(recipe, device=CPU, cache=cached(recipe)).epoch(1) for b in step]
    live = [b for step in TrainingBatches(recipe, device=CPU).epoch(1) for b in step]
    assert torch.equal(torch.cat([b.targets for b in seen]), torch.cat([b.targets for b in live]))
    assert sum(int((b.targets >= 0).sum()) for b in seen) == 9


@pytest.mark.parametrize("method", [name for name in list_distillers() if name != "none"])
def test_training_is_that_of_a_running_teacher(asked: RecipeOf, tmp_path: Path, method: str) -> None:
    """One view without augmentation, so that both see the same images; half precision is the difference."""
    # tuned weights make much of a rounding, too
    light = {"feature_weight": 1.0} if "feature_weight" in distiller_options(method) else {}
    described = {"name": method, "options": light}
    plain: dict[str, Any] = {"student": CONVNEXT, "method": described, "data": {"augmentation": "none"}}
    plain |= {"schedule": {"epochs": 1, "optimizer": "sgd", "lr": 0.01}}  # Adam makes much of the smallest gradients
    ahead = quietly(asked(**plain, out="ahead"))
    live = quietly(asked(**plain, out="live", precompute=None))
    for name, value in live.metrics()[0].items():
        if name not in ("seconds", "images_per_second", "top1"):
            assert ahead.metrics()[0][name] == pytest.approx(value, rel=2e-3), name
    if method == "freekd":  # the sign of a small difference is its gradient, and rounding turns it
        return
    for name, value in weights(live).items():
        torch.testing.assert_close(weights(ahead)[name], value, rtol=0.02, atol=2e-3, msg=name)


def test_the_teacher_runs_for_tests_only(asked: RecipeOf, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = asked(student=CONVNEXT)
    calls: list[int] = []
    forward = Backbone.forward

    def counted(self: Backbone, images: torch.Tensor) -> Any:
        if not any(p.requires_grad for p in self.parameters()):
            calls.append(len(images))
        return forward(self, images)

    quietly(recipe)
    monkeypatch.setattr(Backbone, "forward", counted)
    quietly(asked(student=CONVNEXT, out="again"))
    assert sum(calls) <= 1  # shapes, measured on one image of zeros


def test_pca_is_fitted_to_the_cached_outputs(asked: RecipeOf) -> None:
    method = {"name": "gffl", "options": {"reduction": "pca", "width": 16}}
    folder = quietly(asked(student=CONVNEXT, method=method, schedule={"epochs": 1}))
    projection = weights(folder)["distiller.aligned.2.target.projection"].flatten(1)
    torch.testing.assert_close(projection @ projection.T, torch.eye(16), rtol=0, atol=1e-4)


def test_a_stopped_computation_goes_on(asked: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precompute, "_ROWS", 16)
    monkeypatch.setattr(precompute, "_NOTED", 16)
    recipe = asked()
    whole = cached(asked(precompute={"folder": str(tmp_path / "whole"), "views": 3}))
    teacher, forward, seen = teacher_of(recipe), Backbone.forward, []

    def stopped(self: Backbone, images: torch.Tensor) -> Any:
        seen.append(len(images))
        if len(seen) == 7:
            raise KeyboardInterrupt
        return forward(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "forward", stopped)
        with pytest.raises(KeyboardInterrupt):
            cached(recipe, teacher)
    done = json.loads((tmp_path / "cache" / "cache.json").read_text(encoding="utf-8"))["done"]
    assert 64 < done < 128
    parts = cached(recipe, teacher)
    for view in range(3):
        assert all(torch.equal(a, b) for a, b in zip(row(whole, view), row(parts, view), strict=True))


def row(cache: TeacherCache, view: int) -> list[torch.Tensor]:
    images, labels, output = cache.batch(view, torch.arange(64))
    return [images, labels, output.logits, *output.features.values()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"augmentation": "none"}}, r"another teacher, or on other images \(unlike: key\)"),
        ({"teacher": {"layers": ["stages.1"]}}, r"unlike: key, layers"),
        ({"data": {"train_samples": 10}}, r"unlike: key, samples"),
    ],
)
def test_another_cache_is_refused(asked: RecipeOf, changes: dict[str, Any], message: str) -> None:
    cached(asked())
    with pytest.raises(RunError, match=message):
        cached(asked(**changes))


def test_another_teacher_is_refused(asked: RecipeOf) -> None:
    cached(asked())
    torch.manual_seed(4)
    assert asked().teacher is not None
    with pytest.raises(RunError, match="another teacher"):
        cached(asked(), build_model(asked().teacher, asked()).eval())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "cache.json").write_text("{", encoding="utf-8"),
            "no description of a teacher's outputs",
        ),
        (lambda folder: (folder / "logits.npy").write_bytes(b"x"), "logits.npy cannot be read.*Delete the folder"),
        (lambda folder: (folder / "images.npy").unlink(), "images.npy cannot be read"),
    ],
)
def test_a_damaged_cache_is_one_line(
    asked: RecipeOf, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    cached(asked())
    damage(tmp_path / "cache")
    with pytest.raises(RunError, match=message):
        cached(asked())


def test_what_cannot_be_known_beforehand_is_refused(asked: RecipeOf) -> None:
    with pytest.raises(RunError, match="answers to whole images only: set schedule"):
        cached(asked(schedule={"mixup": 0.2}))
    with pytest.raises(RunError, match="not complete: compute them with one process first"):
        cached(asked(), processes=2)


def test_values_too_large_for_half_precision_are_refused(asked: RecipeOf) -> None:
    recipe = asked()
    teacher = teacher_of(recipe)
    with torch.no_grad():
        next(teacher.parameters()).mul_(1e30)
    with pytest.raises(RunError, match="half precision cannot hold: train with the teacher running"):
        cached(recipe, teacher)


def test_a_full_disk_is_seen_before_anything_is_written(
    asked: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precompute.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(RunError, match=r"GiB and .* has 0\.0 free: fewer precompute\.views"):
        cached(asked())
    assert not (tmp_path / "cache").exists()


def test_arrays_are_mapped_not_read(asked: RecipeOf) -> None:
    cache = cached(asked())
    assert all(isinstance(array, np.memmap) for array in (cache._images, cache._logits, *cache._maps.values()))


def test_a_run_is_resumed_with_its_cache(asked: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sfkd.train

    options: dict[str, Any] = {"student": CONVNEXT, "engine": {"checkpoint_every": 1}}
    whole = quietly(asked(**options, out="whole"))
    step = sfkd.train._Training._step

    def stopped(self: Any, epoch: int, number: int, batches: Any) -> Any:
        if (epoch, number) == (2, 3):
            raise KeyboardInterrupt
        return step(self, epoch, number, batches)

    with monkeypatch.context() as patch:
        patch.setattr(sfkd.train._Training, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            quietly(asked(**options, out="parts"))
    assert not RunFolder(tmp_path / "parts").finished
    assert_same_weights(weights(whole), weights(quietly(asked(**options, out="parts"))))
