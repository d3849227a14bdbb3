"""Where the time of a training step goes: a few real steps under torch's profiler, as a trace and as a table of parts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

from torch.profiler import ProfilerActivity, profile, record_function

from sfkd.batches import Batch, TrainingBatches
from sfkd.config import Recipe
from sfkd.engine import Engine, create_accelerator
from sfkd.loading import build_distiller, build_model, build_teacher
from sfkd.runs import RunFolder, write_atomically

WARMUP = 3  # steps that are not measured: caches, compilation, autotuning


class Part(NamedTuple):
    """A part of the step: milliseconds a step on the CPU, and of kernels on the GPU (0 without one)."""

    name: str
    cpu_ms: float
    gpu_ms: float


def profile_training(recipe: Recipe, *, steps: int = 10, say: Callable[[str], None] = print) -> list[Part]:
    """Profile so many steps of a recipe's training on its own data; weights are thrown away.

    Writes `profile/trace.json`, for Perfetto or chrome://tracing, and `profile/parts.csv` into the run folder's place.
    A teacher that the recipe would train first is taken as it starts: that changes no time.

    Raises:
        What `train` raises for a recipe that cannot be built.
    """
    accelerator = create_accelerator(recipe)
    student = build_model(recipe.student, recipe)
    teacher = _teacher(recipe)
    distiller = build_distiller(recipe, student, teacher)
    batches = TrainingBatches(recipe, device=accelerator.device, layers=distiller.teacher_layers)
    engine = Engine(distiller, recipe, accelerator, batches.steps)
    engine.prepare()
    engine.module.train()
    endless = chain.from_iterable(batches.epoch(epoch) for epoch in count(1))
    activities = [ProfilerActivity.CPU]
    if accelerator.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    numbered = enumerate(_read(endless, WARMUP + steps), 1)
    with _named(engine):
        for number, step in islice(numbered, WARMUP):
            engine.step(step, number)
        with profile(activities=activities) as found:
            for number, step in numbered:
                engine.step(step, number)
    parts = _parts(found, steps)
    folder = Path(recipe.out) / "profile"
    folder.mkdir(parents=True, exist_ok=True)
    found.export_chrome_trace(str(folder / "trace.json"))
    write_atomically(folder / "parts.csv", _table(parts))
    for line in _told(parts, folder):
        say(line)
    return parts


def _teacher(recipe: Recipe) -> Any:
    """The recipe's teacher; with random weights where the run would train it first."""
    if recipe.teacher is None or recipe.teacher.schedule is None:
        return build_teacher(recipe, RunFolder(recipe.out))
    return build_model(recipe.teacher, recipe)


def _read(batches: Iterator[list[Batch]], number: int) -> Iterator[list[Batch]]:
    """Batches, the wait for each of them recorded."""
    for _ in range(number):
        with record_function("part: data"):
            step = next(batches)
        yield step


@contextmanager
def _named(engine: Engine) -> Iterator[None]:
    """Give the parts of a step names that the profiler sees, for as long as it looks."""
    distiller = engine.distiller
    places: list[tuple[Any, str, str]] = [
        (distiller.student, "forward", "student forward"),
        (distiller, "terms", "loss terms"),
        (distiller, "cross_entropy", "cross-entropy"),
        (engine.accelerator, "backward", "backward"),
        (engine.optimizer, "step", "optimizer"),
    ]
    if distiller.teacher is not None:
        places.append((distiller.teacher, "forward", "teacher forward"))
    kept = [(owner, name, vars(owner).get(name)) for owner, name, _ in places]
    for owner, name, part in places:
        setattr(owner, name, _recorded(getattr(owner, name), f"part: {part}"))
    try:
        yield
    finally:
        for owner, name, before in kept:
            delattr(owner, name) if before is None else setattr(owner, name, before)


def _recorded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return call


def _parts(found: Any, steps: int) -> list[Part]:
    """Named parts, largest first."""
    rows = [event for event in found.key_averages() if event.key.startswith("part: ") and event.cpu_time_total]
    parts = [
        Part(r.key.removeprefix("part: "), r.cpu_time_total / 1000 / steps, r.device_time_total / 1000 / steps)
        for r in rows
    ]
    return sorted(parts, key=lambda part: (part.gpu_ms, part.cpu_ms), reverse=True)


def _table(parts: list[Part]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Part._fields)
    writer.writerows((part.name, f"{part.cpu_ms:.3f}", f"{part.gpu_ms:.3f}") for part in parts)
    return text.getvalue()


def _told(parts: list[Part], folder: Path) -> Iterator[str]:
    total = sum(part.cpu_ms for part in parts)
    for part in parts:
        gpu = f"{part.gpu_ms:10.2f} ms of kernels" if part.gpu_ms else ""
        yield f"{part.name:16} {part.cpu_ms:10.2f} ms a step {part.cpu_ms / total:7.1%}{gpu}"
    yield f"trace: {folder / 'trace.json'} (opens in https://ui.perfetto.dev, or chrome://tracing), {folder / 'parts.csv'}"
