"""A recipe: everything a run depends on, as validated dataclasses that a YAML file fills.

An unknown key or a wrong type is refused with the key's name and what was expected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from sfkd._checks import unknown

_MOST_BYTES = 2**18  # of a YAML file
_MOST_VALUES = 2**16  # in it, an alias counted as often as it is used
_STRICT = ConfigDict(extra="forbid", validate_default=True)


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the key."""


@dataclass(config=_STRICT, kw_only=True)
class Schedule:
    """Length and optimiser of a training. Learning rate: linear warm-up, then cosine to `min_lr` or steps, every step."""

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=128, ge=1, description="per process")
    optimizer: str = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    min_lr: float = Field(default=1e-5, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_epochs: float = Field(default=0.5, ge=0)
    warmup_lr: float | None = Field(default=None, ge=0, description="of the first step, default min_lr")
    decay: Literal["cosine", "step"] = "cosine"
    decay_epochs: float = Field(default=30, gt=0, description="between two steps, each to a tenth")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0, description="α of timm's mixup, 0 = off")
    cutmix: float = Field(default=0.0, ge=0, description="α of timm's cutmix, 0 = off")
    accumulate: int = Field(default=1, ge=1, description="batches whose gradients make one step")
    clip_norm: float | None = Field(default=None, gt=0, description="largest norm of the gradient")
    test_every: int = Field(default=1, ge=1, description="epochs between two looks at the test set; the last always")
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="keep and evaluate the running average of the student instead of its last weights",
    )


@dataclass(config=_STRICT, kw_only=True)
class Model:
    """A timm model: `name` (timm, `hf-hub:…` or `local-dir:…`), or the student of the finished run folder `run`."""

    name: str = ""
    pretrained: bool = False
    layers: list[str] | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)
    run: str | None = None
    mean: tuple[float, ...] | None = Field(default=None, description="normalisation it was trained with, if not data's")
    std: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Model:
        if bool(self.name) == bool(self.run):
            raise ValueError(
                "give a timm name (name: resnet18) or a finished run folder (run: runs/teacher), one of them"
            )
        return self


@dataclass(config=_STRICT, kw_only=True)
class Teacher(Model):
    """A teacher. With `schedule` it is first trained on the labels, in the folder `teacher/` of the run."""

    schedule: Schedule | None = None


