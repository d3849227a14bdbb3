"""What a recipe would do: built, tried for one step on noise, reckoned up to the whole run. Nothing is written."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sfkd.config import Recipe
from sfkd.data import create_dataset
from sfkd.distillers import Distiller, distiller_options
from sfkd.engine import create_optimizer
from sfkd.loading import build_distiller, build_model
from sfkd.transforms import DataError

# training images, as their publishers count them, for sets that are not on this disk yet
_PUBLISHED = {
    "torch/cifar10": 50_000,
    "torch/cifar100": 50_000,
    "torch/mnist": 60_000,
    "torch/fashion_mnist": 60_000,
    "torch/imagenet": 1_281_167,
}
_TRIED_PIXELS = 8 * 224 * 224  # a step on so many tells the time of more without taking long


class DryRun(NamedTuple):
    """What was found. Sizes in bytes, times in seconds; `parts` are the loss parts of the tried step.

    `parameters`: of student, teacher, and what is trained beside the student. `memory`: weights with their gradients and
    optimizer state, activations of one batch. `tried`: images in the step that was timed.
    """

    samples: int
    steps: int
    global_batch: int
    layers: dict[str, str]
    parameters: dict[str, int]
    memory: dict[str, int]
    tried: int
    step_seconds: float
    run_seconds: float
    parts: dict[str, float]


def dry_run(recipe: Recipe, *, say: Callable[[str], None] = print) -> DryRun:
    """Build the recipe's models and distiller with random weights, try a step on noise, and say what a run takes.

    Time is that of this machine's device and grows with the batch in proportion; memory is that of weights, gradients,
    optimizer and the activations that backward keeps, without what kernels and the allocator add.

    Raises:
        What `train` raises for a recipe that cannot be built.
    """
    samples, found = _samples(recipe)
    recipe = _without_downloads(_sized(recipe, samples))
    found_device = torch.accelerator.current_accelerator(check_available=True)
    device = torch.device("cpu") if found_device is None else found_device
    student = build_model(recipe.student, recipe)
    teacher = None if recipe.teacher is None else build_model(recipe.teacher, recipe)
    distiller = build_distiller(recipe, student, teacher).to(device).train()
    processes, schedule = int(os.environ.get("WORLD_SIZE", "1")), recipe.schedule
    global_batch = schedule.batch_size * schedule.accumulate * processes
    steps = samples // global_batch
    tried = _Tried(distiller, recipe, device)
    a_step = tried.seconds * global_batch / processes / tried.images
    result = DryRun(
        samples=samples,
        steps=steps,
        global_batch=global_batch,
        layers=_layers(distiller),
        parameters=distiller.count_parameters(),
        memory={"weights and optimizer": tried.weights, "activations": tried.activations * schedule.batch_size},
        tried=tried.images,
        step_seconds=a_step,
        run_seconds=a_step * steps * schedule.epochs,
        parts=tried.parts,
    )
    for line in _told(recipe, result, found, processes, device):
        say(line)
    return result


def _samples(recipe: Recipe) -> tuple[int, str]:
    """Training images, and whether they are here."""
    try:
        return len(create_dataset(recipe.data, "train", batch_size=recipe.schedule.batch_size)), "found"
    except DataError:
        published = _PUBLISHED.get(recipe.data.name)
        if published is None:
            raise
        return min(published, recipe.data.train_samples or published), "not here yet, as many as published"


def _sized(recipe: Recipe, samples: int) -> Recipe:
    method = recipe.method
    if "num_samples" not in distiller_options(method.name):
        return recipe
    return dataclasses.replace(
        recipe, method=dataclasses.replace(method, options={"num_samples": samples} | method.options)
    )


def _without_downloads(recipe: Recipe) -> Recipe:
    plain = {role: model for role in ("student", "teacher") if (model := getattr(recipe, role)) is not None}
    return dataclasses.replace(
        recipe, **{role: dataclasses.replace(model, pretrained=False) for role, model in plain.items()}
    )


class _Tried:
    """One step of a distiller on noise: its time, its loss parts, and the bytes that it needs."""

    def __init__(self, distiller: Distiller, recipe: Recipe, device: torch.device) -> None:
        channels, height, width = recipe.data.input_size
        fitting = max(2, _TRIED_PIXELS // (height * width))
        self.images = min(recipe.schedule.batch_size, fitting)
        images = torch.randn(self.images, channels, height, width, device=device)
        targets = torch.arange(self.images, device=device) % recipe.data.num_classes
        index = torch.arange(self.images, device=device)
        optimizer = create_optimizer(distiller, recipe)
        kept: dict[int, int] = {}
        for saved in (kept_for_backward(kept, distiller), nullcontext()):  # the first step warms up
            started = _now(device)
            with saved, _autocast(recipe, device):
                result = distiller(images, targets, index)
            result.loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.seconds = _now(device) - started
        self.parts = {name: float(value) for name, value in result.parts.items()}
        self.activations = sum(kept.values()) // self.images
        trained = [p for p in distiller.parameters() if p.requires_grad]
        states = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
        self.weights = _bytes(distiller.state_dict().values()) + _bytes(trained) + _bytes(states)


def kept_for_backward(kept: dict[int, int], module: nn.Module) -> AbstractContextManager[Any]:
    """Notes in `kept` the storages that backward keeps, by address with their bytes; weights of the module left out."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    return torch.autograd.graph.saved_tensors_hooks(note, lambda x: x)


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    if recipe.mixed_precision == "no":
        return nullcontext()
    half = torch.float16 if recipe.mixed_precision == "fp16" and device.type != "cpu" else torch.bfloat16
    return torch.autocast(device.type, half)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def _bytes(tensors: Any) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _layers(distiller: Distiller) -> dict[str, str]:
    """The student's captured layers with their maps, beside those of the teacher that they meet."""
    partner = dict(getattr(distiller, "pairs", ()))
    of_teacher = {} if distiller.teacher is None else {layer.name: layer for layer in distiller.teacher.layers}
    described = {}
    for layer in distiller.student.layers:
        other = of_teacher.get(partner.get(layer.name, ""))
        described[layer.name] = _shape(layer) + (f" ↔ {other.name} {_shape(other)}" if other else "")
    return described


