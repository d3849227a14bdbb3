"""The contract of every distiller: `forward(images, targets, index) → loss, named parts, logits`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfkd.features import Backbone, Output

UNLABELLED = -1


class Result(NamedTuple):
    """`loss` is the weighted sum to differentiate, `parts` its unweighted terms, detached, `logits` the student's."""

    loss: Tensor
    parts: dict[str, Tensor]
    logits: Tensor


class Term(NamedTuple):
    """One distillation term: its weight in the loss and its value."""

    weight: float
    value: Tensor


class Distiller(nn.Module):
    """A student, a frozen teacher and a loss. A method overrides `terms`, and adds trainable parts if it has any.

    The teacher is kept in eval mode and runs under `no_grad`: nothing of its graph is stored, its statistics never move.

    Args:
        student, teacher: `Backbone`s; `teacher=None` only where the method has no use for one.
        ce_weight: weight of the cross-entropy on labelled samples.
        label_smoothing: of that cross-entropy.
    """

    needs_teacher = True

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        ce_weight: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        for role, model in (("student", student), ("teacher", teacher)):
            if model is not None and not isinstance(model, Backbone):
                raise TypeError(
                    f"{role} expects an sfkd.Backbone, got {type(model).__name__}: wrap it, Backbone(model)."
                )
        if teacher is None and self.needs_teacher:
            raise ValueError(f"{type(self).__name__} distils from a teacher: pass teacher=sfkd.Backbone(…).")
        self.student, self.teacher = student, teacher
        self.ce_weight, self.label_smoothing = ce_weight, label_smoothing
        if teacher is not None:
            teacher.requires_grad_(False)
            teacher.eval()

    def train(self, mode: bool = True) -> Distiller:
        """Training mode for everything but the teacher."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, images: Tensor, targets: Tensor, index: Tensor | None = None) -> Result:
        """Loss on `images` `[B, C, H, W]`.

        `targets` `[B]`, −1 = unlabelled; `index` `[B]` sample numbers, for methods with a memory.
        """
        student = self.student(images)
        terms = {"ce": Term(self.ce_weight, self.cross_entropy(student.logits, targets))}
        if self.teacher is not None and self.needs_teacher:
            with torch.no_grad():
                teacher = self.teacher(images)
            terms |= self.terms(student, teacher, targets, index)
        loss = torch.stack([term.weight * term.value for term in terms.values()]).sum()
        return Result(loss, {name: term.value.detach() for name, term in terms.items()}, student.logits)

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        """The distillation terms by name."""
        return {}

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over labelled samples, 0 where there are none."""
        total = F.cross_entropy(
            logits.float(), targets, ignore_index=UNLABELLED, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total / (targets != UNLABELLED).sum().clamp_min(1)

    @staticmethod
    def labels(targets: Tensor, teacher: Tensor) -> Tensor:
        """`targets` `[B]` with the teacher's first choice of `[B, K]` where they are unlabelled, for terms that need one."""
        return torch.where(targets == UNLABELLED, teacher.argmax(1), targets)

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors of the distiller that belong to neither model: projections, refiners, statistics."""
        own = ("student.", "teacher.")
        return {name: value for name, value in self.state_dict().items() if not name.startswith(own)}
