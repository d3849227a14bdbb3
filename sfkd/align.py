"""Bring teacher and student maps to common channels and a common grid, with nothing trainable on the teacher's side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfkd._checks import real, unknown
from sfkd._distributed import gathered, processes

Layers = Sequence[Sequence[str]] | Literal["last"] | None  # what `choose_pairs` takes


class ChannelStandardize(nn.Module):
    """Per-channel standardisation of `[B, C, H, W]` by running mean and variance, without parameters or their gradient.

    In training mode the statistics are updated before they are used: exact over the first `window` batches, exponential
    after, and those of the batches of all processes, which are equally large. Our choice: a target whose scale cannot be
    trained away.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int, *, window: int = 100, eps: float = 1e-5) -> None:
        super().__init__()
        self.window, self.eps = window, eps
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        if self.training:
            self._update(x.detach())
        scale = torch.rsqrt(self.variance + self.eps)
        return (x - self.mean[:, None, None]).mul_(scale[:, None, None])

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        # two passes, since E[x²] − mean² loses its digits where the mean is large; a sixth of the time of torch.var_mean
        maps = x.flatten(2)
        mean = maps.mean(2).mean(0)
        variance = torch.linalg.vector_norm(maps - mean[:, None], dim=2).square().mean(0) / maps.shape[2]
        means, variances = gathered(torch.stack([mean, variance])[None]).unbind(1)
        # law of total variance: the spread of means belongs to the variance, over processes and then over batches
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        self.batches += 1
        momentum = 1 / self.batches.clamp_max(self.window)
        shift = mean - self.mean
        self.variance += momentum * (variance - self.variance + (1 - momentum) * shift.square())
        self.mean += momentum * shift


class Moments:
    """Mean and covariance of channels over all positions of the maps that were added, float64 on the CPU.

    Examples:
        >>> moments = Moments(2)
        >>> moments.add(torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]]]))
        >>> moments.mean.tolist(), moments.covariance.diagonal().tolist()
        ([2.0, 2.0], [1.0, 0.0])
    """

    def __init__(self, channels: int) -> None:
        self.count = torch.zeros((), dtype=torch.float64)
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.covariance = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Count every position of maps `[B, C, H, W]`."""
        rows = x.detach().cpu().double().transpose(0, 1).flatten(1)
        mean = rows.mean(1)
        centred = rows - mean[:, None]
        self.merge(torch.tensor(float(rows.shape[1])), mean, centred @ centred.T / rows.shape[1])

    def merge(self, count: Tensor, mean: Tensor, covariance: Tensor) -> None:
        """Count `count` further positions with this mean and covariance (law of total covariance)."""
        share = count / (self.count + count)
        shift = mean - self.mean
        self.covariance += share * (covariance - self.covariance + (1 - share) * torch.outer(shift, shift))
        self.mean += share * shift
        self.count += count

    def of_all_processes(self, device: torch.device) -> Moments:
        """Those of all processes together, the same on each; `device` is where processes can exchange tensors."""
        if processes() == 1:  # not every device has float64
            return self
        parts = [gathered(x[None].to(device)).cpu() for x in (self.count, self.mean, self.covariance)]
        together = Moments(len(self.mean))
        for count, mean, covariance in zip(*parts, strict=True):
            together.merge(count, mean, covariance)
        return together


class TeacherTarget(nn.Module):
    """The teacher's maps as a fixed target.

    Standardised per channel, then, where wider than `width`, reduced by a projection with orthonormal rows: a seeded
    random one, or after `fit` the principal components.
    """

    projection: Tensor | None

    def __init__(self, channels: int, width: int, *, seed: int = 0) -> None:
        super().__init__()
        self.standardize = ChannelStandardize(channels)
        self.channels = min(channels, width)
        projection = None
        if channels > width:
            noise = torch.randn(channels, width, generator=torch.Generator().manual_seed(seed))
            projection = torch.linalg.qr(noise).Q.T[:, :, None, None].contiguous()
        self.register_buffer("projection", projection)

    @property
    def reduces(self) -> bool:
        """Whether the teacher is wider than the target."""
        return self.projection is not None

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        x = self.standardize(x)
        return x if self.projection is None else F.conv2d(x, self.projection)

    @torch.no_grad()
    def fit(self, moments: Moments) -> None:
        """Project onto the principal components of the standardised channels, largest variance first.

        Each component's largest loading is made positive, so that all processes and machines agree on its sign.
        """
        assert self.projection is not None
        scale = (moments.covariance.diagonal() + self.standardize.eps).rsqrt()
        _, vectors = torch.linalg.eigh(scale[:, None] * moments.covariance * scale)  # ascending
        rows = vectors.T.flip(0)[: self.channels]
        signs = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
        self.projection.copy_((signs * rows)[:, :, None, None])


class StudentProjection(nn.Sequential):
    """A trainable 1×1 convolution to the target's width; where `normalized`, then normalisation of each image.

    No batch statistics, so that one process and many compute the same.
    """

    def __init__(self, channels: int, width: int, *, normalized: bool = False) -> None:
        super().__init__(nn.Conv2d(channels, width, 1, bias=not normalized))
        if normalized:
            self.append(nn.GroupNorm(1, width))


class AlignedPair(nn.Module):
    """One layer of the student beside one of the teacher: the student projected, the teacher a fixed target, one grid.

    Args:
        student_channels, teacher_channels: of the two maps.
        width: most channels in which they are compared.
        normalized: whether the student's maps are normalised after their projection.
    """

    def __init__(self, student_channels: int, teacher_channels: int, width: int, *, normalized: bool = False) -> None:
        super().__init__()
        self.target = TeacherTarget(teacher_channels, width)
        self.project = StudentProjection(student_channels, self.target.channels, normalized=normalized)

    def align(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `[B, C, H, W]` of both, `[B, d, h, w]` on the smaller grid."""
        return common_grid(self.project(student), self.target(teacher))


