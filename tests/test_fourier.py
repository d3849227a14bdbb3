from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch

from sfkd import fourier
from sfkd.fourier import frequency_grid, gaussian_mask, hermitian_weights, power_spectrum, radial_profile

GRIDS = [(8, 8), (7, 7), (6, 9), (5, 12), (1, 1), (1, 4)]


@pytest.mark.parametrize("shape", GRIDS)
def test_power_spectrum_equals_scipy(shape: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    expected = np.abs(scipy.fft.fft2(x.numpy(), norm="ortho")) ** 2
    np.testing.assert_allclose(power_spectrum(x), scipy.fft.fftshift(expected, axes=(-2, -1)), atol=1e-12)


@pytest.mark.parametrize("shape", GRIDS)
def test_parseval(shape: tuple[int, int]) -> None:
    x = torch.randn(3, *shape, dtype=torch.float64)
    torch.testing.assert_close(power_spectrum(x).sum(), x.square().sum())


def test_a_constant_has_only_dc() -> None:
    power = power_spectrum(torch.full((6, 9), 2.0, dtype=torch.float64))
    assert power[3, 4].item() == pytest.approx(4 * 54)
    assert power.sum().item() == pytest.approx(4 * 54)


def sinusoid(shape: tuple[int, int], cycles: tuple[int, int]) -> torch.Tensor:
    rows, columns = (torch.arange(n, dtype=torch.float64) / n for n in shape)
    return torch.cos(2 * math.pi * (cycles[0] * rows[:, None] + cycles[1] * columns[None, :]))


@pytest.mark.parametrize("shape", [(16, 16), (15, 15), (12, 20)])
@pytest.mark.parametrize("cycles", [(0, 3), (4, 0), (3, 4), (2, -5)])
def test_a_sinusoid_lights_its_bins_and_its_ring(shape: tuple[int, int], cycles: tuple[int, int]) -> None:
    power = power_spectrum(sinusoid(shape, cycles))
    middle = np.array([n // 2 for n in shape])
    lit = {tuple(index) for index in torch.argwhere(power > 1e-9).tolist()}
    assert lit == {tuple(middle + cycles), tuple(middle - cycles)}
    profile = radial_profile(power, unit="cycles/image")
    ring = max(shape) * math.hypot(cycles[0] / shape[0], cycles[1] / shape[1])
    assert profile.frequency[profile.power > 1e-9].tolist() == [round(ring)]


def test_a_circular_shift_changes_no_power() -> None:
    x = torch.randn(2, 7, 10, dtype=torch.float64)
    torch.testing.assert_close(power_spectrum(x.roll((2, 3), (-2, -1))), power_spectrum(x))


@pytest.mark.parametrize("shape", GRIDS)
def test_rings_against_a_plain_loop(shape: tuple[int, int]) -> None:
    power = torch.rand(*shape, dtype=torch.float64)
    rings: dict[int, list[float]] = {}
    for i in range(shape[0]):
        for j in range(shape[1]):
            f = math.hypot((i - shape[0] // 2) / shape[0], (j - shape[1] // 2) / shape[1])
            rings.setdefault(round(f * max(shape)), []).append(power[i, j].item())
    profile = radial_profile(power, unit="cycles/image")
    assert profile.frequency.tolist() == sorted(rings)
    assert profile.coefficients.tolist() == [len(rings[k]) for k in sorted(rings)]
    np.testing.assert_allclose(profile.power, [np.mean(rings[k]) for k in sorted(rings)])


def test_rings_keep_leading_dimensions_and_lose_no_energy() -> None:
    x = torch.randn(2, 3, 9, 14, dtype=torch.float64)
    profile = radial_profile(power_spectrum(x))
    assert profile.power.shape[:2] == (2, 3)
    torch.testing.assert_close((profile.power * profile.coefficients).sum(-1), x.square().sum((-2, -1)))


@pytest.mark.parametrize(
    ("unit", "nyquist", "corner"), [("cycles/image", 8, 11), ("cycles/pixel", 0.5, 11 / 16), ("pi", 1, 11 / 8)]
)
def test_units(unit, nyquist: float, corner: float) -> None:
    profile = radial_profile(power_spectrum(torch.zeros(16, 16)), unit=unit)
    assert profile.unit == unit
    assert profile.frequency[8].item() == pytest.approx(nyquist)
    assert profile.frequency[-1].item() == pytest.approx(corner)  # √2 of Nyquist, rounded to whole cycles


@pytest.mark.parametrize("shape", GRIDS)
def test_frequency_grid_equals_numpy(shape: tuple[int, int]) -> None:
    rows, columns = (np.fft.fftfreq(n) for n in shape)
    expected = np.hypot(rows[:, None], columns[None, :])
    half = np.hypot(rows[:, None], np.fft.rfftfreq(shape[1])[None, :])
    np.testing.assert_allclose(frequency_grid(shape, layout="fft"), expected)
    np.testing.assert_allclose(frequency_grid(shape, layout="rfft"), half)
    np.testing.assert_allclose(frequency_grid(shape), np.fft.fftshift(expected))


@pytest.mark.parametrize("shape", [(8, 8), (7, 10)])
def test_gaussian_mask_is_a_gaussian_of_the_radius(shape: tuple[int, int]) -> None:
    low = gaussian_mask(shape, 0.2, layout="fft", dtype=torch.float64)
    f = frequency_grid(shape, layout="fft")
    torch.testing.assert_close(low, torch.exp(-(f**2) / (2 * 0.2**2)))
    assert low[0, 0] == 1
    torch.testing.assert_close(gaussian_mask(shape, 0.2, "high", layout="fft", dtype=torch.float64), 1 - low)
    wide = gaussian_mask(shape, 0.4, layout="fft", dtype=torch.float64)
    band = gaussian_mask(shape, (0.2, 0.4), "band", layout="fft", dtype=torch.float64)
    torch.testing.assert_close(band, wide - low)


def test_mask_at_one_sigma() -> None:
    assert gaussian_mask((8, 8), 0.25)[4, 6].item() == pytest.approx(math.exp(-0.5))  # 2 cycles of 8 pixels


@pytest.mark.parametrize("kind", ["low", "high", "band"])
@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (4, 5)])
def test_layouts_are_one_mask(shape: tuple[int, int], kind) -> None:
    sigma = (0.1, 0.3) if kind == "band" else 0.2
    centred, full, half = (gaussian_mask(shape, sigma, kind, layout=layout) for layout in ("centered", "fft", "rfft"))
    torch.testing.assert_close(torch.fft.fftshift(full), centred)
    torch.testing.assert_close(full[:, : shape[1] // 2 + 1], half)


@pytest.mark.parametrize("width", range(1, 10))
def test_hermitian_weights_make_the_half_plane_whole(width: int) -> None:
    x = torch.randn(5, width, dtype=torch.float64)
    half = torch.fft.rfft2(x, norm="ortho").abs().square()
    weights = hermitian_weights(width)
    torch.testing.assert_close((half * weights).sum(), x.square().sum())
    assert weights.sum() == width


@pytest.mark.parametrize(("side", "share"), [(8, 0.08), (4, 0.33), (2, 0.96)])
def test_share_of_dc_in_the_default_mask(side: int, share: float) -> None:
    assert 1 / gaussian_mask((side, side)).square().sum().item() == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_and_integers_are_computed_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    x = (10 * torch.rand(2, 7, 8)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        power = power_spectrum(x)
        profile = radial_profile(power)
    assert power.dtype == profile.power.dtype == torch.float32
    torch.testing.assert_close(power, power_spectrum(x.double()).float())


def test_gradcheck() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: radial_profile(power_spectrum(x)).power, x)


def test_rings_first_made_in_inference_mode_serve_training() -> None:
    fourier._rings.cache_clear()
    with torch.inference_mode():
        radial_profile(power_spectrum(torch.randn(6, 11)))
    x = torch.randn(6, 11, requires_grad=True)
    radial_profile(power_spectrum(x)).power.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: power_spectrum(torch.zeros(4, 4, dtype=torch.complex64)), TypeError, "power_spectrum expects real"),
        (lambda: power_spectrum(torch.zeros(())), ValueError, r"\[\.\.\., H, W\], got 0 dimension"),
        (lambda: power_spectrum(torch.zeros(3)), ValueError, "got 1 dimension"),
        (lambda: power_spectrum([[1.0]]), TypeError, "got list"),
        (lambda: radial_profile(torch.zeros(4, 4), unit="hz"), ValueError, "unknown unit 'hz'.*cycles/pixel"),
        (lambda: frequency_grid((4, 4), layout="half"), ValueError, "unknown layout 'half'.*rfft"),
        (lambda: gaussian_mask((4, 4), 0.0), ValueError, r"one number > 0 in cycles/pixel, got 0\.0"),
        (lambda: gaussian_mask((4, 4), -1), ValueError, "one number > 0"),
        (lambda: gaussian_mask((4, 4), math.nan), ValueError, "one number > 0"),
        (lambda: gaussian_mask((4, 4), (0.1, 0.2)), ValueError, "kind='low'.*one number"),
        (lambda: gaussian_mask((4, 4), 0.2, "band"), ValueError, "a pair"),
        (lambda: gaussian_mask((4, 4), (0.3, 0.2), "band"), ValueError, "σ₁ < σ₂.*swap"),
        (lambda: gaussian_mask((4, 4), 0.2, "middle"), ValueError, "unknown kind 'middle'.*low, high, band"),
        (lambda: gaussian_mask((4, 0)), ValueError, "positive integers"),
        (lambda: gaussian_mask((4, 4, 4)), ValueError, r"shape \(H, W\)"),
    ],
)
def test_errors_say_what_to_do(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