@dataclass(config=_STRICT, kw_only=True)
class Method:
    """A distiller's registered name and its options."""

    name: str = "sfkd"
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(config=_STRICT, kw_only=True)
class Data:
    """Images: `name` and `root` as in timm's factory (`torch/cifar100`, a folder, `hfds/…`, `wds/…`), idx files in `root`,
    or `sklearn/digits`."""

    name: str
    root: str = ""
    num_classes: int = Field(ge=2)
    input_size: tuple[int, int, int] = (3, 224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    train_split: str = "train"
    test_split: str = "validation"
    crop_pct: float = Field(default=1.0, gt=0, le=1, description="share of the shorter side that tests look at")
    augmentation: Literal["none", "crop", "imagenet", "strong"] = "crop"
    flip: bool = True
    download: bool = False
    train_samples: int | None = Field(default=None, ge=1)
    test_samples: int | None = Field(default=None, ge=1)
    held_out: int | None = Field(
        default=None,
        ge=1,
        description="evaluate on so many training images that are not trained on, not on the test set",
    )
    labelled: int | None = Field(default=None, ge=0, description="training images that keep their label, None = all")
    unreadable: Literal["refuse", "skip"] = Field(
        default="refuse", description="an image file that cannot be read ends the run, or the next takes its place"
    )
    workers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _channels_agree(self) -> Data:
        if not len(self.mean) == len(self.std) == self.input_size[0]:
            raise ValueError(
                f"mean and std need one number per channel: {self.input_size[0]} channel(s), "
                f"{len(self.mean)} mean(s), {len(self.std)} std(s)"
            )
        if self.augmentation == "strong" and self.input_size[0] != 3:
            raise ValueError('augmentation "strong" works on colours: use "imagenet" or "crop" for grey images')
        return self


@dataclass(config=_STRICT, kw_only=True)
class Precompute:
    """The teacher's outputs on a few fixed augmented views of the training set, computed once and kept in `folder`."""

    folder: str
    views: int = Field(default=4, ge=1)


@dataclass(config=_STRICT, kw_only=True)
class Engine:
    """How it is computed, not what."""

    compile: bool = False
    channels_last: bool = False
    sync_batchnorm: bool = Field(default=False, description="batch norm over all processes, CUDA only")
    tensorboard: bool = Field(default=False, description="also write TensorBoard events beside metrics.csv")
    checkpoint_every: int | None = Field(default=None, ge=1, description="steps; the end of each epoch always")


@dataclass(config=_STRICT, kw_only=True)
class Recipe:
    """A whole run: teacher, student, method, data, schedule."""

    out: str
    student: Model
    data: Data
    teacher: Teacher | None = None
    method: Method = Field(default_factory=Method)
    schedule: Schedule = Field(default_factory=Schedule)
    baseline: bool = Field(
        default=False, description="also train the student alone, same seed and budget, in baseline/"
    )
    seed: int = Field(default=0, ge=0)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    engine: Engine = Field(default_factory=Engine)
    precompute: Precompute | None = None

    def teacher_recipe(self) -> Recipe | None:
        """The recipe that trains the teacher on the labels, None where it comes trained."""
        if self.teacher is None or self.teacher.schedule is None:
            return None
        model = Model(**{f.name: getattr(self.teacher, f.name) for f in dataclasses.fields(Model)})
        return self._alone(student=model, schedule=self.teacher.schedule, out=str(Path(self.out) / "teacher"))

    def baseline_recipe(self) -> Recipe | None:
        """The recipe of the same student without a teacher: same seed, data and budget."""
        return self._alone(out=str(Path(self.out) / "baseline")) if self.baseline else None

    def _alone(self, **changes: Any) -> Recipe:
        return dataclasses.replace(
            self, teacher=None, baseline=False, precompute=None, method=Method(name="none"), **changes
        )


_ADAPTER = TypeAdapter(Recipe)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `key=value` overrides such as `schedule.epochs=3`.

    Raises:
        RecipeError: a file that is missing or no YAML mapping, an unknown key, a value of the wrong type.
    """
    path = Path(path)
    try:
        values = read_mapping(path)
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}: `ls configs` shows the ones that come with the project.") from None
    for override in overrides:
        _override(values, override)
    return parse_recipe(values, str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, whoever wrote it.

    Raises:
        FileNotFoundError. RecipeError: no YAML, no mapping, or one that grows when it is read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"over {_MOST_BYTES // 1024} KiB")
        values = _values(content.decode())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is no readable YAML file: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} expects a mapping of keys, got {type(values).__name__}.")
    return values


def _values(text: str) -> Any:
    """What YAML stands for.

    Raises:
        ValueError: no YAML, values that are none of their type, or more than `_MOST_VALUES` of them: aliases of aliases
        make a page of text more than a memory holds.
    """
    try:
        loader = yaml.SafeLoader(text)
        top = loader.get_single_node()
        left, nodes = _MOST_VALUES, [] if top is None else [top]
        while nodes:
            node = nodes.pop()
            left -= 1 + (len(node.value) // 64 if isinstance(node, yaml.ScalarNode) else 0)
            if left < 0:
                raise ValueError(f"it stands for over {_MOST_VALUES} values")
            if isinstance(node, yaml.SequenceNode):
                nodes += node.value
            elif isinstance(node, yaml.MappingNode):
                nodes += [part for pair in node.value for part in pair]
        return None if top is None else loader.construct_document(top)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error  # its constructors raise whatever Python does


def parse_recipe(values: dict[str, Any], source: str = "recipe") -> Recipe:
    """A recipe from plain values."""
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {_explain(e)}" for e in error.errors()]
        raise RecipeError(f"{source} — " + "; ".join(lines)) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out."""
    return yaml.safe_dump(_ADAPTER.dump_python(recipe, mode="json"), sort_keys=False, allow_unicode=True)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"overrides are key=value, such as schedule.epochs=3, got {override!r}.")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise RecipeError(f"{key}: {parent!r} holds a value, not a group of keys.")
    try:
        values[last] = _values(text)
    except ValueError as error:
        raise RecipeError(f"{key}: {text!r} is no YAML value: {error}") from error


def _explain(error: Any) -> str:
    if error["type"] == "unexpected_keyword_argument":
        *parents, key = error["loc"]
        return unknown("key", key, _keys_at(parents))
    if error["type"] == "missing":
        return "this key is required"
    return f"{error['msg'].removeprefix('Value error, ')}, got {_shown(error['input'])}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # of a number with thousands of digits
        return f"a {type(value).__name__} too large to show"
    return text if len(text) < 300 else f"{text[:300]}…"


def _keys_at(parents: Sequence[int | str]) -> list[str]:
    groups: dict[str, Any] = {
        "student": Model,
        "teacher": Teacher,
        "method": Method,
        "data": Data,
        "schedule": Schedule,
    }
    groups |= {"engine": Engine, "precompute": Precompute}
    group = groups.get(str(parents[-1]), Recipe) if parents else Recipe
    return [field.name for field in dataclasses.fields(group)]
