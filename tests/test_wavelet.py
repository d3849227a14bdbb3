from __future__ import annotations

import math

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfkd import Detail, SubBands, decompose, max_levels, reconstruct

WAVELETS = ["haar", "db2", "db4", "sym4", "coif1", "bior2.2"]
MODES = ["symmetric", "reflect", "periodic", "zero", "constant"]
ODD_GRIDS = [(7, 7), (7, 9), (1, 1), (5, 3), (2, 2), (1, 12), (33, 18)]


@pytest.mark.filterwarnings("ignore:Level value of:UserWarning")  # PyWavelets on short sides
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("shape", [(32, 32), (17, 30), (31, 19)])
def test_equals_pywavelets(shape: tuple[int, int], wavelet: str, mode: str) -> None:
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    bands = decompose(x, wavelet, 2, mode)
    approximation, *details = pywt.wavedec2(x.numpy(), wavelet, mode, level=bands.levels, axes=(-2, -1))
    assert bands.levels == min(2, max_levels(shape, wavelet, mode))
    np.testing.assert_allclose(bands.approximation, approximation, atol=1e-12)
    for ours, theirs in zip(bands.details, details, strict=True):
        for band, reference in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(band, reference, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 7), (7, 9), (5, 3)])
def test_equals_pywavelets_on_small_odd_grids(shape: tuple[int, int]) -> None:
    x = torch.randn(*shape, dtype=torch.float64)
    bands = decompose(x, levels=9)
    expected = pywt.wavedec2(x.numpy(), "haar", "symmetric", level=bands.levels)
    np.testing.assert_allclose(bands.approximation, expected[0], atol=1e-12)
    np.testing.assert_allclose(torch.stack(bands.details[0]), np.stack(expected[1]), atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("shape", ODD_GRIDS)
def test_reconstruct_inverts_decompose(shape: tuple[int, int], wavelet: str, mode: str) -> None:
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    torch.testing.assert_close(reconstruct(decompose(x, wavelet, 3, mode)), x, rtol=0, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(WAVELETS), st.sampled_from(MODES), st.integers(0, 6))
def test_any_grid_comes_back_and_has_no_band_under_2x2(
    height: int, width: int, wavelet: str, mode: str, levels: int
) -> None:
    x = torch.randn(height, width)
    bands = decompose(x, wavelet, levels, mode)
    assert bands.levels == min(levels, max_levels((height, width), wavelet, mode))
    if bands.levels:
        assert all(min(band.shape) >= 2 for _, band in bands.items())
    torch.testing.assert_close(reconstruct(bands), x, rtol=0, atol=2e-5)


@pytest.mark.parametrize("side", range(1, 41))
def test_max_levels_stops_just_before_a_band_under_2x2(side: int) -> None:
    sides = [side]
    while sides[-1] > 1:
        sides.append(math.ceil(sides[-1] / 2))
    assert max_levels((side, 64)) == max_levels((64, side)) == sum(s >= 2 for s in sides[1:])


@pytest.mark.parametrize(("side", "levels"), [(7, 0), (8, 1), (9, 2), (16, 4)])
def test_no_level_is_shorter_than_the_filter(side: int, levels: int) -> None:
    assert max_levels((side, side), "db4") == levels


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (16, 20)])
def test_haar_keeps_energy_where_sizes_divide(shape: tuple[int, int]) -> None:
    x = torch.randn(3, *shape, dtype=torch.float64)
    energy = sum(band.square().sum() for _, band in decompose(x, levels=2).items())
    torch.testing.assert_close(energy, x.square().sum())


def test_padding_of_odd_sizes_adds_energy() -> None:
    x = torch.ones(7, 7)
    energy = sum(band.square().sum() for _, band in decompose(x, levels=1).items())
    assert energy.item() == pytest.approx(64)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_a_constant_has_no_detail(wavelet: str) -> None:
    bands = decompose(torch.full((1, 32, 32), 3.0, dtype=torch.float64), wavelet, 2)
    assert max(band.abs().max() for detail in bands.details for band in detail) < 1e-10
    torch.testing.assert_close(bands.approximation, torch.full_like(bands.approximation, 12.0))


