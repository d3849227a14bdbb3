"""SFKD: wavelet sub-bands refined by DS2S, compared band by band and through a Gaussian-filtered Fourier loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sfkd._checks import one_of
from sfkd.align import AlignedPair, Layers
from sfkd.distillers.aligned import Aligned, target_ratio
from sfkd.distillers.base import Term
from sfkd.distillers.gffl import Sigma, frequency_losses
from sfkd.distillers.layerwise import over_layers
from sfkd.features import Backbone, Layer, Output
from sfkd.fourier import MaskKind
from sfkd.losses import Comparison, Spectrum, band_loss, check_band_weights, hint_loss, infonce_loss
from sfkd.refine import DS2S, DS2SStages, Variant
from sfkd.wavelet import Mode, SubBands, decompose, max_levels, reconstruct

SpectralLoss = Literal["gffl", "mse", "infonce", "none"]
Weighting = Literal["fixed", "uncertainty"]


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

    def __init__(
        self,
        student: Layer,
        teacher: Layer,
        *,
        width: int,
        normalized: bool,
        wavelet: str,
        levels: int,
        mode: Mode,
        ds2s: Variant,
    ) -> None:
        super().__init__(student.channels, teacher.channels, width, normalized=normalized)
        grid = (min(student.grid[0], teacher.grid[0]), min(student.grid[1], teacher.grid[1]))
        self.wavelet, self.mode = wavelet, mode
        self.levels = min(levels, max_levels(grid, wavelet, mode))
        self.refine = DS2S(self.target.channels, self.levels, variant=ds2s)

    def forward(self, student: Tensor, teacher: Tensor) -> LayerView:
        student, teacher = self.align(student, teacher)
        target = decompose(teacher, self.wavelet, self.levels, self.mode)
        stages = self.refine.stages(decompose(student, self.wavelet, self.levels, self.mode))
        return LayerView(teacher, target, student, stages, reconstruct(stages.across))


class SFKD(Aligned):
    """CE + kd_weight · KD(T) + feature_weight · mean over layers of (band loss + GFFL).

    Paper (arXiv 2607.01906): the wavelet transform, the refinement and the Gaussian-filtered Fourier loss as parts of one
    loss; MSE and InfoNCE in place of the latter as its ablation. Ours: every number below, the alignment and the form of
    each part (`docs/method.md`).

    Args:
        wavelet, levels, mode: of `sfkd.decompose`; levels are clamped per layer (`clamped_levels` tells).
        band_weights: `weights` of `sfkd.losses.band_loss`, such as `{"A": 1, "H1": 0.5, "D": 0.1}`; None weighs the
            approximation 1 and all details together 0.5.
        ds2s: "full", "light" or "off", of `sfkd.DS2S`.
        spectral_loss: what compares the refined maps: "gffl"; "mse", their mean squared difference; "infonce",
            `sfkd.losses.infonce_loss`. The part bears its name. "none" leaves it out.
        sigma, mask, spectrum: of `sfkd.gaussian_frequency_loss`; `sigma` may also be a list with one for each layer pair.
        comparison: of bands and GFFL: "correlation", `sfkd.losses.correlation_distance`, or "error", squared differences
            (ours: among unlike models the scale of a coefficient is of less worth than how it varies).
        weighting: "fixed", or "uncertainty": the parts L_i become exp(−s_i)·L_i + s_i with trained s_i that start at 0,
            Σ s_i being the part "uncertainty" (Kendall, Gal, Cipolla, CVPR 2018, with s = log σ² and twice their loss).
        layers: of `Layerwise`; None pairs all stages.
        feature_weight: of both; tuned, as `ds2s`, `sigma` and `layers` are (`docs/results.md`).
        **options: `width`, `reduction`, `normalized`, `warmup`, `decay` and those of `kd`.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        wavelet: str = "haar",
        levels: int = 2,
        mode: Mode = "symmetric",
        band_weights: Mapping[str, float] | None = None,
        ds2s: Variant = "light",
        spectral_loss: SpectralLoss = "gffl",
        sigma: Sigma = 0.5,
        mask: MaskKind = "low",
        spectrum: Spectrum = "complex",
        comparison: Comparison = "correlation",
        weighting: Weighting = "fixed",
        layers: Layers = "last",
        feature_weight: float = 50.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, layers=layers, feature_weight=feature_weight, **options)
        self.asked_levels, self.wavelet, self.mode = levels, wavelet, mode
        self.spatial_frequency = nn.ModuleList(
            SpatialFrequencyLayer(
                s,
                t,
                width=self.width,
                normalized=self.normalized,
                wavelet=wavelet,
                levels=levels,
                mode=mode,
                ds2s=ds2s,
            )
            for s, t in self.matched
        )
        if band_weights is not None:
            check_band_weights(band_weights, levels)
        self.band_weights = band_weights
        self.spectral_loss = one_of("spectral_loss", spectral_loss, get_args(SpectralLoss))
        self.comparison: Comparison = comparison
        self.frequency_losses = frequency_losses(
            self.pairs, sigma=sigma, mask=mask, spectrum=spectrum, comparison=comparison
        )
        one_of("weighting", weighting, get_args(Weighting))
        # a vector, which optimizers of timm leave out of weight decay, and not two scalars, which cannot be sharded
        self.log_variances = nn.Parameter(torch.zeros(2)) if weighting == "uncertainty" else None

    @property
    def alignments(self) -> Iterable[AlignedPair]:
        return self.spatial_frequency  # type: ignore[return-value]

    @property
    def clamped_levels(self) -> dict[str, int]:
        """Levels really used, by student layer; fewer than asked where a grid is too small."""
        return {s: layer.levels for (s, _), layer in zip(self.pairs, self.spatial_frequency, strict=True)}  # type: ignore[misc]

    def views(self, student: Output, teacher: Output) -> dict[str, LayerView]:
        """Every paired layer by the student's layer name: aligned maps, target bands, all stages of DS2S."""
        layers = zip(self.maps(student, teacher), self.spatial_frequency, strict=True)
        return {name: layer(own, others) for (name, own, others), layer in layers}

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

    def feature_terms(self, student: Output, teacher: Output) -> dict[str, Term]:
        bands, spectra, ratios = {}, {}, {}
        for layer, view in self.views(student, teacher).items():
            target = self.refine_target(view.target, layer)
            bands[layer] = band_loss(view.stages.across, target, weights=self.band_weights, comparison=self.comparison)
            ratios[layer] = target_ratio(target, view.target)
            if self.spectral_loss != "none":
                whole = view.teacher if target is view.target else reconstruct(target)
                spectra[layer] = self.spectral_distance(view.refined, whole, layer)
        of_bands: float | Tensor = 1.0
        of_spectra: float | Tensor = 1.0
        if self.log_variances is not None:
            of_bands, of_spectra = (-self.log_variances).exp()
        terms = {"bands": over_layers(bands, of_bands, ratios)}
        if spectra:
            terms[self.spectral_loss] = over_layers(spectra, of_spectra)
        if self.log_variances is not None:
            terms["uncertainty"] = Term(1.0, self.log_variances.sum())
        return terms

    def spectral_distance(self, student: Tensor, teacher: Tensor, layer: str) -> Tensor:
        """Scalar distance of the refined maps `[B, d, h, w]` of the student's layer `layer` and the target."""
        if self.spectral_loss == "gffl":
            return self.frequency_losses[layer](student, teacher)
        return hint_loss(student, teacher) if self.spectral_loss == "mse" else infonce_loss(student, teacher)
