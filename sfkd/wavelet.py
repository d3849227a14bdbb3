"""Multi-level two-dimensional wavelet transform of feature maps.

Wavelets are PyWavelets' definitions, the transform is ptwt's, but for Haar, the default, which is ours: sums and
differences, many times faster. This module adds what feature maps need: exact cropping of odd grids, a clamp on the number
of levels, and a float32 island under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import ptwt
import pywt
import torch
from torch import Tensor

from sfkd._checks import as_real_maps, one_of, unknown

Mode = Literal["symmetric", "reflect", "periodic", "zero", "constant"]
_HAAR = ("haar", "db1")


class Detail(NamedTuple):
    """The three detail sub-bands of one level, each `[..., h, w]`, in PyWavelets' order.

    `horizontal` (alias `LH`) responds to horizontal edges, `vertical` (`HL`) to vertical ones, `diagonal` (`HH`) to
    both.
    """

    horizontal: Tensor
    vertical: Tensor
    diagonal: Tensor

    @property
    def LH(self) -> Tensor:
        """Alias of `horizontal`."""
        return self.horizontal

    @property
    def HL(self) -> Tensor:
        """Alias of `vertical`."""
        return self.vertical

    @property
    def HH(self) -> Tensor:
        """Alias of `diagonal`."""
        return self.diagonal


@dataclass(frozen=True)
class SubBands:
    """Sub-bands of maps `[..., H, W]`.

    Attributes:
        approximation: coarsest low-pass band A_J, `[..., h, w]`.
        details: one `Detail` a level, coarsest (level J) first, as in PyWavelets.
        wavelet: PyWavelets' name.
        mode: padding, PyWavelets' name.
        shape: `(H, W)` of the maps; `reconstruct` crops back to it.
    """

    approximation: Tensor
    details: tuple[Detail, ...]
    wavelet: str
    mode: str
    shape: tuple[int, int]

    @property
    def levels(self) -> int:
        """Number of levels J that were really computed (see `max_levels`)."""
        return len(self.details)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """`("A2", …), ("H2", …), ("V2", …), ("D2", …), ("H1", …), …`: coarsest first."""
        yield f"A{self.levels}", self.approximation
        for level, detail in zip(range(self.levels, 0, -1), self.details, strict=True):
            for letter, band in zip("HVD", detail, strict=True):
                yield f"{letter}{level}", band

    def map(self, function: Callable[[Tensor], Tensor]) -> SubBands:
        """The same tree with `function` applied to every band."""
        return self.replaced(function(self.approximation), [Detail(*map(function, d)) for d in self.details])

    def replaced(self, approximation: Tensor, details: list[Detail] | tuple[Detail, ...]) -> SubBands:
        """The same wavelet, mode and size with other coefficients."""
        return SubBands(approximation, tuple(details), self.wavelet, self.mode, self.shape)


@lru_cache(maxsize=128)
def _wavelet(name: str) -> pywt.Wavelet:
    if not isinstance(name, str):
        raise TypeError(f"wavelet expects a PyWavelets name such as 'haar', got {type(name).__name__}.")
    if name not in pywt.wavelist(kind="discrete"):
        raise ValueError(unknown("discrete wavelet", name, pywt.wavelist(kind="discrete")))
    return pywt.Wavelet(name)


@torch.compiler.assume_constant_result
def max_levels(shape: tuple[int, int], wavelet: str = "haar", mode: Mode = "symmetric") -> int:
    """Most levels that a grid `(H, W)` bears: no band under 2×2, and no side shorter than the filter (our choice).

    Examples:
        >>> max_levels((16, 16)), max_levels((7, 7)), max_levels((2, 2)), max_levels((8, 8), "db4")
        (3, 2, 0, 1)
    """
    filter_length = _wavelet(wavelet).dec_len
    side, levels = min(shape), 0
    while side >= filter_length:
        side = pywt.dwt_coeff_len(side, filter_length, mode)
        if side < 2:
            break
        levels += 1
        if levels >= 32:
            break
    return levels


def decompose(x: Tensor, wavelet: str = "haar", levels: int = 2, mode: Mode = "symmetric") -> SubBands:
    """Multi-level 2-D DWT of maps `[..., H, W]`: W_J(x) = {A_J, (H_j, V_j, D_j), j = J…1}.

    Args:
        x: real maps. float32 and float64 keep their type; half precision and integers are computed in float32.
        wavelet: any discrete wavelet of PyWavelets; the default Haar is our choice (the paper does not say).
        levels: J asked for; clamped to `max_levels`, and `SubBands.levels` tells what was done. 0 gives the map itself.
        mode: padding of sides that 2^J does not divide, PyWavelets' names.

    Returns:
        `SubBands`, coarsest level first. Equal to `pywt.wavedec2` to rounding.

    Raises:
        TypeError: complex or non-tensor input.
        ValueError: fewer than two dimensions, unknown wavelet or mode.

    Examples:
        >>> bands = decompose(torch.ones(3, 8, 8), levels=2)
        >>> [name for name, _ in bands.items()]
        ['A2', 'H2', 'V2', 'D2', 'H1', 'V1', 'D1']
        >>> round(float(bands.approximation.mean()), 4), round(float(bands.details[0].diagonal.abs().max()), 4)
        (4.0, 0.0)

    Source: the multi-level DWT is the paper's (arXiv 2607.01906); wavelet, levels, padding and clamp are ours.
    """
    x = as_real_maps(x, "decompose")
    one_of("mode", mode, get_args(Mode))
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 0:
        raise ValueError(f"levels expects an integer ≥ 0, got {levels!r}.")
    shape = (int(x.shape[-2]), int(x.shape[-1]))
    levels = min(levels, max_levels(shape, wavelet, mode))
    if levels == 0:
        return SubBands(x, (), wavelet, mode, shape)
    with float32_island(x):
        if wavelet in _HAAR:
            approximation, details = _haar_levels(x, levels, mode)
        else:
            approximation, *details = ptwt.wavedec2(x, _wavelet(wavelet), mode=mode, level=levels)
    return SubBands(approximation, tuple(Detail(*d) for d in details), wavelet, mode, shape)


def reconstruct(bands: SubBands) -> Tensor:
    """Inverse of `decompose`, cropped to the size of its input: `reconstruct(decompose(x)) == x` to rounding.

    Examples:
        >>> x = torch.randn(2, 7, 9)
        >>> torch.allclose(reconstruct(decompose(x, "db2")), x, atol=1e-5)
        True
    """
    if not isinstance(bands, SubBands):
        raise TypeError(f"reconstruct expects the SubBands that sfkd.decompose returns, got {type(bands).__name__}.")
    if not bands.details:
        return bands.approximation
    height, width = bands.shape
    with float32_island(bands.approximation):
        if bands.wavelet in _HAAR:
            x = bands.approximation
            for detail in bands.details:
                rows, columns = detail.horizontal.shape[-2:]
                x = _HaarSynthesis.apply(x[..., :rows, :columns], *detail)
        else:
            details = (ptwt.WaveletDetailTuple2d(*detail) for detail in bands.details)
            x = ptwt.waverec2((bands.approximation, *details), _wavelet(bands.wavelet))
    return x[..., :height, :width]


class _HaarAnalysis(torch.autograd.Function):
    """One level of the orthonormal Haar transform of `[..., H, W]` with even sides: A, H, V, D.

    Two passes of sums and differences, rows first. The gradient is the inverse transform; left to autograd it would fill
    eight tensors of zeros.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        above, below = x[..., 0::2, :], x[..., 1::2, :]
        total, difference = above + below, above - below
        (a, b), (c, d) = ((y[..., 0::2], y[..., 1::2]) for y in (total, difference))
        return (a + b).mul_(0.5), (c + d).mul_(0.5), (a - b).mul_(0.5), (c - d).mul_(0.5)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # type: ignore[override]
        return _HaarSynthesis.apply(*gradients)


