"""Centred kernel alignment between all layers of two models, whole and per sub-band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from sfkd._checks import one_of
from sfkd.wavelet import Mode, max_levels
from sfkd_viz.measures.blocks import BLOCK, SMALLEST, WHOLE, HSICStream
from sfkd_viz.measures.inputs import Feature, as_finite_maps
from sfkd_viz.measures.matrices import APPROXIMATION

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CKA:
    """Unbiased linear CKA between layers, with the HSIC of every block it was made of.

    Attributes:
        rows, columns: layer names of the two models. a, b: what the models are called.
        bands: "all" (the whole map), "A" (approximation at the coarsest level that a pair's grid bears), "H2" … "D1".
        cross, own_a, own_b: `[blocks, bands, rows, columns]`, unbiased HSIC of a pair, and of each of its layers with
            itself on the pair's common grid; NaN where the grid does not bear the band.
        counts: `[blocks]`, images a block. block_size: images a full one; None for one block of all images.
        grids: `[rows, columns, 2]`, (H, W) of each pair's common grid.
        wavelet, levels, mode: of `sfkd.decompose`, as asked for.
    """

    a: str
    b: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    bands: tuple[str, ...]
    cross: np.ndarray
    own_a: np.ndarray
    own_b: np.ndarray
    counts: np.ndarray
    grids: np.ndarray
    wavelet: str
    levels: int
    mode: Mode
    block_size: int | None

    @property
    def images(self) -> int:
        """How many images it was measured on."""
        return int(self.counts.sum())

    @property
    def values(self) -> np.ndarray:
        """CKA of the whole maps, `[rows, columns]`."""
        return self.band(WHOLE)

    @property
    def by_band(self) -> np.ndarray:
        """CKA of every band, `[bands, rows, columns]`; NaN where a layer is constant, or the grid lacks the band."""
        return ratio(*(np.tensordot(self.weights, part, 1) for part in (self.cross, self.own_a, self.own_b)))

    @property
    def weights(self) -> np.ndarray:
        """Weight of each block: its images over those of the largest, 1 for all but a shorter last one."""
        return self.counts / self.counts.max()

    def band(self, name: str) -> np.ndarray:
        """CKA of one band, `[rows, columns]`."""
        return self.by_band[self.bands.index(one_of("band", name, self.bands))]

    def cycles(self, band: str, row: int, column: int) -> tuple[float, float] | None:
        """From and to how many cycles/image (along the shorter side) a pair's band reaches; None where it has none.

        The ideal edges of the octaves; a wavelet's filters overlap them, Haar's most.
        """
        one_of("band", band, self.bands)
        height, width = (int(side) for side in self.grids[row, column])
        nyquist, levels = min(height, width) / 2, min(self.levels, max_levels((height, width), self.wavelet, self.mode))
        if band == WHOLE:
            return 0.0, nyquist
        if band == APPROXIMATION:
            return (0.0, nyquist / 2**levels) if levels else None
        level = int(band[1:])
        return (nyquist / 2**level, nyquist / 2 ** (level - 1)) if level <= levels else None

    def to_dataframe(self) -> pd.DataFrame:
        """One row a band and layer pair: band, a, b (layers), cka, and the grid they were compared on."""
        import pandas as pd

        values = self.by_band
        return pd.DataFrame(
            [
                {"band": band, "a": row, "b": column, "cka": values[n, i, j], "grid": "{}×{}".format(*self.grids[i, j])}
                for n, band in enumerate(self.bands)
                for i, row in enumerate(self.rows)
                for j, column in enumerate(self.columns)
            ]
        )


def ratio(cross: np.ndarray, own_a: np.ndarray, own_b: np.ndarray) -> np.ndarray:
    """cross / √(own_a · own_b), NaN where either side is zero."""
    below = np.sqrt(own_a * own_b)
    return np.divide(cross, below, out=np.full_like(cross, np.nan), where=below > 0)


def cka(
    a: Feature | Mapping[str, Feature],
    b: Feature | Mapping[str, Feature],
    *,
    wavelet: str = "haar",
    levels: int = 2,
    mode: Mode = "symmetric",
    block_size: int | None = BLOCK,
    names: tuple[str, str] = ("a", "b"),
) -> CKA:
    """Unbiased linear CKA between features in memory, for all pairs of layers, whole and per sub-band.

    CKA = Σ HSIC(a, b) / √(Σ HSIC(a, a) · Σ HSIC(b, b)), sums over fixed blocks of images in their order, in float64; a
    shorter last block of at least 4 images counts in proportion to its images, 1 to 3 left over are not used (our
    choice). Features larger than memory go through `analyze`, batch by batch through `CKAStream`.

    Args:
        a, b: `[N, C, H, W]` of the same N ≥ 4 images, or several by layer name. Channels and grids need not match: both
            maps of a pair are Fourier-cropped to the smaller grid, then decomposed.
        wavelet, levels, mode: of `sfkd.decompose`; a pair whose grid bears fewer levels has NaN in the finer names'
            place. `levels=0` gives the whole maps alone.
        block_size: images a block; None takes all at once, which is the CKA of the full Gram matrix. The gap between the
            two is what blocks cost.
        names: what the two models are called.

    Raises:
        ValueError: fewer than 4 images, unequal numbers, NaN (by name of the layer).
        TypeError: no arrays.

    Source: Kornblith et al. 2019 (CKA); Song et al. 2012, eq. 5 (unbiased HSIC); Nguyen et al. 2021 (sums over
    minibatches). Fixed blocks, bands and the Fourier crop are ours.

    Examples:
        >>> x = np.random.default_rng(0).normal(size=(32, 3, 8, 8))
        >>> round(float(cka(x, -2.0 * x[:, [2, 0, 1]]).values[0, 0]), 6)
        1.0
    """
    stream = CKAStream(wavelet=wavelet, levels=levels, mode=mode, block_size=block_size, names=names)
    stream.update(a, b)
    return stream.result()


class CKAStream:
    """`cka` over batches: `update` with each, then `result`. Memory holds one block, whatever the number of images.

    Examples:
        >>> stream, x = CKAStream(levels=0), np.random.default_rng(0).normal(size=(32, 3, 8, 8))
        >>> for batch in np.split(x, 4):
        ...     stream.update(batch, batch)
        >>> stream.result().images
        32
    """

    def __init__(
        self,
        *,
        wavelet: str = "haar",
        levels: int = 2,
        mode: Mode = "symmetric",
        block_size: int | None = BLOCK,
        names: tuple[str, str] = ("a", "b"),
    ) -> None:
        self._names = names
        self._stream = HSICStream([("a", "b")], wavelet=wavelet, levels=levels, mode=mode, block_size=block_size)

    def update(self, a: Feature | Mapping[str, Feature], b: Feature | Mapping[str, Feature]) -> None:
        """Add the features of a batch of images."""
        self._stream.update({"a": as_layers(a, "a"), "b": as_layers(b, "b")})

    def result(self) -> CKA:
        """CKA of all images so far; closes the block that was being filled."""
        self._stream.flush()
        return cka_of(self._stream, ("a", "b"), names=self._names)


def cka_of(stream: HSICStream, pair: tuple[str, str], *, names: tuple[str, str] | None = None) -> CKA:
    """`CKA` of one pair of models of a stream; names: what they are called, if not as there.

    Raises:
        ValueError: fewer than 4 images.
    """
    blocks = stream.blocks[pair]
    if not blocks:
        raise ValueError(f"CKA needs {SMALLEST} images at least (unbiased HSIC divides by n(n − 3)): pass more images.")
    cross, own_a, own_b = (np.stack(tables) for tables in zip(*(block.tables for block in blocks), strict=True))
    a, b = pair if names is None else names
    return CKA(
        a=a,
        b=b,
        rows=tuple(stream.grids[pair[0]]),
        columns=tuple(stream.grids[pair[1]]),
        bands=stream.bands,
        cross=cross,
        own_a=own_a,
        own_b=own_b,
        counts=np.array([block.images for block in blocks], dtype=np.float64),
        grids=np.array(stream.common_grids(pair), dtype=np.int64),
        wavelet=stream.wavelet,
        levels=stream.levels,
        mode=stream.mode,
        block_size=stream.block_size,
    )


def as_layers(features: Feature | Mapping[str, Feature], default: str) -> dict[str, Tensor]:
    """One feature under a default name, or several by layer, each checked to be `[N, C, H, W]` and finite."""
    named = features if isinstance(features, Mapping) else {default: features}
    for name, x in named.items():
        if np.ndim(x) != 4:
            raise ValueError(f"layer {name!r} expects maps [N, C, H, W] of N images, got {np.ndim(x)} dimension(s).")
    return {name: as_finite_maps(x, f"layer {name!r}") for name, x in named.items()}
