"""Losses on how the samples of a batch stand to one another, or to those of a memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sfkd._checks import real, same_shape
from sfkd.losses._inputs import full, none_of, positive
from sfkd.wavelet import float32_island

_FLOOR = 0.01  # least spread of a row that a correlation is divided by, over the row's length
_PEARSON_EPS = 1e-8  # of the published code of DIST
_COINCIDENT = 1e-6  # of the mean distance: two samples closer than this have no direction between them


def rkd_loss(student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """Relational KD: λ_d·smooth-L1 of pairwise distances + λ_a·smooth-L1 of angles, means over pairs and triples.

    Distances ‖x_i − x_j‖ are divided by their mean over pairs i ≠ j; angles are cos ∠ x_j x_i x_k. Diagonal pairs and
    degenerate triples count as zeros, as published. Coinciding samples have distance and angle 0, and no gradient there.
    A batch of one has no relation: 0.

    Args:
        student, teacher: one vector a sample, `[B, C]` and `[B, D]`; the widths need not agree.
        distance_weight, angle_weight: λ_d and λ_a.

    Memory grows with B²·max(C, D) + B³.

    Source: Park et al., "Relational knowledge distillation", CVPR 2019, RKD-D and RKD-A; weights are those that
    later comparisons use.

    Examples:
        >>> x = torch.randn(4, 8)
        >>> rkd_loss(2 * x, x).item() < 1e-5  # scale does not count
        True
    """
    _vectors(student, teacher, "rkd_loss")
    student, teacher = full(student), full(teacher)
    if len(student) < 2:
        return none_of(student)
    with float32_island(student):
        (distance_s, angle_s), (distance_t, angle_t) = _relations(student), _relations(teacher)
        distance = F.smooth_l1_loss(distance_s, distance_t.to(distance_s))
        angle = F.smooth_l1_loss(angle_s, angle_t.to(angle_s))
    return distance_weight * distance + angle_weight * angle


def correlation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation congruence: Σ_c |Δ_i||Δ_{i+1}| with Δ_i = s_i − t_i, mean over consecutive samples i of the batch.

    A batch of one has no neighbours: 0.

    Args:
        student, teacher: embedded samples `[B, C]` of equal width.

    Source: Peng et al., "Correlation congruence for knowledge distillation", ICCV 2019, in the form that later
    comparisons use (RepDistiller, OFA-KD) in place of its kernels.

    Examples:
        >>> correlation_loss(torch.ones(3, 2), torch.zeros(3, 2)).item()
        2.0
    """
    same_shape(student, teacher, "correlation_loss")
    _vectors(student, teacher, "correlation_loss")
    if len(student) < 2:
        return none_of(full(student))
    difference = (full(student) - full(teacher)).abs()
    return (difference[:-1] * difference[1:]).sum(1).mean()


def contrastive_loss(positive: Tensor, negative: Tensor, *, num_samples: int) -> Tensor:
    """Noise-contrastive estimation with K noise samples drawn from N: −[log h(p⁺) + Σ_k log(1 − h(p⁻_k))], mean over B.

    h(p) = p / (p + K/N) is the odds that a sample with model probability p is the data's and not the noise's.

    Args:
        positive: log p of the true partner, `[B]`.
        negative: log p of each noise sample, `[B, K]`; −∞ leaves one out.
        num_samples: N, size of the set that noise is drawn from, uniformly.

    Source: Tian, Krishnan, Isola, "Contrastive representation distillation", ICLR 2020; here through log-sigmoids,
    so that neither end overflows.

    Examples:
        >>> round(contrastive_loss(torch.zeros(2), torch.zeros(2, 1), num_samples=1).item(), 4)  # h = 1/2 for both
        1.3863
    """
    if positive.ndim != 1 or negative.ndim != 2 or len(positive) != len(negative) or negative.shape[1] < 1:
        raise ValueError(
            "contrastive_loss expects log-probabilities [B] and [B, K] with K ≥ 1, got shapes "
            f"{tuple(positive.shape)} and {tuple(negative.shape)}."
        )
    if num_samples < 1:
        raise ValueError(f"num_samples expects the size of the training set, a number ≥ 1, got {num_samples!r}.")
    noise = math.log(negative.shape[1] / num_samples)
    return -(F.logsigmoid(full(positive) - noise) + F.logsigmoid(noise - full(negative)).sum(1)).mean()


