from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sfkd import losses
from sfkd.fourier import gaussian_mask, hermitian_weights
from sfkd.losses import (
    GaussianFrequencyLoss,
    band_loss,
    check_band_weights,
    correlation_distance,
    gaussian_frequency_loss,
    hint_loss,
    kd_loss,
)
from sfkd.losses.relations import pearson
from sfkd.wavelet import decompose

PUBLISHED = dict(np.load(Path(__file__).parent / "reference" / "published_losses.npz"))
KD_KEYS = [key for key in PUBLISHED if key.startswith("kd_T")]
MASKS = [("low", 0.25), ("high", 0.25), ("band", (0.1, 0.3))]


def maps(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    noise = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return noise[0], noise[1]


def test_published_values_are_there() -> None:
    assert KD_KEYS == ["kd_T1", "kd_T4"]


@pytest.mark.parametrize("key", KD_KEYS)
def test_kd_equals_the_published_implementation(key: str) -> None:
    student, teacher = (torch.from_numpy(PUBLISHED[f"logits_{role}"]) for role in ("student", "teacher"))
    loss = kd_loss(student, teacher, temperature=float(key.removeprefix("kd_T")))
    assert loss.item() == pytest.approx(float(PUBLISHED[key]), rel=2e-6)


def test_kd_has_a_direction_and_is_a_mean_over_samples() -> None:
    student, teacher = maps(6, 10)
    loss = kd_loss(student, teacher, temperature=2.0)
    assert loss.item() != pytest.approx(kd_loss(teacher, student, temperature=2.0).item(), rel=1e-3)
    halves = [kd_loss(student[i : i + 3], teacher[i : i + 3], temperature=2.0) for i in (0, 3)]
    torch.testing.assert_close(loss, torch.stack(halves).mean())


def test_kd_gradient() -> None:
    student, teacher = maps(3, 5)
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, teacher, temperature=3.0), student.requires_grad_())


def test_hint_is_the_mean_squared_difference() -> None:
    student, teacher = maps(2, 3, 4, 4)
    torch.testing.assert_close(hint_loss(student, teacher), (student - teacher).square().mean())


# -- sub-bands --------------------------------------------------------------------------------------------------------


def test_band_loss_by_hand() -> None:
    """One level on one image: the approximation weighs 1, each of three details a third of 0.5, errors are relative."""
    student, teacher = (decompose(x, levels=1) for x in maps(1, 2, 4, 4))
    expected = 0.0
    for (name, s), (_, t) in zip(student.items(), teacher.items(), strict=True):
        error, energy = ((s - t) ** 2).sum(), (t**2).sum()
        expected += (1.0 if name == "A1" else 0.5 / 3) * error / (energy + 0.01 * t.numel())
    torch.testing.assert_close(band_loss(student, teacher), expected)


def test_band_loss_is_a_mean_over_images() -> None:
    student, teacher = maps(4, 2, 8, 8)
    whole = band_loss(decompose(student), decompose(teacher))
    each = [band_loss(decompose(student[i : i + 1]), decompose(teacher[i : i + 1])) for i in range(4)]
    torch.testing.assert_close(whole, torch.stack(each).mean())


def test_band_weights() -> None:
    student, teacher = maps(2, 3, 8, 8)
    s, t = decompose(student), decompose(teacher)
    low = band_loss(s, t, approximation_weight=1, detail_weight=0)
    high = band_loss(s, t, approximation_weight=0, detail_weight=1)
    torch.testing.assert_close(band_loss(s, t, approximation_weight=2, detail_weight=3), 2 * low + 3 * high)
    only_low_differs = decompose(teacher + 1)
    assert band_loss(only_low_differs, t, approximation_weight=0, detail_weight=1).item() == pytest.approx(0, abs=1e-20)
    assert band_loss(only_low_differs, t).item() > 0.1


