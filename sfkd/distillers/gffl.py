"""The Gaussian-filtered Fourier loss alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sfkd.distillers.aligned import AlignedMaps
from sfkd.features import Backbone
from sfkd.fourier import MaskKind
from sfkd.losses import GaussianFrequencyLoss, Spectrum


class GFFL(AlignedMaps):
    """KD + feature_weight · mean over layers of GFFL: SFKD without wavelets and without DS2S (our ablation).

    Args:
        sigma, mask, spectrum: of `sfkd.gaussian_frequency_loss`.
        **options: those of `AlignedMaps` and `kd`.
    """

    part = "gffl"

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        sigma: float | tuple[float, float] = 0.25,
        mask: MaskKind = "low",
        spectrum: Spectrum = "complex",
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        self.frequency_loss = GaussianFrequencyLoss(sigma=sigma, mask=mask, spectrum=spectrum)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.frequency_loss(student, teacher)
