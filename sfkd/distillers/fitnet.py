"""Hints on features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfkd.align import ChannelStandardize, common_grid, pair_layers
from sfkd.distillers.base import Term
from sfkd.distillers.kd import KD
from sfkd.features import Backbone, Output
from sfkd.losses import hint_loss


class FitNet(KD):
    """KD + hint_weight · mean squared difference of the maps after a trainable 1×1 convolution on the student's side.

    After Romero et al., ICLR 2015, which has one hint layer and no logit term in that stage. Ours: every paired layer,
    the teacher standardised per channel so that no layer rules by its scale, and unequal grids averaged to the smaller,
    so that it runs on every pair.

    Args:
        hint_weight: weight of the mean over layers. **options: those of `kd`.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        hint_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        assert self.teacher is not None
        self.hint_weight = hint_weight
        self.pairs = pair_layers(student.layer_names, self.teacher.layer_names)
        widths = {side: {layer.name: layer.channels for layer in side.layers} for side in (student, self.teacher)}
        self.regressors = nn.ModuleList(
            nn.Conv2d(widths[student][s], widths[self.teacher][t], 1) for s, t in self.pairs
        )
        self.standardizers = nn.ModuleList(ChannelStandardize(widths[self.teacher][t]) for _, t in self.pairs)

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        hints = []
        for (s, t), regress, standardize in zip(self.pairs, self.regressors, self.standardizers, strict=True):
            hints.append(hint_loss(*common_grid(regress(student.features[s]), standardize(teacher.features[t]))))
        hint = Term(self.hint_weight, torch.stack(hints).mean())
        return super().terms(student, teacher, targets, index) | {"hint": hint}
