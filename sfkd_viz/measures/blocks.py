"""Unbiased HSIC of layers over fixed blocks of images, per sub-band: what CKA and transfer are made of.

Features come in batches of any size and are regrouped into blocks in the order in which they come, so neither batch size
nor the number of workers changes a result, and memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfkd.wavelet import Mode, decompose, float32_island, max_levels
from sfkd_viz.measures.crop import fourier_crop

BLOCK = 256
SMALLEST = 4  # the unbiased estimator divides by n (n − 3)
WHOLE, APPROXIMATION = "all", "A"
# energy below this part of the layer's own is rounding: float32 keeps about 1e-14 of it after a transform
_ROUNDING = 1e-12

Grid = tuple[int, int]
Features = Mapping[str, Tensor]


class BlockHSIC(NamedTuple):
    """Unbiased HSIC of one block: `cross` of layers a × b, `own_a` and `own_b` of each layer with itself.

    All `[bands, rows, columns]` float64, on the common grid of each pair (`own_*` depend on it too); `images` in the
    block. NaN where a pair's grid does not bear the band.
    """

    cross: np.ndarray
    own_a: np.ndarray
    own_b: np.ndarray
    images: int

    @property
    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`cross`, `own_a`, `own_b`."""
        return self[:3]


def band_names(levels: int) -> tuple[str, ...]:
    """`("all", "A", "H2", "V2", "D2", "H1", …)`: the whole map, the approximation, details coarsest first.

    "A" is the approximation at the coarsest level that a pair's grid bears.
    """
    details = [f"{letter}{level}" for level in range(levels, 0, -1) for letter in "HVD"]
    return (WHOLE, APPROXIMATION, *details) if levels else (WHOLE,)


def common_grid(a: Grid, b: Grid) -> Grid:
    """The smaller side along each axis."""
    return min(a[0], b[0]), min(a[1], b[1])


def centred_gram(x: Tensor) -> np.ndarray:
    """U-centred Gram matrix of `[n, D]`, float64, zero diagonal (Székely and Rizzo, 2014, eq. 2.4).

    Subtracting one vector from all rows changes nothing in it, so features may be centred first. The product is taken in
    the type of x, whatever autocast says; on CUDA as `torch.set_float32_matmul_precision` says (by default in full).
    """
    with float32_island(x):
        gram = (x @ x.T).cpu().double().numpy()
    n = len(gram)
    np.fill_diagonal(gram, 0.0)
    rows = gram.sum(1) / (n - 2)
    gram -= rows[:, None] + rows[None, :] - rows.sum() / (n - 1)
    np.fill_diagonal(gram, 0.0)
    return gram


def check_finite(role: str, layer: str, x: Tensor) -> None:
    """Refuse NaN and infinite features by the name of their layer."""
    finite = torch.isfinite(x)
    if not finite.all():
        raise ValueError(
            f"layer {layer!r} of {role} has {int((~finite).sum())} NaN or infinite value(s) of {x.numel()}: only finite "
            "features can be compared; leave the layer out or mend the model."
        )


@dataclass
class _Buffer:
    """Features of one layer in the block that is being filled."""

    parts: list[Tensor] = field(default_factory=list)
    origin: Tensor | None = None
    energy: float = 0.0


