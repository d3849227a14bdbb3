"""Maps on a smaller grid without aliasing, so that layers of unequal grids compare at equal cycles/image."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from sfkd._checks import as_real_maps
from sfkd.wavelet import float32_island
from sfkd_viz.measures.matrices import along_axes


def fourier_crop(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Maps `[..., H, W]` on a smaller grid `(h, w)`: their Fourier coefficients below its Nyquist, amplitudes kept.

    y(k) = x(k)·(h·w)/(H·W) for |k| < n/2 cycles/image along each axis (unnormalised FFT); on an even side the
    coefficients at +n/2 and −n/2 fall together, as in `scipy.signal.resample`. A wave that the smaller grid cannot carry
    vanishes (area averaging would let 8 cycles on a 56 grid reappear as 6 on a 14 grid); one that it can keeps its
    amplitude. Cropping in two steps equals cropping in one. Computed as a matrix along each axis.

    Args:
        x: real maps; half precision and integers are computed in float32.
        shape: (h, w), neither side larger than that of the maps.

    Raises:
        ValueError: a side that would have to grow.

    Source: Fourier resampling is textbook; that alignment is measured on it is ours.

    Examples:
        >>> wave = torch.cos(2 * torch.pi * 3 * torch.arange(56) / 56).expand(56, 56)
        >>> round(float(fourier_crop(wave, (14, 14)).abs().max()), 5)
        1.0
    """
    x = as_real_maps(x, "fourier_crop")
    height, width = int(x.shape[-2]), int(x.shape[-1])
    if not (1 <= shape[0] <= height and 1 <= shape[1] <= width):
        raise ValueError(
            f"fourier_crop goes from a grid of {height}×{width} to a smaller one, got {tuple(shape)}: "
            "crop both maps to the smaller side of each axis."
        )
    if shape == (height, width):
        return x
    with float32_island(x):
        return along_axes(x, _crop(height, shape[0], x.dtype, x.device), _crop(width, shape[1], x.dtype, x.device))


@lru_cache(maxsize=256)
def _crop(side: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`[size, side]`: the crop of one axis."""
    with torch.inference_mode(False), torch.no_grad():
        waves = torch.fft.rfft(torch.eye(side, dtype=torch.float64), dim=0, norm="forward")[: size // 2 + 1]
        if size % 2 == 0 and size < side:
            waves[-1] *= 2  # +n/2 and −n/2 meet in one coefficient, of which irfft reads the real part alone
        return torch.fft.irfft(waves, n=size, dim=0, norm="forward").to(device, dtype).contiguous()