def test_named_band_weights() -> None:
    """Each band alone, then what letters, the more specific name and absent levels mean."""
    student, teacher = maps(2, 3, 8, 8)
    s, t = decompose(student), decompose(teacher)
    alone = {}
    for (name, a), (_, b) in zip(s.items(), t.items(), strict=True):
        alone[name] = ((a - b).square().mean((1, 2, 3)) / (b.square().mean((1, 2, 3)) + 0.01)).mean()
        torch.testing.assert_close(band_loss(s, t, weights={name: 1}), alone[name])
    mixed = 3 * alone["A2"] + 0.5 * alone["H1"] + 2 * alone["H2"] + 0.1 * (alone["D1"] + alone["D2"])
    weights = {"A": 3, "H1": 0.5, "H": 2, "D": 0.1, "V7": 9.0, "A1": 5.0}
    torch.testing.assert_close(band_loss(s, t, weights=weights), mixed)
    assert band_loss(s, t, weights={"H7": 1.0}) == 0
    torch.testing.assert_close(
        band_loss(s, t, weights={"A": 1, **dict.fromkeys("HVD", 0.5 / 6)}), band_loss(s, t), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("weights", "levels", "error", "message"),
    [
        ({"B": 1.0}, None, ValueError, "unknown band 'B'.*as in 'H1'"),
        ({"H0": 1.0}, None, ValueError, "unknown band 'H0'"),
        ({"h1": 1.0}, None, ValueError, "unknown band 'h1'"),
        ({1: 1.0}, None, ValueError, "unknown band 1"),
        ({"H3": 1.0}, 2, ValueError, "unknown band 'H3'.*a level up to 2"),
        ({"H": -1.0}, None, ValueError, "weight of band 'H' expects a number ≥ 0, got -1.0"),
        ({"H": "1"}, None, ValueError, "got '1'"),
        ({"H": math.nan}, None, ValueError, "got nan"),
        ({}, None, ValueError, "at least one band"),
        ([1, 2], None, TypeError, "expect a mapping such as .* got list"),
    ],
)
def test_wrong_band_weights_are_refused(weights, levels, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_band_weights(weights, levels)
    if levels is None:
        bands = decompose(torch.randn(1, 2, 8, 8))
        with pytest.raises(error, match=message):
            band_loss(bands, bands, weights=weights)


def test_band_loss_survives_an_empty_band_in_the_teacher() -> None:
    student = decompose(torch.randn(2, 3, 8, 8))
    assert band_loss(student, decompose(torch.ones(2, 3, 8, 8))).isfinite()


@pytest.mark.parametrize("levels", [0, 2])
def test_band_loss_gradcheck(levels: int) -> None:
    student, teacher = maps(2, 2, 7, 8)
    target = decompose(teacher, levels=levels)
    assert torch.autograd.gradcheck(
        lambda s: band_loss(decompose(s, levels=levels), target), student.requires_grad_(), fast_mode=True
    )


# -- Gaussian-filtered Fourier loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (5, 12), (1, 1)])
@pytest.mark.parametrize("sigma", [math.inf, 1e6])
def test_a_wide_filter_gives_the_mean_squared_error(shape: tuple[int, int], sigma: float) -> None:
    student, teacher = maps(2, 3, *shape)
    torch.testing.assert_close(gaussian_frequency_loss(student, teacher, sigma=sigma), F.mse_loss(student, teacher))


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (6, 5)])
@pytest.mark.parametrize(("mask", "sigma"), MASKS)
@pytest.mark.parametrize("spectrum", ["complex", "amplitude", "log"])
def test_against_the_full_plane_in_numpy(shape: tuple[int, int], mask, sigma, spectrum) -> None:
    student, teacher = maps(2, 3, *shape)
    f = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"))
    widths = sigma if isinstance(sigma, tuple) else (sigma,)
    low = [np.exp(-(f**2) / (2 * s**2)) for s in widths]
    g = {"low": low[0], "high": 1 - low[0], "band": low[-1] - low[0]}[mask]
    s, t = (np.fft.fft2(x.numpy(), norm="ortho") for x in (student, teacher))
    if spectrum != "complex":
        s, t = np.abs(s), np.abs(t)
    if spectrum == "log":
        s, t = np.log1p(s), np.log1p(t)
    expected = (g**2 * np.abs(s - t) ** 2).sum((-2, -1)).mean() / (g**2).sum()
    loss = gaussian_frequency_loss(student, teacher, sigma=sigma, mask=mask, spectrum=spectrum)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def _one_minus_r(s: np.ndarray, t: np.ndarray) -> float:
    """Half within samples, half across them, by numpy; a coefficient that does not vary correlates with nothing."""
    s, t = (x.reshape(len(x), -1) for x in (s, t))
    varies = s.std(0) > 1e-9
    within = [np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)]
    across = [np.corrcoef(a, b)[0, 1] for a, b in zip(s.T[varies], t.T[varies], strict=True)]
    return float(1 - (np.mean(within) + np.sum(across) / len(varies)) / 2)


def test_correlation_distance_against_numpy() -> None:
    s, t = maps(5, 2, 3, 4)
    assert correlation_distance(s, t).item() == pytest.approx(_one_minus_r(s.numpy(), t.numpy()), abs=1e-7)
    assert correlation_distance(3 * t - 2, t).item() == pytest.approx(0, abs=1e-7)
    assert correlation_distance(-t, t).item() == pytest.approx(2, abs=1e-7)


