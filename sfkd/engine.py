"""A distiller on its devices: Accelerate, compilation, memory format, one optimizer step, averages, the whole state."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from sfkd.batches import Batch
from sfkd.config import Recipe
from sfkd.distillers import Distiller, Result
from sfkd.features import Backbone
from sfkd.runs import RunError
from sfkd.weights import WeightsError, load_weights

Plain = dict[str, Any]


def create_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate for this process: devices, processes, FSDP or DDP by its launcher, precision and trackers by the recipe."""
    AcceleratorState._reset_state()  # a process may train one recipe after another, of unlike precision
    trackers = {"log_with": "tensorboard", "project_dir": recipe.out} if recipe.engine.tensorboard else {}
    try:
        # several processes on a machine without a GPU find each other only where Accelerate is told so
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=recipe.mixed_precision,
            # our statistics are those of all processes anyway, and CRD's memory would be sent at every step
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
            **trackers,
        )
    except ValueError as error:
        raise RunError(f"mixed_precision={recipe.mixed_precision} cannot be had on this machine: {error}") from error
    if recipe.mixed_precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would train in float32
        raise RunError("mixed_precision=fp16 cannot be had on this machine: fp16 requires a GPU, take bf16 or no.")
    if recipe.engine.sync_batchnorm and accelerator.device.type != "cuda":
        raise RunError(
            f"engine.sync_batchnorm works on CUDA only, this device is {accelerator.device.type}: leave it off."
        )
    if recipe.engine.tensorboard:
        if "tensorboard" not in [str(getattr(t, "value", t)) for t in accelerator.log_with]:
            raise RunError("engine.tensorboard needs TensorBoard: pip install tensorboard, or leave it off.")
        accelerator.init_trackers("tensorboard")
    return accelerator


