"""A teacher that runs once: its outputs on a few fixed views of every training image, as arrays in a folder.

images.npy     [V, N, C, H, W] float32, the augmented and normalised views
labels.npy     [V, N] int64
logits.npy     [V, N, K] float32
<layer>.npy    [V, N, c, h, w] float16, one file a captured layer
cache.json     what they were computed from, and how far that went

All arrays are memory-mapped. For small machines and small data: V·N images and maps must fit on the disk (a line says how
much that is), every epoch sees one of V views instead of a new one, maps are rounded to half precision, and mixup is not
possible, since a teacher's answer to a mixture is no mixture of its answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from sfkd.config import Data, Recipe
from sfkd.data import create_dataset, is_stream, one_line
from sfkd.features import Backbone, Output
from sfkd.runs import RunError, write_atomically

_FORMAT = "sfkd teacher cache 1"
_ALWAYS = ("images", "labels", "logits")
_ROWS = 64  # images a forward
_NOTED = 4096  # images between two notes of how far it is
# where the data lies and how they are read does not change them
_NOT_IN_KEY = ("root", "download", "workers", "test_split", "test_samples", "labelled", "crop_pct")


class TeacherCache:
    """Outputs of a teacher for `views` fixed augmentations of a training set; view v of image i is always the same.

    Args:
        folder: that `compute` filled.
    """

    def __init__(self, folder: Path) -> None:
        described = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
        self.folder, self.views, self.samples = folder, described["views"], described["samples"]
        self.layers: dict[str, str] = described["layers"]
        self._images, self._labels, self._logits = (_mapped(folder / f"{name}.npy") for name in _ALWAYS)
        self._maps = {layer: _mapped(folder / name) for layer, name in self.layers.items()}

    def batch(self, view: int, index: Tensor, layers: Sequence[str] | None = None) -> tuple[Tensor, Tensor, Output]:
        """Images of one view, their labels and what the teacher gave for them, on the CPU.

        Args:
            index: sample numbers `[B]`.
            layers: whose maps to read; default all.
        """
        rows = index.numpy()
        images, labels, logits = (
            torch.from_numpy(array[view, rows]) for array in (self._images, self._labels, self._logits)
        )
        wanted = self.layers if layers is None else layers
        return (
            images,
            labels,
            Output(logits, {name: torch.from_numpy(self._maps[name][view, rows]).float() for name in wanted}),
        )

    def remembered(self, name: str, compute: Callable[[], float]) -> float:
        """A number about the teacher, computed once and kept with its outputs."""
        file = self.folder / "remembered.json"
        try:
            known = dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
            if name in known:
                return float(known[name])
        except (ValueError, TypeError, RecursionError) as error:
            raise RunError(f"{file} holds no numbers about a teacher ({error}): delete it.") from error
        known[name] = compute()
        write_atomically(file, json.dumps(known) + "\n")
        return float(known[name])


def teacher_cache(
    recipe: Recipe,
    teacher: Backbone,
    *,
    device: torch.device,
    processes: int,
    progress: bool,
    say: Callable[[str], None],
) -> TeacherCache:
    """The cache that a recipe asks for, computed where it is not there; goes on where it was stopped.

    Raises:
        RunError: a cache of another teacher or other data in that folder; streams and mixup; an unfinished cache and
        several processes.
    """
    asked = recipe.precompute
    assert asked is not None
    if recipe.schedule.mixup or recipe.schedule.cutmix:
        raise RunError(
            "precompute knows the teacher's answers to whole images only: set schedule.mixup and cutmix to 0."
        )
    dataset = create_dataset(recipe.data, "train")
    if is_stream(dataset):
        raise RunError(
            f"precompute finds images by their number, which {recipe.data.name} does not have: leave it out."
        )
    folder = Path(asked.folder)
    samples = len(dataset)
    layers = {layer.name: f"{layer.name}.npy".replace("/", "-").replace(":", "-") for layer in teacher.layers}
    description = {
        "format": _FORMAT,
        "key": _key(recipe.data, teacher, layers),
        "views": asked.views,
        "samples": samples,
        "layers": layers,
    }
    done = _done(folder, description)
    total = asked.views * samples
    filling = _Filling(folder, description, recipe.data, teacher, device)
    if done:
        filling.check()
    if done < total:
        if processes > 1:
            raise RunError(f"the teacher's outputs in {folder} are not complete: compute them with one process first.")
        say(
            f"{folder}: the teacher's outputs on {asked.views} view(s) of {samples} images, {_size(recipe, teacher, total)}"
        )
        filling.run(done, progress=progress)
    return TeacherCache(folder)


def _key(data: Data, teacher: Backbone, layers: dict[str, str]) -> str:
    """What the outputs depend on, as a digest."""
    digest = hashlib.sha256(json.dumps([_plain(data), list(layers)]).encode())
    for name, value in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(data: Data) -> dict[str, Any]:
    left_out = (*_NOT_IN_KEY, "held_out") if data.train_samples else _NOT_IN_KEY
    return {k: v for k, v in dataclasses.asdict(data).items() if k not in left_out}


def _done(folder: Path, description: dict[str, Any]) -> int:
    """Rows that are there already, view after view; a cache of something else is refused."""
    file = folder / "cache.json"
    if not file.is_file():
        return 0
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        done = int(found.pop("done"))
        if done < 0:
            raise ValueError(f"done is {done}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RunError(f"{file} is no description of a teacher's outputs ({error}): delete the folder.") from error
    if found != description:
        names = [k for k in {**found, **description} if found.get(k) != description.get(k)]
        raise RunError(
            f"{folder} holds the outputs of another teacher, or on other images (unlike: {', '.join(names)}): choose "
            "another precompute.folder, or delete this one."
        )
    return done


@dataclasses.dataclass(frozen=True)
class _Filling:
    """A cache that is being computed."""

    folder: Path
    description: dict[str, Any]
    data: Data
    teacher: Backbone
    device: torch.device

    def run(self, done: int, *, progress: bool) -> None:
        """Compute what is missing after the first `done` rows, counted view after view."""
        views, samples = self.description["views"], self.description["samples"]
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            name: _mapped(self.folder / name, "r+")
            if done
            else _created(self.folder / name, (views, samples, *shape), kind)
            for name, (shape, kind) in self._shapes().items()
        }
        noted = done
        with tqdm(total=views * samples, initial=done, desc="teacher", unit="image", disable=not progress) as bar:
            while done < views * samples:
                view, first = divmod(done, samples)
                for images, labels, index in self._images(view, first):
                    with torch.no_grad():
                        output = self.teacher(images.to(self.device))
                    values = [images, labels, output.logits, *output.features.values()]
                    for (name, array), value in zip(arrays.items(), values, strict=True):
                        array[view, index.numpy()] = _finite(name, value.cpu().numpy().astype(array.dtype))
                    done += len(index)
                    bar.update(len(index))
                    if done - noted >= _NOTED:
                        noted = self._note(arrays, done)
        self._note(arrays, done)

    def check(self) -> None:
        """Whether the arrays are those that the description promises."""
        for name, (shape, kind) in self._shapes().items():
            array = _mapped(self.folder / name)
            wanted = (self.description["views"], self.description["samples"], *shape)
            if array.shape != wanted or array.dtype != kind:
                raise RunError(
                    f"{self.folder / name} holds {array.dtype} {array.shape}, not {np.dtype(kind)} {wanted}. Delete the "
                    "folder to compute the teacher's outputs anew."
                )

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        layers = self.description["layers"]
        return {
            "images.npy": (self.data.input_size, np.float32),
            "labels.npy": ((), np.int64),
            "logits.npy": ((self.teacher.num_classes,), np.float32),
            **{layers[layer.name]: ((layer.channels, *layer.grid), np.float16) for layer in self.teacher.layers},
        }

    def _images(self, view: int, first: int) -> Iterator[Any]:
        dataset = create_dataset(dataclasses.replace(self.data, labelled=None), "train")
        dataset.epoch = view
        rest = Subset(dataset, range(first, self.description["samples"]))
        return one_line(DataLoader(rest, batch_size=_ROWS, num_workers=self.data.workers))

    def _note(self, arrays: dict[str, np.ndarray], done: int) -> int:
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]
        write_atomically(self.folder / "cache.json", json.dumps(self.description | {"done": done}) + "\n")
        return done


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise RunError(
            f"{name}: the teacher gave values that half precision cannot hold: train with the teacher running."
        )
    return values


def _size(recipe: Recipe, teacher: Backbone, rows: int) -> str:
    """Bytes that the cache takes, and what the disk has."""
    assert recipe.precompute is not None
    image = 4 * int(np.prod(recipe.data.input_size)) + 4 * teacher.num_classes
    maps = sum(2 * layer.channels * layer.grid[0] * layer.grid[1] for layer in teacher.layers)
    folder = Path(recipe.precompute.folder).absolute()
    parent = next(place for place in (folder, *folder.parents) if place.exists())
    needed, free = rows * (image + maps), shutil.disk_usage(parent).free
    if needed > free:
        raise RunError(
            f"the teacher's outputs take {needed / 2**30:.1f} GiB and {parent} has {free / 2**30:.1f} free: fewer "
            "precompute.views, data.train_samples or teacher.layers, or another folder."
        )
    return f"{needed / 2**30:.2f} GiB"


def _mapped(path: Path, mode: Any = "r") -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # of a shape that no file has
            return np.lib.format.open_memmap(path, mode=mode)
    except (OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise RunError(
            f"{path} cannot be read: {error}. Delete the folder to compute the teacher's outputs anew."
        ) from error


def _created(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error}") from error