def test_correlation_distance_of_what_is_constant() -> None:
    s, t = maps(1, 3, 4, 4)
    assert correlation_distance(t, t).item() == pytest.approx(0.5)  # nothing to vary across a batch of one
    flat = torch.zeros_like(s, requires_grad=True)
    distance = correlation_distance(flat, t)
    distance.backward()
    assert distance.item() == pytest.approx(1)
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"samples \[B, …\] with coefficients"):
        correlation_distance(torch.zeros(2, 0), torch.zeros(2, 0))


def test_bands_by_correlation() -> None:
    s, t = (decompose(x, levels=2) for x in maps(4, 3, 8, 8))
    each = [_one_minus_r(a.numpy(), b.numpy()) for (_, a), (_, b) in zip(s.items(), t.items(), strict=True)]
    expected = each[0] + 0.5 / 6 * sum(each[1:])
    assert band_loss(s, t, comparison="correlation").item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (7, 5)])
@pytest.mark.parametrize(("mask", "sigma"), MASKS)
@pytest.mark.parametrize("spectrum", ["complex", "amplitude", "log"])
def test_spectra_by_correlation_against_numpy(shape: tuple[int, int], mask, sigma, spectrum) -> None:
    s, t = (x.numpy() for x in maps(4, 3, *shape))
    full = gaussian_mask(shape, sigma, mask, layout="fft", dtype=torch.float64).numpy()
    half = gaussian_mask(shape, sigma, mask, layout="rfft", dtype=torch.float64).numpy()
    half = half * np.sqrt(hermitian_weights(shape[1]).numpy())
    if spectrum == "complex":
        s, t = (np.fft.ifft2(np.fft.fft2(x) * full).real for x in (s, t))
    else:
        s, t = (np.abs(np.fft.rfft2(x, norm="ortho")) for x in (s, t))
        s, t = (half * (np.log1p(x) if spectrum == "log" else x) for x in (s, t))
    found = gaussian_frequency_loss(
        *maps(4, 3, *shape), sigma=sigma, mask=mask, spectrum=spectrum, comparison="correlation"
    )
    assert found.item() == pytest.approx(_one_minus_r(s, t), abs=2e-5)


@pytest.mark.parametrize("spectrum", ["amplitude", "log"])
def test_amplitude_losses_ignore_a_circular_shift(spectrum) -> None:
    x, _ = maps(2, 3, 8, 9)
    shifted = x.roll((2, 3), (-2, -1))
    assert gaussian_frequency_loss(shifted, x, spectrum=spectrum).item() == pytest.approx(0, abs=1e-25)
    assert gaussian_frequency_loss(shifted, x).item() > 0.1


def test_low_and_high_masks_see_their_side() -> None:
    flat, board = torch.ones(1, 1, 8, 8), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    zero = torch.zeros(1, 1, 8, 8)
    low, high = ({"sigma": 0.1, "mask": mask} for mask in ("low", "high"))
    assert gaussian_frequency_loss(board, zero, **low) < 1e-6 < gaussian_frequency_loss(flat, zero, **low)
    assert gaussian_frequency_loss(flat, zero, **high) < 1e-6 < gaussian_frequency_loss(board, zero, **high)


@pytest.mark.parametrize(("mask", "sigma"), MASKS)
@pytest.mark.parametrize("spectrum", ["complex", "amplitude", "log"])
def test_gradcheck_and_module_equals_function(mask, sigma, spectrum) -> None:
    student, teacher = maps(2, 2, 5, 6)
    options = {"sigma": sigma, "mask": mask, "spectrum": spectrum}
    module = GaussianFrequencyLoss(**options)
    assert torch.equal(module(student, teacher), gaussian_frequency_loss(student, teacher, **options))
    assert torch.autograd.gradcheck(
        lambda s, t: gaussian_frequency_loss(s, t, **options), (student.requires_grad_(), teacher.requires_grad_())
    )
    assert torch.autograd.gradcheck(lambda s: module(s, teacher.detach()), student)


@pytest.mark.parametrize(("mask", "sigma"), MASKS)
def test_gradcheck_of_the_correlation(mask, sigma) -> None:
    student, teacher = maps(5, 2, 5, 6)
    module = GaussianFrequencyLoss(sigma=sigma, mask=mask, comparison="correlation")
    assert torch.autograd.gradcheck(lambda s: module(s, teacher), student.requires_grad_())


def test_gradcheck_of_the_correlation_of_rows_that_hardly_vary() -> None:
    """Of both sides, with rows whose spread is the floor: there the gradient is that of a covariance."""
    s, t = (x.requires_grad_() for x in maps(4, 1, 2, 3))
    assert torch.autograd.gradcheck(correlation_distance, (s, t))
    a, b = (x.detach().flatten(1) for x in (s, t))
    a[1] = 5 + 1e-3 * a[1]
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(pearson(a, b, dim=1).sum(), a)
    centred = b[1] - b[1].mean()
    floor = 0.01 * a[1].norm()
    torch.testing.assert_close(gradient[1], centred / (floor * centred.norm() + 1e-8))


