"""The Gaussian-filtered Fourier loss alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sfkd.distillers.aligned import AlignedMaps
from sfkd.features import Backbone
from sfkd.fourier import MaskKind
from sfkd.losses import Comparison, GaussianFrequencyLoss, Spectrum

Sigma = float | Sequence[float] | Sequence[Sequence[float]]


class GFFL(AlignedMaps):
    """KD + feature_weight · mean over layers of GFFL: SFKD without wavelets and without DS2S (our ablation).

    Args:
        sigma, mask, spectrum, comparison: of `sfkd.gaussian_frequency_loss`; `sigma` may also be a list with one for each
            layer pair.
        feature_weight: tuned (`docs/results.md`).
        **options: those of `AlignedMaps` and `kd`.
    """

    part = "gffl"

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        sigma: Sigma = 0.25,
        mask: MaskKind = "low",
        spectrum: Spectrum = "complex",
        comparison: Comparison = "error",
        feature_weight: float = 30.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, feature_weight=feature_weight, **options)
        self.frequency_losses = frequency_losses(
            self.pairs, sigma=sigma, mask=mask, spectrum=spectrum, comparison=comparison
        )

    def distance(self, student: Tensor, teacher: Tensor, layer: str) -> Tensor:
        return self.frequency_losses[layer](student, teacher)


def frequency_losses(
    pairs: Sequence[tuple[str, str]], *, sigma: Sigma, mask: MaskKind, spectrum: Spectrum, comparison: Comparison
) -> dict[str, GaussianFrequencyLoss]:
    """GFFL by student layer. `sigma` is one width (with `mask="band"` one pair) for all, or a list with one for each.

    Raises:
        ValueError: another number of widths than pairs; what `gaussian_frequency_loss` refuses.
    """
    several = isinstance(sigma, Sequence) and (mask != "band" or any(isinstance(s, Sequence) for s in sigma))
    widths: list[Any] = list(sigma) if several else [sigma] * len(pairs)  # type: ignore[arg-type]
    if len(widths) != len(pairs):
        raise ValueError(
            f"sigma expects one width or a list with one for each of the {len(pairs)} layer pair(s) "
            f"{', '.join(s for s, _ in pairs)}, got {len(widths)}: {sigma!r}."
        )
    return {
        s: GaussianFrequencyLoss(sigma=width, mask=mask, spectrum=spectrum, comparison=comparison)
        for (s, _), width in zip(pairs, widths, strict=True)
    }