class HSICStream:
    """Unbiased HSIC per block between the layers of pairs of models, from batches in any portions.

    HSIC(K, L) = ⟨U(K), U(L)⟩ / (n (n − 3)) with U the U-centred linear Gram matrix: Song et al. 2012, eq. 5, summed over
    minibatches as in Nguyen et al. 2021. For each pair of layers both maps are Fourier-cropped to the smaller of their
    grids and decomposed there with one wavelet, so that a band covers the same range in cycles/image in both.

    Args:
        pairs: names of the models to compare, such as `[("teacher", "student")]`.
        wavelet, levels, mode: of `sfkd.decompose`; 0 levels leaves the whole map alone.
        block_size: images a block, ≥ 4; None makes one block of all images (the full Gram matrix: memory grows with N²).

    One to three images left over at the end are not used: the estimator needs 4. A band whose energy is below
    1e-12 of the layer's is rounding, and counts as zero.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        wavelet: str = "haar",
        levels: int = 2,
        mode: Mode = "symmetric",
        block_size: int | None = BLOCK,
    ) -> None:
        if block_size is not None and (isinstance(block_size, bool) or block_size < SMALLEST):
            raise ValueError(f"block_size expects an integer ≥ {SMALLEST} or None for one block, got {block_size!r}.")
        max_levels((2, 2), wavelet, mode)  # an unknown wavelet shows before the first block is full
        self.pairs, self.block_size = list(pairs), block_size
        self.wavelet, self.levels, self.mode = wavelet, levels, mode
        self.bands = band_names(levels)
        self.grids: dict[str, dict[str, Grid]] = {}
        self.blocks: dict[tuple[str, str], list[BlockHSIC]] = {pair: [] for pair in self.pairs}
        self._held: dict[str, dict[str, _Buffer]] = {}
        self._images = 0

    @property
    def roles(self) -> list[str]:
        """The models of all pairs, once each."""
        return list(dict.fromkeys(role for pair in self.pairs for role in pair))

    def update(self, features: Mapping[str, Features]) -> None:
        """Add a batch: model → layer → maps `[n, C, H, W]`, the same n images in all.

        Raises:
            ValueError: other layers or grids than before, unequal numbers of images, NaN or infinite values (the layer is
            named).
        """
        count = self._checked(features)
        start = 0
        while start < count:
            room = count - start if self.block_size is None else self.block_size - self._images
            stop = min(count, start + room)
            self._hold(features, start, stop)
            start = stop
            if self._images == self.block_size:
                self.flush()

    def flush(self) -> None:
        """Close the block that is being filled; fewer than 4 images are dropped."""
        if self._images >= SMALLEST:
            with torch.no_grad():
                self._close()
        self._held, self._images = {}, 0

    def _checked(self, features: Mapping[str, Features]) -> int:
        missing = [role for role in self.roles if not features.get(role)]
        if missing:
            raise ValueError(f"expected features of {', '.join(self.roles)}, got none of {', '.join(missing)}.")
        counts = {len(x) for role in self.roles for x in features[role].values()}
        if len(counts) != 1:
            raise ValueError(f"layers expect features of the same images, got {sorted(counts)} images.")
        for role in self.roles:
            for layer, x in features[role].items():
                check_finite(role, layer, x)
            grids = {layer: (int(x.shape[-2]), int(x.shape[-1])) for layer, x in features[role].items()}
            if self.grids.setdefault(role, grids) != grids:
                raise ValueError(
                    f"{role} gave layers and grids {grids}, before {self.grids[role]}: all images need one size."
                )
        return counts.pop()

    def _hold(self, features: Mapping[str, Features], start: int, stop: int) -> None:
        for role in self.roles:
            held = self._held.setdefault(role, {layer: _Buffer() for layer in features[role]})
            for layer, x in features[role].items():
                part = x[start:stop].detach()
                part = part if part.dtype == torch.float64 else part.float()
                buffer = held[layer]
                # centring changes no HSIC; from here on a constant feature is exactly zero, not rounding
                buffer.origin = part[:1].clone() if buffer.origin is None else buffer.origin
                buffer.energy += float(torch.linalg.vector_norm(part)) ** 2
                buffer.parts.append(fourier_crop(part - buffer.origin, self._largest(role, layer)))
        self._images += stop - start

    def _largest(self, role: str, layer: str) -> Grid:
        """The largest grid on which a layer is compared."""
        others = [b if a == role else a for a, b in self.pairs if role in (a, b)]
        grids = [common_grid(self.grids[role][layer], g) for other in others for g in self.grids[other].values()]
        return max(h for h, _ in grids), max(w for _, w in grids)

    def _close(self) -> None:
        found = {pair: self._empty(pair) for pair in self.pairs}
        common = {pair: self.common_grids(pair) for pair in self.pairs}
        for grid in sorted({grid for table in common.values() for row in table for grid in row}):
            grams: dict[tuple[str, str], np.ndarray] = {}  # each once, for all pairs that meet on this grid
            bands = np.flatnonzero([band in self._bands_on(grid) for band in self.bands])
            for pair in self.pairs:
                here = np.array([[there == grid for there in row] for row in common[pair]])
                used = np.flatnonzero(here.any(1)), np.flatnonzero(here.any(0))
                if not used[0].size:
                    continue
                sides = []
                for role, numbers in zip(pair, used, strict=True):
                    layers = [list(self.grids[role])[number] for number in numbers]
                    grams |= {(role, x): self._grams(role, x, grid) for x in layers if (role, x) not in grams}
                    sides.append(np.stack([grams[role, layer] for layer in layers], axis=1))
                at = np.ix_(bands, *used)
                self._fill(found[pair], at, here[np.ix_(*used)], *sides)
        for pair in self.pairs:
            self.blocks[pair].append(found[pair])

    def _fill(self, block: BlockHSIC, at: Any, here: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
        """Inner products of U-centred matrices `[bands, layers, n²]`, where a pair of layers meets on this grid."""
        scale = self._images * (self._images - 3)
        own_a, own_b = (np.square(side).sum(-1) for side in (left, right))
        products = (left @ right.swapaxes(1, 2), own_a[:, :, None], own_b[:, None, :])
        for table, values in zip(block.tables, products, strict=True):
            table[at] = np.where(here, values / scale, table[at])

    def _empty(self, pair: tuple[str, str]) -> BlockHSIC:
        shape = (len(self.bands), *(len(self.grids[role]) for role in pair))
        return BlockHSIC(np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan), self._images)

    def look(self, features: Mapping[str, Features]) -> None:
        """Learn layers and grids without measuring: for a process to which no block comes."""
        self._checked(features)

    def merge(self, total: int, rank: int, count: int, summed: Callable[[np.ndarray], np.ndarray]) -> None:
        """Take the blocks of all `count` processes, of which this one measured every `count`-th from `rank` on.

        Args:
            total: blocks in all; the last may have been too small to be measured.
            summed: adds arrays over processes. Each block stands in one and is zero in the others, so sums are exact.
        """
        for pair in self.pairs:
            parts = [np.zeros((total, *table.shape)) for table in self._empty(pair).tables]
            images = np.zeros(total)
            for number, block in zip(range(rank, total, count), self.blocks[pair], strict=False):
                for part, table in zip(parts, block.tables, strict=True):
                    part[number] = table
                images[number] = block.images
            cross, own_a, own_b = (summed(part) for part in parts)
            counts = summed(images)
            self.blocks[pair] = [
                BlockHSIC(cross[number], own_a[number], own_b[number], int(counts[number]))
                for number in np.flatnonzero(counts)
            ]

    def common_grids(self, pair: tuple[str, str]) -> list[list[Grid]]:
        """Common grid of every layer pair, rows × columns."""
        a, b = (self.grids[role].values() for role in pair)
        return [[common_grid(row, column) for column in b] for row in a]

    def _bands_on(self, grid: Grid) -> tuple[str, ...]:
        return band_names(min(self.levels, max_levels(grid, self.wavelet, self.mode)))

    def _grams(self, role: str, layer: str, grid: Grid) -> np.ndarray:
        """U-centred Gram matrices of a layer's bands on a grid, `[bands, n²]`."""
        buffer = self._held[role][layer]
        buffer.parts = [torch.cat(buffer.parts)] if len(buffer.parts) > 1 else buffer.parts
        x = buffer.parts[0]
        x = fourier_crop(x - x.mean(0), grid)
        bands = [x]
        if self.levels and (decomposed := decompose(x, self.wavelet, self.levels, self.mode)).levels:
            bands += [band for _, band in decomposed.items()]
        return np.stack([self._gram(band.flatten(1), buffer.energy).ravel() for band in bands])

    @staticmethod
    def _gram(x: Tensor, energy: float) -> np.ndarray:
        if float(torch.linalg.vector_norm(x)) ** 2 <= _ROUNDING * energy:
            return np.zeros((len(x), len(x)))
        return centred_gram(x)
