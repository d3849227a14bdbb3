"""Logit distillation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sfkd.distillers.base import Distiller, Term
from sfkd.features import Backbone, Output
from sfkd.losses import kd_loss


class KD(Distiller):
    """CE + kd_weight · T²·KL of the softened logits (Hinton et al. 2015).

    Args:
        kd_weight: weight of the KL term. temperature: T. Defaults are the best of six on held-out images of two small pairs
            (`benchmarks/results/tuning.csv`).
        **options: those of every distiller, `ce_weight` and `label_smoothing`.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        kd_weight: float = 4.0,
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        self.kd_weight, self.temperature = kd_weight, temperature

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        if student.logits.shape != teacher.logits.shape:
            raise ValueError(
                f"logit distillation expects one set of classes, got {student.logits.shape[1]} (student) and "
                f"{teacher.logits.shape[1]} (teacher): give both models the same num_classes."
            )
        value = kd_loss(student.logits, teacher.logits, temperature=self.temperature)
        return {"kd": Term(self.kd_weight, value)}
