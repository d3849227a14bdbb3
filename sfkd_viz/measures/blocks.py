"""Unbiased HSIC of layers over fixed blocks of images, per sub-band: what CKA and transfer are made of.

Features come in batches of any size and are regrouped into blocks in the order in which they come, so neither batch size
nor the number of workers changes a result, and memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfkd.wavelet import Mode, decompose
from sfkd_viz.measures.crop import fourier_crop
from sfkd_viz.measures.grams import Grams
from sfkd_viz.measures.inputs import image_norms
from sfkd_viz.measures.matrices import APPROXIMATION, Bands, Grid, bands_on, pieces

BLOCK = 256
SMALLEST = 4  # the unbiased estimator divides by n (n − 3)
WHOLE = "all"

Features = Mapping[str, Tensor]
Layer = tuple[str, str]  # model and layer
Pair = tuple[str, str]
Seen = Callable[[Layer, dict[str, Tensor]], None]


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


class HSICStream:
    """Unbiased HSIC per block between the layers of pairs of models, from batches in any portions.

    HSIC(K, L) = ⟨U(K), U(L)⟩ / (n (n − 3)) with U the U-centred linear Gram matrix: Song et al. 2012, eq. 5, summed over
    minibatches as in Nguyen et al. 2021. For each pair of layers both maps are Fourier-cropped to the smaller of their
    grids and decomposed there with one wavelet, so that a band covers the same range in cycles/image in both. Gram matrices
    are float32 products of centred features (float64 for float64), everything after them is float64.

    Held at once: the bands of one block of images, of each layer on each grid on which it is compared, in memory that is
    used again for the next block.

    Args:
        pairs: names of the models to compare, such as `[("teacher", "student")]`.
        wavelet, levels, mode: of `sfkd.decompose`; 0 levels leaves the whole map alone.
        block_size: images a block, ≥ 4; None makes one block of all images (the full Gram matrix: memory grows with N²).

    One to three images left over at the end are not used: the estimator needs 4. A band whose energy is below
    1e-12 of the layer's is rounding, and counts as zero.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        wavelet: str = "haar",
        levels: int = 2,
        mode: Mode = "symmetric",
        block_size: int | None = BLOCK,
    ) -> None:
        if block_size is not None and (isinstance(block_size, bool) or block_size < SMALLEST):
            raise ValueError(f"block_size expects an integer ≥ {SMALLEST} or None for one block, got {block_size!r}.")
        decompose(torch.zeros(2, 2), wavelet, levels, mode)  # a mistake in these shows before the first forward
        self.pairs, self.block_size = list(pairs), block_size
        self.wavelet, self.levels, self.mode = wavelet, levels, mode
        self.bands = band_names(levels)
        self.grids: dict[str, dict[str, Grid]] = {}
        self.blocks: dict[Pair, list[BlockHSIC]] = {pair: [] for pair in self.pairs}
        self._held: dict[tuple[Layer, Grid], _Held] = {}
        self._maps: dict[str, dict[str, tuple[int, ...]]] = {}
        self._types: dict[Layer, torch.dtype] = {}
        self._energy: dict[Layer, float] = {}
        self._images = 0

    @property
    def roles(self) -> list[str]:
        """The models of all pairs, once each."""
        return list(dict.fromkeys(role for pair in self.pairs for role in pair))

    @torch.no_grad()
    def update(self, features: Mapping[str, Features], seen: Seen | None = None) -> None:
        """Add a batch: model → layer → maps `[n, C, H, W]`, the same n images in all.

        Args:
            seen: called with the bands (band → `[n, C · cells]`) of each layer that is compared on its own grid, in parts.

        Raises:
            ValueError: other layers or grids than before, unequal numbers of images, NaN or infinite values (the layer is
            named).
        """
        count = self._checked(features)
        norms = {(role, layer): image_norms(role, layer, x) for role, layer, x in self._each(features)}
        start = 0
        while start < count:
            room = count - start if self.block_size is None else self.block_size - self._images
            stop = min(count, start + room)
            for role, layer, x in self._each(features):
                energy = float(norms[role, layer][start:stop].square().sum())
                self._energy[role, layer] = self._energy.get((role, layer), 0.0) + energy
                wide = torch.float64 if x.dtype == torch.float64 else torch.float32
                dtype = self._types.setdefault((role, layer), wide)
                self._hold((role, layer), x[start:stop].to(dtype).contiguous(), seen)
            self._images, start = self._images + stop - start, stop
            if self._images == self.block_size:
                self.flush()

    @torch.no_grad()
    def flush(self) -> None:
        """Close the block that is being filled; fewer than 4 images are dropped."""
        if self._images >= SMALLEST:
            self._close()
        self._energy, self._images = {}, 0

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

    def compares_own_grid(self, layer: Layer) -> bool:
        """Whether a layer, of models that were seen, meets another on the grid that it has."""
        return self.grids[layer[0]][layer[1]] in self._compared_on(layer)

    def common_grids(self, pair: Pair) -> list[list[Grid]]:
        """Common grid of every layer pair, rows × columns."""
        a, b = (self.grids[role].values() for role in pair)
        return [[common_grid(row, column) for column in b] for row in a]

    def _each(self, features: Mapping[str, Features]) -> Iterator[tuple[str, str, Tensor]]:
        return ((role, layer, x.detach()) for role in self.roles for layer, x in features[role].items())

    def _checked(self, features: Mapping[str, Features]) -> int:
        missing = [role for role in self.roles if not features.get(role)]
        if missing:
            raise ValueError(f"expected features of {', '.join(self.roles)}, got none of {', '.join(missing)}.")
        counts = {len(x) for role in self.roles for x in features[role].values()}
        if len(counts) != 1:
            raise ValueError(f"layers expect features of the same images, got {sorted(counts)} images.")
        for role in self.roles:
            maps = {layer: tuple(x.shape[1:]) for layer, x in features[role].items()}
            if self._maps.setdefault(role, maps) != maps:
                raise ValueError(f"{role} gave maps {maps}, before {self._maps[role]}: all images need one size.")
            self.grids[role] = {layer: (shape[-2], shape[-1]) for layer, shape in maps.items()}
        return counts.pop()

    def _hold(self, layer: Layer, x: Tensor, seen: Seen | None) -> None:
        """Write the bands of maps `[n, C, H, W]` beside those of the block's other images, on each of the layer's grids."""
        grids, places = self._compared_on(layer), {}
        own = (int(x.shape[-2]), int(x.shape[-1]))
        for grid in grids:
            held = self._held.get((layer, grid))
            if held is None:
                bands = bands_on(grid, self.wavelet, self.levels, self.mode, dtype=x.dtype, device=x.device)
                held = self._held[layer, grid] = _Held(bands, x.device)
            places[grid] = held, held.room(self._images, x, self.block_size)
        for piece in pieces(x):
            maps = {own: x[piece]}
            for grid, (held, rows) in places.items():
                maps[grid], there = _cropped(maps, grid), {name: part[piece] for name, part in rows.items()}
                held.bands.write(maps[grid], there)
                if seen is not None and grid == own:
                    seen(layer, there)

    def _compared_on(self, layer: Layer) -> list[Grid]:
        """Common grids of a layer with those that it is compared with, large to small."""
        role, name = layer
        others = [b if a == role else a for a, b in self.pairs if role in (a, b)]
        grids = {common_grid(self.grids[role][name], grid) for other in others for grid in self.grids[other].values()}
        return sorted(grids, key=lambda grid: (-grid[0] * grid[1], grid))

    def _close(self) -> None:
        found = {pair: self._empty(pair) for pair in self.pairs}
        common = {pair: np.array(self.common_grids(pair)) for pair in self.pairs}
        for grid in {grid: None for _, grid in self._held}:
            layers = [layer for layer, there in self._held if there == grid]
            products = self._products(layers, grid)
            for pair in self.pairs:
                row, column = np.nonzero((common[pair] == grid).all(-1))
                a, b = (
                    np.array([layers.index((role, list(self.grids[role])[n])) for n in numbers], dtype=int)
                    for role, numbers in zip(pair, (row, column), strict=True)
                )
                for band, table in products.items():
                    at = self.bands.index(band), row, column
                    for values, entries in zip(
                        found[pair].tables, (table[a, b], table[a, a], table[b, b]), strict=True
                    ):
                        values[at] = entries
        for pair in self.pairs:
            self.blocks[pair].append(found[pair])

    def _products(self, layers: list[Layer], grid: Grid) -> dict[str, np.ndarray]:
        """HSIC between all layers on a grid by band, `[layers, layers]`."""
        held = [self._held[layer, grid] for layer in layers]
        energy = torch.tensor([self._energy[layer] for layer in layers], dtype=torch.float64)
        whole, found = Grams(len(layers), self._images, held[0].device), {}
        for name in held[0].bands.cells:
            grams = Grams(len(layers), self._images, held[0].device)
            for number, one in enumerate(held):
                grams.put(number, one.rows[name][: self._images])
            if name in held[0].bands.whole:
                whole.add(grams)
            if name in self.bands:
                found[name] = grams.hsic(energy)
        return found | {WHOLE: whole.hsic(energy)}

    def _empty(self, pair: Pair) -> BlockHSIC:
        shape = (len(self.bands), *(len(self.grids[role]) for role in pair))
        return BlockHSIC(np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan), self._images)


