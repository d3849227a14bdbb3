"""A run folder: what lies where, written so that a kill at any moment leaves nothing half done.

config.yaml            the recipe, every default written out
student/               timm's local-dir layout (config.json, model.safetensors)
distiller.safetensors  the distiller's own tensors: projections, refiners, statistics
metrics.csv            a row an epoch
progress.json          epoch and step, about once a second while it trains
environment.json       versions, commit, seed, global batch, machine
checkpoint.safetensors everything needed to go on; removed from exports
teacher/, baseline/    complete run folders of their own, where the recipe trains these
"""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from sfkd.config import Data, Recipe, dump_recipe, load_recipe
from sfkd.features import Backbone
from sfkd.weights import WeightsError, read_safetensors

_EXPORTED = ("config.yaml", "distiller.safetensors", "metrics.csv", "environment.json", "README.md")
_PACKAGES = ("torch", "torchvision", "timm", "ptwt", "PyWavelets", "accelerate", "numpy")


class RunError(ValueError):
    """A folder that is no run, or no run that can go on; the message says why."""


class Checkpoint(NamedTuple):
    """Full state after `epoch` whole epochs and `step` steps of the next; `tensors` by name, `state` plain values."""

    epoch: int
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class RunFolder:
    """Paths and files of one run. Knows nothing of models or methods."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def student(self) -> Path:
        return self.path / "student"

    @property
    def distiller(self) -> Path:
        return self.path / "distiller.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def finished(self) -> bool:
        """Whether training reached its last epoch."""
        return (self.student / "model.safetensors").is_file()

    def nested(self, role: str) -> RunFolder | None:
        """The run in `teacher/` or `baseline/`, None where there is none."""
        folder = RunFolder(self.path / role)
        return folder if (folder.path / "config.yaml").is_file() else None

    def recipe(self) -> Recipe:
        """The recipe in `config.yaml`."""
        if not self.path.is_dir():
            raise RunError(f"no run folder at {self.path}: pass a folder that `sfkd train` made.")
        if not (self.path / "config.yaml").is_file():
            if begun := [role for role in ("teacher", "baseline") if self.nested(role)]:
                raise RunError(
                    f"{self.path} has only its {' and '.join(begun)} so far: give its `sfkd train` command again to go on."
                )
            raise RunError(f"{self.path} is no run folder: config.yaml is missing.")
        return load_recipe(self.path / "config.yaml")

    def begin(self, recipe: Recipe, environment: dict[str, Any]) -> None:
        """Create the folder; refuse to go on in one that another recipe began, and show the difference."""
        self.path.mkdir(parents=True, exist_ok=True)
        for left in self.path.glob(".*.partial"):  # by a kill in the middle of a write
            _remove(left)
        if (self.path / "config.yaml").is_file():
            changes = _difference(self.recipe(), recipe)
            if changes:
                raise RunError(
                    f"{self.path} was begun with another recipe ({'; '.join(changes)}): "
                    "choose another out=…, or delete the folder to start anew."
                )
            return
        write_atomically(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")
        write_atomically(self.path / "config.yaml", dump_recipe(recipe))

    def environment(self) -> dict[str, Any]:
        """What `environment.json` holds."""
        return json.loads((self.path / "environment.json").read_text(encoding="utf-8"))

    def describe(self, **known: Any) -> None:
        """Add to `environment.json`."""
        write_atomically(self.path / "environment.json", json.dumps(self.environment() | known, indent=2) + "\n")

    # -- metrics ------------------------------------------------------------------------------------------------------

    def metrics(self) -> list[dict[str, float]]:
        """Rows of `metrics.csv` as numbers."""
        path = self.path / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]

    def write_metrics(self, rows: list[dict[str, float]]) -> None:
        """Replace `metrics.csv`; columns in the order in which rows have them, empty where a row lacks one."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = [",".join(names)] + [",".join(_number(row.get(k)) for k in names) for row in rows]
        write_atomically(self.path / "metrics.csv", "\n".join(lines) + "\n")

    def write_progress(self, progress: dict[str, float]) -> None:
        """Where the training is inside an epoch, in `progress.json`, for who watches from another process."""
        write_atomically(self.path / "progress.json", json.dumps(progress) + "\n")

    # -- checkpoint ---------------------------------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """One file, written beside and renamed over the last: there is always one whole checkpoint."""
        meta = {"state": json.dumps(checkpoint.state), "epoch": str(checkpoint.epoch), "step": str(checkpoint.step)}
        save_safetensors(self.checkpoint, checkpoint.tensors, meta)

    def load_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint, None where there is none."""
        path = self.checkpoint
        if not path.is_file():
            return None
        from safetensors import safe_open

        tensors = read_safetensors(path)
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
        try:
            return Checkpoint(int(meta["epoch"]), int(meta.get("step", 0)), tensors, json.loads(meta["state"]))
        except (KeyError, ValueError, RecursionError) as error:
            raise WeightsError(
                f"{path} is no checkpoint of this program ({type(error).__name__}: {error}): delete it to start anew."
            ) from error

    # -- export -------------------------------------------------------------------------------------------------------

    def export(self, destination: str | Path) -> RunFolder:
        """Copy what is needed to inspect and use the run, without checkpoints, nested runs included."""
        if not self.finished:
            raise RunError(f"{self.path} has not finished training: run `sfkd train` on its recipe again to go on.")
        target = RunFolder(destination)
        if target.path.resolve() == self.path.resolve():
            raise RunError(f"{self.path} would be exported onto itself: choose another destination.")
        target.path.mkdir(parents=True, exist_ok=True)
        # contents alone: safetensors writes files that only their owner may read
        for name in _EXPORTED:
            if (self.path / name).is_file():
                with written_beside(target.path / name) as beside:
                    shutil.copyfile(self.path / name, beside)
        for role in ("teacher", "baseline"):
            if nested := self.nested(role):
                nested.export(target.path / role)
        with written_beside(target.student) as beside:  # last, since it makes the run a finished one
            shutil.copytree(self.student, beside, copy_function=shutil.copyfile)
        return target


def save_model(model: Backbone, folder: Path, data: Data) -> None:
    """Save a timm model for `timm.create_model("local-dir:…", pretrained=True)`, with the input that its weights expect."""
    from timm.models import save_for_hf

    inner = model.model
    if not hasattr(inner, "pretrained_cfg"):
        raise RunError(f"{type(inner).__name__} is no timm model: save its state_dict() yourself.")
    mean, std = model.own_normalization or (data.mean, data.std)
    expected = {"input_size": data.input_size, "mean": mean, "std": std, "crop_pct": data.crop_pct}
    inner.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # safetensors knows no other
    folder.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(folder) as beside:
        save_for_hf(inner, str(beside), safe_serialization=True, data_config=expected)


def save_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Atomic `safetensors` file."""
    from safetensors.torch import save_file

    with written_beside(path) as beside:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, beside, metadata)


