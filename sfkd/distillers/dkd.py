"""Decoupled logit distillation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sfkd.distillers.base import Term
from sfkd.distillers.kd import KD
from sfkd.features import Backbone, Output
from sfkd.losses import dkd_loss


class DKD(KD):
    """CE + dkd_weight · DKD of the logits (Zhao et al., CVPR 2022), in place of KD.

    Unlabelled samples have the teacher's first choice as target class. The published warm-up of the weight over 20
    epochs is left out.

    Args:
        dkd_weight: weight of the term. alpha, beta: of target class and others, in `sfkd.losses.dkd_loss`.
        temperature: T of DKD and KD. Published: β = 8, T = 4; the defaults are tuned (`docs/results.md`).
        kd_weight: 0 leaves KD out of the loss; it is logged all the same.
        **options: those of every distiller.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        dkd_weight: float = 1.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        temperature: float = 1.0,
        kd_weight: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, kd_weight=kd_weight, temperature=temperature, **options)
        self.dkd_weight, self.alpha, self.beta = dkd_weight, alpha, beta

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        plain = super().terms(student, teacher, targets, index)
        value = dkd_loss(
            student.logits,
            teacher.logits,
            self.labels(targets, teacher.logits),
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )
        return plain | {"dkd": Term(self.dkd_weight, value)}
