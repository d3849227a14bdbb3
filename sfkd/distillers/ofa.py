"""Distillation in the space of logits, from every stage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfkd.distillers.base import Term
from sfkd.distillers.kd import KD
from sfkd.features import Backbone, Output
from sfkd.losses import ofa_loss


class Exit(nn.Sequential):
    """Maps `[B, C, H, W]` to logits `[B, K]`: 1×1 convolution, normalisation per image, GELU, mean over positions, linear.

    No batch statistics, and no size is asked for, so it fits every stage of every architecture.
    """

    def __init__(self, channels: int, width: int, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.GroupNorm(1, width),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, num_classes),
        )


class OFA(KD):
    """CE + ofa_weight · OFA loss of the logits + exit_weight · Σ over student layers of that of an exit's logits.

    After OFA-KD (Hao et al., NeurIPS 2023): the student's intermediate maps are projected to logits by trained exits, and
    compared with the teacher's logits. As published: the loss, the sum over stages. Ours: the exits, one small form for
    all architectures where the published ones differ between convolutions, transformers and MLPs; one exponent for all
    exits. Unlabelled samples have the teacher's first choice as target class.

    Args:
        ofa_weight: weight of the term on the student's own logits. exit_weight: of the sum over exits.
        eps: exponent ε of `sfkd.losses.ofa_loss`. width: hidden channels of an exit.
        temperature: T of OFA and KD.
        kd_weight: 0 leaves KD out of the loss; it is logged all the same.
        **options: those of every distiller.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        ofa_weight: float = 1.0,
        exit_weight: float = 0.3,
        eps: float = 1.0,
        width: int = 128,
        temperature: float = 1.0,
        kd_weight: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, kd_weight=kd_weight, temperature=temperature, **options)
        self.ofa_weight, self.exit_weight, self.eps = ofa_weight, exit_weight, eps
        classes = student.num_classes
        self.exits = nn.ModuleList(Exit(layer.channels, width, classes) for layer in student.layers)

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        plain = super().terms(student, teacher, targets, index)
        labels = self.labels(targets, teacher.logits)
        exits = [leave(x) for leave, x in zip(self.exits, student.features.values(), strict=True)]
        own, *early = (
            ofa_loss(logits, teacher.logits, labels, eps=self.eps, temperature=self.temperature)
            for logits in (student.logits, *exits)
        )
        return plain | {
            "ofa": Term(self.ofa_weight, own),
            "exits": Term(self.exit_weight, torch.stack(early).sum(), dict(zip(student.features, early, strict=True))),
        }
