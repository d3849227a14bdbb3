"""Wavelet details."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sfkd.distillers.aligned import AlignedMaps
from sfkd.features import Backbone
from sfkd.losses import detail_band_loss
from sfkd.wavelet import Mode, decompose


class FreeKD(AlignedMaps):
    """KD + feature_weight · mean over layers of the mean |S_b − T_b| over detail sub-bands (FreeKD, CVPR 2024).

    As published: Haar, three levels, L1, the approximation left out. Left out: its masks, which are learned as prompts
    in a fine-tuning of the teacher beforehand, and its weights for channels; every coefficient counts alike here. Ours:
    layers, alignment, weight, and the clamp on levels. A grid under 3×3 has no detail and adds 0 to the mean.

    Args:
        wavelet, levels, mode: of `sfkd.decompose`; levels are clamped per layer.
        feature_weight: tuned (`docs/results.md`).
        **options: those of `AlignedMaps` and `kd`.
    """

    part = "details"

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        wavelet: str = "haar",
        levels: int = 3,
        mode: Mode = "symmetric",
        feature_weight: float = 300.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, feature_weight=feature_weight, **options)
        self.wavelet, self.levels, self.mode = wavelet, levels, mode

    def distance(self, student: Tensor, teacher: Tensor, layer: str) -> Tensor:
        bands = (decompose(x, self.wavelet, self.levels, self.mode) for x in (student, teacher))
        return detail_band_loss(*bands)
