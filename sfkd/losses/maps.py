"""Losses on maps `[B, C, H, W]` of equal shape, their sub-bands and their spectra."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sfkd._checks import as_real_maps, one_of, same_shape
from sfkd._constants import constant
from sfkd.fourier import MaskKind, gaussian_mask, hermitian_weights
from sfkd.losses._inputs import full, none_of
from sfkd.losses.relations import correlation_distance
from sfkd.wavelet import SubBands, float32_island

Spectrum = Literal["complex", "amplitude", "log"]
Comparison = Literal["error", "correlation"]
Kernels = tuple[tuple[Tensor, Tensor], ...]


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps of equal shape.

    Source: Romero et al., "FitNets: hints for thin deep nets", ICLR 2015, eq. 3 (there ½ of the sum over the map).
    """
    same_shape(student, teacher, "hint_loss")
    if student.numel() == 0:
        raise ValueError(f"hint_loss expects non-empty maps, got shape {tuple(student.shape)}.")
    return F.mse_loss(full(student), full(teacher))


def band_loss(
    student: SubBands,
    teacher: SubBands,
    *,
    approximation_weight: float = 1.0,
    detail_weight: float = 0.5,
    weights: Mapping[str, float] | None = None,
    comparison: Comparison = "error",
    eps: float = 1e-2,
) -> Tensor:
    """Weighted distance of sub-bands, Σ_b w_b · d(S_b, T_b).

    "error": d is the relative error mean_i ‖S_b − T_b‖² / (‖T_b‖² + ε·n_b) over images i, with n_b coefficients of the band
    in an image. "correlation": `correlation_distance`, for which scales and offsets do not count.

    Args:
        student, teacher: sub-bands of maps `[B, C, H, W]`, same wavelet, levels and shapes.
        approximation_weight: weight of A_J.
        detail_weight: weight of all detail bands together, shared equally among them.
        weights: w_b by name instead of the two above: a letter of A, H, V, D for that orientation at all levels, or a
            letter and a level, as in "H1", which comes before the letter alone. Bands not named are left out, names of
            levels that are not there are ignored.
        comparison: d.
        eps: energy per coefficient added below, so that a band that is empty in the teacher does not explode.

    Source: forms and weights are our choice (the paper publishes none).
    """
    _same_tree(student, teacher, "band_loss")
    one_of("comparison", comparison, get_args(Comparison))
    if weights is None:
        each = detail_weight / max(1, 3 * teacher.levels)
        weights = {"A": approximation_weight, "H": each, "V": each, "D": each}
    else:
        check_band_weights(weights)
    total = none_of(student.approximation)
    for (name, s), (_, t) in zip(student.items(), teacher.items(), strict=True):
        same_shape(s, t, f"band_loss ({name})")
        weight = weights.get(name, weights.get(name[0], 0.0))
        if weight:
            distance = correlation_distance(s, t) if comparison == "correlation" else _relative_error(s, t, eps)
            total = total + weight * distance
    return total


def _relative_error(student: Tensor, teacher: Tensor, eps: float) -> Tensor:
    return (mean_square(student - teacher) / (mean_square(teacher) + eps)).mean()


