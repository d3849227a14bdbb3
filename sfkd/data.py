"""Data sets through timm's factory, idx files from disk, and the transforms that fit an image to a model."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from sfkd.config import Data

Split = Literal["train", "test"]
_IDX_NAMES = ("torch/fashion_mnist", "torch/mnist", "torch/kmnist")
_IDX_FOLDERS = (".", "FashionMNIST/raw", "MNIST/raw", "KMNIST/raw")


class DataError(ValueError):
    """Data that cannot be found or read; the message says where it was looked for."""


class IndexedDataset(Dataset[tuple[Tensor, int, int]]):
    """`(image, label, sample number)` of a data set; methods with a memory need the number."""

    def __init__(self, dataset: Any, transform: Any) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image, label = self.dataset[index]
        return self.transform(image), int(label), index


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


def create_dataset(data: Data, split: Split) -> Dataset[tuple[Tensor, int, int]]:
    """The training or test set of a recipe, with its transform. Training images are augmented, test images are not.

    Raises:
        DataError: nothing readable at `data.root`.
    """
    transform = train_transform(data) if split == "train" else eval_transform(data.input_size, data.mean, data.std)
    if data.name in _IDX_NAMES and _has_idx(Path(data.root)):
        dataset: Any = IdxImages(data.root, split)
    else:
        dataset = _from_timm(data, split)
    limit = data.train_samples if split == "train" else data.test_samples
    if limit is not None and limit < len(dataset):
        chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:limit]
        dataset = Subset(dataset, chosen.tolist())
    return IndexedDataset(dataset, transform)


def eval_transform(input_size: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """PIL image or uint8 tensor → normalised `[C, H, W]`.

    Images that are larger on both sides, or less than two thirds of the size, are resized and centre-cropped; those
    in between are zero-padded (28 pixels become 32 without resampling).
    """
    from torchvision.transforms import v2

    channels, height, width = input_size
    size = (height, width)
    return v2.Compose([_to_image, _Channels(channels), _Resize(size), v2.CenterCrop(size), *_to_normalised(mean, std)])


def train_transform(data: Data) -> Any:
    """The training transform: "none", "crop" (4 pixels of padding, random crop, flip), or timm's for "imagenet"."""
    from torchvision.transforms import v2

    channels, height, width = data.input_size
    if data.augmentation == "none":
        return eval_transform(data.input_size, data.mean, data.std)
    if data.augmentation == "imagenet":
        from timm.data import create_transform

        augment = create_transform(
            data.input_size, is_training=True, mean=data.mean, std=data.std, hflip=0.5 if data.flip else 0.0
        )
        return v2.Compose([_to_image, _Channels(channels), v2.ToPILImage(), augment])
    flip = [v2.RandomHorizontalFlip()] if data.flip else []
    size = (height, width)
    crop = v2.RandomCrop(size, padding=4, pad_if_needed=True)
    return v2.Compose(
        [_to_image, _Channels(channels), _Resize(size), crop, *flip, *_to_normalised(data.mean, data.std)]
    )


def _to_image(image: Any) -> Tensor:
    from torchvision.transforms.v2 import functional

    if getattr(image, "mode", "RGB") in ("P", "PA", "LA", "CMYK", "YCbCr", "LAB", "HSV"):  # no grey, no RGB inside
        image = image.convert("RGB")
    return functional.to_image(image)


def _to_normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> list[Any]:
    from torchvision.transforms import v2

    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std)), v2.ToPureTensor()]


class _Channels:
    """Grey or RGB, whichever the model expects; an alpha channel is dropped."""

    def __init__(self, channels: int) -> None:
        if channels not in (1, 3):
            raise DataError(f"images can be given to models of 1 or 3 channels, this one expects {channels}.")
        self.channels = channels

    def __call__(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        image = image[:3] if image.shape[0] == 4 else image
        if image.shape[0] == self.channels:
            return image
        return functional.rgb_to_grayscale(image) if self.channels == 1 else functional.grayscale_to_rgb(image)


class _Resize:
    """To cover `size`, where an image is larger on both sides or much smaller; the same in training and in tests."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        (height, width), (rows, columns) = self.size, image.shape[-2:]
        larger, much_smaller = rows > height and columns > width, max(rows / height, columns / width) < 2 / 3
        if not (larger or much_smaller):
            return image
        scale = max(height / rows, width / columns)
        return functional.resize(image, [round(rows * scale), round(columns * scale)], antialias=True)


def _from_timm(data: Data, split: Split) -> Any:
    from timm.data import create_dataset as timm_dataset

    name = data.train_split if split == "train" else data.test_split
    try:
        return timm_dataset(data.name, root=data.root, split=name, is_training=split == "train", download=data.download)
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
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, count = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
        if (zeros, kind, count) != (0, 8, dims):
            raise ValueError(f"not an idx file of {dims} dimension(s) of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise DataError(f"{path} cannot be read as an idx file: {error}.") from error
