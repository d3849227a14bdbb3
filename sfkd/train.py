"""The training loop, on Accelerate: one process or many, CPU or GPU, the same recipe.

Everything random in an epoch is a function of (seed, epoch, process), so a run that was killed and resumed ends with
the weights of one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset
from tqdm import tqdm

from sfkd.config import Recipe
from sfkd.data import create_dataset
from sfkd.distillers import Distiller, distiller_options
from sfkd.features import Backbone
from sfkd.loading import build_distiller, build_model, build_teacher
from sfkd.runs import Checkpoint, RunError, RunFolder, environment, save_model, save_safetensors

Say = Callable[[str], None]


class TrainingDiverged(RuntimeError):
    """A loss that is no longer finite; the message names the part."""


def train(recipe: Recipe, *, progress: bool = True, say: Say = print) -> RunFolder:
    """Train what the recipe describes, going on from the last checkpoint where there is one.

    First the teacher, if the recipe has a schedule for it (in `teacher/`), then the student alone, if it asks for a
    baseline (in `baseline/`), then the distilled student. Finished parts are left as they are.

    Raises:
        RunError: the folder was begun with another recipe. DataError, WeightsError, ValueError: what the recipe names
        is not there or does not fit. TrainingDiverged: the loss became NaN or infinite.
    """
    recipe = _sized(recipe)
    nested = [part for part in (recipe.teacher_recipe(), recipe.baseline_recipe()) if part is not None]
    if nested:  # a mistake in the student or the method shows before hours of training the teacher, not after
        teacher = build_model(recipe.teacher, recipe) if recipe.teacher is not None else None
        build_distiller(recipe, build_model(recipe.student, recipe), teacher)
    for part in nested:
        train(part, progress=progress, say=say)
    AcceleratorState._reset_state()  # a process may train one recipe after another, of unlike precision
    # several processes on a machine without a GPU find each other only where Accelerate is told so
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=recipe.mixed_precision)
    if not accelerator.is_main_process:
        say = _silent
    folder = RunFolder(recipe.out)
    global_batch = recipe.schedule.batch_size * accelerator.num_processes
    if accelerator.is_main_process:
        device = str(accelerator.device)
        folder.begin(recipe, environment(recipe.seed, global_batch, accelerator.num_processes, device))
    accelerator.wait_for_everyone()
    if folder.finished:
        say(f"{recipe.out}: finished already, top-1 {folder.metrics()[-1]['top1']:.2f} %")
        return folder
    say(
        f"{recipe.out}: {recipe.method.name}, global batch {global_batch}, lr {recipe.schedule.lr:g}, seed {recipe.seed}"
    )
    _Training(recipe, folder, accelerator, progress and accelerator.is_main_process, say).run()
    return folder


def _sized(recipe: Recipe) -> Recipe:
    """The recipe with the number of training images, where the method has an option for it and the recipe is silent.

    Written into config.yaml with the rest, so that a run folder opens without its data.
    """
    method = recipe.method
    if "num_samples" not in distiller_options(method.name) or method.options.get("num_samples") is not None:
        return recipe
    options = method.options | {"num_samples": len(create_dataset(recipe.data, "train"))}  # type: ignore[arg-type]
    return dataclasses.replace(recipe, method=dataclasses.replace(method, options=options))


class _Training:
    """One run of one distiller."""

    def __init__(self, recipe: Recipe, folder: RunFolder, accelerator: Accelerator, progress: bool, say: Say) -> None:
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.progress, self.say = progress, say
        set_seed(recipe.seed)
        student = build_model(recipe.student, recipe)
        teacher = build_teacher(recipe, folder)
        self.distiller = build_distiller(recipe, student, teacher)
        self.train_set, self.test_set = (create_dataset(recipe.data, split) for split in ("train", "test"))
        self.sampler: DistributedSampler[Any] = DistributedSampler(
            self.train_set,  # type: ignore[arg-type]
            num_replicas=accelerator.num_processes,
            rank=accelerator.process_index,
            seed=recipe.seed,
        )
        self.loader = self._loader(self.train_set, sampler=self.sampler)
        if len(self.loader) == 0:
            raise RunError(
                f"{len(self.train_set)} training images give no full batch of {recipe.schedule.batch_size} on each of "  # type: ignore[arg-type]
                f"{accelerator.num_processes} process(es): lower schedule.batch_size."
            )
        self.optimizer = _optimizer(self.distiller, recipe)
        self.schedule = _schedule(self.optimizer, recipe, len(self.loader))
        self.engine, self.prepared_optimizer = accelerator.prepare(self.distiller, self.optimizer)

    def run(self) -> None:
        rows, first = self._resume()
        if self.distiller.teacher is not None and not rows:
            top1 = self.evaluate(self.distiller.teacher)
            chance = 100 / self.recipe.data.num_classes
            warning = ": near chance, is it trained for these classes?" if top1 < 2 * chance else ""
            self.say(f"{self.recipe.out}: teacher top-1 {top1:.2f} %{warning}")
        last = self.recipe.schedule.epochs
        for epoch in range(first, last + 1):
            row = self._epoch(epoch)
            row["top1"] = self.evaluate(self.distiller.student)
            rows.append(row)
            if self.accelerator.is_main_process:
                self.folder.write_metrics(rows)
                self.folder.save_checkpoint(self._checkpoint(epoch))
            self.say(
                f"{self.recipe.out}: epoch {epoch}/{last}, loss {row['loss']:.3f}, top-1 {row['top1']:.2f} %, "
                f"{row['images_per_second']:.0f} images/s"
            )
        if self.accelerator.is_main_process:
            if own := self.distiller.extra_state():
                save_safetensors(self.folder.distiller, own)
            save_model(self.distiller.student.model, self.folder.student, self.recipe.data)
        self.accelerator.wait_for_everyone()
        best = max(rows, key=lambda row: row["top1"])
        self.say(
            f"{self.recipe.out}: done, top-1 {rows[-1]['top1']:.2f} % after the last epoch (the one that is kept); "
            f"the best was {best['top1']:.2f} % after epoch {best['epoch']:.0f}"
        )

    def _epoch(self, epoch: int) -> dict[str, float]:
        self.engine.train()
        self.sampler.set_epoch(epoch)
        set_seed(_epoch_seed(self.recipe.seed, epoch), device_specific=True)
        steps, device = len(self.loader), self.accelerator.device
        names: list[str] = []
        totals, broken = torch.zeros((), device=device), torch.full((), float(steps), device=device)
        started = time.perf_counter()
        bar = tqdm(self.loader, desc=f"epoch {epoch}/{self.recipe.schedule.epochs}", disable=not self.progress)
        for step, (images, targets, index) in enumerate(bar):
            self.schedule.step_update((epoch - 1) * steps + step)
            self.prepared_optimizer.zero_grad(set_to_none=True)
            with self.accelerator.autocast():
                result = self.engine(
                    images.to(device, non_blocking=True), targets.to(device, non_blocking=True), index.to(device)
                )
            self.accelerator.backward(result.loss)
            self.prepared_optimizer.step()
            # summed on the device: reading a number here would wait for it
            names = ["loss", *result.parts]
            values = torch.stack([value.float() for value in (result.loss.detach(), *result.parts.values())])
            totals = totals + values
            broken = torch.minimum(broken, torch.where(values.isfinite(), steps, step))
        means = self._means(dict(zip(names, totals / steps, strict=True)), broken, epoch)
        seconds = time.perf_counter() - started
        images_seen = steps * self.recipe.schedule.batch_size * self.accelerator.num_processes
        lr = self.optimizer.param_groups[0]["lr"]
        return {"epoch": epoch, **means, "lr": lr, "images_per_second": images_seen / seconds, "seconds": seconds}

    def _means(self, local: dict[str, Tensor], broken: Tensor, epoch: int) -> dict[str, float]:
        """Means over all processes; `broken` is the first step at which each was not finite."""
        stacked = self.accelerator.reduce(torch.stack(list(local.values())), reduction="mean")
        means = dict(zip(local, stacked.tolist(), strict=True))
        if not all(map(math.isfinite, means.values())):
            steps = self.accelerator.gather(broken[None]).amin(0).tolist()
            # what broke first; a step later the weights are broken, and with them everything
            first = [name for name, step in zip(means, steps, strict=True) if step == min(steps)]
            raise TrainingDiverged(
                f"{self.recipe.out}: {' and '.join(first[1:] or first)} became NaN or infinite in epoch {epoch}. "
                f"The state after epoch {epoch - 1} is kept; lower schedule.lr or the weight of that part."
            )
        return means

    def evaluate(self, model: Backbone) -> float:
        """Top-1 on the test set, in percent."""
        process, count = self.accelerator.process_index, self.accelerator.num_processes
        shard = Subset(self.test_set, range(process, len(self.test_set), count))  # type: ignore[arg-type]
        loader = self._loader(shard, drop_last=False)
        hits = count_hits(model, loader, self.accelerator.device)
        return 100 * self.accelerator.reduce(hits, reduction="sum").item() / len(self.test_set)  # type: ignore[arg-type]

    def _loader(self, dataset: Dataset[Any], *, sampler: Any = None, drop_last: bool = True) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.recipe.schedule.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.recipe.data.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _checkpoint(self, epoch: int) -> Checkpoint:
        model = {f"model.{k}": v for k, v in self._trained_state().items()}
        optimizer, state = _pack(self.optimizer.state_dict())
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return Checkpoint(epoch, model | {f"optimizer.{k}": v for k, v in optimizer.items()}, state)

    def _resume(self) -> tuple[list[dict[str, float]], int]:
        checkpoint = self.folder.load_checkpoint()
        if checkpoint is None:
            return [], 1
        model, optimizer = (_with_prefix(checkpoint.tensors, p) for p in ("model.", "optimizer."))
        teacher = {k: v for k, v in self.distiller.state_dict().items() if k.startswith("teacher.")}
        self.distiller.load_state_dict(teacher | model)
        self.optimizer.load_state_dict(_unpack(optimizer, checkpoint.state))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
        self.say(f"{self.recipe.out}: going on after epoch {checkpoint.epoch}")
        return [row for row in self.folder.metrics() if row["epoch"] <= checkpoint.epoch], checkpoint.epoch + 1

    def _trained_state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.distiller.state_dict().items() if not k.startswith("teacher.")}


@torch.no_grad()
def count_hits(model: Backbone, loader: DataLoader[Any], device: torch.device | str) -> Tensor:
    """Number of images whose label is the model's first choice, on `device`."""
    was_training = model.training
    model.eval()
    hits = torch.zeros((), device=device)
    for images, targets, *_ in loader:
        hits += (model.model(images.to(device)).argmax(1) == targets.to(device)).sum()
    model.train(was_training)
    return hits


