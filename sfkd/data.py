"""Data sets: timm's factory, idx files and scikit-learn's digits from disk; each sample with its number."""

from __future__ import annotations

import gzip
import math
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, get_worker_info

from sfkd._random import permutation, seed_generators
from sfkd.config import Data
from sfkd.transforms import DataError, eval_transform, train_transform

Split = Literal["train", "test"]
UNLABELLED = -1
_IDX_NAMES = ("torch/fashion_mnist", "torch/mnist", "torch/kmnist")
_IDX_FOLDERS = (".", "FashionMNIST/raw", "MNIST/raw", "KMNIST/raw")
_STREAMS = ("wds/", "hfids/", "tfds/")
_MOST_IDX = 2**31  # bytes of one file, unpacked
_DIGITS_TESTED = 500  # of scikit-learn's 1,797
_TRIED = 10  # images that cannot be read in a row; more are no accident


class UnreadableImage(DataError):
    """A file that is no picture, or not a whole one, or no longer there."""


class IndexedDataset(Dataset[tuple[Tensor, int, int]]):
    """`(image, label, sample number)` of a data set; methods with a memory need the number.

    Args:
        dataset: `(image, label)` by number.
        transform: of the image.
        seed: where given, what the transform draws is a function of (seed, `epoch`, number) alone, so that neither workers
            nor a training that was stopped change an image.
        labelled: numbers of the samples that keep their label, `[N]` bool; the others have −1. None keeps all.
        skip: give the next image, with its own label and number, where one cannot be read, and warn.
    """

    epoch = 0

    def __init__(
        self,
        dataset: Any,
        transform: Any,
        *,
        seed: int | None = None,
        labelled: np.ndarray | None = None,
        skip: bool = False,
    ) -> None:
        self.dataset, self.transform, self.seed, self.labelled, self.skip = dataset, transform, seed, labelled, skip

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image, label, index = self._read(index)
        if self.seed is not None:
            seed_generators(self.seed, self.epoch, index)
        kept = self.labelled is None or self.labelled[index]
        return self.transform(image), int(label) if kept else UNLABELLED, index

    def _read(self, index: int) -> tuple[Any, Any, int]:
        for number in range(index, index + _TRIED if self.skip else index + 1):
            at = number if number == index else number % len(self.dataset)  # past the end is an IndexError
            try:
                return *self.dataset[at], at
            except UnreadableImage as error:
                if not self.skip:
                    raise
                warnings.warn(f"{error} It is skipped.", stacklevel=2)
        raise DataError(f"{_TRIED} images in a row, from number {index}, cannot be read.")


class ImageFiles(Dataset[tuple[Any, int]]):
    """`(PIL image, label)` of one of timm's readers.

    timm's own data set logs an image that it cannot read and gives the next in its place, under the number of the first.
    """

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        try:
            file, label, *_ = self.reader[index]
            with file, Image.open(file) as opened:
                image = opened.convert(opened.mode if opened.mode in ("L", "RGB", "RGBA") else "RGB")
        except (OSError, SyntaxError, EOFError, zlib.error, Image.DecompressionBombError) as error:
            name = self.reader.filename(index, absolute=True)
            raise UnreadableImage(
                f"{name} cannot be read as a picture ({error}): mend or remove it, or set data.unreadable=skip."
            ) from error
        return image, UNLABELLED if label is None else label


