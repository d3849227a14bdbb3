"""What every measure accepts: torch or numpy, `[H, W]`, `[C, H, W]` or `[B, C, H, W]`, real and finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

Channel = int | Literal["energy", "pc1", "pc2", "pc3"]
Feature = Any
# what the models of a run or an analysis are called
WORDS = {"teacher": "teacher", "student": "student", "baseline": "student alone"}
_T = TypeVar("_T")
_COMPONENTS = {"pc1": 0, "pc2": 1, "pc3": 2}
_DIMENSIONS = {2: "[H, W]", 3: "[C, H, W]", 4: "[B, C, H, W]"}


def as_maps(feat: Feature, name: str = "feat") -> Tensor:
    """`as_finite_maps`, of values whose squares are finite, too.

    Raises:
        ValueError: values whose squares overflow.
    """
    x = as_finite_maps(feat, name)
    if not torch.isfinite(torch.linalg.vector_norm(x)):
        raise _too_large(name, x)
    return x


def as_finite_maps(feat: Feature, name: str) -> Tensor:
    """`feat` as a real, finite, detached tensor `[B, C, H, W]` on the CPU, float32 or float64.

    Three dimensions are always read as `[C, H, W]`; token sequences go through `sfkd.tokens_to_map` first.

    Raises:
        TypeError: no array, or complex or non-numeric values.
        ValueError: other dimensions, empty, NaN or infinite.
    """
    if isinstance(feat, Tensor) and feat.is_meta:
        raise TypeError(f"{name} expects values, got a tensor on the meta device, which has none.")
    x = feat.detach().cpu() if isinstance(feat, Tensor) else _from_array(feat, name)
    if x.is_complex():
        raise TypeError(f"{name} is complex ({x.dtype}): pass its .real, .imag or abs().")
    if x.ndim not in _DIMENSIONS:
        raise ValueError(
            f"{name} expects [H, W], [C, H, W] or [B, C, H, W], got {x.ndim} dimension(s) of shape {tuple(x.shape)}: "
            "token sequences [B, N, C] go through sfkd.tokens_to_map."
        )
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(x.shape)}.")
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if not _is_finite(x):
        nan, infinite = int(x.isnan().sum()), int(x.isinf().sum())
        raise ValueError(f"{name} has {nan} NaN and {infinite} infinite value(s) of {x.numel()}: mend them first.")
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def image_norms(role: str, layer: str, x: Tensor) -> Tensor:
    """L2 norm of each image's maps `[n, C, H, W]`, float64 `[n]` on the CPU; the cheapest way to see that all is finite.

    Raises:
        ValueError: NaN, infinite values, and values whose squares exceed float32.
    """
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    norms = torch.linalg.vector_norm(wide.flatten(1), dim=1).cpu().double()
    if not torch.isfinite(norms).all():
        check_finite(role, layer, x)
        raise _too_large(f"layer {layer!r} of {role}", wide)
    return norms


def _too_large(name: str, x: Tensor) -> ValueError:
    largest, kind = float(x.abs().max()), str(x.dtype).removeprefix("torch.")
    return ValueError(f"{name} has values up to {largest:.2g}, whose squares exceed {kind}: scale it.")


def check_finite(role: str, layer: str, x: Tensor) -> None:
    """Refuse NaN and infinite features by the name of their layer."""
    if not _is_finite(x):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(
            f"layer {layer!r} of {role} has {bad} NaN or infinite value(s) of {x.numel()}: only finite features can be "
            "compared; leave the layer out or mend the model."
        )


def _is_finite(x: Tensor) -> bool:
    """A sum is several times as fast as looking at each value; it may overflow where all values are finite."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def named(features: Feature | Mapping[str, Feature], default: str = "") -> dict[str, Feature]:
    """One feature or several by name, as a mapping."""
    if not isinstance(features, Mapping):
        return {default: features}
    if not features:
        raise ValueError("expected at least one feature by name, got an empty mapping.")
    return dict(features)