class _HaarSynthesis(torch.autograd.Function):
    """The inverse of `_HaarAnalysis`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, h: Tensor, v: Tensor, d: Tensor) -> Tensor:
        rows, columns = a.shape[-2:]
        x = a.new_empty(*a.shape[:-2], 2 * rows, 2 * columns)
        for row, left, right in ((0, a + h, v + d), (1, a - h, v - d)):
            _write(torch.add, left, right, x[..., row::2, 0::2])
            _write(torch.sub, left, right, x[..., row::2, 1::2])
        return x.mul_(0.5)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return _HaarAnalysis.apply(gradient)


def _write(operation: Callable[..., Tensor], a: Tensor, b: Tensor, view: Tensor) -> None:
    """`operation(a, b)` into a view; `torch.compile` refuses `out=` that is not contiguous, and needs it not."""
    if torch.compiler.is_compiling():
        view.copy_(operation(a, b))
    else:
        operation(a, b, out=view)


def _haar_levels(x: Tensor, levels: int, mode: Mode) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """The approximation, and details coarsest first; odd sides are padded by one at each level, as PyWavelets does."""
    details: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(levels):
        x, h, v, d = _HaarAnalysis.apply(_evened(x, mode))
        details.insert(0, (h, v, d))
    return x, details


def _evened(x: Tensor, mode: Mode) -> Tensor:
    """`x` with one row or column more where a side is odd."""
    for dim in (-2, -1):
        side = x.shape[dim]
        if side % 2 == 0:
            continue
        if mode == "zero":
            added = torch.zeros_like(x.narrow(dim, 0, 1))
        else:
            source = {"symmetric": side - 1, "constant": side - 1, "reflect": max(side - 2, 0), "periodic": 0}[mode]
            added = x.narrow(dim, source, 1)
        x = torch.cat([x, added], dim)
    return x


def float32_island(x: Tensor) -> AbstractContextManager[object]:
    """Context without autocast: wavelet and Fourier transforms refuse or ruin half precision."""
    return torch.autocast(x.device.type, enabled=False)
