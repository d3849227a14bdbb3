"""Relations among samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sfkd.align import pooled
from sfkd.distillers.base import Term
from sfkd.distillers.kd import KD
from sfkd.features import Backbone, Output
from sfkd.losses import rkd_loss


class RKD(KD):
    """KD + rkd_weight · RKD of the pooled last layer (Park et al., CVPR 2019).

    As published: distances and angles, with the weights of later comparisons. Ours: the vector of a sample is the mean of
    the last captured map over its grid, for every architecture (for transformers the mean of patch tokens, not the class
    token); the logit term beside it. Relations are those of the samples of one batch on one process.

    Args:
        rkd_weight: weight of the term. distance_weight, angle_weight: inside it, as published. rkd_weight, which is 1 there,
            is tuned (`docs/results.md`).
        **options: those of `kd`.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        rkd_weight: float = 3.0,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        assert self.teacher is not None
        self.rkd_weight, self.distance_weight, self.angle_weight = rkd_weight, distance_weight, angle_weight
        self.last = (student.layer_names[-1], self.teacher.layer_names[-1])

    @property
    def teacher_layers(self) -> list[str]:
        return [self.last[1]]

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        value = rkd_loss(
            pooled(student.features[self.last[0]]),
            pooled(teacher.features[self.last[1]]),
            distance_weight=self.distance_weight,
            angle_weight=self.angle_weight,
        )
        return super().terms(student, teacher, targets, index) | {"rkd": Term(self.rkd_weight, value)}
