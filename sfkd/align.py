"""Bring teacher and student maps to common channels and a common grid, with nothing trainable on the teacher's side."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelStandardize(nn.Module):
    """Per-channel standardisation of `[B, C, H, W]` by running mean and variance, without parameters or their gradient.

    In training mode the statistics are updated before they are used: exact over the first `window` batches, exponential
    after, and averaged over all processes. Our choice: a target whose scale cannot be trained away.
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
        return (x - self.mean[:, None, None]) * scale[:, None, None]

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        moments = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        mean = moments[0]
        variance = (moments[1] - mean.square()).clamp_min(0)
        self.batches += 1
        momentum = 1 / self.batches.clamp_max(self.window)
        shift = mean - self.mean
        # law of total variance: the spread of batch means belongs to the variance of the channel
        self.variance += momentum * (variance - self.variance + (1 - momentum) * shift.square())
        self.mean += momentum * shift


class TeacherTarget(nn.Module):
    """The teacher's maps as a fixed target.

    Standardised per channel, then, where wider than `width`, reduced by a seeded orthogonal projection.
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

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        x = self.standardize(x)
        return x if self.projection is None else F.conv2d(x, self.projection)


class StudentProjection(nn.Sequential):
    """A trainable 1×1 convolution to the target's width, then normalisation per image.

    No batch statistics, so that one process and many compute the same.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(1, width))


class AlignedPair(nn.Module):
    """One layer of the student beside one of the teacher: the student projected, the teacher a fixed target, one grid.

    Args:
        student_channels, teacher_channels: of the two maps.
        width: most channels in which they are compared.
    """

    def __init__(self, student_channels: int, teacher_channels: int, width: int) -> None:
        super().__init__()
        self.target = TeacherTarget(teacher_channels, width)
        self.project = StudentProjection(student_channels, self.target.channels)

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
    grid = (min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1]))
    return _pooled(a, grid), _pooled(b, grid)


def _pooled(x: Tensor, grid: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[-2:]) == grid else F.adaptive_avg_pool2d(x, grid)


def pair_layers(student: list[str], teacher: list[str]) -> list[tuple[str, str]]:
    """(student layer, teacher layer) for each student layer, matched by relative depth; the last always meets the last.

    >>> pair_layers(["s0", "s1", "s2"], ["t0", "t1", "t2", "t3"])
    [('s0', 't0'), ('s1', 't2'), ('s2', 't3')]
    """
    if not student or not teacher:
        raise ValueError(f"pair_layers expects layers on both sides, got {len(student)} and {len(teacher)}.")
    ratio = len(teacher) / len(student)
    return [(name, teacher[max(0, round((i + 1) * ratio) - 1)]) for i, name in enumerate(student)]
