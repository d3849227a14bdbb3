"""Losses on logits `[B, K]`: Hinton's and three that take its place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sfkd._checks import same_shape
from sfkd.losses._inputs import full, positive
from sfkd.losses.relations import pearson


def kd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T²·KL(softmax(teacher / T) ‖ softmax(student / T)), mean over samples.

    Args:
        student, teacher: logits `[B, K]`.
        temperature: T > 0.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.

    Examples:
        >>> logits = torch.randn(4, 10)
        >>> abs(kd_loss(logits, logits).item()) < 1e-6
        True
    """
    student, teacher = _softened(student, teacher, temperature, "kd_loss")
    return _divergence(F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)) * temperature**2


def dkd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> Tensor:
    """Decoupled KD: T²·(α·TCKD + β·NCKD), mean over samples.

    TCKD is KL of (p_y, 1 − p_y), NCKD is KL of the softmax over the other classes alone.

    Args:
        student, teacher: logits `[B, K]`, K ≥ 2.
        target: labels y `[B]`, each in 0 … K − 1.
        alpha, beta: weights of target class and other classes.
        temperature: T > 0.

    Source: Zhao et al., "Decoupled knowledge distillation", CVPR 2022; defaults are those of its code.

    Examples:
        >>> logits = torch.randn(4, 10)
        >>> abs(dkd_loss(logits, logits, torch.arange(4)).item()) < 1e-5
        True
    """
    student, teacher = _softened(student, teacher, temperature, "dkd_loss")
    if student.shape[1] < 2:
        raise ValueError("dkd_loss expects at least two classes, got 1: there are no others to compare.")
    labelled = _one_hot(target, student, "dkd_loss")
    (of_target_s, of_others_s), (of_target_t, of_others_t) = (_decoupled(x, labelled) for x in (student, teacher))
    target_class = _divergence(of_target_s, of_target_t)
    # both are 0 at the label, where the teacher's probability must not be e⁰
    other_classes = (of_others_t.exp() * (of_others_t - of_others_s)).sum(1).mean()
    return (alpha * target_class + beta * other_classes) * temperature**2


def dist_loss(student: Tensor, teacher: Tensor, *, beta: float = 2.0, gamma: float = 2.0, tau: float = 1.0) -> Tensor:
    """τ²·(β·inter + γ·intra): 1 − Pearson correlation of softened probabilities, over classes and over samples.

    `inter` correlates each sample's K probabilities, `intra` each class's B. Spreads under a hundredth of a row's length
    (nearly equal logits) are taken as that, ours, so that the gradient stays bounded; a constant row (a batch of one, for
    `intra`) correlates with nothing.

    Args:
        student, teacher: logits `[B, K]`.
        beta, gamma: weights of inter-class and intra-class relation.
        tau: temperature τ > 0.

    Source: Huang et al., "Knowledge distillation from a stronger teacher", NeurIPS 2022; defaults are ours.

    Examples:
        >>> logits = torch.eye(4)
        >>> abs(dist_loss(logits, logits).item()) < 1e-5
        True
    """
    student, teacher = (F.softmax(x, dim=1) for x in _softened(student, teacher, tau, "dist_loss", "tau"))
    inter = 1 - pearson(student, teacher, dim=1).mean()
    intra = 1 - pearson(student, teacher, dim=0).mean()
    return (beta * inter + gamma * intra) * tau**2


def ofa_loss(student: Tensor, teacher: Tensor, target: Tensor, *, eps: float = 1.0, temperature: float = 1.0) -> Tensor:
    """−Σ_c [(p_t + y)^ε − y]·log p_s, mean over samples: the target class enhanced where the teacher is sure of it.

    Args:
        student, teacher: logits `[B, K]`; p_s and p_t are their softmax at `temperature`.
        target: labels `[B]`, each in 0 … K − 1; y is their one-hot form.
        eps: exponent ε > 0 of the enhancement; 1 gives the cross-entropy with the teacher.
        temperature: T > 0. There is no T², as published.

    Source: Hao et al., "One-for-all: bridge the gap between heterogeneous architectures in knowledge distillation",
    NeurIPS 2023, its adaptive target enhancement; defaults are ours.

    Examples:
        >>> ofa_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0])).item() == torch.tensor(2.0).log().item()
        True
    """
    positive("eps", eps)
    student, teacher = _softened(student, teacher, temperature, "ofa_loss")
    labelled = _one_hot(target, student, "ofa_loss").to(student.dtype)
    weights = (F.softmax(teacher, dim=1) + labelled) ** eps - labelled
    return -(weights * F.log_softmax(student, dim=1)).sum(1).mean()


def _softened(
    student: Tensor, teacher: Tensor, temperature: float, caller: str, option: str = "temperature"
) -> tuple[Tensor, Tensor]:
    same_shape(student, teacher, caller)
    if student.ndim != 2:
        raise ValueError(f"{caller} expects logits [B, K], got shape {tuple(student.shape)}.")
    positive(option, temperature)
    return full(student) / temperature, full(teacher) / temperature


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _one_hot(target: Tensor, logits: Tensor, caller: str) -> Tensor:
    """Boolean `[B, K]`."""
    if target.shape != logits.shape[:1] or target.is_floating_point():
        raise ValueError(
            f"{caller} expects one whole number per sample as target, [{len(logits)}], got {target.dtype} of shape "
            f"{tuple(target.shape)}."
        )
    return target[:, None] == torch.arange(logits.shape[1], device=logits.device)


def _decoupled(logits: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (label, any other) `[B, 2]`, and of the others among themselves `[B, K]`, 0 at the label."""
    others = logits.masked_fill(labelled, -torch.inf)
    label = logits.masked_fill(~labelled, -torch.inf).logsumexp(1)
    rest = others.logsumexp(1)
    # in logarithms throughout: 1 − p_y would be 0 where the model is sure
    binary = F.log_softmax(torch.stack([label, rest], dim=1), dim=1)
    return binary, F.log_softmax(others, dim=1).masked_fill(labelled, 0.0)