def write_atomically(path: Path, text: str) -> None:
    """Write beside, then rename: readers see the old text or the new, never half of it."""
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all is written; on an error what was there stays.

    Raises:
        RunError: it could not be written.
    """
    from safetensors import SafetensorError

    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        if path.is_dir():
            shutil.rmtree(path)
        beside.replace(path)
    except (OSError, SafetensorError) as error:  # a full disk, a folder that may not be written
        raise RunError(f"{path} could not be written, what was there before is kept: {error}") from error
    finally:
        _remove(beside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def environment(seed: int, global_batch: int, processes: int, device: str) -> dict[str, Any]:
    """Versions, commit, seed, global batch and machine of a run."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "seed": seed,
        "global_batch": global_batch,
        "processes": processes,
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout this package runs from, "+" where it has changes."""
    root = Path(__file__).resolve().parent.parent
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
        return commit + ("+" if dirty.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _difference(before: Recipe, now: Recipe) -> list[str]:
    """`key: before → now` for what differs; where the run lies does not matter."""
    old, new = (_flat(yaml.safe_load(dump_recipe(r))) for r in (before, now))
    keys = [k for k in {**old, **new} if k != "out" and old.get(k) != new.get(k)]
    return [f"{k}: {old.get(k)!r} → {new.get(k)!r}" for k in keys]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
