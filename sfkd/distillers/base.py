"""The contract of every distiller: `forward(images, targets, index) → loss, named parts, logits`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfkd.features import Backbone, Output

UNLABELLED = -1


class Result(NamedTuple):
    """What one call gives; everything but `loss` and `logits` is detached.

    `loss` is the weighted sum to differentiate, `parts` its unweighted terms, `logits` the student's. `layers` holds the
    terms layer by layer, "part/layer" → scalar. `target_ratios`: layer → variance of the target that the loss compares
    with, over that of the parameter-free target; 1 unless something on the teacher's side is trained. `weights`: those
    weights of parts that change during training.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    logits: Tensor
    layers: dict[str, Tensor]
    target_ratios: dict[str, Tensor]
    weights: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Term:
    """One distillation term: its weight in the loss, its value, and where it has them its values and target ratios by
    layer (see `Result`)."""

    weight: float | Tensor
    value: Tensor
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    target_ratios: Mapping[str, Tensor] = field(default_factory=dict)


class Distiller(nn.Module):
    """A student, a frozen teacher and a loss. A method overrides `terms`, and adds trainable parts if it has any.

    The teacher is kept in eval mode and runs under `no_grad`: nothing of its graph is stored, its statistics never move.

    Args:
        student, teacher: `Backbone`s; `teacher=None` only where the method has no use for one.
        ce_weight: weight of the cross-entropy on labelled samples.
        label_smoothing: of that cross-entropy.
    """

    needs_teacher = True
    progress = 0.0
    """Share of the training that is done, 0 … 1; the training loop sets it before each step."""
    fit_batches = 0
    """Batches of the training set that `fit` wants to see before the first step."""

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

    def forward(
        self, images: Tensor, targets: Tensor, index: Tensor | None = None, teacher: Output | None = None
    ) -> Result:
        """Loss on `images` `[B, C, H, W]`.

        `targets` `[B]`, −1 = unlabelled, or `[B, K]` shares of classes (mixup), where a row may sum to less than 1 and the
        rest is unlabelled; `index` `[B]` sample numbers, for methods with a memory; `teacher` what the teacher gave for
        these images, where that was computed beforehand.
        """
        student = self.student(images)
        terms = {"ce": Term(self.ce_weight, self.cross_entropy(student.logits, targets))}
        if self.teacher is not None and self.needs_teacher:
            if teacher is None:
                with torch.no_grad():
                    teacher = self.teacher(images)
            terms |= self.terms(student, teacher, targets, index)
        return Result(
            loss=torch.stack([term.weight * term.value for term in terms.values()]).sum(),
            parts={name: term.value.detach() for name, term in terms.items()},
            logits=student.logits,
            layers={f"{part}/{k}": v.detach() for part, term in terms.items() for k, v in term.layers.items()},
            target_ratios={k: v.detach() for term in terms.values() for k, v in term.target_ratios.items()},
            weights={k: term.weight.detach() for k, term in terms.items() if isinstance(term.weight, Tensor)},
        )

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        """The distillation terms by name."""
        return {}

    @property
    def teacher_layers(self) -> list[str]:
        """Layers of the teacher whose maps the terms read."""
        return []

    def fit(self, teacher: Iterable[Output]) -> None:
        """Fit what stays fixed in training to outputs of the teacher, `fit_batches` of them. Most methods have nothing."""

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over labelled samples, 0 where there are none."""
        if targets.ndim == 2:
            labelled = targets.sum(1, keepdim=True)
            smoothed = targets * (1 - self.label_smoothing) + labelled * self.label_smoothing / targets.shape[1]
            return -(smoothed * logits.float().log_softmax(1)).sum() / labelled.sum().clamp_min(1e-6)
        total = F.cross_entropy(
            logits.float(), targets, ignore_index=UNLABELLED, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total / (targets != UNLABELLED).sum().clamp_min(1)

    @staticmethod
    def labels(targets: Tensor, teacher: Tensor) -> Tensor:
        """One class a sample `[B]`, the teacher's first choice of `[B, K]` where `targets` are unlabelled.

        Of mixed targets `[B, K]` it is the largest share.
        """
        if targets.ndim == 2:
            return torch.where(targets.sum(1) > 0, targets.argmax(1), teacher.argmax(1))
        return torch.where(targets == UNLABELLED, teacher.argmax(1), targets)

    def extra_state(self, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Tensors of the distiller that belong to neither model: projections, refiners, statistics.

        `state`: its state dict where that is not whole in this process (FSDP).
        """
        models = ("student.", "teacher.")
        state = self.state_dict() if state is None else state
        return {name: value for name, value in state.items() if not name.startswith(models)}

    def count_parameters(self) -> dict[str, int]:
        """Of the "student", of the "teacher", and of what is trained "beside" the student."""
        student, teacher = (
            0 if m is None else sum(p.numel() for p in m.parameters()) for m in (self.student, self.teacher)
        )
        return {
            "student": student,
            "teacher": teacher,
            "beside": sum(p.numel() for p in self.parameters()) - student - teacher,
        }