def measured(
    features: Feature | Mapping[str, Feature],
    measure: Callable[[Any], _T],
    ready: type[_T],
    *,
    taken: tuple[type, ...] = (),
    default: str = "",
) -> dict[str, _T]:
    """`measure` of every feature by name; results of type `ready` pass, those of `taken` go to `measure` as they are.

    A feature that is refused is refused by its own name.
    """
    return {
        name: f if isinstance(f, ready) else measure(f if isinstance(f, taken) else as_maps(f, name or "feat"))
        for name, f in named(features, default).items()
    }


def reading(feat: Feature) -> str:
    """How the dimensions of `feat` were read, for titles: "[C, H, W]"."""
    return _DIMENSIONS[np.ndim(feat) if not isinstance(feat, Tensor) else feat.ndim]


def reduce_channels(x: Tensor, channel: Channel, name: str = "feat") -> tuple[Tensor, str]:
    """One channel or component of maps `[B, C, H, W]` as `[B, 1, H, W]`, or all channels for "energy"; and its name.

    See `channel_loading` for the components.
    """
    loading, label = channel_loading(x, channel, name)
    return (x if loading is None else project(x, loading)), label


def channel_loading(x: Tensor, channel: Channel, name: str = "feat") -> tuple[Tensor | None, str]:
    """Weights `[C]` that make one map of the channels of `x` `[B, C, H, W]`, and a label; None for "energy".

    Principal components are those of the channels over all images and positions, mean removed; the sign is set so that
    the largest loading is positive.
    """
    channels = x.shape[1]
    if channel == "energy":
        return None, f"mean energy of {channels} channel{'s' * (channels > 1)}"
    if isinstance(channel, str):
        if channel not in _COMPONENTS:
            raise ValueError(f'channel expects a number, "energy", "pc1", "pc2" or "pc3", got {channel!r}.')
        if _COMPONENTS[channel] >= channels:
            raise ValueError(f"{name} has {channels} channel(s), so no principal component {_COMPONENTS[channel] + 1}.")
        return _component(x, _COMPONENTS[channel])
    if isinstance(channel, bool) or not isinstance(channel, (int, np.integer)):
        raise TypeError(f'channel expects a number, "energy", "pc1", "pc2" or "pc3", got {channel!r}.')
    if not 0 <= channel < channels:
        raise ValueError(f"{name} has channels 0 to {channels - 1}, got {channel}.")
    return torch.nn.functional.one_hot(torch.tensor(int(channel)), channels).to(x.dtype), f"channel {channel}"


def project(x: Tensor, loading: Tensor) -> Tensor:
    """Maps `[B, C, H, W]` weighted by `loading` `[C]`: `[B, 1, H, W]`."""
    return torch.einsum("bchw,c->bhw", x, loading)[:, None]


def _component(x: Tensor, rank: int) -> tuple[Tensor, str]:
    flat = x.movedim(1, -1).flatten(0, -2).double()
    flat = flat - flat.mean(0)
    variance, vectors = torch.linalg.eigh(flat.T @ flat)
    vector = vectors[:, -1 - rank]
    vector = vector * torch.sign(vector[vector.abs().argmax()])
    variance = variance.clamp_min(0)
    share = float(variance[-1 - rank] / variance.sum().clamp_min(1e-300))
    return vector.to(x.dtype), f"principal component {rank + 1} ({100 * share:.0f} % of the variance)"


def _from_array(feat: Feature, name: str) -> Tensor:
    array = np.asarray(feat)
    if array.dtype.kind not in "fiubc":
        raise TypeError(
            f"{name} expects a torch tensor or a numeric array, got {type(feat).__name__} of {array.dtype}."
        )
    if array.dtype.kind == "f" and array.dtype.itemsize not in (2, 4, 8):
        array = array.astype(np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array))
