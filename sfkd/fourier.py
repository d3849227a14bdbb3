"""Fourier side of feature maps: power spectrum, radial profile, Gaussian masks.

Frequencies are in cycles/pixel of the map unless an option says otherwise; the Nyquist frequency of an axis is 0.5, the
corner of the plane 0.5·√2. All transforms are orthonormal, so the sum of a power spectrum is the energy of the map.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sfkd._checks import as_real_maps, one_of
from sfkd.wavelet import float32_island

MaskKind = Literal["low", "high", "band"]
Layout = Literal["centered", "fft", "rfft"]
FrequencyUnit = Literal["cycles/pixel", "cycles/image", "pi"]


class RadialProfile(NamedTuple):
    """Mean power per ring: `frequency` `[R]` in `unit`, `power` `[..., R]`, `coefficients` `[R]` in each ring."""

    frequency: Tensor
    power: Tensor
    coefficients: Tensor
    unit: FrequencyUnit


def power_spectrum(x: Tensor) -> Tensor:
    """|F(x)|² of maps `[..., H, W]`, orthonormal FFT, zero frequency at `[H // 2, W // 2]`.

    Its sum over the plane is Σx² (Parseval). Half precision and integers are computed in float32.

    Examples:
        >>> float(power_spectrum(torch.ones(4, 4))[2, 2])
        16.0
    """
    x = as_real_maps(x, "power_spectrum")
    with float32_island(x):
        return torch.fft.fftshift(torch.fft.fft2(x, norm="ortho").abs().square(), dim=(-2, -1))


def frequency_grid(
    shape: tuple[int, int], *, layout: Layout = "centered", device: torch.device | str | None = None
) -> Tensor:
    """Radial frequency ‖f‖ in cycles/pixel, float64: `[H, W]`, or `[H, W // 2 + 1]` for `layout="rfft"`."""
    one_of("layout", layout, get_args(Layout))
    height, width = shape
    columns = torch.fft.rfftfreq if layout == "rfft" else torch.fft.fftfreq
    rows_f = torch.fft.fftfreq(height, dtype=torch.float64, device=device)
    columns_f = columns(width, dtype=torch.float64, device=device)
    grid = torch.hypot(rows_f[:, None], columns_f[None, :])
    return torch.fft.fftshift(grid) if layout == "centered" else grid


def radial_profile(power: Tensor, *, unit: FrequencyUnit = "cycles/pixel") -> RadialProfile:
    """Mean power per ring of a centred power spectrum `[..., H, W]`.

    Rings are one cycle per image wide (of the longer side), centred on whole cycles; every coefficient of the plane falls
    in one ring, corners included.

    Args:
        power: what `power_spectrum` returns.
        unit: "cycles/pixel" (0 … 0.5·√2; compares filters, not image content, across unequal grids), "cycles/image"
            (compares image content across grids), "pi" (1 is Nyquist: π radians/pixel).

    Examples:
        >>> profile = radial_profile(power_spectrum(torch.ones(8, 8)))
        >>> float(profile.power[0]), float(profile.power[1:].sum())
        (64.0, 0.0)
    """
    power = as_real_maps(power, "radial_profile")
    one_of("unit", unit, get_args(FrequencyUnit))
    shape = (int(power.shape[-2]), int(power.shape[-1]))
    ring, count, cycles = _rings(shape)
    ring, count = ring.to(power.device), count.to(power)
    totals = power.new_zeros(*power.shape[:-2], len(count)).index_add_(-1, ring, power.flatten(-2))
    scale = {"cycles/image": 1.0, "cycles/pixel": 1 / max(shape), "pi": 2 / max(shape)}[unit]
    return RadialProfile(cycles.to(power) * scale, totals / count, count, unit)


@lru_cache(maxsize=64)
def _rings(shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Ring of each coefficient, coefficients per ring, centre of each ring in cycles/image; empty rings left out."""
    with torch.inference_mode(False):
        nearest = torch.round(frequency_grid(shape) * max(shape)).long().flatten()
        cycles, ring, count = torch.unique(nearest, return_inverse=True, return_counts=True)
        return ring, count, cycles


def gaussian_mask(
    shape: tuple[int, int],
    sigma: float | tuple[float, float] = 0.25,
    kind: MaskKind = "low",
    *,
    layout: Layout = "centered",
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Gaussian mask over the frequency plane: G(f) = exp(−‖f‖² / 2σ²).

    Args:
        shape: `(H, W)` of the map.
        sigma: width σ in cycles/pixel, > 0; for `kind="band"` a pair (σ₁, σ₂) with σ₁ < σ₂.
        kind: "low" G, "high" 1 − G, "band" G(σ₂) − G(σ₁).
        layout: "centered" (zero frequency in the middle), "fft", or "rfft" (half plane, `[H, W // 2 + 1]`).

    Source: a Gaussian filter on the Fourier side is the paper's (arXiv 2607.01906); form, unit and σ = 0.25 (half of
    Nyquist) are ours.

    Examples:
        >>> gaussian_mask((5, 5)).max().item()
        1.0
    """
    one_of("kind", kind, get_args(MaskKind))
    if len(shape) != 2 or any(isinstance(n, bool) or int(n) != n or n < 1 for n in shape):
        raise ValueError(f"gaussian_mask expects shape (H, W) of positive integers, got {shape!r}.")
    widths: tuple[float, ...] = tuple(sigma) if isinstance(sigma, (tuple, list)) else (sigma,)
    expected = 2 if kind == "band" else 1
    if len(widths) != expected or any(not float(s) > 0 for s in widths):
        wanted = "a pair (σ₁, σ₂)" if kind == "band" else "one number"
        raise ValueError(f"gaussian_mask(kind={kind!r}) expects sigma as {wanted} > 0 in cycles/pixel, got {sigma!r}.")
    if kind == "band" and not widths[0] < widths[1]:
        raise ValueError(f"gaussian_mask(kind='band') expects σ₁ < σ₂, got {sigma!r}: swap them.")
    squared = frequency_grid((int(shape[0]), int(shape[1])), layout=layout, device=device).square()
    low = [torch.exp(-squared / (2 * float(s) ** 2)) for s in widths]
    masks: dict[MaskKind, Tensor] = {"low": low[0], "high": 1 - low[0], "band": low[-1] - low[0]}
    return masks[kind].to(dtype)


def hermitian_weights(width: int, *, device: torch.device | str | None = None) -> Tensor:
    """How often each column of `rfft2` stands in the full plane, `[width // 2 + 1]`: 2 inside, 1 at DC and even Nyquist."""
    weights = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    weights[0] = 1.0
    if width % 2 == 0:
        weights[-1] = 1.0
    return weights
