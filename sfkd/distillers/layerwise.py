"""What methods share that compare maps layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfkd.align import Layers, choose_pairs
from sfkd.distillers.base import Term
from sfkd.distillers.kd import KD
from sfkd.features import Backbone, Layer, Output


class Layerwise(KD):
    """KD + r · feature_weight · terms that are means over layer pairs. A method overrides `feature_terms`.

    r is 1 but for two ramps over the progress p of the training: r = min(1, p / warmup, (1 − p) / decay).

    Args:
        feature_weight: weight of the feature terms.
        layers: pairs [student layer, teacher layer] among the captured layers; None pairs all of the student's by
            relative depth (`sfkd.pair_layers`), "last" the last of both alone.
        warmup, decay: shares of the training in which the weight of the feature terms rises from 0, and falls to 0. 0
            leaves a ramp out.
        **options: those of `kd`.

    Raises:
        ValueError: layers that are not captured; shares under 0, or that sum to more than 1.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None,
        feature_weight: float,
        *,
        layers: Layers = None,
        warmup: float = 0.0,
        decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        assert self.teacher is not None
        if not (warmup >= 0 and decay >= 0 and warmup + decay <= 1):
            raise ValueError(
                "warmup and decay expect shares of the training, each ≥ 0 and together at most 1, got "
                f"{warmup!r} and {decay!r}."
            )
        self.feature_weight, self.warmup, self.decay = feature_weight, warmup, decay
        self.pairs = choose_pairs(student.layer_names, self.teacher.layer_names, layers)
        of_student = {layer.name: layer for layer in student.layers}
        of_teacher = {layer.name: layer for layer in self.teacher.layers}
        self.matched: list[tuple[Layer, Layer]] = [(of_student[s], of_teacher[t]) for s, t in self.pairs]

    @property
    def teacher_layers(self) -> list[str]:
        return list(dict.fromkeys(t for _, t in self.pairs))

    @property
    def ramp(self) -> float:
        """r at the present progress."""
        rising = self.progress / self.warmup if self.warmup else 1.0
        falling = (1 - self.progress) / self.decay if self.decay else 1.0
        return min(1.0, rising, falling)

    def maps(self, student: Output, teacher: Output) -> list[tuple[str, Tensor, Tensor]]:
        """Name of the student's layer, its map and the teacher's, of every pair."""
        return [(s, student.features[s], teacher.features[t]) for s, t in self.pairs]

    def feature_terms(self, student: Output, teacher: Output) -> dict[str, Term]:
        """The feature terms by name; their weights are multiplied by `feature_weight` and `ramp`."""
        raise NotImplementedError

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        plain = super().terms(student, teacher, targets, index)
        weight = self.feature_weight * self.ramp
        features = self.feature_terms(student, teacher).items()
        return plain | {name: replace(term, weight=weight * term.weight) for name, term in features}


def over_layers(
    values: Mapping[str, Tensor], weight: float | Tensor = 1.0, target_ratios: Mapping[str, Tensor] | None = None
) -> Term:
    """The term that is the mean of `values`, by student layer."""
    return Term(weight, torch.stack(list(values.values())).mean(), values, target_ratios or {})