def _shape(layer: Any) -> str:
    return f"[{layer.channels}, {layer.grid[0]}, {layer.grid[1]}]"


def _told(recipe: Recipe, found: DryRun, data: str, processes: int, device: torch.device) -> list[str]:
    schedule, parameters = recipe.schedule, found.parameters
    epochs, lr = schedule.epochs, f"{schedule.lr:g} → {schedule.min_lr:g} (cosine"
    if schedule.decay == "step":
        lr = f"{schedule.lr:g} (a tenth every {schedule.decay_epochs:g} epochs"
    memory = " + ".join(f"{size / 2**30:.2f} GiB {what}" for what, size in found.memory.items())
    size = "×".join(map(str, recipe.data.input_size))
    teacher = "" if recipe.teacher is None else f", teacher {recipe.teacher.name or recipe.teacher.run}"
    lines = [
        f"{recipe.out}: {recipe.method.name}{teacher}, student {recipe.student.name or recipe.student.run}",
        f"data: {recipe.data.name}, {found.samples:,} training images of {size} ({data})",
        f"global batch: {schedule.batch_size} × {schedule.accumulate} accumulated × {processes} process(es) = "
        f"{found.global_batch}; {found.steps:,} steps an epoch, {epochs} epochs",
        f"lr: {lr}, {schedule.warmup_epochs:g} epochs of warm-up), {schedule.optimizer}, weight decay "
        f"{schedule.weight_decay:g}",
        *(f"layer: {name} {about}" for name, about in found.layers.items()),
        f"parameters: student {parameters['student']:,}, teacher {parameters['teacher']:,} (frozen), trained beside the "
        f"student {parameters['beside']:,}",
        f"memory a process: about {memory}",
        f"time: a step of {found.tried} images tried on {device}; {found.step_seconds:.2f} s a step of "
        f"{found.global_batch // processes}, {_duration(found.run_seconds)} in all on such a device, data loading and "
        "tests left out",
        f"loss on noise: {', '.join(f'{name} {value:.3g}' for name, value in found.parts.items())}",
    ]
    return lines


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
