"""The training loop: one process or many, CPU or GPU, the same recipe.

Everything random is a function of (seed, epoch, place in the epoch, process), so a run that was stopped and resumed at any
step ends with the weights of one that was not.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from tqdm import tqdm

from sfkd.batches import Batch, EvaluationBatches, TrainingBatches
from sfkd.config import Recipe
from sfkd.data import create_dataset, is_stream
from sfkd.distillers import Result, distiller_options
from sfkd.engine import Engine, create_accelerator
from sfkd.features import Backbone, Output
from sfkd.loading import build_distiller, build_model, build_teacher
from sfkd.precompute import TeacherCache, teacher_cache
from sfkd.runs import Checkpoint, RunError, RunFolder, environment, save_model, save_safetensors
from sfkd.watch import TrainingDiverged, Watch

__all__ = ["TrainingDiverged", "TrainingStopped", "count_hits", "train"]

CHECK_EVERY = 50  # steps between two readings of what the device found
Say = Callable[[str], None]
Stop = Callable[[], bool]


class TrainingStopped(Exception):
    """A training that was asked to stop; its state is saved."""


def train(recipe: Recipe, *, progress: bool = True, say: Say = print, stop: Stop = lambda: False) -> RunFolder:
    """Train what the recipe describes, going on from the last checkpoint where there is one.

    First the teacher, if the recipe has a schedule for it (in `teacher/`), then the student alone, if it asks for a
    baseline (in `baseline/`), then the distilled student. Finished parts are left as they are.

    Args:
        recipe: see `sfkd.config`.
        progress: a bar on stderr. say: what tells how it goes.
        stop: asked before each step (on several processes before every 50th); where it says so the state is saved.

    Raises:
        RunError: the folder was begun with another recipe. DataError, WeightsError, ValueError: what the recipe names
        is not there or does not fit. TrainingDiverged: a loss or the weights became NaN or infinite, or the target moves.
        TrainingStopped: `stop` said so.
    """
    recipe = _written_out(recipe)
    nested = [part for part in (recipe.teacher_recipe(), recipe.baseline_recipe()) if part is not None]
    if nested:  # a mistake in the student or the method shows before hours of training the teacher, not after
        teacher = build_model(recipe.teacher, recipe) if recipe.teacher is not None else None
        build_distiller(recipe, build_model(recipe.student, recipe), teacher)
    for part in nested:
        train(part, progress=progress, say=say, stop=stop)
    accelerator = create_accelerator(recipe)
    folder = RunFolder(recipe.out)
    told = _Told(progress and accelerator.is_main_process, say if accelerator.is_main_process else _silent, stop)
    global_batch = images_a_step(recipe, accelerator.num_processes)
    if accelerator.is_main_process:
        device = str(accelerator.device)
        folder.begin(recipe, environment(recipe.seed, global_batch, accelerator.num_processes, device))
    accelerator.wait_for_everyone()
    if folder.finished:
        told.say(f"{recipe.out}: finished already, top-1 {folder.metrics()[-1]['top1']:.2f} %")
        return folder
    lr = f"lr {recipe.schedule.lr:g}"
    told.say(f"{recipe.out}: {recipe.method.name}, global batch {global_batch}, {lr}, seed {recipe.seed}")
    _Training(recipe, folder, accelerator, told).run()
    return folder


def images_a_step(recipe: Recipe, processes: int) -> int:
    """The global batch: images whose gradients make one step."""
    return recipe.schedule.batch_size * recipe.schedule.accumulate * processes


def _written_out(recipe: Recipe) -> Recipe:
    """The recipe with every option of its method, as it goes into config.yaml.

    A run stays what it was when a later version has other defaults, and opens without its data: the number of training
    images is written where the method has an option for it.
    """
    method = recipe.method
    options = distiller_options(method.name) | method.options
    if "label_smoothing" not in method.options:
        del options["label_smoothing"]  # the schedule's
    if "num_samples" in options and options["num_samples"] is None:
        dataset = create_dataset(recipe.data, "train")
        if is_stream(dataset):
            raise RunError(f"{method.name} finds samples by their number, which {recipe.data.name} does not have.")
        options["num_samples"] = len(dataset)
    return dataclasses.replace(recipe, method=dataclasses.replace(method, options=options))


@dataclasses.dataclass(frozen=True)
class _Told:
    """How a run talks to whoever started it."""

    progress: bool
    say: Say
    stop: Stop


class _Training:
    """One run of one distiller. `done`: whole epochs, and steps of the next, that are behind it."""

    def __init__(self, recipe: Recipe, folder: RunFolder, accelerator: Accelerator, told: _Told) -> None:
        self.recipe, self.folder, self.accelerator, self.told = recipe, folder, accelerator, told
        set_seed(recipe.seed)
        student = build_model(recipe.student, recipe)
        self.teacher = build_teacher(recipe, folder)
        self.distiller = build_distiller(recipe, student, self.teacher)
        place: dict[str, Any] = {"process": accelerator.process_index, "processes": accelerator.num_processes}
        self.cache = self._cache()
        layers = self.distiller.teacher_layers
        self.batches = TrainingBatches(recipe, device=accelerator.device, cache=self.cache, layers=layers, **place)
        self.tests = EvaluationBatches(recipe, device=accelerator.device, **place)
        self.steps = self.batches.steps
        self.engine = Engine(self.distiller, recipe, accelerator, self.steps)
        self.watch = Watch(accelerator.device)
        self.rows: list[dict[str, float]] = []
        self.done = (0, 0)
        self.seconds = 0.0  # spent on the present epoch
        self.written = 0.0  # when progress.json was

    def run(self) -> None:
        checkpoint = self.folder.load_checkpoint()
        if checkpoint is None:
            self._begin()
            self.engine.prepare()
        else:
            self._go_on(checkpoint)
        epochs = self.recipe.schedule.epochs
        for epoch in range(self.done[0] + 1, epochs + 1):
            row = self._epoch(epoch) | self._evaluated(epoch)
            self.rows.append(row)
            self.done = (epoch, 0)
            if self.accelerator.is_main_process:
                self.folder.write_metrics(self.rows)
            self._save()
            self.accelerator.log({name: value for name, value in row.items() if name != "epoch"}, step=epoch)
            top1 = f"top-1 {row['top1']:.2f} %, " if "top1" in row else ""
            self.told.say(
                f"{self.recipe.out}: epoch {epoch}/{epochs}, loss {row['loss']:.3f}, {top1}"
                f"{row['images_per_second']:.0f} images/s"
            )
        self._finish()

    def _cache(self) -> TeacherCache | None:
        if self.recipe.precompute is None or self.teacher is None:
            return None
        place: dict[str, Any] = {"device": self.accelerator.device, "processes": self.accelerator.num_processes}
        teacher = self.teacher.to(self.accelerator.device).eval()
        return teacher_cache(self.recipe, teacher, progress=self.told.progress, say=self.told.say, **place)

    def _begin(self) -> None:
        """What comes before the first step: the teacher's accuracy, and what a method fits to its outputs.

        Both before anything is prepared: FSDP cuts up the teacher, too.
        """
        teacher = self.teacher
        known: dict[str, Any] = {"parameters": self.distiller.count_parameters()}
        if teacher is not None:
            self.distiller.to(self.accelerator.device)
            known |= {"teacher_top1": self._teacher_top1(teacher)}
        if self.accelerator.is_main_process:
            self.folder.describe(**known)
        if teacher is not None and self.distiller.fit_batches:
            seen = (batch for step in self.batches.epoch(1) for batch in step)
            self.distiller.fit(_outputs(teacher, islice(seen, self.distiller.fit_batches)))

    def _teacher_top1(self, teacher: Backbone) -> float:
        data = self.recipe.data
        tests = f"{data.test_split}, {len(self.tests.dataset)} images, {data.held_out or 0} held out"
        top1 = self.cache.remembered(tests, lambda: self.evaluate(teacher)) if self.cache else self.evaluate(teacher)
        near = ": near chance, is it trained for these classes?" if top1 < 200 / data.num_classes else ""
        self.told.say(f"{self.recipe.out}: teacher top-1 {top1:.2f} %{near}")
        return top1

    def _epoch(self, epoch: int) -> dict[str, float]:
        self.engine.module.train()
        before, every = self.done[1], self.recipe.engine.checkpoint_every
        started = time.perf_counter() - self.seconds
        batches = self.batches.epoch(epoch, done=before)
        described = f"epoch {epoch}/{self.recipe.schedule.epochs}"
        bar = tqdm(batches, described, self.steps, initial=before, disable=not self.told.progress)
        for number, step in enumerate(bar, before + 1):
            self._stop_if_asked(number)
            for result in self._step(epoch, number, step):
                self.watch.add(result, number)
            self.done, self.seconds = (epoch - 1, number), time.perf_counter() - started
            saves = every is not None and number % every == 0 and number < self.steps
            if saves or number % CHECK_EVERY == 0 or number == self.steps:
                self._check(epoch, number)
            if saves:
                self._save()
            self._write_progress(epoch, number)
        means, speed = self.watch.means(self.accelerator), self._speed(self.steps)
        row = {"epoch": epoch, **means, "lr": self.engine.lr, "images_per_second": speed, "seconds": self.seconds}
        self.watch, self.seconds = Watch(self.accelerator.device), 0.0
        return row

    def _step(self, epoch: int, number: int, batches: Sequence[Batch]) -> list[Result]:
        return self.engine.step(batches, (epoch - 1) * self.steps + number)

    def _check(self, epoch: int, number: int) -> None:
        self.watch.check(self.accelerator, self.recipe.out, epoch)
        if not self.engine.finite():
            raise TrainingDiverged(
                f"{self.recipe.out}: weights became NaN or infinite in epoch {epoch}, by step {number}, after finite "
                "losses: a gradient was not. The last checkpoint is kept; lower schedule.lr or set schedule.clip_norm."
            )

    def _stop_if_asked(self, number: int) -> None:
        several = self.accelerator.num_processes > 1
        if several and (number - 1) % CHECK_EVERY:
            return  # all of them must stop before the same step
        asked = torch.tensor(float(self.told.stop()), device=self.accelerator.device)
        if asked if not several else self.accelerator.reduce(asked) > 0:
            self._save()
            raise TrainingStopped(f"{self.recipe.out}: stopped after epoch {self.done[0]}, step {self.done[1]}.")

    def _write_progress(self, epoch: int, number: int) -> None:
        """`progress.json`, once a second at most."""
        now = time.monotonic()
        if now - self.written < 1 or not self.accelerator.is_main_process:
            return
        self.written, epochs = now, self.recipe.schedule.epochs
        left = (epochs - epoch + 1) * self.steps - number
        progress = {"epoch": epoch, "epochs": epochs, "step": number, "steps": self.steps, "loss": self.watch.loss()}
        progress |= {"images_per_second": self._speed(number), "seconds_left": left * self.seconds / number}
        self.folder.write_progress(progress)

    def _speed(self, steps: int) -> float:
        return steps * images_a_step(self.recipe, self.accelerator.num_processes) / self.seconds

    def evaluate(self, model: Backbone) -> float:
        """Top-1 on the test set (or on what was held out), in percent."""
        counted = count_hits(model.to(self.accelerator.device), self.tests, self.accelerator.device)
        hits, images = self.accelerator.reduce(counted, reduction="sum").tolist()
        return 100 * hits / images

    def _evaluated(self, epoch: int) -> dict[str, float]:
        schedule = self.recipe.schedule
        if epoch % schedule.test_every and epoch < schedule.epochs:
            return {}
        top1 = self.evaluate(self.engine.student())
        if self.engine.average is None:
            return {"top1": top1}
        return {"top1": self.evaluate(self.engine.average.module), "top1_without_ema": top1}

    def _save(self) -> None:
        """A checkpoint of where the training is; all processes take part, the first writes."""
        tensors, state = self.engine.save()
        sums, plain = self.watch.state(self.accelerator)
        if self.accelerator.is_main_process:
            tensors |= {f"watch.{name}": value for name, value in sums.items()}
            state |= {"watch": plain, "seconds": self.seconds}
            self.folder.save_checkpoint(Checkpoint(*self.done, tensors, state))
        self.accelerator.wait_for_everyone()

    def _go_on(self, checkpoint: Checkpoint) -> None:
        source = str(self.folder.checkpoint)
        self.engine.load(checkpoint.tensors, source)
        self.engine.prepare()
        self.engine.load_optimizer(checkpoint.tensors, checkpoint.state, source)
        self.done = (checkpoint.epoch, checkpoint.step)
        if checkpoint.step:
            sums = {name: checkpoint.tensors[f"watch.{name}"] for name in ("totals", "ratios")}
            self.watch.load(sums, checkpoint.state["watch"])
            self.seconds = checkpoint.state["seconds"]
        self.rows = [row for row in self.folder.metrics() if row["epoch"] <= checkpoint.epoch]
        if len(self.rows) < checkpoint.epoch:
            raise RunError(
                f"{self.folder.path}: metrics.csv has {len(self.rows)} of the {checkpoint.epoch} epochs that the "
                "checkpoint has behind it: put it back, or delete the folder to start anew."
            )
        step = f", step {checkpoint.step}" if checkpoint.step else ""
        self.told.say(f"{self.recipe.out}: going on after epoch {checkpoint.epoch}{step}")

    def _finish(self) -> None:
        own = self.distiller.extra_state(self.engine.state())
        student = self.engine.student() if self.engine.average is None else self.engine.average.module
        if self.accelerator.is_main_process:
            if own:
                save_safetensors(self.folder.distiller, own)
            save_model(student, self.folder.student, self.recipe.data)
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.wait_for_everyone()
        best = max((row for row in self.rows if "top1" in row), key=lambda row: row["top1"])
        self.told.say(
            f"{self.recipe.out}: done, top-1 {self.rows[-1]['top1']:.2f} % after the last epoch (the one that is kept); "
            f"the best was {best['top1']:.2f} % after epoch {best['epoch']:.0f}"
        )


@torch.no_grad()
def count_hits(model: Backbone, batches: Iterable[Any], device: torch.device | str) -> Tensor:
    """`[2]` on `device`: images whose label is the model's first choice, and images in all."""
    was_training = model.training
    model.eval()
    counted = torch.zeros(2, device=device)
    for images, targets, *_ in batches:
        counted[0] += (model.predict(images.to(device)).argmax(1) == targets.to(device)).sum()
        counted[1] += len(images)
    model.train(was_training)
    return counted


@torch.no_grad()
def _outputs(teacher: Backbone, batches: Iterable[Batch]) -> Iterator[Output]:
    for batch in batches:
        yield batch.teacher or teacher(batch.images)


def _silent(_: str) -> None:
    """What processes other than the first say."""
