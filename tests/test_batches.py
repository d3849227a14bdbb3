"""What a process sees at a place of a training, and that it depends on nothing else."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfkd.batches import Batch, EvaluationBatches, TrainingBatches
from sfkd.config import Recipe
from sfkd.runs import RunError
from sfkd.transforms import DataError

RecipeOf = Callable[..., Recipe]
CPU = torch.device("cpu")


def disturb() -> None:
    """Leave every generator somewhere else."""
    torch.rand(random.randrange(1, 50))
    np.random.rand(random.randrange(1, 50))


def epoch(recipe: Recipe, number: int = 1, **options: Any) -> list[Batch]:
    batches = TrainingBatches(recipe, device=CPU, **{k: v for k, v in options.items() if k != "done"})
    disturb()
    return [batch for step in batches.epoch(number, done=options.get("done", 0)) for batch in step]


def same(a: list[Batch], b: list[Batch]) -> bool:
    assert len(a) == len(b)
    return all(
        torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one[:3], other[:3], strict=True)
    )


@pytest.fixture
def augmented(tmp_path: Path, recipe: RecipeOf) -> Callable[..., Recipe]:
    def build(**changes: Any) -> Recipe:
        data = {"augmentation": "crop"} | changes.pop("data", {})
        return recipe(tmp_path / "run", data=data, **changes)

    return build


def test_every_sample_comes_once_an_epoch_in_another_order(augmented: RecipeOf) -> None:
    first, second = (torch.cat([b.numbers for b in epoch(augmented(), number)]).tolist() for number in (1, 2))
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second


def test_an_epoch_is_a_function_of_seed_and_number(augmented: RecipeOf) -> None:
    again, other = epoch(augmented()), epoch(augmented(seed=1))
    assert same(epoch(augmented()), again)
    assert not same(again, other)
    first, second = (
        {int(i): x for b in epoch(augmented(), number) for i, x in zip(b.numbers, b.images, strict=True)}
        for number in (1, 2)
    )
    assert sum(torch.equal(first[i], second[i]) for i in range(64)) < 16  # augmented anew


@pytest.mark.parametrize("done", [1, 2, 3])
def test_steps_that_are_done_change_nothing_of_those_to_come(augmented: RecipeOf, done: int) -> None:
    schedule = {"batch_size": 8, "accumulate": 2, "mixup": 0.4, "cutmix": 0.5}
    whole = epoch(augmented(schedule=schedule))
    assert len(whole) == 8
    assert same(epoch(augmented(schedule=schedule), done=done), whole[2 * done :])


def test_workers_change_nothing(augmented: RecipeOf) -> None:
    assert same(epoch(augmented()), epoch(augmented(data={"workers": 2})))


def test_what_a_layer_draws_depends_on_the_place_alone(augmented: RecipeOf) -> None:
    def drawn(done: int) -> list[float]:
        batches = TrainingBatches(augmented(), device=CPU).epoch(2, done=done)
        return [torch.rand(()).item() for _ in batches]

    assert drawn(0)[2:] == drawn(2)
    assert len(set(drawn(0))) == 4


def test_processes_share_one_global_batch(augmented: RecipeOf) -> None:
    """Two processes with half the batch see, step by step, what one sees; and no image twice."""
    one = epoch(augmented())
    halves = [epoch(augmented(schedule={"batch_size": 8}), process=p, processes=2) for p in range(2)]
    for batch, *parts in zip(one, *halves, strict=True):
        assert sorted(batch.numbers.tolist()) == sorted(torch.cat([p.numbers for p in parts]).tolist())
        found = {int(i): x for part in parts for i, x in zip(part.numbers, part.images, strict=True)}
        assert all(torch.equal(found[int(i)], x) for i, x in zip(batch.numbers, batch.images, strict=True))


def test_a_rest_that_fills_no_step_is_left_out(augmented: RecipeOf) -> None:
    recipe = augmented(schedule={"batch_size": 10, "accumulate": 3})
    batches = TrainingBatches(recipe, device=CPU)
    assert batches.steps == 2
    assert [len(step) for step in batches.epoch(1)] == [3, 3]


def test_evaluation_looks_at_every_image_once(augmented: RecipeOf) -> None:
    whole = torch.cat([images for images, _ in EvaluationBatches(augmented(), device=CPU)])
    assert len(whole) == 32
    parts = [x for p in range(3) for x, _ in EvaluationBatches(augmented(), device=CPU, process=p, processes=3)]
    assert sum(map(len, parts)) == 32
    assert sorted(torch.cat(parts).sum((1, 2, 3)).tolist()) == sorted(whole.sum((1, 2, 3)).tolist())


# -- targets ---------------------------------------------------------------------------------------------------------------


def mixture(x: torch.Tensor, share: float) -> torch.Tensor:
    return share * x + (1 - share) * x.flip(0)


def test_mixup_mixes_images_and_targets_by_one_share(augmented: RecipeOf) -> None:
    plain = epoch(augmented(data={"augmentation": "none"}))
    mixed = epoch(augmented(data={"augmentation": "none"}, schedule={"mixup": 0.8}))
    shares = set()
    for a, b in zip(plain, mixed, strict=True):
        one_hot = torch.nn.functional.one_hot(a.targets, 10).float()
        differs = (one_hot != one_hot.flip(0)).any(1)
        kept = float(b.targets[differs][0].max()) if differs.any() else 1.0
        (share,) = {s for s in (kept, 1 - kept) if torch.allclose(b.images, mixture(a.images, s), atol=1e-5)}
        torch.testing.assert_close(b.targets, mixture(one_hot, share))
        shares.add(round(share, 6))
    assert len(shares) == 4


def test_unlabelled_images_stay_unlabelled_in_mixtures(augmented: RecipeOf) -> None:
    rows = torch.cat(
        [b.targets for b in epoch(augmented(data={"labelled": 20}, schedule={"mixup": 0.8, "cutmix": 1.0}))]
    )
    totals = rows.sum(1)
    assert ((totals >= 0) & (totals <= 1 + 1e-6)).all()
    assert (totals < 1e-6).any()
    assert (totals > 1 - 1e-6).any()
    # each labelled image gives its share to two rows that together have all of it
    assert totals.sum().item() == pytest.approx(20, abs=1e-3)


def test_an_odd_batch_cannot_be_paired(augmented: RecipeOf) -> None:
    with pytest.raises(RunError, match=r"pair the images of a batch: make schedule\.batch_size=15 even"):
        TrainingBatches(augmented(schedule={"batch_size": 15, "mixup": 0.2}), device=CPU)


def test_labels_are_kept_for_as_many_as_asked(augmented: RecipeOf) -> None:
    def labelled(**data: Any) -> set[int]:
        batches = epoch(augmented(data=data))
        return {int(i) for b in batches for i, y in zip(b.numbers, b.targets, strict=True) if y >= 0}

    few, more = labelled(labelled=10), labelled(labelled=30)
    assert (len(few), len(more), len(labelled())) == (10, 30, 64)
    assert few < more
    assert labelled(labelled=0) == set()


def test_a_worker_s_image_that_cannot_be_read_is_one_line(tmp_path: Path, recipe: RecipeOf) -> None:
    for number in range(8):
        (tmp_path / "train" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "a" / f"{number}.png").write_text("no picture")
    data = {"name": "", "root": str(tmp_path), "num_classes": 2, "workers": 1}
    with pytest.raises(DataError) as caught:
        epoch(recipe(tmp_path / "run", data=data, schedule={"batch_size": 4}))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "train" / "a"))


class _Ends:
    """A data set whose worker ends without a word, as one that is killed for its memory does."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        os._exit(1)


def test_a_worker_that_dies_ends_the_epoch(augmented: RecipeOf) -> None:
    batches = TrainingBatches(augmented(data={"workers": 1}), device=CPU)
    batches.dataset = _Ends()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly"):
        list(batches.epoch(1))
