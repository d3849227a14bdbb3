"""SFKD: wavelet sub-bands refined by DS2S, compared band by band and through a Gaussian-filtered Fourier loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sfkd.align import AlignedPair, pair_layers
from sfkd.distillers.base import Term
from sfkd.distillers.kd import KD
from sfkd.features import Backbone, Layer, Output
from sfkd.losses import GaussianFrequencyLoss, Spectrum, band_loss
from sfkd.refine import DS2S, DS2SStages
from sfkd.wavelet import Mode, SubBands, decompose, max_levels, reconstruct


class LayerView(NamedTuple):
    """One paired layer as SFKD sees it.

    `teacher` is the fixed target (aligned map), `target` its raw sub-bands; `student` the aligned map, `stages` its
    sub-bands before and after each stage of DS2S, `refined` their reconstruction. Maps `[B, d, h, w]` on one grid.
    """

    teacher: Tensor
    target: SubBands
    student: Tensor
    stages: DS2SStages
    refined: Tensor


class SpatialFrequencyLayer(AlignedPair):
    """Alignment and refinement of one layer pair. Nothing on the teacher's side is trainable."""

    def __init__(self, student: Layer, teacher: Layer, *, width: int, wavelet: str, levels: int, mode: Mode) -> None:
        super().__init__(student.channels, teacher.channels, width)
        grid = (min(student.grid[0], teacher.grid[0]), min(student.grid[1], teacher.grid[1]))
        self.wavelet, self.mode = wavelet, mode
        self.levels = min(levels, max_levels(grid, wavelet, mode))
        self.refine = DS2S(self.target.channels, self.levels)

    def forward(self, student: Tensor, teacher: Tensor) -> LayerView:
        student, teacher = self.align(student, teacher)
        target = decompose(teacher, self.wavelet, self.levels, self.mode)
        stages = self.refine.stages(decompose(student, self.wavelet, self.levels, self.mode))
        return LayerView(teacher, target, student, stages, reconstruct(stages.across))


class SFKD(KD):
    """CE + kd_weight · KD(T) + feature_weight · mean over layers of (band loss + GFFL).

    Paper (arXiv 2607.01906): the wavelet transform, the refinement and the Gaussian-filtered Fourier loss as parts of one
    loss. Ours: every number below, the alignment and the form of each part (`docs/method.md`).

    Args:
        feature_weight: weight λ_f of the mean over layers.
        wavelet, levels, mode: of `sfkd.decompose`; levels are clamped per layer (`clamped_levels` tells).
        sigma, spectrum: of `sfkd.gaussian_frequency_loss`.
        width: most channels d in which maps are compared; wider teachers are projected.
        **options: those of `kd`.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        feature_weight: float = 1.0,
        wavelet: str = "haar",
        levels: int = 2,
        mode: Mode = "symmetric",
        sigma: float = 0.25,
        spectrum: Spectrum = "complex",
        width: int = 128,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        assert self.teacher is not None
        self.feature_weight, self.asked_levels = feature_weight, levels
        self.wavelet, self.mode, self.sigma = wavelet, mode, sigma
        self.pairs = pair_layers(student.layer_names, self.teacher.layer_names)
        of_student = {layer.name: layer for layer in student.layers}
        of_teacher = {layer.name: layer for layer in self.teacher.layers}
        self.spatial_frequency = nn.ModuleList(
            SpatialFrequencyLayer(of_student[s], of_teacher[t], width=width, wavelet=wavelet, levels=levels, mode=mode)
            for s, t in self.pairs
        )
        self.frequency_loss = GaussianFrequencyLoss(sigma=sigma, spectrum=spectrum)

    @property
    def clamped_levels(self) -> dict[str, int]:
        """Levels really used, by student layer; fewer than asked where a grid is too small."""
        return {s: layer.levels for (s, _), layer in zip(self.pairs, self.spatial_frequency, strict=True)}  # type: ignore[misc]

    def views(self, student: Output, teacher: Output) -> dict[str, LayerView]:
        """Every paired layer by the student's layer name: aligned maps, target bands, all stages of DS2S."""
        return {
            s: layer(student.features[s], teacher.features[t])
            for (s, t), layer in zip(self.pairs, self.spatial_frequency, strict=True)
        }

    @torch.no_grad()
    def inspect(self, images: Tensor) -> dict[str, LayerView]:
        """`views` of `images` `[B, C, H, W]` in eval mode, no gradient; the training mode is left as it was."""
        assert self.teacher is not None
        was_training = self.training
        self.eval()
        try:
            return self.views(self.student(images), self.teacher(images))
        finally:
            self.train(was_training)

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        views = self.views(student, teacher).values()
        bands = torch.stack([band_loss(v.stages.across, v.target) for v in views]).mean()
        spectrum = torch.stack([self.frequency_loss(v.refined, v.teacher) for v in views]).mean()
        return super().terms(student, teacher, targets, index) | {
            "bands": Term(self.feature_weight, bands),
            "gffl": Term(self.feature_weight, spectrum),
        }
