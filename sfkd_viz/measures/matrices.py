"""The linear maps under the measures as matrices: much faster on a batch of small maps than general transforms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pywt
import torch
from torch import Tensor

from sfkd.wavelet import Mode, decompose, float32_island, max_levels

Grid = tuple[int, int]

APPROXIMATION, REST = "A", "rest"
# cells up to which one matrix for both axes and all levels is faster than many small products
_SMALL = 256
# values up to which a piece of a batch and what is made of it stay in a processor's cache
_PIECE = 1 << 19


class Level(NamedTuple):
    """One level of a transform: low-pass and high-pass filters along rows `[h', h]` and columns `[w', w]`."""

    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]


def along_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows · x · columnsᵀ for maps `[..., H, W]`: `[..., h, w]`, in one product where the maps are small."""
    height, width = x.shape[-2:]
    maps = x.reshape(-1, height, width)
    shape = (len(maps), len(rows), len(columns))
    if height * width <= _SMALL:
        product = maps.flatten(1) @ torch.kron(rows, columns).T
    else:
        half = (maps.reshape(-1, width) @ columns.T).view(shape[0], height, shape[2])
        product = torch.bmm(rows.expand(shape[0], *rows.shape), half)
    return product.view(*x.shape[:-2], *shape[1:])


def pieces(x: Tensor) -> Iterator[slice]:
    """Parts of a batch that fit a processor's cache; the whole batch on other devices."""
    step = max(1, _PIECE // max(1, x[0].numel())) if x.device.type == "cpu" else len(x)
    return (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))


class Bands:
    """The sub-bands of maps on one grid: `sfkd.decompose`, its numbers written to where they are wanted.

    Attributes:
        levels: levels computed, clamped as in `sfkd.decompose`.
        cells: band → coefficients a channel: "A" and "H2" … "D1", and "rest" where `whole` needs it.
        whole: bands whose inner products sum to that of the maps: the bands themselves as far as the transform is
            orthonormal, and from there on the approximation that it leaves, under the name "rest" where it is no band.
    """

    def __init__(
        self, grid: Grid, wavelet: str, levels: int, mode: Mode, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.levels = min(levels, max_levels(grid, wavelet, mode))
        self._filters: list[Level] = []
        grids, orthonormal = [grid], self.levels
        for level in range(1, self.levels + 1):
            sides = [_analysis(side, wavelet, mode) for side in grids[-1]]
            if orthonormal == self.levels and not all(map(_is_orthonormal, sides)):
                orthonormal = level - 1
            rows, columns = (tuple(torch.from_numpy(f).to(device, dtype) for f in side) for side in sides)
            self._filters.append(Level(rows, columns))  # type: ignore[arg-type]
            grids.append((len(rows[0]), len(columns[0])))
        self._grids, self._rest = grids, orthonormal
        self.cells = {APPROXIMATION: _area(grids[-1])} if self.levels else {}
        for level in range(self.levels, 0, -1):
            self.cells |= {f"{letter}{level}": _area(grids[level]) for letter in "HVD"}
        apart = not self.levels or orthonormal < self.levels
        self.whole = tuple(n for n in self.cells if n != APPROXIMATION and int(n[1:]) <= orthonormal)
        self.whole += (REST if apart else APPROXIMATION,)
        if apart:
            self.cells[REST] = _area(grids[orthonormal])
        self._at_once = next((n for n, g in enumerate(grids) if _area(g) <= _SMALL), len(grids))
        self._matrices = self._small(wavelet, mode, dtype, device)

    def write(self, x: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Write the bands of maps `[n, C, h, w]` to `rows`: band → `[n, C · cells]`, contiguous."""
        with float32_island(x):
            self._write(x.flatten(0, 1), rows, 0)

    def _write(self, x: Tensor, rows: Mapping[str, Tensor], level: int) -> None:
        count = len(x)
        if level == self._at_once:
            for name, matrix in self._matrices.items():
                torch.mm(x.flatten(1), matrix, out=rows[name].view(count, -1))
            return
        if level == self._rest and REST in self.cells:
            rows[REST].view(x.shape).copy_(x)
        if level == self.levels:
            if APPROXIMATION in self.cells:
                rows[APPROXIMATION].view(x.shape).copy_(x)
            return
        (height, width), filters = self._grids[level + 1], self._filters[level]
        low, high = ((x.reshape(-1, x.shape[-1]) @ f.T).view(count, x.shape[-2], width) for f in filters.columns)
        along = [f.expand(count, *f.shape) for f in filters.rows]
        for letter, filtered, half in (("H", along[1], low), ("V", along[0], high), ("D", along[1], high)):
            torch.bmm(filtered, half, out=rows[f"{letter}{level + 1}"].view(count, height, width))
        self._write(torch.bmm(along[0], low), rows, level + 1)

    def _small(self, wavelet: str, mode: Mode, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
        """Matrices `[cells of the level, cells of the band]` for all that is left where the grid is small."""
        start = self._at_once
        if start > self.levels:
            return {}
        unit = torch.eye(_area(self._grids[start]), dtype=torch.float64).view(-1, *self._grids[start])
        found = {}
        if self.levels:
            left = decompose(unit, wavelet, self.levels - start, mode)
            found = {APPROXIMATION: left.approximation}
            for level, detail in zip(range(self.levels, start, -1), left.details, strict=True):
                found |= {f"{letter}{level}": band for letter, band in zip("HVD", detail, strict=True)}
        if REST in self.cells and self._rest >= start:
            found[REST] = decompose(unit, wavelet, self._rest - start, mode).approximation
        return {name: band.flatten(1).to(device, dtype).contiguous() for name, band in found.items()}


@lru_cache(maxsize=256)
def bands_on(grid: Grid, wavelet: str, levels: int, mode: Mode, *, dtype: torch.dtype, device: torch.device) -> Bands:
    """`Bands`, made once."""
    with torch.inference_mode(False), torch.no_grad():
        return Bands(grid, wavelet, levels, mode, dtype=dtype, device=device)


def _analysis(side: int, wavelet: str, mode: Mode) -> tuple[np.ndarray, np.ndarray]:
    """Low-pass and high-pass filters of one axis, `[n, side]`."""
    low, high = pywt.dwt(np.eye(side), wavelet, mode, axis=0)
    return low, high


def _is_orthonormal(filters: tuple[np.ndarray, np.ndarray]) -> bool:
    both = np.concatenate(filters)
    return bool(np.allclose(both.T @ both, np.eye(both.shape[1]), rtol=0, atol=1e-12))


def _area(grid: Grid) -> int:
    return grid[0] * grid[1]
