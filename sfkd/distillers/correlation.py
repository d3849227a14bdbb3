"""Correlation between samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sfkd.align import TeacherTarget, pooled
from sfkd.distillers.base import Term
from sfkd.distillers.kd import KD
from sfkd.features import Backbone, Output
from sfkd.losses import correlation_loss


class Correlation(KD):
    """KD + correlation_weight · correlation congruence of the pooled last layer (Peng et al., ICCV 2019).

    As in RepDistiller and OFA-KD: the loss, a linear embedding of the student. Ours: the teacher's side is
    standardised and, where wider, reduced by a fixed orthogonal projection. There it is a trained embedding, and the loss
    can be brought to 0 by two embeddings that vanish. The vector of a sample is the mean of the last captured map.

    Args:
        correlation_weight: weight of the term. Published: 0.02; the default is tuned (`docs/results.md`).
        width: most dimensions of the embedding; narrower teachers keep their own.
        **options: those of `kd`.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        correlation_weight: float = 0.5,
        width: int = 128,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        assert self.teacher is not None
        self.correlation_weight = correlation_weight
        self.last = (student.layer_names[-1], self.teacher.layer_names[-1])
        self.target = TeacherTarget(self.teacher.layers[-1].channels, width)
        self.embed = nn.Linear(student.layers[-1].channels, self.target.channels)

    @property
    def teacher_layers(self) -> list[str]:
        return [self.last[1]]

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        embedded = self.embed(pooled(student.features[self.last[0]]))
        target = self.target(pooled(teacher.features[self.last[1]])[:, :, None, None]).flatten(1)
        value = correlation_loss(embedded, target)
        return super().terms(student, teacher, targets, index) | {"correlation": Term(self.correlation_weight, value)}
