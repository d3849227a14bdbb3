"""What a Gaussian mask over the frequency plane keeps of a map, and what it removes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfkd.fourier import MaskKind, gaussian_mask, power_spectrum
from sfkd_viz.measures.inputs import Channel, Feature, as_maps, reduce_channels

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class GaussianFilter:
    """A mask and, where maps were given, its effect on them.

    Attributes:
        mask: `[H, W]`, zero frequency in the middle. sigma: cycles/pixel. kind: "low", "high" or "band".
        kept_energy: Σ G²|F|² / Σ |F|² over all images and channels; None without maps, NaN for a zero map.
        kept_energy_without_dc: the same without the zero frequency, which is the mean of the map.
        removed_energy: Σ (1 − G)²|F|² / Σ |F|². Kept and removed parts are not orthogonal where 0 < G < 1, so the two
            shares sum to less than 1.
        original, kept, removed: `[H, W]` pictures of x, of the filtered map and of their difference. Signed and of the
            first image for a channel or component; RMS over images and channels for "energy".
        channel: what the pictures show, in words.
    """

    mask: np.ndarray
    sigma: float | tuple[float, float]
    kind: MaskKind
    kept_energy: float | None = None
    kept_energy_without_dc: float | None = None
    removed_energy: float | None = None
    original: np.ndarray | None = None
    kept: np.ndarray | None = None
    removed: np.ndarray | None = None
    channel: str = ""
    signed: bool = False

    def to_dataframe(self) -> DataFrame:
        """A row a cell of each picture: `picture` ("mask", "original", "kept", "removed"), `row`, `column`, `value`.

        The mask's rows and columns are frequencies, zero in the middle; the others are positions. The numbers that hold
        for all stand in each row: `kind`, `sigma_cycles_per_pixel`, `kept_energy_share`, `removed_energy_share`.
        """
        from pandas import DataFrame, concat

        row, column = (index.ravel() for index in np.indices(self.mask.shape))
        numbers = {
            "kind": self.kind,
            "sigma_cycles_per_pixel": str(self.sigma) if self.kind == "band" else self.sigma,
            "kept_energy_share": self.kept_energy,
            "removed_energy_share": self.removed_energy,
        }
        pictures = {"mask": self.mask, "original": self.original, "kept": self.kept, "removed": self.removed}
        tables = [
            DataFrame({"picture": name, "row": row, "column": column, "value": picture.ravel(), **numbers})
            for name, picture in pictures.items()
            if picture is not None
        ]
        return concat(tables, ignore_index=True)


def gaussian_filter(
    feat_or_shape: Feature | tuple[int, int],
    sigma: float | tuple[float, float] = 0.25,
    kind: MaskKind = "low",
    channel: Channel = "energy",
) -> GaussianFilter:
    """What a Gaussian mask G keeps of maps, Σ G²|F|² / Σ |F|², and what 1 − G does; in space F⁻¹(G·F x) and x minus it.

    Args:
        feat_or_shape: maps, or a shape (H, W) for the mask alone.
        sigma: cycles/pixel; a pair for `kind="band"`. kind: "low", "high" or "band", of `sfkd.gaussian_mask`.
        channel: of the pictures: a number, "pc1" to "pc3", or "energy" (RMS over images and channels).

    Raises:
        TypeError: no array, complex values.
        ValueError: other dimensions, NaN, an unknown kind, σ that is none.

    Source: a Gaussian filter on the Fourier side is the paper's (arXiv 2607.01906); its form, σ and these shares are ours.

    Examples:
        >>> round(gaussian_filter(np.eye(8), sigma=100.0).kept_energy, 3)
        1.0
    """
    if _is_shape(feat_or_shape):
        height, width = feat_or_shape
        return GaussianFilter(gaussian_mask((height, width), sigma, kind).numpy(), sigma, kind)
    x = as_maps(feat_or_shape)
    shape = (x.shape[-2], x.shape[-1])
    mask = gaussian_mask(shape, sigma, kind, dtype=torch.float64)
    power = power_spectrum(x).double().mean((0, 1))
    without_dc = power.clone()
    without_dc[shape[0] // 2, shape[1] // 2] = 0
    chosen, label = reduce_channels(x, channel)
    chosen = chosen if channel == "energy" else chosen[:1]
    kept = torch.fft.ifft2(torch.fft.fft2(chosen) * torch.fft.ifftshift(mask)).real
    pictures = (chosen, kept, chosen - kept)
    signed = channel != "energy"
    original, kept_picture, removed = (_picture(p, signed) for p in pictures)
    return GaussianFilter(
        mask.float().numpy(),
        sigma,
        kind,
        _kept(power, mask),
        _kept(without_dc, mask),
        _kept(power, 1 - mask),
        original,
        kept_picture,
        removed,
        label,
        signed,
    )


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(n, int) for n in value)


def _kept(power: torch.Tensor, mask: torch.Tensor) -> float:
    total = power.sum()
    return float((mask.square() * power).sum() / total) if total > 0 else float("nan")


def _picture(x: torch.Tensor, signed: bool) -> np.ndarray:
    return (x[0, 0] if signed else x.square().mean((0, 1)).sqrt()).float().numpy()