@pytest.mark.parametrize("spectrum", ["amplitude", "log"])
def test_gradient_is_finite_at_an_empty_spectrum(spectrum) -> None:
    zero = torch.zeros(1, 2, 8, 8, requires_grad=True)
    gaussian_frequency_loss(zero, torch.randn(1, 2, 8, 8), spectrum=spectrum).backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def test_module_shows_its_options() -> None:
    assert repr(GaussianFrequencyLoss(sigma=0.1, mask="high", spectrum="log")) == (
        "GaussianFrequencyLoss(sigma=0.1, mask='high', spectrum='log', comparison='error')"
    )


def test_weights_first_made_in_inference_mode_serve_training() -> None:
    losses.maps._spectral_weights.cache_clear()
    with torch.inference_mode():
        gaussian_frequency_loss(torch.randn(2, 8, 8), torch.randn(2, 8, 8), sigma=0.31)
    student = torch.randn(2, 8, 8, requires_grad=True)
    gaussian_frequency_loss(student, torch.randn(2, 8, 8), sigma=0.31).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


# -- types and errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (kd_loss, (4, 10)),
        (hint_loss, (2, 3, 7, 8)),
        (gaussian_frequency_loss, (2, 3, 7, 8)),
        (lambda s, t: gaussian_frequency_loss(s, t, spectrum="log"), (2, 3, 7, 8)),
        (lambda s, t: band_loss(decompose(s), decompose(t)), (2, 3, 7, 8)),
    ],
    ids=["kd", "hint", "gffl", "gffl-log", "bands"],
)
def test_half_precision_gives_the_float32_loss(
    loss, shape: tuple[int, ...], dtype: torch.dtype, autocast: bool
) -> None:
    student, teacher = (x.to(dtype) for x in maps(*shape))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.double(), teacher.double()).item(), rel=1e-5)


ZERO = torch.zeros(2, 8, 8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kd_loss(torch.zeros(2, 3), torch.zeros(2, 4)), ValueError, r"equal shapes, got \(2, 3\) and \(2, 4\)"),
        (lambda: kd_loss(ZERO, ZERO), ValueError, r"logits \[B, K\], got shape \(2, 8, 8\)"),
        (lambda: kd_loss(ZERO[0], ZERO[0], temperature=0), ValueError, "number > 0, got 0"),
        (lambda: hint_loss(ZERO, ZERO[:1]), ValueError, "hint_loss expects equal shapes"),
        (lambda: gaussian_frequency_loss(ZERO, ZERO[..., :4]), ValueError, "common channels and a common grid"),
        (lambda: gaussian_frequency_loss(ZERO, ZERO, spectrum="phase"), ValueError, "unknown spectrum 'phase'"),
        (lambda: gaussian_frequency_loss(ZERO, ZERO, mask="mid"), ValueError, "unknown kind 'mid'"),
        (lambda: gaussian_frequency_loss(ZERO, ZERO, sigma=-0.1), ValueError, "one number > 0"),
        (lambda: gaussian_frequency_loss(ZERO, ZERO, sigma=[0.1, 0.2]), ValueError, "one number > 0"),
        (lambda: gaussian_frequency_loss(ZERO, ZERO, sigma=0.1, mask="band"), ValueError, "a pair"),
        (lambda: GaussianFrequencyLoss(sigma=0.1, mask="band"), ValueError, "a pair"),
        (lambda: GaussianFrequencyLoss(spectrum="phase"), ValueError, "unknown spectrum 'phase'"),
        (lambda: gaussian_frequency_loss(ZERO[0, 0], ZERO[0, 0]), ValueError, "got 1 dimension"),
        (lambda: gaussian_frequency_loss(ZERO + 0j, ZERO + 0j), TypeError, "expects real values"),
        (lambda: gaussian_frequency_loss(ZERO[:, :1, :1], ZERO[:, :1, :1], mask="high"), ValueError, "keeps nothing"),
        (lambda: band_loss(decompose(ZERO), decompose(ZERO, levels=1)), ValueError, "one wavelet and depth"),
        (lambda: band_loss(decompose(ZERO), decompose(ZERO, "db1")), ValueError, "'haar' with 2 and 'db1' with 2"),
        (lambda: band_loss(decompose(ZERO), decompose(ZERO[:1])), ValueError, r"band_loss \(A2\) expects equal shapes"),
    ],
)
def test_errors_say_what_to_do(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
