"""Fourier energy of feature maps: over the plane, and over rings of equal frequency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfkd.fourier import FrequencyUnit, power_spectrum, radial_profile
from sfkd_viz.measures.inputs import Feature, as_maps

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Spectrum:
    """Mean power spectrum of maps, |FFT|² ortho, zero frequency in the middle.

    Attributes:
        power: `[H, W]`, mean over images and channels; its sum is the mean energy of a map (Parseval).
        images, channels: how many were averaged.
    """

    power: np.ndarray
    images: int
    channels: int

    @property
    def share(self) -> np.ndarray:
        """`power` divided by its sum: comparable between models whose features differ in scale. 0 for a zero map."""
        total = self.power.sum()
        return self.power / total if total > 0 else self.power

    @property
    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertical and horizontal frequency of rows and columns, cycles/pixel."""
        rows, columns = (np.fft.fftshift(np.fft.fftfreq(n)) for n in self.power.shape)
        return rows, columns

    def to_dataframe(self) -> DataFrame:
        """A row a frequency: `vertical_cycles_per_pixel`, `horizontal_cycles_per_pixel`, `power`, `share`."""
        from pandas import DataFrame

        vertical, horizontal = np.meshgrid(*self.frequencies, indexing="ij")
        return DataFrame(
            {
                "vertical_cycles_per_pixel": vertical.ravel(),
                "horizontal_cycles_per_pixel": horizontal.ravel(),
                "power": self.power.ravel(),
                "share": self.share.ravel(),
            }
        )


@dataclass(frozen=True)
class RadialSpectrum:
    """Energy per ring, one cycle/image wide: `frequency` `[R]` in `unit`, mean `power` `[R]`, `share` `[R]` of the total.

    "cycles/image" compares image content across grids; "cycles/pixel" and "pi" compare what filters do on each grid (π is
    28 cycles/image on a 56 grid, 7 on a 14 grid).
    """

    frequency: np.ndarray
    power: np.ndarray
    share: np.ndarray
    unit: FrequencyUnit
    shape: tuple[int, int]

    @property
    def cycles_per_image(self) -> np.ndarray:
        """`frequency` in cycles per image (of the longer side), `[R]`."""
        return (
            self.frequency
            * {"cycles/image": 1.0, "cycles/pixel": max(self.shape), "pi": max(self.shape) / 2}[self.unit]
        )

    def to_dataframe(self) -> DataFrame:
        """A row a ring: the frequency as `cycles_per_image`, `cycles_per_pixel` and `times_pi`, `power`, `share`."""
        from pandas import DataFrame

        cycles = self.cycles_per_image
        return DataFrame(
            {
                "cycles_per_image": cycles,
                "cycles_per_pixel": cycles / max(self.shape),
                "times_pi": 2 * cycles / max(self.shape),
                "power": self.power,
                "share": self.share,
            }
        )


def spectrum(feat: Feature) -> Spectrum:
    """Mean power spectrum of `feat`: mean over images and channels of |F(x)|², F orthonormal, zero frequency in the middle.

    Args:
        feat: `[H, W]`, `[C, H, W]` or `[B, C, H, W]`, torch or numpy; a ready `Spectrum` is returned as it is.

    Raises:
        TypeError: no array, complex values.
        ValueError: other dimensions, NaN.

    Source: textbook; Σ power is the mean energy of a map (Parseval).

    Examples:
        >>> float(spectrum(np.ones((4, 4))).share[2, 2])
        1.0
    """
    if isinstance(feat, Spectrum):
        return feat
    x = as_maps(feat)
    return Spectrum(power_spectrum(x).mean((0, 1)).numpy(), x.shape[0], x.shape[1])


def radial_spectrum(feat: Feature, *, unit: FrequencyUnit = "cycles/image") -> RadialSpectrum:
    """Mean power and share of energy per ring of the frequency plane: rings r − ½ ≤ ‖f‖ < r + ½ cycles/image, r = 0, 1, …

    Args:
        feat: a feature, or a ready `Spectrum`.
        unit: of `frequency`. "cycles/image" compares image content across unequal grids; "cycles/pixel" and "pi" (units of π
            radians/pixel, 1 is Nyquist) compare what filters do, not content: see `RadialSpectrum`.

    Raises:
        ValueError: what `spectrum` refuses.
        ValueError: an unknown unit.

    Source: textbook; the width of the rings, and that corners beyond Nyquist are kept, are ours (`sfkd.radial_profile`).

    Examples:
        >>> round(float(radial_spectrum(np.eye(8)).share.sum()), 6)
        1.0
    """
    import torch

    measured = spectrum(feat)
    rings = radial_profile(torch.from_numpy(measured.power), unit=unit)
    power, total = rings.power.numpy(), measured.power.sum()
    height, width = measured.power.shape
    in_ring = power * rings.coefficients.numpy()
    share = in_ring / total if total > 0 else in_ring
    return RadialSpectrum(rings.frequency.numpy(), power, share, unit, (height, width))
