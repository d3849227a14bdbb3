"""Spectra without a filter."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sfkd.distillers.aligned import AlignedMaps
from sfkd.features import Backbone
from sfkd.losses import spectral_mse_loss


class SpectralKD(AlignedMaps):
    """KD + feature_weight · mean over layers of the mean squared difference of spectra (SpectralKD, arXiv 2412.19055).

    As published: orthonormal `rfft2`, real and imaginary parts, plain mean, no filter. Ours: layers, weight and alignment
    (there channels are pooled to a common number and nothing is trained). By Parseval this is all but the spatial mean
    squared error.

    Args:
        hermitian: weight the half plane to the full one, of `sfkd.losses.spectral_mse_loss`.
        feature_weight: tuned (`docs/results.md`).
        **options: those of `AlignedMaps` and `kd`.
    """

    part = "spectrum"

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        hermitian: bool = False,
        feature_weight: float = 100.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, feature_weight=feature_weight, **options)
        self.hermitian = hermitian

    def distance(self, student: Tensor, teacher: Tensor, layer: str) -> Tensor:
        return spectral_mse_loss(student, teacher, hermitian=self.hermitian)