def check_band_weights(weights: Mapping[str, float], levels: int | None = None) -> None:
    """Refuse weights that `band_loss` cannot take, and where `levels` is given, names of deeper bands.

    Raises:
        ValueError: no weight, an unknown name, a weight that is not a number ≥ 0.
        TypeError: no mapping.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"band weights expect a mapping such as {{'A': 1, 'H1': 0.5}}, got {type(weights).__name__}.")
    for name, weight in weights.items():
        known = isinstance(name, str) and re.fullmatch("A[0-9]*|[HVD]([1-9][0-9]*)?", name)
        if not known or (levels is not None and int(name[1:] or 0) > levels):
            deepest = "" if levels is None else f" up to {levels}"
            raise ValueError(
                f"unknown band {name!r}: band weights are named A, H, V or D, alone or with a level{deepest}, as in 'H1'."
            )
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
            raise ValueError(f"the weight of band {name!r} expects a number ≥ 0, got {weight!r}.")
    if not weights:
        raise ValueError("band weights expect at least one band, got none: leave them out for the default.")


def detail_band_loss(student: SubBands, teacher: SubBands) -> Tensor:
    """Mean over detail bands of the mean |S_b − T_b|; the approximation is left out.

    Args:
        student, teacher: sub-bands of maps `[B, C, H, W]`, same wavelet, levels and shapes. Without any level (grids
            under 3×3) there is no detail: 0.

    Source: the distance of Zhang et al., "FreeKD: knowledge distillation via semantic frequency prompt", CVPR 2024,
    without its masks; equal weights for all bands are our choice.

    Examples:
        >>> from sfkd.wavelet import decompose
        >>> x = torch.randn(1, 2, 8, 8)
        >>> detail_band_loss(decompose(x + 1), decompose(x)).item() < 1e-6
        True
    """
    _same_tree(student, teacher, "detail_band_loss")
    distances = []
    for (name, s), (_, t) in zip(student.items(), teacher.items(), strict=True):
        same_shape(s, t, f"detail_band_loss ({name})")
        if not name.startswith("A"):
            distances.append(F.l1_loss(s, t))
    return torch.stack(distances).mean() if distances else none_of(student.approximation)


def spectral_mse_loss(student: Tensor, teacher: Tensor, *, hermitian: bool = False) -> Tensor:
    """Mean squared difference of the real and imaginary parts of orthonormal real FFTs.

    Args:
        student, teacher: maps `[..., H, W]` of equal shape; half precision is computed in float32.
        hermitian: False takes the plain mean over the half plane that `rfft2` returns, as published, in which columns
            inside count once though the full plane has them twice; True weights them twice, and the loss is then half
            of the spatial mean squared error (Parseval: real and imaginary parts are averaged, not added).

    Source: Tian et al., "SpectralKD", arXiv 2412.19055, the frequency loss; `hermitian` is ours.

    Examples:
        >>> x, y = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
        >>> torch.allclose(2 * spectral_mse_loss(x, y, hermitian=True), F.mse_loss(x, y))
        True
    """
    same_shape(student, teacher, "spectral_mse_loss")
    student, teacher = (as_real_maps(x, "spectral_mse_loss") for x in (student, teacher))
    with float32_island(student):
        difference = torch.fft.rfft2(student - teacher, norm="ortho")
        squared = difference.real.square() + difference.imag.square()
        if not hermitian:
            return squared.mean() / 2
        height, width = int(student.shape[-2]), int(student.shape[-1])
        columns = hermitian_weights(width, device=squared.device).to(squared)
        return (squared * columns).sum((-2, -1)).mean() / (2 * height * width)


def gaussian_frequency_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    sigma: float | tuple[float, float] = 0.25,
    mask: MaskKind = "low",
    spectrum: Spectrum = "complex",
    comparison: Comparison = "error",
) -> Tensor:
    """GFFL, the Gaussian-filtered Fourier loss: Σ_f G(f)² |Ŝ(f) − T̂(f)|² / Σ_f G(f)², mean over images and channels.

    With comparison "correlation" it is `correlation_distance` of the filtered spectra instead, of complex ones as maps, G
    applied once to each side.

    Ŝ and T̂ are orthonormal real FFTs of the maps; half-plane columns are weighted so that sums run over the full plane.
    With σ → ∞ it becomes the spatial mean squared error (Parseval).

    Args:
        student, teacher: maps `[..., H, W]` of equal shape; half precision is computed in float32.
        sigma: width of the mask in cycles/pixel; a pair for `mask="band"`.
        mask: "low" G, "high" 1 − G, "band" G(σ₂) − G(σ₁).
        spectrum: "complex" compares coefficients, "amplitude" |·|, "log" log(1 + |·|). The last two ignore phase, so a
            circular shift costs nothing; at a coefficient that is exactly zero their gradient is zero.
        comparison: "error", or "correlation", which takes maps `[B, …, H, W]` of samples.

    Source: Gaussian filter on the Fourier side and its low-pass sense are the paper's (arXiv 2607.01906); normalisation,
    unit, default σ, the complex spectrum and the correlation are ours.

    Examples:
        >>> x = torch.randn(2, 3, 8, 8)
        >>> gaussian_frequency_loss(x, x).item()
        0.0
    """
    same_shape(student, teacher, "gaussian_frequency_loss")
    one_of("spectrum", spectrum, get_args(Spectrum))
    one_of("comparison", comparison, get_args(Comparison))
    student, teacher = (as_real_maps(x, "gaussian_frequency_loss") for x in (student, teacher))
    height, width = int(student.shape[-2]), int(student.shape[-1])
    key = tuple(sigma) if isinstance(sigma, (tuple, list)) else sigma
    with float32_island(student):
        if spectrum == "complex" and comparison == "correlation":
            filters = _kernels((height, width), key, mask, student.device, student.dtype, squared=False)
            return correlation_distance(_filtered(student, filters), _filtered(teacher, filters))
        if spectrum == "complex":
            kernels = _kernels((height, width), key, mask, student.device, student.dtype, squared=True)
            difference = student - teacher
            return _FilteredEnergy.apply(difference, kernels) * (height * width / difference.numel())
        weights = _spectral_weights((height, width), key, mask, student.device, student.dtype)
        s, t = (_amplitude(torch.fft.rfft2(x, norm="ortho")) for x in (student, teacher))
        if spectrum == "log":
            s, t = torch.log1p(s), torch.log1p(t)
        if comparison == "correlation":
            filtering = weights.sqrt()
            return correlation_distance(s * filtering, t * filtering)
        return ((s - t).square() * weights).sum((-2, -1)).mean()


class GaussianFrequencyLoss(nn.Module):
    """`gaussian_frequency_loss` with its keywords stored."""

    def __init__(
        self,
        *,
        sigma: float | tuple[float, float] = 0.25,
        mask: MaskKind = "low",
        spectrum: Spectrum = "complex",
        comparison: Comparison = "error",
    ) -> None:
        super().__init__()
        one_of("spectrum", spectrum, get_args(Spectrum))
        one_of("comparison", comparison, get_args(Comparison))
        gaussian_mask((1, 1), sigma, mask)  # a wrong sigma shows here, not at the first step
        self.sigma, self.mask, self.spectrum, self.comparison = sigma, mask, spectrum, comparison

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two maps `[..., H, W]`."""
        options: dict[str, Any] = {"spectrum": self.spectrum, "comparison": self.comparison}
        return gaussian_frequency_loss(student, teacher, sigma=self.sigma, mask=self.mask, **options)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}, mask={self.mask!r}, spectrum={self.spectrum!r}, comparison={self.comparison!r}"


