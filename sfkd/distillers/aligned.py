"""What methods share that compare aligned maps layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfkd.align import AlignedPair, pair_layers
from sfkd.distillers.base import Term
from sfkd.distillers.kd import KD
from sfkd.features import Backbone, Output


class AlignedMaps(KD):
    """KD + feature_weight · mean over layers of `distance(S̄, T̄)` on aligned maps. A method overrides `distance`.

    Layers, student projection and fixed target are those of `sfkd`, so that the methods differ in the distance alone.

    Args:
        feature_weight: weight of the mean over layers.
        width: most channels in which maps are compared; wider teachers are projected.
        **options: those of `kd`.
    """

    part = "features"

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        feature_weight: float = 1.0,
        width: int = 128,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        assert self.teacher is not None
        self.feature_weight = feature_weight
        self.pairs = pair_layers(student.layer_names, self.teacher.layer_names)
        of_student = {layer.name: layer.channels for layer in student.layers}
        of_teacher = {layer.name: layer.channels for layer in self.teacher.layers}
        self.aligned = nn.ModuleList(AlignedPair(of_student[s], of_teacher[t], width) for s, t in self.pairs)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Scalar distance of two maps `[B, d, h, w]`."""
        raise NotImplementedError

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        distances = [
            self.distance(*pair.align(student.features[s], teacher.features[t]))  # type: ignore[operator]
            for (s, t), pair in zip(self.pairs, self.aligned, strict=True)
        ]
        part = Term(self.feature_weight, torch.stack(distances).mean())
        return super().terms(student, teacher, targets, index) | {self.part: part}
