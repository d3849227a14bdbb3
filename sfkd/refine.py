"""DS2S: dual-stream dual-stage refinement of wavelet sub-bands.

That there are two streams and two stages, and that they work on the sub-bands, is the paper's (arXiv 2607.01906).
What each stage computes was not published: the form below is ours, chosen to be small and to start as the identity.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from sfkd._checks import one_of
from sfkd._constants import constant
from sfkd.wavelet import Detail, SubBands, float32_island

Variant = Literal["full", "light", "off"]
_RANK = 4  # of the light variant
_TINY = 16  # most positions of a map whose convolution is a product of matrices
_M = TypeVar("_M", bound=nn.Module)


class DS2SStages(NamedTuple):
    """Sub-bands before and after each stage. In each, the low stream is `.approximation`, the high stream `.details`."""

    input: SubBands
    within: SubBands
    across: SubBands


class DS2S(nn.Module):
    """Refine sub-bands of maps `[B, C, H, W]` in two streams (low: A_J; high: all details) and two stages.

    1. *within* a band: b ← b + DW₃ₓ₃(b), a depthwise convolution per band.
    2. *across* bands and streams: the three orientations of a level are mixed per channel, d ← d + M_c d, then a channel
       gate 1 + tanh(MLP(s)) scales every band, where s pools *both* streams (mean and RMS of A_J, RMS of each level).

    "light" has a quarter of the parameters or fewer, from 64 channels on, and takes about half the time on a CPU
    (`LightStages`); "off" is the identity, without parameters.

    All residuals are zero at initialisation, so DS2S starts as the identity (our choice).

    Args:
        channels: C.
        levels: J of the sub-bands it will be given; 0 leaves the low stream alone.
        variant: "full", "light" or "off".

    Raises:
        ValueError: sub-bands with another number of levels or channels.

    Examples:
        >>> from sfkd.wavelet import decompose
        >>> bands = decompose(torch.randn(2, 4, 8, 8), levels=2)
        >>> torch.equal(DS2S(4, 2)(bands).approximation, bands.approximation)
        True
        >>> [sum(p.numel() for p in DS2S(128, 2, variant=v).parameters()) for v in ("full", "light", "off")]
        [25104, 4345, 0]
    """

    def __init__(self, channels: int, levels: int = 2, *, variant: Variant = "full") -> None:
        super().__init__()
        if channels < 1 or levels < 0:
            raise ValueError(f"DS2S expects channels ≥ 1 and levels ≥ 0, got {channels} and {levels}.")
        self.channels, self.levels = channels, levels
        self.variant = one_of("variant", variant, get_args(Variant))
        if variant == "light":
            self.light = LightStages(channels, levels)
        if variant != "full":
            return
        self.low = _zeroed(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))
        self.high = nn.ModuleList(
            _zeroed(nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False))
            for _ in range(levels)
        )
        self.mixing = nn.Parameter(torch.zeros(levels, channels, 3, 3))
        hidden = max(8, channels // 8)
        self.squeeze = nn.Linear((2 + levels) * channels, hidden)
        self.excite = _zeroed(nn.Linear(hidden, (1 + levels) * channels))

    def forward(self, bands: SubBands) -> SubBands:
        """The refined sub-bands, of the same shapes."""
        return self.stages(bands).across

    def is_identity(self) -> bool:
        """Whether all residuals are still zero, as at initialisation."""
        residuals: list[Tensor] = []
        if self.variant == "full":
            residuals = [self.mixing, *self.low.parameters(), *self.high.parameters(), *self.excite.parameters()]
        elif self.variant == "light":
            residuals = self.light.residuals()
        return not any(bool(r.detach().any()) for r in residuals)

    def stages(self, bands: SubBands) -> DS2SStages:
        """Every stage of both streams by name."""
        if bands.levels != self.levels or bands.approximation.shape[1] != self.channels:
            raise ValueError(
                f"this DS2S expects {self.channels} channels and {self.levels} level(s), got "
                f"{bands.approximation.shape[1]} and {bands.levels}: build DS2S(channels, bands.levels) for these maps."
            )
        if self.variant == "off":
            return DS2SStages(bands, bands, bands)
        weight = next(self.parameters())
        if bands.approximation.dtype == torch.float64 != weight.dtype:
            raise TypeError(
                f"this DS2S is {weight.dtype}, the bands are float64: ds2s.double(), or bands of float32 maps."
            )
        if self.variant == "light":
            return self.light(bands)
        within = self._within(bands)
        return DS2SStages(bands, within, self._across(within))

    def _within(self, bands: SubBands) -> SubBands:
        a = bands.approximation
        details = []
        for detail, convolution in zip(bands.details, self.high, strict=True):
            stacked = torch.cat(detail, dim=1)
            details.append(Detail(*(stacked + convolution(stacked)).chunk(3, dim=1)))
        return bands.replaced(a + self.low(a), details)

    def _across(self, bands: SubBands) -> SubBands:
        a = bands.approximation
        mixed = []
        for detail, matrix in zip(bands.details, self.mixing, strict=True):
            stacked = torch.stack(detail, dim=2)  # [B, C, 3, h, w]
            mixed.append(stacked + torch.einsum("coi,bcihw->bcohw", matrix, stacked))
        pooled = [a.mean((-2, -1)), _rms(a), *(_rms(d.flatten(2, 3)) for d in mixed)]
        gates = 1 + torch.tanh(self.excite(nn.functional.gelu(self.squeeze(torch.cat(pooled, dim=1)))))
        low_gate, *high_gates = gates.chunk(1 + self.levels, dim=1)
        details = [
            Detail(*(d * gate[:, :, None, None, None]).unbind(2)) for d, gate in zip(mixed, high_gates, strict=True)
        ]
        return bands.replaced(a * low_gate[:, :, None, None], details)


class LightStages(nn.Module):
    """Both stages of DS2S at rank 4, with a number of parameters that does not grow with the levels.

    1. *within*: b ← b + DW₃ₓ₃(b) on the bands of level J, the kernels of a stream being combinations of four. Finer details,
       three quarters of all coefficients and more, pass unchanged: convolving them is what costs time.
    2. *across*: s = [mean(A_J), RMS(A_J), RMS(details of level J)] pools both streams; 4 hidden units give from it a gate
       1 + tanh(·) for each channel of A_J, and one 3×3 matrix M an image: (H, V, D) ← (I + M)(H, V, D), shared by all
       levels and channels.

    The factors of each kernel and the last layer are zero at initialisation. The form is our choice: the paper names light
    refinement as future work.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.channels, streams = channels, 2 if levels else 1
        self.factors = nn.ParameterList(torch.zeros(n * channels, _RANK) for n in (1, 3)[:streams])
        self.kernels = nn.ParameterList(torch.randn(_RANK, 9) / 3 for _ in range(streams))
        self.squeeze = nn.Linear((1 + streams) * channels, _RANK)
        self.excite = _zeroed(nn.Linear(_RANK, channels + 9 * (streams - 1)))

    def residuals(self) -> list[Tensor]:
        """The parameters that are zero in an identity."""
        return [*self.factors, *self.excite.parameters()]

    def forward(self, bands: SubBands) -> DS2SStages:
        low, *high = (f @ k for f, k in zip(self.factors, self.kernels, strict=True))
        a = bands.approximation + _depthwise(bands.approximation, low)
        details = [torch.cat(detail, dim=1) for detail in bands.details]  # [B, 3·C, h, w]
        details[:1] = [detail + _depthwise(detail, high[0]) for detail in details[:1]]
        within = _unstacked(bands, a, details)
        pooled = [a.mean((-2, -1)), _rms(a)]
        pooled += [_root(_power(detail).unflatten(1, (3, -1)).mean(1)) for detail in details[:1]]
        with float32_island(a):
            excited = self.excite(nn.functional.gelu(self.squeeze(torch.cat(pooled, dim=1))))
            gate, residual = 1 + torch.tanh(excited[:, : self.channels]), excited[:, self.channels :]
            if details:
                mixing = torch.eye(3, device=a.device, dtype=a.dtype) + residual.unflatten(1, (3, 3))
                details = [
                    (mixing @ detail.unflatten(1, (3, -1)).flatten(2)).reshape(detail.shape) for detail in details
                ]
        return DS2SStages(bands, within, _unstacked(bands, a * gate[:, :, None, None], details))