@pytest.mark.parametrize(
    ("letter", "pattern"),
    [("H", [[1.0, 1.0], [-1.0, -1.0]]), ("V", [[1.0, -1.0], [1.0, -1.0]]), ("D", [[1.0, -1.0], [-1.0, 1.0]])],
)
def test_orientation_names(letter: str, pattern: list[list[float]]) -> None:
    """Stripes along rows are horizontal, along columns vertical, a chessboard diagonal; each lights its band alone."""
    bands = dict(decompose(torch.tensor(pattern).repeat(4, 4), levels=1).items())
    assert {name for name, band in bands.items() if band.abs().max() > 1e-6} == {f"{letter}1"}


def test_names_run_from_coarse_to_fine_and_aliases_agree() -> None:
    bands = decompose(torch.randn(2, 16, 24), levels=3)
    assert [name for name, _ in bands.items()] == ["A3", "H3", "V3", "D3", "H2", "V2", "D2", "H1", "V1", "D1"]
    assert [tuple(d.horizontal.shape[-2:]) for d in bands.details] == [(2, 3), (4, 6), (8, 12)]
    detail = bands.details[0]
    assert detail.LH is detail.horizontal
    assert detail.HL is detail.vertical
    assert detail.HH is detail.diagonal


def test_map_and_replaced_keep_the_tree() -> None:
    x = torch.randn(2, 7, 9)
    bands = decompose(x, "db2", 1, "reflect")
    doubled = bands.map(lambda band: 2 * band)
    assert (doubled.wavelet, doubled.mode, doubled.shape) == ("db2", "reflect", (7, 9))
    torch.testing.assert_close(reconstruct(doubled), 2 * x)
    low = bands.replaced(bands.approximation, [Detail(*(torch.zeros_like(b) for b in d)) for d in bands.details])
    assert not torch.allclose(reconstruct(low), x, atol=0.1)


def test_zero_levels_give_the_map_itself() -> None:
    x = torch.randn(2, 8, 8)
    bands = decompose(x, levels=0)
    assert bands.levels == 0
    assert torch.equal(bands.approximation, x)
    assert torch.equal(reconstruct(bands), x)


def test_gradients() -> None:
    x = torch.randn(1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(b for _, b in decompose(x, levels=1).items()), x)
    assert torch.autograd.gradcheck(lambda x: reconstruct(decompose(x, "db2", 2)), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.uint8])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_and_integers_are_computed_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    x = (10 * torch.rand(2, 8, 8)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        bands = decompose(x)
        back = reconstruct(bands)
    assert {band.dtype for _, band in bands.items()} == {back.dtype} == {torch.float32}
    torch.testing.assert_close(back, x.float(), rtol=0, atol=1e-5)


def test_autocast_leaves_float32_exact() -> None:
    x = torch.randn(2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = reconstruct(decompose(x, "db2"))
    assert torch.equal(inside, reconstruct(decompose(x, "db2")))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: decompose(torch.zeros(4, 4, dtype=torch.complex64)), TypeError, r"expects real values.*x\.abs\(\)"),
        (lambda: decompose(np.zeros((4, 4))), TypeError, r"got ndarray: use torch\.as_tensor"),
        (lambda: decompose(torch.tensor(1.0)), ValueError, r"got 0 dimension\(s\)"),
        (lambda: decompose(torch.zeros(4)), ValueError, r"got 1 dimension\(s\) of shape \(4,\).*tokens_to_map"),
        (lambda: decompose(torch.zeros(0, 4, 4)), ValueError, r"non-empty tensor, got shape \(0, 4, 4\)"),
        (lambda: decompose(torch.zeros(4, 4), "harr"), ValueError, r"unknown discrete wavelet 'harr'.*'haar'"),
        (lambda: decompose(torch.zeros(4, 4), "morl"), ValueError, "unknown discrete wavelet 'morl'"),
        (lambda: decompose(torch.zeros(4, 4), 2), TypeError, "PyWavelets name such as 'haar', got int"),
        (lambda: decompose(torch.zeros(4, 4), mode="same"), ValueError, "unknown mode 'same'.*symmetric, reflect"),
        (lambda: decompose(torch.zeros(4, 4), levels=-1), ValueError, "integer ≥ 0, got -1"),
        (lambda: decompose(torch.zeros(4, 4), levels=1.5), ValueError, r"integer ≥ 0, got 1\.5"),
        (lambda: reconstruct(torch.zeros(4, 4)), TypeError, r"SubBands that sfkd\.decompose returns, got Tensor"),
    ],
)
def test_errors_say_what_to_do(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_input_is_left_alone() -> None:
    x = torch.randn(2, 9, 9)
    before: Tensor = x.clone()
    bands: SubBands = decompose(x)
    reconstruct(bands)
    assert torch.equal(x, before)