def mean_square(x: Tensor) -> Tensor:
    """Mean of the squares of each sample of `[B, …]`: `[B]`. One pass forward and one backward."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).square() / max(1, x[0].numel())


def _same_tree(student: SubBands, teacher: SubBands, caller: str) -> None:
    if student.levels != teacher.levels or student.wavelet != teacher.wavelet:
        raise ValueError(
            f"{caller} expects sub-bands of one wavelet and depth, got {student.wavelet!r} with {student.levels} and "
            f"{teacher.wavelet!r} with {teacher.levels} level(s): decompose both alike."
        )


def _amplitude(coefficients: Tensor) -> Tensor:
    power = coefficients.real.square() + coefficients.imag.square()
    return (power + torch.finfo(power.dtype).tiny).sqrt()  # keeps the gradient finite at zero


class _FilteredEnergy(torch.autograd.Function):
    """Σ_f G(f)² |X̂(f)|² / Σ_f G(f)² of maps `[..., H, W]`, summed over all of them, without a Fourier transform.

    G² is a sum of Gaussians, and a Gaussian is a product of one in each axis, so the filter is a few products with circulant
    matrices: y = Σ_k P_k x Q_k. Then the energy is ⟨x, y⟩ and its gradient 2y: what the forward pass computed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Kernels) -> Tensor:
        filtered = _filtered(x, kernels)
        ctx.save_for_backward(filtered)
        return torch.dot(x.reshape(-1), filtered.reshape(-1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (filtered,) = ctx.saved_tensors
        return filtered * (2 * gradient), None


def _filtered(x: Tensor, kernels: Kernels) -> Tensor:
    return sum((rows @ (x @ columns) for rows, columns in kernels[1:]), kernels[0][0] @ (x @ kernels[0][1]))


@constant
def _kernels(
    shape: tuple[int, int],
    sigma: float | tuple[float, float],
    mask: MaskKind,
    device: torch.device,
    dtype: torch.dtype,
    *,
    squared: bool,
) -> Kernels:
    """Circulant matrices (P_k, Q_k) of the terms of G² / Σ G², or of G / Σ G; the coefficient of a term is in its P."""
    with torch.inference_mode(False):
        gaussian_mask(shape, sigma, mask)  # refuses what is no sigma
        first, last = (sigma[0], sigma[-1]) if isinstance(sigma, tuple) else (sigma, sigma)
        # exp(−f² (1/2a² + 1/2b²)) is the product of the Gaussians of widths a and b
        summands: dict[MaskKind, list[tuple[float, float]]] = {
            "low": [(1.0, last)],
            "high": [(1.0, math.inf), (-1.0, last)],
            "band": [(1.0, last), (-1.0, first)],
        }
        terms = [(c, a, math.inf) for c, a in summands[mask]]
        if squared:  # (x + y)² = x² + 2xy + y²
            pairs = combinations_with_replacement(enumerate(summands[mask]), 2)
            terms = [(c * d * (1 if i == j else 2), a, b) for (i, (c, a)), (j, (d, b)) in pairs]
        spectra = [(c, _product(shape[0], a, b), _product(shape[1], a, b)) for c, a, b in terms]
        # on the CPU, so that the check of the sum does not wait for a device
        total = sum(c * float(rows.sum() * columns.sum()) for c, rows, columns in spectra)
        if not total > 0:
            raise ValueError(f"a {mask!r} mask with sigma {sigma} keeps nothing of a {shape[0]}×{shape[1]} grid.")
        return tuple(
            ((_circulant(rows) * (c / total)).to(device, dtype), _circulant(columns).to(device, dtype))
            for c, rows, columns in spectra
        )


def _product(side: int, a: float, b: float) -> Tensor:
    """Product of two Gaussians along one axis, at its discrete frequencies, float64."""
    frequencies = torch.fft.fftfreq(side, dtype=torch.float64)
    return torch.exp(-frequencies.square() * (0.5 / a**2 + 0.5 / b**2))


def _circulant(spectrum: Tensor) -> Tensor:
    """The symmetric matrix that multiplies a signal's discrete spectrum by `spectrum`, which is even."""
    kernel = torch.fft.ifft(spectrum).real
    index = torch.arange(len(spectrum))
    return kernel[(index[:, None] - index[None, :]) % len(spectrum)]


@constant
def _spectral_weights(
    shape: tuple[int, int],
    sigma: float | tuple[float, float],
    mask: MaskKind,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """G² with Hermitian column weights over the half plane, divided by its sum."""
    with torch.inference_mode(False):
        # on the CPU, so that the check of the sum does not wait for a device
        weights = gaussian_mask(shape, sigma, mask, layout="rfft", dtype=torch.float64).square()
        weights *= hermitian_weights(shape[1])
        total = weights.sum()
        if not total > 0:
            raise ValueError(f"a {mask!r} mask with sigma {sigma} keeps nothing of a {shape[0]}×{shape[1]} grid.")
        return (weights / total).to(device, dtype)
