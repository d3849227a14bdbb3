"""What methods share that compare aligned maps with a fixed target, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from sfkd._checks import one_of
from sfkd.align import AlignedPair, Moments
from sfkd.distillers.base import Term
from sfkd.distillers.layerwise import Layerwise, over_layers
from sfkd.features import Backbone, Output
from sfkd.wavelet import SubBands

Reduction = Literal["orthogonal", "pca"]
Target = TypeVar("Target", Tensor, SubBands)
PCA_BATCHES = 32


class Aligned(Layerwise):
    """Layer pairs brought to common channels and a common grid; the teacher's side is a target without parameters.

    Args:
        feature_weight: weight of the means over layers.
        width: most channels in which maps are compared; wider teachers are projected.
        reduction: how: "orthogonal", a seeded random projection with orthonormal rows; "pca", the principal components
            of the standardised maps of 32 batches, which `fit` computes before the first step.
        normalized: whether each image of the student is normalised after its projection (GroupNorm, one group). It costs
            accuracy where maps are compared by squared error (`docs/results.md`): mean and scale of an image are then no
            longer the student's to learn.
        **options: `layers`, `warmup`, `decay` and those of `kd`.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        feature_weight: float = 1.0,
        width: int = 64,
        reduction: Reduction = "orthogonal",
        normalized: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, feature_weight, **options)
        self.width, self.reduction = width, one_of("reduction", reduction, get_args(Reduction))
        self.normalized = normalized
        if reduction == "pca" and any(t.channels > width for _, t in self.matched):
            self.fit_batches = PCA_BATCHES

    @property
    def alignments(self) -> Iterable[AlignedPair]:
        """The alignment of every layer pair."""
        raise NotImplementedError

    def refine_target(self, target: Target, layer: str) -> Target:
        """The target of student layer `layer` as the loss uses it. Here as it is: whatever is trained in an override of
        this may shrink or inflate the target, so the ratio of its variance to that of the given one is reported
        (`Result.target_ratios`)."""
        return target

    def fit(self, teacher: Iterable[Output]) -> None:
        if self.reduction != "pca":
            return
        targets = [(t.name, pair.target) for (_, t), pair in zip(self.matched, self.alignments, strict=True)]
        wide = [(name, target, Moments(len(target.standardize.mean))) for name, target in targets if target.reduces]
        for output in teacher:
            for name, _, moments in wide:
                moments.add(output.features[name])
        if any(moments.count == 0 for _, _, moments in wide):
            raise ValueError(
                "pca is fitted to outputs of the teacher, got none: pass at least one batch of them to fit."
            )
        for _, target, moments in wide:
            target.fit(moments.of_all_processes(target.standardize.mean.device))


class AlignedMaps(Aligned):
    """KD + feature_weight · mean over layers of `distance(S̄, T̄)` on aligned maps. A method overrides `distance`.

    Layers, student projection and fixed target are those of `sfkd`, so that the methods differ in the distance alone.

    Args:
        **options: those of `Aligned` and `kd`.
    """

    part = "features"

    def __init__(self, student: Backbone, teacher: Backbone | None = None, **options: Any) -> None:
        super().__init__(student, teacher, **options)
        self.aligned = nn.ModuleList(
            AlignedPair(s.channels, t.channels, self.width, normalized=self.normalized) for s, t in self.matched
        )

    @property
    def alignments(self) -> Iterable[AlignedPair]:
        return self.aligned  # type: ignore[return-value]

    def distance(self, student: Tensor, teacher: Tensor, layer: str) -> Tensor:
        """Scalar distance of two maps `[B, d, h, w]` of the student's layer `layer` and its partner."""
        raise NotImplementedError

    def feature_terms(self, student: Output, teacher: Output) -> dict[str, Term]:
        distances, ratios = {}, {}
        for (layer, own, others), pair in zip(self.maps(student, teacher), self.alignments, strict=True):
            projected, given = pair.align(own, others)
            target = self.refine_target(given, layer)
            distances[layer] = self.distance(projected, target, layer)
            ratios[layer] = target_ratio(target, given)
        return {self.part: over_layers(distances, target_ratios=ratios)}


@torch.no_grad()
def target_ratio(target: Target, given: Target, *, eps: float = 1e-12) -> Tensor:
    """Variance of `target` over that of `given`, maps or sub-bands; exactly 1 where they are one object.

    Per-channel means are removed (of each band), and variances summed over channels and bands, in float32; `eps` on
    both sides makes two empty targets equal.
    """
    if target is given:
        return torch.ones((), device=(given if isinstance(given, Tensor) else given.approximation).device)
    return (_variance(target) + eps) / (_variance(given) + eps)


def _variance(target: Tensor | SubBands) -> Tensor:
    bands = [target] if isinstance(target, Tensor) else [band for _, band in target.items()]
    return torch.stack([(b.float() - b.float().mean((0, 2, 3), keepdim=True)).square().sum() for b in bands]).sum()