def infonce_loss(student: Tensor, teacher: Tensor, *, temperature: float = 0.1) -> Tensor:
    """InfoNCE in the batch: −log [exp(⟨s_i, t_i⟩ / τ) / Σ_j exp(⟨s_i, t_j⟩ / τ)], mean over samples i.

    s_i and t_i are the samples flattened and divided by their L2 norm: the student's map is to be nearest to the
    teacher's map of the same image, among those of the batch on one process. A batch of one has no other: 0. A sample of
    zeros has no direction, and no gradient.

    Args:
        student, teacher: maps or vectors `[B, …]` of equal shape.
        temperature: τ > 0.

    Source: van den Oord, Li, Vinyals, "Representation learning with contrastive predictive coding", arXiv 1807.03748,
    eq. 4; the cosine as score, and τ = 0.1, are our choice.

    Examples:
        >>> round(infonce_loss(torch.eye(2), torch.eye(2), temperature=1.0).item(), 4)  # log(1 + 1/e)
        0.3133
    """
    same_shape(student, teacher, "infonce_loss")
    if student.ndim < 2:
        raise ValueError(f"infonce_loss expects samples [B, …], got shape {tuple(student.shape)}.")
    positive("temperature", temperature)
    student, teacher = full(student), full(teacher)
    if len(student) < 2:
        return none_of(student)
    with float32_island(student):
        cosine = _directions(student.flatten(1)) @ _directions(teacher.flatten(1)).T.to(student)
        return -(cosine / temperature).log_softmax(1).diagonal().mean()


def _directions(x: Tensor) -> Tensor:
    """Rows of `[B, C]` divided by their norm, rows of zeros as they are."""
    squared = x.square().sum(1, keepdim=True)
    apart = squared != 0  # NaN is apart, and stays
    return torch.where(apart, x * torch.where(apart, squared, 1.0).rsqrt(), 0.0)


def correlation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − Pearson's r, half of it within samples, half across them: scale and offset of either side do not count.

    ½ · mean over samples of 1 − r of their coefficients + ½ · mean over coefficients of 1 − r of the batch's samples (on one
    process). A row that is constant correlates with nothing: r = 0, as across a batch of one.

    Args:
        student, teacher: `[B, …]` of equal shape.

    Source: ours, after the two relations of Huang et al. (NeurIPS 2022) between class probabilities.

    Examples:
        >>> x = torch.randn(4, 3, 8, 8)
        >>> correlation_distance(2 * x + 1, x).item() < 1e-5
        True
    """
    same_shape(student, teacher, "correlation_distance")
    if student.ndim < 2 or student.numel() == 0:
        raise ValueError(f"correlation_distance expects samples [B, …] with coefficients, got {tuple(student.shape)}.")
    student, teacher = full(student).flatten(1), full(teacher).flatten(1)
    return 1 - (pearson(student, teacher, dim=1).mean() + pearson(student, teacher, dim=0).mean()) / 2


def pearson(a: Tensor, b: Tensor, *, dim: int) -> Tensor:
    """Correlation of two matrices along `dim`, 0 where either is constant.

    Spreads under a hundredth of a row's length are taken as that: the gradient grows with one over the spread, and a head
    that starts at zero would get 10⁷.
    """
    return _Pearson.apply(a, b, dim)


class _Pearson(torch.autograd.Function):
    """`pearson` with its gradient written out: autograd would keep and pass over a dozen matrices."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, dim: int) -> Tensor:
        (a, spread_a, varies_a), (b, spread_b, varies_b) = (_centred(x, dim) for x in (a, b))
        scale = (spread_a * spread_b + _PEARSON_EPS).reciprocal()
        r = (a * b).sum(dim, keepdim=True) * scale
        ratio_a = torch.where(varies_a, spread_b / spread_a, 0.0)
        ratio_b = torch.where(varies_b, spread_a / spread_b, 0.0)
        ctx.save_for_backward(a, b, scale, r, ratio_a, ratio_b)
        return r.squeeze(dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        a, b, scale, r, ratio_a, ratio_b = ctx.saved_tensors
        scale = scale * gradient.view_as(scale)
        of_a, of_b = (
            torch.addcmul(other * scale, own, r * scale * ratio, value=-1) if needed else None
            for needed, own, other, ratio in zip(
                ctx.needs_input_grad[:2], (a, b), (b, a), (ratio_a, ratio_b), strict=True
            )
        )
        return of_a, of_b, None


def _centred(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """x − mean along `dim`, its length or what is taken for it, and whether it is its length."""
    mean = x.mean(dim, keepdim=True)
    centred = x - mean
    power = centred.square().sum(dim, keepdim=True)  # down columns a twentieth of the time of vector_norm
    spread, least = power.sqrt(), _FLOOR * (power + x.shape[dim] * mean.square()).sqrt()
    return centred, torch.maximum(spread, least), spread > least


def _vectors(student: Tensor, teacher: Tensor, caller: str) -> None:
    real(student, caller)
    real(teacher, caller)
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(
            f"{caller} expects one vector a sample, [B, C] and [B, D] with the same B, got shapes "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}: pool maps over their grid first."
        )


def _relations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distances over their mean `[B, B]`, and cosines of the angles at i `[B, B, B]`."""
    difference = x[None] - x[:, None]
    squared = difference.square().sum(-1)
    apart = squared != 0  # NaN is apart, and stays
    # the root has no gradient at zero, and ∞ times zero would be NaN
    distance = torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
    mean = distance.sum() / (len(x) * (len(x) - 1))
    mean = mean.clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
    directed = (distance > _COINCIDENT * mean)[..., None]
    unit = torch.where(directed, difference / torch.where(directed, distance[..., None], 1.0), 0.0)
    return distance / mean, unit @ unit.transpose(1, 2)