class Engine:
    """Trains a distiller as its recipe says. `load` comes before `prepare`, `load_optimizer` after it.

    Args:
        steps: of an epoch.
    """

    def __init__(self, distiller: Distiller, recipe: Recipe, accelerator: Accelerator, steps: int) -> None:
        self.distiller, self.recipe, self.accelerator, self.steps = distiller, recipe, accelerator, steps
        self.optimizer = create_optimizer(distiller, recipe)
        self.schedule = _schedule(self.optimizer, recipe, steps)
        _switch(distiller, recipe)
        self.average = _average(distiller.student, recipe, accelerator.device)
        self.module: nn.Module = distiller
        self._prepared: Any = self.optimizer
        self._whole = distiller.student

    def prepare(self) -> None:
        """Hand module and optimizer to Accelerate, which places, wraps or shards them."""
        if self.accelerator.num_processes > 1:
            self._whole = copy.deepcopy(self.distiller.student)  # evaluated in place of a student that is cut up
        self.module, self._prepared = self.accelerator.prepare(self.distiller, self.optimizer)

    def step(self, batches: Sequence[Batch], number: int) -> list[Result]:
        """Step `number` of the training (from 1), from one batch or from several whose gradients are accumulated."""
        schedule = self.recipe.schedule
        self.distiller.progress = (number - 1) / (schedule.epochs * self.steps)
        self.schedule.step_update(number - 1)
        self._prepared.zero_grad(set_to_none=True)
        results: list[Result] = []
        for batch in batches:
            last = len(results) == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.module), self.accelerator.autocast():
                result = self.module(*batch)
                self.accelerator.backward(result.loss / len(batches))
            results.append(result)
        if schedule.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.module.parameters(), schedule.clip_norm)
        self._prepared.step()
        if self.average is not None:
            self.average.update(self.distiller.student, step=number)
        return results

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def finite(self) -> bool:
        """Whether all trained weights are, on all processes."""
        trained = [_local(p) for p in self.module.parameters() if p.requires_grad]
        finite = torch.stack([p.isfinite().all() for p in trained]).all()
        return bool(self.accelerator.gather(finite[None]).all())

    def student(self) -> Backbone:
        """The student of the last step, whole on every process, batch statistics the mean of all processes'."""
        if self.accelerator.num_processes > 1:
            from timm.utils import distribute_bn

            distribute_bn(self.distiller.student, self.accelerator.num_processes, reduce=True)
        if not is_sharded(self.module):
            return self.distiller.student
        self._whole.load_state_dict(_with_prefix(self.state(), "student."))
        return self._whole.to(self.accelerator.device)

    # -- state, whole on every process also where FSDP has cut it up ------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The distiller's state dict; under FSDP gathered, on all processes at once."""
        if not is_sharded(self.module):
            return self.distiller.state_dict()
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(self.module, options=StateDictOptions(full_state_dict=True))  # type: ignore[return-value]

    def save(self) -> tuple[dict[str, Tensor], Plain]:
        """Everything but the teacher, as named tensors and plain values."""
        tensors = {f"model.{k}": v for k, v in self.state().items() if not k.startswith("teacher.")}
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.module.state_dict().items()}
        optimizer, plain = _pack(self._optimizer_state())
        state = {"optimizer": plain}
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return tensors | {f"optimizer.{k}": v for k, v in optimizer.items()}, state

    def load(self, tensors: dict[str, Tensor], source: str) -> None:
        """Take the weights of a `save`. Before `prepare`: FSDP cuts up what it finds.

        Raises:
            WeightsError: weights of another model, with what does not fit.
        """
        teacher = {k: v for k, v in self.distiller.state_dict().items() if k.startswith("teacher.")}
        load_weights(self.distiller, teacher | _with_prefix(tensors, "model."), source)
        if self.average is not None:
            load_weights(self.average.module, _with_prefix(tensors, "average."), source)

    def load_optimizer(self, tensors: dict[str, Tensor], plain: Plain, source: str) -> None:
        """Take the optimizer's state of a `save`. After `prepare`.

        Raises:
            WeightsError: no such state, or another optimizer's.
        """
        try:
            self._load_optimizer_state(_unpack(_with_prefix(tensors, "optimizer."), plain["optimizer"]))
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(plain["scaler"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise WeightsError(
                f"{source} holds no state that this recipe could go on from ({type(error).__name__}: {error}): delete it to "
                "start anew."
            ) from error

    def _optimizer_state(self) -> Plain:
        """Under FSDP gathered, and keyed by parameter names."""
        if not is_sharded(self.module):
            return self.optimizer.state_dict()
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        whole = StateDictOptions(full_state_dict=True)
        return get_optimizer_state_dict(self.module, self.optimizer, options=whole)  # type: ignore[return-value]

    def _load_optimizer_state(self, state: Plain) -> None:
        if not is_sharded(self.module):
            self.optimizer.load_state_dict(state)
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        whole = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.module, self.optimizer, state, options=whole)  # type: ignore[arg-type]


def is_sharded(module: nn.Module) -> bool:
    """Whether each process holds a part of the parameters only (FSDP)."""
    return any(hasattr(parameter, "full_tensor") for parameter in module.parameters())


def create_optimizer(distiller: Distiller, recipe: Recipe) -> torch.optim.Optimizer:
    """timm's optimizer over the student and the distiller's own parts; vectors and scalars are not decayed."""
    from timm.optim import create_optimizer_v2

    schedule = recipe.schedule
    try:
        return create_optimizer_v2(
            distiller, opt=schedule.optimizer, lr=schedule.lr, weight_decay=schedule.weight_decay
        )
    except (ValueError, AssertionError) as error:
        raise RunError(f"schedule.optimizer: timm knows no optimizer {schedule.optimizer!r} ({error}).") from error


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> Any:
    """Linear warm-up, then cosine or steps, set before every optimizer step."""
    from timm.scheduler import CosineLRScheduler, StepLRScheduler

    schedule = recipe.schedule
    total = schedule.epochs * steps
    warmup = min(round(schedule.warmup_epochs * steps), total - 1)
    first = schedule.min_lr if schedule.warmup_lr is None else schedule.warmup_lr
    options: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": first, "warmup_prefix": True, "t_in_epochs": False}
    if schedule.decay == "step":
        return StepLRScheduler(optimizer, decay_t=schedule.decay_epochs * steps, decay_rate=0.1, **options)
    return CosineLRScheduler(optimizer, t_initial=total - warmup, lr_min=schedule.min_lr, **options)


def _switch(distiller: Distiller, recipe: Recipe) -> None:
    """Apply the switches of `recipe.engine` to student and teacher, in place."""
    if recipe.engine.sync_batchnorm:
        distiller.student.model = nn.SyncBatchNorm.convert_sync_batchnorm(distiller.student.model)
    models = [model for model in (distiller.student, distiller.teacher) if model is not None]
    for model in models:
        if recipe.engine.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.engine.compile:
            model.compile()


def _average(student: Backbone, recipe: Recipe, device: torch.device) -> Any:
    """timm's running average of the student's weights; None where the recipe asks for none."""
    decay = recipe.schedule.ema_decay
    if decay is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(student, decay=decay, use_warmup=True, device=device)


def _pack(state: Plain) -> tuple[dict[str, Tensor], Plain]:
    """An optimizer's state as named tensors and plain values, so that it needs no pickle."""
    named = {f"{parameter}.{key}": v for parameter, values in state["state"].items() for key, v in values.items()}
    named |= {f"group{i}.{key}": v for i, group in enumerate(state["param_groups"]) for key, v in group.items()}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in named.items() if name not in tensors}


def _unpack(tensors: dict[str, Tensor], plain: Plain) -> Plain:
    """What `_pack` took apart."""
    state: dict[int | str, Plain] = {}
    groups: dict[int, Plain] = {}
    for name, value in (tensors | plain).items():
        owner, key = name.rsplit(".", 1)
        if owner.startswith("group"):
            groups.setdefault(int(owner.removeprefix("group")), {})[key] = value
        else:
            state.setdefault(int(owner) if owner.isdigit() else owner, {})[key] = value
    return {"state": state, "param_groups": [groups[i] for i in sorted(groups)]}


def _local(parameter: Tensor) -> Tensor:
    """This process's part of a parameter that FSDP has cut up."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
