"""Hints on features."""

from __future__ import annotations

from typing import Any

from torch import nn

from sfkd.align import ChannelStandardize, common_grid
from sfkd.distillers.base import Term
from sfkd.distillers.layerwise import Layerwise, over_layers
from sfkd.features import Backbone, Output
from sfkd.losses import hint_loss


class FitNet(Layerwise):
    """KD + hint_weight · mean squared difference of the maps after a trainable 1×1 convolution on the student's side.

    After Romero et al., ICLR 2015, which has one hint layer and no logit term in that stage. Ours: every paired layer,
    the teacher standardised per channel so that no layer rules by its scale, and unequal grids averaged to the smaller,
    so that it runs on every pair.

    Args:
        hint_weight: weight of the mean over layers; tuned (`docs/results.md`).
        **options: `layers`, `warmup`, `decay` and those of `kd`.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        hint_weight: float = 100.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, hint_weight, **options)
        self.regressors = nn.ModuleList(nn.Conv2d(s.channels, t.channels, 1) for s, t in self.matched)
        self.standardizers = nn.ModuleList(ChannelStandardize(t.channels) for _, t in self.matched)

    def feature_terms(self, student: Output, teacher: Output) -> dict[str, Term]:
        hints = {}
        layers = zip(self.maps(student, teacher), self.regressors, self.standardizers, strict=True)
        for (name, own, others), regress, standardize in layers:
            hints[name] = hint_loss(*common_grid(regress(own), standardize(others)))
        return {"hint": over_layers(hints)}