def _unstacked(bands: SubBands, approximation: Tensor, details: list[Tensor]) -> SubBands:
    """`bands` with other coefficients; details `[B, 3·C, h, w]`."""
    return bands.replaced(approximation, [Detail(*detail.chunk(3, dim=1)) for detail in details])


def _zeroed(module: _M) -> _M:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _depthwise(x: Tensor, kernels: Tensor) -> Tensor:
    """Each channel of `[B, C, h, w]` convolved with its own of the kernels `[C, 9]`, borders padded with zeros.

    Bands of level J are often 2 × 2 or 4 × 4. There one product of matrices a channel takes a fifth of the time of a
    depthwise convolution and its gradient on a CPU.
    """
    height, width = x.shape[-2:]
    if height * width > _TINY:
        return nn.functional.conv2d(x, kernels.view(-1, 1, 3, 3), padding=1, groups=len(kernels))
    taps = _taps(height, width, x.device, kernels.dtype)
    matrices = torch.einsum("ck,iko->cio", kernels, taps).to(x.dtype)
    return torch.bmm(x.flatten(2).transpose(0, 1), matrices).transpose(0, 1).unflatten(2, (height, width))


@constant
def _taps(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`[h·w, 9, h·w]`: 1 where tap k of a 3 × 3 kernel takes input i to output o."""
    with torch.inference_mode(False):
        units = torch.eye(height * width, device=device, dtype=dtype).view(-1, 1, height, width)
        return nn.functional.unfold(units, 3, padding=1)


def _rms(x: Tensor) -> Tensor:
    """Of each channel of maps `[B, C, h, w]`: `[B, C]`."""
    return _root(_power(x))


def _power(x: Tensor) -> Tensor:
    """Mean square of each channel."""
    return torch.linalg.vector_norm(x.flatten(2), dim=2).square() / (x.shape[-2] * x.shape[-1])


def _root(power: Tensor) -> Tensor:
    return (power + 1e-12).sqrt()  # the constant keeps the gradient finite on a zero map
