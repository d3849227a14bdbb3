"""Images as models want them: size, channels, normalisation, augmentation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfkd.config import Data


class DataError(ValueError):
    """Data that cannot be found, read or brought into the form that a model wants; the message says what to do."""


def eval_transform(
    input_size: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...], crop_pct: float = 1.0
) -> Any:
    """PIL image or uint8 tensor → normalised `[C, H, W]`.

    Images that are larger on both sides, or less than two thirds of the size, are resized so that the share `crop_pct` of
    their shorter side is kept, and centre-cropped; those in between are zero-padded (28 pixels become 32 without
    resampling).
    """
    from torchvision.transforms import v2

    channels, height, width = input_size
    size = (height, width)
    resize = _Resize(size, crop_pct)
    return v2.Compose([_to_image, _Channels(channels), resize, v2.CenterCrop(size), *_to_normalised(mean, std)])


def train_transform(data: Data) -> Any:
    """The training transform of `data.augmentation`.

    "none" is the test transform; "crop" 4 pixels of padding, random crop, flip; "imagenet" timm's random resized crop and
    flip; "strong" that with colour jitter 0.4, RandAugment (rand-m9-mstd0.5-inc1) and random erasing 0.25, which published
    recipes give transformers.
    """
    from torchvision.transforms import v2

    channels, height, width = data.input_size
    if data.augmentation == "none":
        return eval_transform(data.input_size, data.mean, data.std, data.crop_pct)
    if data.augmentation in ("imagenet", "strong"):
        from timm.data import create_transform

        strong = {"color_jitter": 0.4, "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel"}
        augment = create_transform(
            data.input_size,
            is_training=True,
            mean=data.mean,
            std=data.std,
            hflip=0.5 if data.flip else 0.0,
            **(strong if data.augmentation == "strong" else {"color_jitter": None}),
        )
        return v2.Compose([_Picture(channels), augment])
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


class _Picture:
    """A PIL image of grey or RGB for timm's transforms; what is one already is not turned into a tensor and back."""

    def __init__(self, channels: int) -> None:
        self.mode, self.channels = ("L" if channels == 1 else "RGB"), _Channels(channels)

    def __call__(self, image: Any) -> Any:
        from torchvision.transforms.v2 import functional

        if getattr(image, "mode", None) in ("L", "RGB", "RGBA"):
            return image.convert(self.mode)
        return functional.to_pil_image(self.channels(_to_image(image)))


class _Resize:
    """To cover `size` over `crop_pct`, where an image is larger on both sides or much smaller."""

    def __init__(self, size: tuple[int, int], crop_pct: float = 1.0) -> None:
        self.size, self.crop_pct = size, crop_pct

    def __call__(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        (height, width), (rows, columns) = self.size, image.shape[-2:]
        larger, much_smaller = rows > height and columns > width, max(rows / height, columns / width) < 2 / 3
        if not (larger or much_smaller):
            return image
        scale = max(height / rows, width / columns) / self.crop_pct
        return functional.resize(image, [round(rows * scale), round(columns * scale)], antialias=True)