class _Held:
    """The bands of one layer on one grid in the block that is being filled: band → `[room, C · cells]`."""

    def __init__(self, bands: Bands, device: torch.device) -> None:
        self.bands, self.device = bands, device
        self.rows: dict[str, Tensor] = {}

    def room(self, held: int, x: Tensor, most: int | None) -> dict[str, Tensor]:
        """Rows for as many more images as `x` `[n, C, H, W]` has, after those that are held; never more than `most`."""
        need = held + len(x)
        images = min(max(need, 2 * held), most or need)
        for name, cells in self.bands.cells.items():
            rows = self.rows.get(name)
            if rows is None or len(rows) < need:
                with torch.inference_mode(False):  # they outlive a caller's inference mode
                    grown = x.new_empty(images, x.shape[1] * cells)
                if rows is not None:
                    grown[:held] = rows[:held]
                self.rows[name] = grown
        return {name: rows[held:need] for name, rows in self.rows.items()}


def _cropped(maps: dict[Grid, Tensor], grid: Grid) -> Tensor:
    """The map on a grid from the smallest that is there: two crops equal one."""
    if grid in maps:
        return maps[grid]
    large_enough = [g for g in maps if g[0] >= grid[0] and g[1] >= grid[1]]
    return fourier_crop(maps[min(large_enough, key=lambda g: g[0] * g[1])], grid)