def one_line(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader; an image that cannot be read, without the traceback that a worker process adds."""
    try:
        yield from batches
    except UnreadableImage as error:
        raise UnreadableImage(str(error).strip().rpartition(f"{UnreadableImage.__name__}: ")[2]) from error


class StreamedDataset(IterableDataset[tuple[Tensor, int, int]]):
    """`(image, label, −1)` of a set that can only be read from its beginning, such as `wds/…`.

    Each pass is a function of (seed, `epoch`, worker); shuffling and sharding over workers and processes are timm's.
    """

    epoch = 0

    def __init__(self, data: Data, split: Split, transform: Any, *, seed: int, batch_size: int) -> None:
        self.data, self.transform = data, transform
        self.split: Split = split
        self.seed, self.batch_size = seed, batch_size
        self.length = len(self._opened())

    def _opened(self) -> Any:
        dataset = _from_timm(self.data, self.split, seed=self.seed, batch_size=self.batch_size)
        dataset.set_loader_cfg(num_workers=self.data.workers)
        dataset.set_epoch(self.epoch)
        return dataset

    def __len__(self) -> int:
        """Samples that one process reads in a pass."""
        return self.length

    def __iter__(self) -> Iterator[tuple[Tensor, int, int]]:
        worker = get_worker_info()
        dataset = self._opened()
        for number, (image, label) in enumerate(dataset):
            seed_generators(self.seed, self.epoch, 0 if worker is None else worker.id, number)
            yield self.transform(image), int(label), UNLABELLED


class IdxImages(Dataset[tuple[Tensor, int]]):
    """`(uint8 image [1, H, W], label)` from a pair of idx files (MNIST's format), gzipped or not."""

    def __init__(self, root: str | Path, split: Split) -> None:
        prefix = "train" if split == "train" else "t10k"
        self.images = torch.from_numpy(_read_idx(_find_idx(Path(root), f"{prefix}-images-idx3-ubyte"), 3))
        self.labels = torch.from_numpy(_read_idx(_find_idx(Path(root), f"{prefix}-labels-idx1-ubyte"), 1))
        if len(self.images) != len(self.labels):
            raise DataError(f"{root}: {len(self.images)} images but {len(self.labels)} labels.")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index, None], int(self.labels[index])


class Digits(Dataset[tuple[Tensor, int]]):
    """`(uint8 image [1, 8, 8], label)` of scikit-learn's handwritten digits; 500 of them, chosen once, are the tests."""

    def __init__(self, split: Split) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DataError("sklearn/digits needs scikit-learn: pip install sfkd[data].") from error
        loaded = load_digits()
        order = permutation(len(loaded.target), 0)
        chosen = order[:_DIGITS_TESTED] if split == "test" else order[_DIGITS_TESTED:]
        self.images = torch.from_numpy(loaded.images)[chosen].mul(255 / 16).round().to(torch.uint8)
        self.labels = torch.from_numpy(loaded.target)[chosen]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index, None], int(self.labels[index])


def create_dataset(data: Data, split: Split, *, seed: int = 0, batch_size: int = 1) -> IndexedDataset | StreamedDataset:
    """The training or evaluation set of a recipe, with its transform. Training images are augmented, others are not.

    Args:
        data: of a recipe.
        split: "test" is the test set, or where `data.held_out` is set that part of the training set.
        seed: of augmentation and of the order of streams.
        batch_size: of streams, whose passes are cut to whole batches.

    Raises:
        DataError: nothing readable at `data.root`; a stream that is asked for a part of itself.
    """
    training = split == "train"
    evaluating = eval_transform(data.input_size, data.mean, data.std, data.crop_pct)
    transform = train_transform(data) if training else evaluating
    if data.name.startswith(_STREAMS):
        if data.train_samples or data.test_samples or data.held_out or data.labelled:
            raise DataError(
                f"{data.name} is read as a stream: train_samples, test_samples, held_out and labelled need random access."
            )
        return StreamedDataset(data, split, transform, seed=seed, batch_size=batch_size)
    dataset = _opened(data, "train" if data.held_out else split)
    chosen = _chosen(data, split, len(dataset))
    if chosen is not None:
        dataset = Subset(dataset, chosen)
    skip = data.unreadable == "skip"
    if not training:
        return IndexedDataset(dataset, transform, skip=skip)
    return IndexedDataset(dataset, transform, seed=seed, labelled=_labelled(data, len(dataset)), skip=skip)