def _optimizer(distiller: Distiller, recipe: Recipe) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    schedule = recipe.schedule
    try:
        return create_optimizer_v2(
            distiller, opt=schedule.optimizer, lr=schedule.lr, weight_decay=schedule.weight_decay
        )
    except (ValueError, AssertionError) as error:
        raise RunError(f"schedule.optimizer: timm knows no optimizer {schedule.optimizer!r} ({error}).") from error


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> Any:
    from timm.scheduler import CosineLRScheduler

    schedule = recipe.schedule
    total = schedule.epochs * steps
    warmup = min(round(schedule.warmup_epochs * steps), total - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=total - warmup,
        lr_min=schedule.min_lr,
        warmup_t=warmup,
        warmup_lr_init=schedule.min_lr,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def _epoch_seed(seed: int, epoch: int) -> int:
    return seed * 100_003 + epoch


def _pack(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and plain values, so that it needs no pickle."""
    named = {f"{parameter}.{key}": v for parameter, values in state["state"].items() for key, v in values.items()}
    named |= {f"group{i}.{key}": v for i, group in enumerate(state["param_groups"]) for key, v in group.items()}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    return tensors, {"optimizer": {name: value for name, value in named.items() if name not in tensors}}


def _unpack(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    groups: dict[int, dict[str, Any]] = {}
    for name, value in (tensors | plain["optimizer"]).items():
        owner, key = name.split(".", 1)
        if owner.startswith("group"):
            groups.setdefault(int(owner.removeprefix("group")), {})[key] = value
        else:
            state.setdefault(int(owner), {})[key] = value
    return {"state": state, "param_groups": [groups[i] for i in sorted(groups)]}


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _silent(_: str) -> None:
    """What processes other than the first say."""
