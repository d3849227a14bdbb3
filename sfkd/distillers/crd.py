"""Contrast with a memory of all samples."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfkd._distributed import gathered
from sfkd.align import pooled
from sfkd.distillers.base import Term
from sfkd.distillers.kd import KD
from sfkd.features import Backbone, Output
from sfkd.losses import contrastive_loss
from sfkd.wavelet import float32_island


class CRD(KD):
    """KD + crd_weight · (contrast of the student with the teacher's memory + of the teacher with the student's).

    A sample's score with row j of the other model's memory is exp(⟨v, m_j⟩ / τ) / Z, v the L2-normalised linear embedding
    of its pooled last layer. True partner is the row of its own `index`, noise is drawn from all others. Rows of the
    batch move to (1 − μ)·v + μ·m, normalised, after they were used.

    As published (Tian, Krishnan, Isola, ICLR 2020): two memories, τ, μ, the loss and its weight, Z fixed from the first
    batch, both embeddings trained (noise keeps them from collapsing). Ours: one draw of noise is shared by the batch, not
    one a sample; noise may be of the sample's own class, so that labels are not needed; the vector of a sample is the
    mean of the last captured map.

    On several processes the noise is the same on all, Z comes from all, and every process moves the rows of all.

    Args:
        num_samples: size N of the training set; `index` counts from 0 to N − 1. `sfkd train` fills it in.
        crd_weight: weight of the sum of both contrasts.
        width: dimensions of the embedding. negatives: noise samples K a step.
        contrast_temperature: τ. momentum: μ of the memory.
        **options: those of `kd`.

    Raises:
        ValueError: without `num_samples` or, when called, without `index`.
    """

    memory_student: Tensor
    memory_teacher: Tensor
    log_constants: Tensor
    counter: Tensor

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone | None = None,
        *,
        num_samples: int | None = None,
        crd_weight: float = 0.8,
        width: int = 128,
        negatives: int = 16384,
        contrast_temperature: float = 0.07,
        momentum: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(student, teacher, **options)
        assert self.teacher is not None
        if num_samples is None or num_samples < 2:
            raise ValueError(
                f"crd remembers every training sample: pass num_samples, their number, at least 2; got {num_samples!r}."
            )
        if negatives < 1 or not contrast_temperature > 0 or not 0 <= momentum < 1:
            raise ValueError(
                "crd expects negatives ≥ 1, contrast_temperature > 0 and 0 ≤ momentum < 1, got "
                f"{negatives!r}, {contrast_temperature!r} and {momentum!r}."
            )
        self.num_samples, self.crd_weight, self.negatives = num_samples, crd_weight, negatives
        self.contrast_temperature, self.momentum = contrast_temperature, momentum
        self.last = (student.layer_names[-1], self.teacher.layer_names[-1])
        self.embed_student = nn.Linear(student.layers[-1].channels, width)
        self.embed_teacher = nn.Linear(self.teacher.layers[-1].channels, width)
        for name in ("memory_student", "memory_teacher"):
            bound = 1 / math.sqrt(width / 3)
            self.register_buffer(name, torch.empty(num_samples, width).uniform_(-bound, bound))
        self.register_buffer("log_constants", torch.full((2,), torch.nan))  # log Z of both directions, NaN = not yet
        # noise is a function of this count alone: a resumed run draws what an unbroken one would
        self.register_buffer("counter", torch.randint(2**31, ()))

    @property
    def teacher_layers(self) -> list[str]:
        return [self.last[1]]

    def terms(self, student: Output, teacher: Output, targets: Tensor, index: Tensor | None) -> dict[str, Term]:
        if index is None:
            raise ValueError(
                "crd finds a sample's memory by its number: call the distiller with index, whole numbers [B]."
            )
        plain = super().terms(student, teacher, targets, index)
        own = self.embed_student(pooled(student.features[self.last[0]]))
        others = self.embed_teacher(pooled(teacher.features[self.last[1]]))
        with float32_island(own):
            value = self._contrast(F.normalize(own.float(), dim=1), F.normalize(others.float(), dim=1), index)
        return plain | {"crd": Term(self.crd_weight, value)}

    def _contrast(self, own: Tensor, others: Tensor, index: Tensor) -> Tensor:
        """Both directions for unit vectors `[B, d]` of student and teacher; the memory moves in training mode."""
        noise = _drawn(self.counter, self.negatives, self.num_samples)
        scores = [
            self._scores(v, memory, index, noise)
            for v, memory in ((own, self.memory_teacher), (others, self.memory_student))
        ]
        constants = self._constants(scores)
        contrasts = [
            contrastive_loss(positive - constant, negative - constant, num_samples=self.num_samples)
            for (positive, negative), constant in zip(scores, constants, strict=True)
        ]
        if self.training:
            self._remember(index, own.detach(), others.detach(), constants)
        return torch.stack(contrasts).sum()

    def _scores(self, v: Tensor, memory: Tensor, index: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """log of the unnormalised scores: of the partner `[B]`, of the noise `[B, K]`, −∞ where it is the partner."""
        positive = (v * memory[index]).sum(1) / self.contrast_temperature
        negative = v @ memory[noise].T / self.contrast_temperature
        return positive, negative.masked_fill(index[:, None] == noise, -torch.inf)

    @torch.no_grad()
    def _constants(self, scores: list[tuple[Tensor, Tensor]]) -> Tensor:
        """log Z = log(N · mean score) of both directions; of the first batch that was trained on, where there was one."""
        per_process = gathered(torch.stack([_log_mean(torch.cat([p[:, None], n], dim=1)) for p, n in scores])[None])
        estimate = torch.stack([_log_mean(x) for x in per_process.unbind(1)]) + math.log(self.num_samples)
        return torch.where(self.log_constants.isnan(), estimate, self.log_constants)

    @torch.no_grad()
    def _remember(self, index: Tensor, own: Tensor, others: Tensor, constants: Tensor) -> None:
        index = gathered(index)
        same = (index[:, None] == index).float()
        for memory, vectors in ((self.memory_student, own), (self.memory_teacher, others)):
            # a sample that came twice writes one value twice, so that all processes write the same
            mean = same @ gathered(vectors) / same.sum(1, keepdim=True)
            rows = self.momentum * memory[index] + (1 - self.momentum) * mean
            memory[index] = F.normalize(rows, dim=1)
        self.log_constants.copy_(constants)
        self.counter += 1


def _log_mean(x: Tensor) -> Tensor:
    """log of the mean of exp(x)."""
    return x.flatten().logsumexp(0) - math.log(x.numel())


def _drawn(counter: Tensor, count: int, below: int) -> Tensor:
    """`count` whole numbers in [0, below), uniform to 2⁻³², a function of `counter`: no generator whose state to save."""
    x = (counter * count + torch.arange(count, device=counter.device)) & 0xFFFFFFFF
    for _ in range(2):  # a mixing of 32 bits that loses none; 0x45D9F3B is small enough for 64
        x = ((x >> 16 ^ x) * 0x45D9F3B) & 0xFFFFFFFF
    return (x >> 16 ^ x) % below
