"""Relations among logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sfkd.distillers.base import Term
from sfkd.distillers.kd import KD
from sfkd.features import Backbone, Output
from sfkd.losses import dist_loss


class DIST(KD):
    """CE + dist_weight · DIST of the logits (Huang et al., NeurIPS 2022), in place of KD.

    The relation within classes is that of the samples of one batch on one process, as published.

    Args:
        dist_weight: weight of the term. beta, gamma: of relations between and within classes.
        temperature: τ of DIST, T of KD. Published: 1; the default is tuned (`docs/results.md`).
        kd_weight: 0 leaves KD out of the loss; it is logged all the same.
        **options: those of every distiller.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        dist_weight: float = 1.0,
        beta: float = 2.0,
        gamma: float = 2.0,
        temperature: float = 2.0,
        kd_weight: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, kd_weight=kd_weight, temperature=temperature, **options)
        self.dist_weight, self.beta, self.gamma = dist_weight, beta, gamma

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        plain = super().terms(student, teacher, targets, index)
        value = dist_loss(student.logits, teacher.logits, beta=self.beta, gamma=self.gamma, tau=self.temperature)
        return plain | {"dist": Term(self.dist_weight, value)}
