from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import quietly
from torch import Tensor, nn

from sfkd import distillers
from sfkd.config import Recipe
from sfkd.distillers import Result
from sfkd.distillers.sfkd import SFKD
from sfkd.runs import RunFolder
from sfkd.train import train
from sfkd.watch import TrainingDiverged, Watch

RecipeOf = Callable[..., Recipe]
ALONE: Any = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x)


def result(ce: float, layers: dict[str, float] | None = None, ratios: dict[str, float] | None = None) -> Result:
    def tensors(values: dict[str, float] | None) -> dict[str, Tensor]:
        return {name: torch.tensor(value) for name, value in (values or {}).items()}

    parts = {"ce": ce, "gffl": 2.0}
    weights = {"gffl": torch.tensor(0.5)}
    logits = torch.zeros(1, 2)
    return Result(torch.tensor(ce + 1), tensors(parts), logits, tensors(layers), tensors(ratios), weights)


def test_means_are_over_steps_and_layers_stay_out_of_the_row() -> None:
    watch = Watch(torch.device("cpu"))
    watch.add(result(1.0, {"gffl/a": 3.0}, {"a": 1.0, "b": 0.8}), 1)
    watch.add(result(2.0, {"gffl/a": 3.0}, {"a": 1.1, "b": 0.6}), 2)
    watch.check(ALONE, "run", 1)
    row = watch.means(ALONE)
    assert list(row) == ["loss", "ce", "gffl", "weight_gffl", "target_ratio"]
    assert list(row.values()) == pytest.approx([2.5, 1.5, 2.0, 0.5, 0.7])


def test_what_broke_first_is_named_with_its_layer_and_step() -> None:
    watch = Watch(torch.device("cpu"))
    nan = float("nan")
    watch.add(result(1.0, {"gffl/a": 1.0, "gffl/b": 1.0}), 1)
    broken = result(1.0, {"gffl/a": 1.0, "gffl/b": nan})
    watch.add(broken._replace(parts=broken.parts | {"gffl": torch.tensor(nan)}, loss=torch.tensor(nan)), 2)
    watch.add(result(nan, {"gffl/a": nan, "gffl/b": nan}), 3)
    with pytest.raises(
        TrainingDiverged, match=r"run: gffl became NaN or infinite in epoch 4, step 2, first at layer b\."
    ):
        watch.check(ALONE, "run", 4)


@pytest.mark.parametrize(("ratio", "word"), [(0.3, "shrinks"), (2.5, "inflates")])
def test_a_target_that_moves_is_refused(ratio: float, word: str) -> None:
    """Judged on what came since the last reading: a long quiet past does not hide it."""
    watch = Watch(torch.device("cpu"))
    for step in range(1, 10):
        watch.add(result(1.0, ratios={"a": 1.0, "b": 1.0}), step)
    watch.check(ALONE, "run", 1)
    watch.add(result(1.0, ratios={"a": 1.0, "b": ratio}), 10)
    with pytest.raises(TrainingDiverged, match=rf"layer b has {ratio} times the variance.*it {word}"):
        watch.check(ALONE, "run", 1)


def test_a_state_goes_on_where_it_was() -> None:
    whole, first, second = (Watch(torch.device("cpu")) for _ in range(3))
    for step in range(1, 5):
        whole.add(result(float(step), ratios={"a": 1.0}), step)
        (first if step < 3 else second).add(result(float(step), ratios={"a": 1.0}), step)
        if step == 2:
            second.load(*first.state(ALONE))
    assert second.means(ALONE) == pytest.approx(whole.means(ALONE))


# -- in a run --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_schedule(distilled: dict[str, Any]) -> dict[str, Any]:
    teacher = {k: v for k, v in distilled["teacher"].items() if k != "schedule"}
    return distilled | {"teacher": teacher, "baseline": False}


class Trainable(SFKD):
    """SFKD with a gain on the teacher's side that is trained with the rest: the mistake that the watch is for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gains = nn.Parameter(torch.ones(len(self.pairs)))

    def refine_target(self, target: Any, layer: str) -> Any:
        number = [student for student, _ in self.pairs].index(layer)
        return target.map(lambda band: self.gains[number] * band)


def test_a_trainable_refiner_of_the_teacher_stops_the_run(
    tmp_path: Path, recipe: RecipeOf, without_schedule: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(distillers._REGISTRY, "trainable", Trainable)
    # a correlation has nothing to gain by shrinking
    method = {"name": "trainable", "options": {"comparison": "error", "layers": None, "sigma": 0.25}}
    schedule = {"epochs": 30, "lr": 0.05, "weight_decay": 0.0, "warmup_epochs": 0}
    described = recipe(tmp_path / "run", **without_schedule | {"method": method}, schedule=schedule)
    with pytest.raises(TrainingDiverged, match=r"times the variance of the fixed one.*it shrinks"):
        quietly(described)
    folder = RunFolder(described.out)
    assert not folder.finished
    ratios = [row["target_ratio"] for row in folder.metrics()]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] < 1


def test_every_run_with_a_target_logs_its_ratio(finished_run: RunFolder) -> None:
    assert [row["target_ratio"] for row in finished_run.metrics()] == [1.0, 1.0]


def test_weights_that_break_after_finite_losses_stop_the_run(
    tmp_path: Path, recipe: RecipeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root at zero has a finite value and a gradient that is not."""
    forward = distillers.Distiller.forward

    def planted(self: Any, *args: Any, **kwargs: Any) -> Result:
        done = forward(self, *args, **kwargs)
        return done._replace(loss=done.loss + (next(self.student.parameters()) * 0).sum().sqrt())

    monkeypatch.setattr(distillers.Distiller, "forward", planted)
    described = recipe(tmp_path / "run", schedule={"batch_size": 64, "epochs": 1})
    with pytest.raises(
        TrainingDiverged, match="weights became NaN or infinite in epoch 1, by step 1, after finite losses"
    ):
        train(described, progress=False, say=lambda _: None)
    assert not RunFolder(described.out).finished
    assert RunFolder(described.out).load_checkpoint() is None
