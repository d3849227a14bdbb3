"""Wavelet sub-bands of feature maps: pictures and energies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sfkd.wavelet import Mode, SubBands, decompose
from sfkd_viz.measures.inputs import Channel, Feature, as_maps, reduce_channels

if TYPE_CHECKING:
    from pandas import DataFrame

_ORIENTATION = {"A": "approximation", "H": "horizontal", "V": "vertical", "D": "diagonal"}


@dataclass(frozen=True)
class BandImages:
    """One picture per sub-band.

    Attributes:
        bands: name ("A2", "H2", … "D1", coarsest first) → `[h, w]`. Signed coefficients of the first image divided by
            the RMS of its map; for "energy" the squared coefficient, mean over images and channels, divided by the mean
            square of the maps.
        shape: (H, W) of the map. channel: what is shown, in words. signed: False for "energy".
        levels, asked_levels: levels computed and asked for; fewer where the grid is too small.
    """

    bands: dict[str, np.ndarray]
    shape: tuple[int, int]
    channel: str
    signed: bool
    wavelet: str
    levels: int
    asked_levels: int

    def to_dataframe(self) -> DataFrame:
        """A row a coefficient: `band`, `level`, `orientation`, `row`, `column`, `value` (units: see `bands`)."""
        from pandas import DataFrame, concat

        tables = []
        for name, band in self.bands.items():
            row, column = np.indices(band.shape)
            cells = {"row": row.ravel(), "column": column.ravel(), "value": band.ravel()}
            tables.append(DataFrame({**band_columns(name), **cells}))
        return concat(tables, ignore_index=True)


@dataclass(frozen=True)
class BandEnergy:
    """Mean energy of each sub-band per image and channel, `energy`, and its `share` of their sum, by band name.

    A band is one orientation at one level: "H2" holds the horizontal details of level 2 (see `to_dataframe`). The sum equals
    the energy of the map where 2^J divides its sides; elsewhere padding adds some, hence shares.
    """

    energy: dict[str, float]
    share: dict[str, float]
    wavelet: str
    levels: int

    def to_dataframe(self) -> DataFrame:
        """A row a band: `band`, `level`, `orientation`, `energy` (per image and channel), `share` (of their sum)."""
        from pandas import DataFrame

        return DataFrame([{**band_columns(n), "energy": e, "share": self.share[n]} for n, e in self.energy.items()])


def band_columns(name: str) -> dict[str, str | int]:
    """Name, level and orientation of a band, as columns of a table.

    Examples:
        >>> band_columns("H2")
        {'band': 'H2', 'level': 2, 'orientation': 'horizontal'}
    """
    return {"band": name, "level": int(name[1:]), "orientation": _ORIENTATION[name[0]]}


def subbands(
    feat: Feature, wavelet: str = "haar", levels: int = 2, channel: Channel = "energy", mode: Mode = "symmetric"
) -> BandImages:
    """Sub-bands of `feat` as pictures.

    Args:
        feat: `[H, W]`, `[C, H, W]` or `[B, C, H, W]`.
        wavelet, levels, mode: of `sfkd.decompose`.
        channel: a channel's number, a principal component of the channels ("pc1" to "pc3"), or "energy".

    Raises:
        TypeError: no array, complex values.
        ValueError: other dimensions, NaN, an unknown wavelet, mode or channel.

    Source: the transform is `sfkd.decompose`'s; units in which maps of unlike scale compare (`BandImages`) are ours.
    """
    x = as_maps(feat)
    chosen, label = reduce_channels(x, channel)
    signed = channel != "energy"
    if signed:
        chosen = chosen[:1]
        if x.shape[0] > 1:
            label += f", image 1 of {x.shape[0]}"
    bands = decompose(chosen, wavelet, levels, mode)
    images = band_images(bands, signed=signed, scale=float(chosen.square().mean()))
    return BandImages(images, bands.shape, label, signed, wavelet, bands.levels, levels)


def band_images(bands: SubBands, *, signed: bool, scale: float) -> dict[str, np.ndarray]:
    """Pictures of sub-bands `[B, C, h, w]`: signed coefficients of the only map over √scale, or mean squares over scale."""
    scale = scale if scale > 0 else 1.0
    if signed:
        return {name: (band[0, 0] / scale**0.5).numpy() for name, band in bands.items()}
    return {name: (band.square().mean((0, 1)) / scale).numpy() for name, band in bands.items()}


def band_energy(feat: Feature, wavelet: str = "haar", levels: int = 2, mode: Mode = "symmetric") -> BandEnergy:
    """Energy E_b = Σ c² of each sub-band's coefficients, mean over images and channels, and its share E_b / Σ_b E_b.

    Args:
        feat: `[H, W]`, `[C, H, W]` or `[B, C, H, W]`.
        wavelet, levels, mode: of `sfkd.decompose`.

    Raises:
        TypeError: no array, complex values.
        ValueError: other dimensions, NaN, an unknown wavelet or mode.

    Source: textbook; shares of the bands' sum instead of the map's energy, to which padding adds some, are ours.

    Examples:
        >>> band_energy(np.ones((8, 8))).share["A2"]
        1.0
    """
    return energy_of(decompose(as_maps(feat), wavelet, levels, mode))


def energy_of(bands: SubBands) -> BandEnergy:
    """`BandEnergy` of ready sub-bands `[B, C, h, w]`."""
    energy = {name: float(_energy(band)) for name, band in bands.items()}
    total = sum(energy.values())
    share = {name: value / total if total > 0 else 0.0 for name, value in energy.items()}
    return BandEnergy(energy, share, bands.wavelet, bands.levels)


def _energy(band: torch.Tensor) -> torch.Tensor:
    return band.double().square().sum((-2, -1)).mean()