def is_stream(dataset: Any) -> bool:
    """Whether a set can only be read from its beginning."""
    return isinstance(dataset, IterableDataset)


def _opened(data: Data, split: Split) -> Any:
    if data.name == "sklearn/digits":
        return Digits(split)
    if data.name in _IDX_NAMES and _has_idx(Path(data.root)):
        return IdxImages(data.root, split)
    return _from_timm(data, split)


def _chosen(data: Data, split: Split, count: int) -> list[int] | None:
    """Sample numbers of a part of a set of `count`, None for all of it; the same every time.

    In one fixed random order, what is trained on comes first and what is held out comes last.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    kept = count - (data.held_out or 0)
    if data.held_out is not None and (kept < 1 or (data.train_samples or 1) > kept):
        raise DataError(
            f"data.held_out={data.held_out} leaves too few of {count} training images for "
            f"train_samples={data.train_samples}: lower one of them."
        )
    if data.held_out is not None and split == "test":
        return order[kept:].tolist()
    limit = data.train_samples if split == "train" else data.test_samples
    limit = kept if limit is None else min(limit, kept)
    return order[:limit].tolist() if limit < count else None


def _labelled(data: Data, count: int) -> np.ndarray | None:
    if data.labelled is None:
        return None
    if data.labelled > count:
        raise DataError(f"data.labelled={data.labelled} of {count} training images: lower it, or leave it out for all.")
    kept = np.zeros(count, dtype=bool)
    kept[permutation(count, 1)[: data.labelled].numpy()] = True
    return kept


def _from_timm(data: Data, split: Split, *, seed: int = 42, batch_size: int = 1) -> Any:
    from timm.data import ImageDataset
    from timm.data import create_dataset as timm_dataset

    name = data.train_split if split == "train" else data.test_split
    training = split == "train"
    try:
        dataset = timm_dataset(
            data.name,
            root=data.root,
            split=name,
            is_training=training,
            download=data.download,
            seed=seed,
            batch_size=batch_size,
        )
        return ImageFiles(dataset.reader) if isinstance(dataset, ImageDataset) else dataset
    except (OSError, RuntimeError, AssertionError, ValueError, ImportError) as error:
        hint = " On Debian: apt install dataset-fashion-mnist." if "fashion_mnist" in data.name else ""
        raise DataError(
            f"no data set {data.name!r} ({name}) in {data.root}: {error}. Set data.root to where it lies, or "
            f"data.download=true to fetch it.{hint}"
        ) from error


def _has_idx(root: Path) -> bool:
    try:
        _find_idx(root, "train-images-idx3-ubyte")
    except DataError:
        return False
    return True


def _find_idx(root: Path, name: str) -> Path:
    for folder in _IDX_FOLDERS:
        for path in (root / folder / name, root / folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise DataError(f"no {name}[.gz] in {root}: set data.root to the folder that holds the idx files.")


def _read_idx(path: Path, dims: int) -> np.ndarray:
    """uint8 array of an idx file: two zero bytes, type 8, number of dimensions, their sizes big-endian, the data."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zeros, kind, count = struct.unpack(">HBB", file.read(4))
            if (zeros, kind, count) != (0, 8, dims):
                raise ValueError(f"not an idx file of {dims} dimension(s) of bytes")
            shape = struct.unpack(f">{dims}I", file.read(4 * dims))
            size = math.prod(shape)
            if size > _MOST_IDX:
                raise ValueError(
                    f"it says that it holds {'×'.join(map(str, shape))} bytes, over {_MOST_IDX // 2**30} GiB"
                )
            content = file.read(size)  # not what a small archive may unfold to
            if len(content) < size or file.read(1):
                raise ValueError(f"it holds {'more' if len(content) == size else 'less'} than it says")
        return np.frombuffer(content, np.uint8).reshape(shape).copy()
    except (OSError, EOFError, struct.error, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read as an idx file: {error}.") from error