def pooled(x: Tensor) -> Tensor:
    """Maps `[B, C, H, W]` as one vector a sample, `[B, C]`: the mean over positions, in float32 or float64."""
    return (x if x.dtype == torch.float64 else x.float()).mean((-2, -1))


def common_grid(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps on the smaller of the two grids, by area averaging.

    Averaging aliases: 8 cycles on a 56 grid reappear as 6 on a 14 grid with 56 % of their amplitude. Good enough for
    a loss; measures that compare frequencies across grids should crop in the Fourier domain instead.
    """
    for x in (a, b):
        real(x, "common_grid")
        if x.ndim not in (3, 4) or 0 in x.shape[-2:]:
            raise ValueError(f"common_grid expects maps [B, C, H, W] or [C, H, W], got shape {tuple(x.shape)}.")
    grid = (min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1]))
    return _pooled(a, grid), _pooled(b, grid)


def _pooled(x: Tensor, grid: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[-2:]) == grid else F.adaptive_avg_pool2d(x, grid)


def pair_layers(student: list[str], teacher: list[str]) -> list[tuple[str, str]]:
    """(student layer, teacher layer) for each student layer, matched by relative depth; the last always meets the last.

    Layer i of n (from 1) meets layer i·m / n of m, rounded, halves up, at least the first.

    Examples:
        >>> pair_layers(["s0", "s1", "s2"], ["t0", "t1", "t2", "t3"])
        [('s0', 't0'), ('s1', 't2'), ('s2', 't3')]
    """
    if not student or not teacher:
        raise ValueError(f"pair_layers expects layers on both sides, got {len(student)} and {len(teacher)}.")
    n, m = len(student), len(teacher)
    return [(name, teacher[max(1, (2 * i * m + n) // (2 * n)) - 1]) for i, name in enumerate(student, 1)]


def choose_pairs(student: list[str], teacher: list[str], layers: Layers) -> list[tuple[str, str]]:
    """The layer pairs that an option `layers` names, `pair_layers` of all where it is None.

    Args:
        student, teacher: names of the captured layers.
        layers: pairs [student layer, teacher layer]; a layer of the student may stand in one of them only. "last" pairs
            the last of both alone.

    Raises:
        ValueError: what is no such list, or a layer that is not captured, with those that are.

    Examples:
        >>> choose_pairs(["s0", "s1"], ["t0", "t1"], [["s1", "t0"]])
        [('s1', 't0')]
    """
    if layers is None:
        return pair_layers(student, teacher)
    if layers == "last":
        return pair_layers(student, teacher)[-1:]
    listed = layers if isinstance(layers, (list, tuple)) else []
    pairs = [tuple(map(str, pair)) if isinstance(pair, (list, tuple)) else () for pair in listed]
    if not pairs or any(len(pair) != 2 for pair in pairs) or len({pair[0] for pair in pairs}) < len(pairs):
        raise ValueError(
            "layers expects pairs [student layer, teacher layer], at least one and each layer of the student once, or "
            f"'last', got {layers!r}: the student has {', '.join(student)}, the teacher {', '.join(teacher)}."
        )
    for own, others in pairs:
        for role, name, captured in (("student", own, student), ("teacher", others, teacher)):
            if name not in captured:
                raise ValueError(
                    f"{unknown(f'captured layer of the {role}', name, captured)} Further ones are captured with "
                    f"`layers:` of the {role} in a recipe, or Backbone(…, layers=[…])."
                )
    return [(own, others) for own, others in pairs]
