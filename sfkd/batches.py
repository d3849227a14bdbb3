"""The batches of a training, each a function of (seed, epoch, place in the epoch, process) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from sfkd._random import permutation, seed_device
from sfkd.config import Recipe
from sfkd.data import UNLABELLED, create_dataset, is_stream, one_line
from sfkd.features import Output
from sfkd.precompute import TeacherCache
from sfkd.runs import RunError


class Batch(NamedTuple):
    """`images` `[B, C, H, W]`, `targets` `[B]` or mixed `[B, K]`, `numbers` of the samples `[B]`, and the teacher's outputs
    where they were computed beforehand: what a distiller is called with."""

    images: Tensor
    targets: Tensor
    numbers: Tensor
    teacher: Output | None = None


class TrainingBatches:
    """What a process sees in each epoch: a random order of the set, shared out among the processes, whole steps only.

    Args:
        recipe: data, schedule, seed.
        device: where batches go.
        process, processes: number of this process, and of all.
        cache: the teacher's outputs and the fixed views that they belong to. layers: whose maps are read from it.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        device: torch.device,
        process: int = 0,
        processes: int = 1,
        cache: TeacherCache | None = None,
        layers: Sequence[str] = (),
    ) -> None:
        self.recipe, self.device, self.cache, self.layers = recipe, device, cache, layers
        self.process, self.processes = process, processes
        schedule = recipe.schedule
        self.dataset = create_dataset(recipe.data, "train", seed=recipe.seed, batch_size=schedule.batch_size)
        self.mix = _mixer(recipe)
        held = len(self.dataset) if is_stream(self.dataset) else len(self.dataset) // processes
        self.steps = held // schedule.batch_size // schedule.accumulate
        if self.steps == 0:
            each = f" ({schedule.accumulate} of them a step)" if schedule.accumulate > 1 else ""
            raise RunError(
                f"{len(self.dataset)} training images give no full batch of {schedule.batch_size}{each} on each of "
                f"{processes} process(es): lower schedule.batch_size."
            )

    def epoch(self, epoch: int, *, done: int = 0) -> Iterator[list[Batch]]:
        """The batches of each step of an epoch (counted from 1), the first `done` steps left out."""
        size = self.recipe.schedule.accumulate
        batches = self._placed(epoch, done * size)
        for _ in range(done, self.steps):
            yield list(islice(batches, size))

    def _placed(self, epoch: int, done: int) -> Iterator[Batch]:
        for number, batch in enumerate(self._read(epoch, done), done):
            images = batch.images.to(self.device, non_blocking=True, memory_format=self._format(batch.images))
            teacher = None if batch.teacher is None else _on(batch.teacher, self.device)
            targets, numbers = (x.to(self.device, non_blocking=True) for x in (batch.targets, batch.numbers))
            # from here on everything random, mixup and the layers of the student, depends on the place alone
            seed_device(self.device, self.recipe.seed, epoch, number, self.process)
            yield Batch(*self._mixed(images, targets), numbers, teacher)

    def _read(self, epoch: int, done: int) -> Iterator[Batch]:
        if self.cache is not None:
            return self._from_cache(self.cache, epoch, done)
        return self._from_set(epoch, done)

    def _from_set(self, epoch: int, done: int) -> Iterator[Batch]:
        self.dataset.epoch = epoch
        size = self.recipe.schedule.batch_size
        stream = is_stream(self.dataset)
        order = None if stream else self._order(epoch)[done * size :].tolist()
        batches = _loaded(self.dataset, self.recipe, self.device, sampler=order, drop_last=True)
        for images, targets, index in islice(batches, done if stream else 0, None):
            yield Batch(images, targets, index)

    def _from_cache(self, cache: TeacherCache, epoch: int, done: int) -> Iterator[Batch]:
        kept = getattr(self.dataset, "labelled", None)
        for index in self._order(epoch).split(self.recipe.schedule.batch_size)[done:]:
            images, labels, teacher = cache.batch((epoch - 1) % cache.views, index, self.layers)
            if kept is not None:
                labels = labels.where(torch.from_numpy(kept[index]), UNLABELLED)
            yield Batch(images, labels, index, teacher)

    def _order(self, epoch: int) -> Tensor:
        """Sample numbers of this process in their order, whole steps only."""
        schedule = self.recipe.schedule
        whole = self.steps * schedule.accumulate * schedule.batch_size * self.processes
        return permutation(len(self.dataset), self.recipe.seed, epoch)[:whole][self.process :: self.processes]

    def _mixed(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if self.mix is None:
            return images, targets
        # two classes that mirror each other tell the share that an image keeps; its own targets may be unlabelled
        halves = torch.arange(len(images), device=images.device) * 2 // len(images)
        images, shares = self.mix(images, halves)
        kept = shares[:1, :1]
        classes = self.recipe.data.num_classes
        known = (targets != UNLABELLED)[:, None]
        whole = F.one_hot(targets.clamp_min(0), classes) * known
        return images, kept * whole + (1 - kept) * whole.flip(0)

    def _format(self, images: Tensor) -> torch.memory_format:
        last = self.recipe.engine.channels_last and images.ndim == 4
        return torch.channels_last if last else torch.contiguous_format


class EvaluationBatches:
    """`(images, targets)` of the share of the test set (or of what was held out) that a process looks at."""

    def __init__(self, recipe: Recipe, *, device: torch.device, process: int = 0, processes: int = 1) -> None:
        self.recipe, self.device = recipe, device
        self.dataset: Any = create_dataset(recipe.data, "test", batch_size=recipe.schedule.batch_size)
        if not is_stream(self.dataset):  # timm shares streams out by itself
            self.dataset = Subset(self.dataset, range(process, len(self.dataset), processes))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets, _ in _loaded(self.dataset, self.recipe, self.device):
            yield images.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)


def _loaded(
    dataset: Any, recipe: Recipe, device: torch.device, *, sampler: list[int] | None = None, drop_last: bool = False
) -> Iterator[Any]:
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=recipe.schedule.batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=recipe.data.workers,
        pin_memory=device.type == "cuda",
    )
    return one_line(loader)


def _mixer(recipe: Recipe) -> Any:
    """timm's mixup and cutmix; None where both are off."""
    schedule = recipe.schedule
    if not (schedule.mixup or schedule.cutmix):
        return None
    if schedule.batch_size % 2:
        raise RunError(
            f"mixup and cutmix pair the images of a batch: make schedule.batch_size={schedule.batch_size} even."
        )
    from timm.data import Mixup

    return Mixup(mixup_alpha=schedule.mixup, cutmix_alpha=schedule.cutmix, label_smoothing=0.0, num_classes=2)


def _on(output: Output, device: torch.device) -> Output:
    features = {name: x.to(device, non_blocking=True) for name, x in output.features.items()}
    return Output(output.logits.to(device, non_blocking=True), features)
