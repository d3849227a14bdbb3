"""Relative log amplitude of feature maps over depth, as Park and Kim measure it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sfkd.features import tokens_to_map
from sfkd_viz.measures.inputs import Feature, as_maps, named

if TYPE_CHECKING:
    from pandas import DataFrame

_EPSILON = 1e-6


class RelativeAmplitude(Mapping[str, np.ndarray]):
    """Layer name → Δ log amplitude `[R]`, in the order given, which is read as depth.

    `frequencies` holds the frequency of each value in units of π radians/pixel (1 is Nyquist), by the same names.
    """

    def __init__(self, values: dict[str, np.ndarray], frequencies: dict[str, np.ndarray]) -> None:
        self._values, self.frequencies = values, frequencies

    def __getitem__(self, name: str) -> np.ndarray:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"RelativeAmplitude({', '.join(f'{name}: [{len(values)}]' for name, values in self.items())})"

    @property
    def depth(self) -> np.ndarray:
        """Normalised depth of each layer, 0 (first) to 1 (last); 0 for a single one."""
        return np.linspace(0, 1, len(self)) if len(self) > 1 else np.zeros(1)

    @property
    def high(self) -> np.ndarray:
        """Value of each layer at the highest frequency of its half-diagonal (Park and Kim's "1.0π"), `[layers]`."""
        return np.array([values[-1] for values in self.values()])

    def to_dataframe(self) -> DataFrame:
        """A row a layer and frequency: `layer`, `normalised_depth`, `times_pi`, `delta_log_amplitude`."""
        from pandas import DataFrame, concat

        tables = [
            DataFrame(
                {
                    "layer": name,
                    "normalised_depth": depth,
                    "times_pi": self.frequencies[name],
                    "delta_log_amplitude": values,
                }
            )
            for depth, (name, values) in zip(self.depth, self.items(), strict=True)
        ]
        return concat(tables, ignore_index=True)


def relative_amplitude(
    features: Feature | Mapping[str, Feature],
    *,
    num_prefix_tokens: int | None = None,
    grid: tuple[int, int] | None = None,
) -> RelativeAmplitude:
    """Δ log amplitude: log(|FFT(x)| + 10⁻⁶), mean over images and channels, along the half-diagonal, minus its first value.

    The FFT is unnormalised and the half-diagonal runs from the zero frequency along f_y = f_x, one value for each of the
    ⌈n/2⌉ frequencies 0, 2/n, … (×π) of a side of n cells: up to 6/7·π on a 14 grid (even sides have Nyquist on the other
    half; Park and Kim stretch the axis to "1.0π"). Source: Park and Kim, "How Do Vision Transformers Work?", ICLR 2022,
    Fig. 2a.

    On grids that are not square (our choice; theirs are) the frequencies are those of the shorter side; between the
    cells of the longer one the mean log amplitude is interpolated linearly, so that f_y = f_x stays true.

    Args:
        features: maps by layer name, in order of depth; or one.
        num_prefix_tokens: where given, features of three dimensions are patch tokens `[B, N, C]` with this many prefix
            tokens in front, and go through `sfkd.tokens_to_map`; None reads three dimensions as `[C, H, W]`.
        grid: (H, W) of the tokens; None takes the square.

    Raises:
        ValueError, TypeError: features that `sfkd_viz` refuses (NaN, complex, …), by name; tokens that fill no grid.

    Examples:
        >>> relative_amplitude({"constant": np.ones((6, 6))})["constant"].round(2).tolist()
        [0.0, -17.4, -17.4]
    """
    values, frequencies = {}, {}
    for name, feat in named(features, "feature").items():
        maps = feat if num_prefix_tokens is None else _from_tokens(feat, num_prefix_tokens, grid)
        curve = _half_diagonal(_log_amplitude(as_maps(maps, name)))
        values[name] = curve - curve[0]
        frequencies[name] = 2 * np.arange(len(curve)) / min(np.shape(maps)[-2:])
    return RelativeAmplitude(values, frequencies)


def _from_tokens(feat: Feature, num_prefix_tokens: int, grid: tuple[int, int] | None) -> Feature:
    tokens = feat if isinstance(feat, Tensor) else torch.as_tensor(np.asarray(feat))
    return tokens_to_map(tokens, grid, num_prefix_tokens) if tokens.ndim == 3 else feat


def _log_amplitude(x: Tensor) -> np.ndarray:
    """`[H, W]`, zero frequency at `[0, 0]`."""
    return (torch.fft.fft2(x).abs() + _EPSILON).log().mean((0, 1)).numpy()


def _half_diagonal(plane: np.ndarray) -> np.ndarray:
    """Values at f_y = f_x = k/n, k = 0 … ⌈n/2⌉ − 1, n the shorter side."""
    shorter, longer = sorted(plane.shape)
    along = plane if plane.shape[0] == shorter else plane.T
    k = np.arange((shorter + 1) // 2)
    position = k * longer / shorter
    below = np.floor(position).astype(int)
    weight = position - below
    return (1 - weight) * along[k, below] + weight * along[k, (below + 1) % longer]
