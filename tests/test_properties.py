"""What must hold for any shape, wavelet, depth, type and mask; Hypothesis looks for a case in which it does not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sfkd_viz
from sfkd import (
    common_grid,
    decompose,
    gaussian_frequency_loss,
    gaussian_mask,
    max_levels,
    power_spectrum,
    radial_profile,
    reconstruct,
    tokens_to_map,
)
from sfkd.config import dump_recipe, load_recipe, parse_recipe
from sfkd.losses import Spectrum, band_loss
from sfkd.wavelet import Mode
from sfkd_viz.measures.crop import fourier_crop

MODES: list[Mode] = ["symmetric", "reflect", "periodic", "zero", "constant"]
WAVELETS = st.sampled_from(["haar", "db2", "db3", "sym4", "coif1", "bior2.2"])
SIDES = st.integers(1, 33)
SIGMAS = st.floats(0.02, 2.0)
SPECTRA: list[Spectrum] = ["complex", "amplitude", "log"]
TYPES = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int32])
SEEDS = st.integers(0, 2**16)

# of this module alone: a profile would be that of every other test too
tried = settings(deadline=None, max_examples=60, derandomize=True)


def maps(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


# -- transforms -------------------------------------------------------------------------------------------------------


@tried
@given(st.tuples(SIDES, SIDES), WAVELETS, st.integers(0, 5), st.sampled_from(MODES), TYPES)
def test_any_map_comes_back(shape: tuple[int, int], wavelet: str, levels: int, mode: Mode, dtype: torch.dtype) -> None:
    x = maps(2, *shape, seed=levels, dtype=dtype)
    bands = decompose(x, wavelet, levels, mode)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    assert bands.approximation.dtype == exact
    torch.testing.assert_close(reconstruct(bands), x.to(exact), rtol=0, atol=1e-10 if dtype == torch.float64 else 1e-4)


@tried
@given(st.tuples(SIDES, SIDES), WAVELETS, st.sampled_from(MODES), st.floats(-3, 3), SEEDS)
def test_the_transform_is_linear(shape: tuple[int, int], wavelet: str, mode: Mode, scale: float, seed: int) -> None:
    x, y = maps(*shape, seed=seed), maps(*shape, seed=seed + 1)
    whole, one, other = (decompose(z, wavelet, 2, mode) for z in (x + scale * y, x, y))
    for (_, c), (_, a), (_, b) in zip(whole.items(), one.items(), other.items(), strict=True):
        torch.testing.assert_close(c, a + scale * b, rtol=0, atol=1e-10)


@tried
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 2), SEEDS)
def test_haar_keeps_energy_where_sizes_divide(rows: int, columns: int, levels: int, seed: int) -> None:
    side = 2**levels
    x = maps(side * rows, side * columns, seed=seed)
    bands = decompose(x, "haar", levels)
    energy = sum(float(band.square().sum()) for _, band in bands.items())
    assert energy == pytest.approx(float(x.square().sum()))


@tried
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), SEEDS)
def test_a_crop_keeps_the_mean_and_has_no_more_energy(
    shape: tuple[int, int], target: tuple[int, int], seed: int
) -> None:
    small = (min(shape[0], target[0]), min(shape[1], target[1]))
    x = maps(*shape, seed=seed)
    cropped = fourier_crop(x, small)
    assert cropped.shape == small
    assert float(cropped.mean()) == pytest.approx(float(x.mean()), abs=1e-9)
    # what falls together at an even side's Nyquist may double there
    odd = tuple(n if n % 2 else max(n - 1, 1) for n in small)
    assert float(fourier_crop(x, odd).square().mean()) <= float(x.square().mean()) + 1e-9
    torch.testing.assert_close(fourier_crop(fourier_crop(x, small), odd), fourier_crop(x, odd), rtol=0, atol=1e-9)


@tried
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), SEEDS)
def test_a_common_grid_is_the_smaller_and_keeps_constants(
    one: tuple[int, int], other: tuple[int, int], seed: int
) -> None:
    a, b = common_grid(maps(1, 2, *one, seed=seed), torch.full((1, 3, *other), 2.0))
    assert a.shape[-2:] == b.shape[-2:]
    assert a.shape[-2] <= min(one[0], other[0])
    assert torch.equal(b, torch.full_like(b, 2.0))


@tried
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.integers(1, 7), SEEDS)
def test_tokens_are_a_map_row_by_row(rows: int, columns: int, prefix: int, channels: int, seed: int) -> None:
    tokens = maps(2, prefix + rows * columns, channels, seed=seed)
    found = tokens_to_map(tokens, (rows, columns), prefix)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens[:, prefix:])


# -- spectra, masks, losses -------------------------------------------------------------------------------------------


@tried
@given(st.tuples(SIDES, SIDES), SEEDS)
def test_no_energy_is_lost_in_a_spectrum_or_its_rings(shape: tuple[int, int], seed: int) -> None:
    x = maps(*shape, seed=seed)
    power = power_spectrum(x)
    assert float(power.sum()) == pytest.approx(float(x.square().sum()))
    rings = radial_profile(power)
    assert float((rings.power * rings.coefficients).sum()) == pytest.approx(float(power.sum()))


@tried
@given(st.tuples(SIDES, SIDES), SIGMAS, st.floats(1.01, 4.0))
def test_masks_are_shares_that_grow_with_sigma_and_add_up(shape: tuple[int, int], sigma: float, more: float) -> None:
    double = {"dtype": torch.float64}
    low, wider = (gaussian_mask(shape, s, **double) for s in (sigma, more * sigma))  # type: ignore[arg-type]
    high = gaussian_mask(shape, sigma, "high", **double)  # type: ignore[arg-type]
    band = gaussian_mask(shape, (sigma, more * sigma), "band", **double)  # type: ignore[arg-type]
    for mask in (low, wider, high, band):
        assert 0 <= float(mask.min()) <= float(mask.max()) <= 1
    assert float(low[shape[0] // 2, shape[1] // 2]) == 1
    assert (wider >= low).all()
    torch.testing.assert_close(low + high, torch.ones_like(low))
    torch.testing.assert_close(wider - low, band)


@tried
@given(st.tuples(SIDES, SIDES), SIGMAS, st.sampled_from(["low", "high"]), st.sampled_from(SPECTRA), SEEDS)
def test_the_frequency_loss_is_a_distance(
    shape: tuple[int, int], sigma: float, mask: str, spectrum: Spectrum, seed: int
) -> None:
    """Not negative, zero for equals, the same both ways, and shifting both maps alike changes nothing."""
    options = {"sigma": sigma, "mask": mask, "spectrum": spectrum}
    x, y = maps(2, *shape, seed=seed), maps(2, *shape, seed=seed + 1)
    if mask == "high" and shape == (1, 1):
        return  # no frequency but zero, which this mask leaves out
    loss = float(gaussian_frequency_loss(x, y, **options))  # type: ignore[arg-type]
    assert loss >= 0
    assert float(gaussian_frequency_loss(x, x, **options)) == pytest.approx(0, abs=1e-12)  # type: ignore[arg-type]
    assert float(gaussian_frequency_loss(y, x, **options)) == pytest.approx(loss)  # type: ignore[arg-type]
    moved = (z.roll((1, 2), (-2, -1)) for z in (x, y))
    assert float(gaussian_frequency_loss(*moved, **options)) == pytest.approx(loss)  # type: ignore[arg-type]


@tried
@given(st.tuples(st.integers(4, 20), st.integers(4, 20)), WAVELETS, st.integers(0, 3), SEEDS)
def test_the_band_loss_is_zero_for_equals_alone(shape: tuple[int, int], wavelet: str, levels: int, seed: int) -> None:
    x, y = (decompose(maps(2, 3, *shape, seed=s), wavelet, levels) for s in (seed, seed + 1))
    assert float(band_loss(x, x)) == 0
    assert float(band_loss(x, y)) > 0


# -- measures ---------------------------------------------------------------------------------------------------------


@tried
@given(st.tuples(SIDES, SIDES), WAVELETS, st.integers(0, 4), TYPES, SEEDS)
def test_shares_of_bands_are_shares(
    shape: tuple[int, int], wavelet: str, levels: int, dtype: torch.dtype, seed: int
) -> None:
    found = sfkd_viz.band_energy(maps(2, 3, *shape, seed=seed, dtype=dtype) + 1, wavelet, levels)
    shares = list(found.share.values())
    assert len(shares) == 1 + 3 * min(levels, max_levels(shape, wavelet))
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) == pytest.approx(1)


@tried
@given(st.tuples(SIDES, SIDES), SIGMAS, SEEDS)
def test_a_filter_keeps_a_share_and_its_two_halves_are_the_map(shape: tuple[int, int], sigma: float, seed: int) -> None:
    x = maps(*shape, seed=seed)
    found = sfkd_viz.gaussian_filter(x, sigma, channel=0)
    assert found.kept_energy is not None
    assert found.removed_energy is not None
    assert 0 <= found.kept_energy <= 1 + 1e-6
    assert found.kept_energy + found.removed_energy <= 1 + 1e-6
    np.testing.assert_allclose(found.kept + found.removed, x, atol=1e-5)


@settings(tried, max_examples=25)
@given(st.integers(4, 40), st.integers(1, 6), st.integers(2, 9), st.floats(0.1, 10), SEEDS)
def test_alignment_does_not_see_rotation_scale_or_order(
    images: int, channels: int, side: int, scale: float, seed: int
) -> None:
    a, b = maps(images, channels, side, side, seed=seed), maps(images, 3, side, side, seed=seed + 1)
    turn = torch.linalg.qr(maps(channels, channels, seed=seed)).Q
    turned = scale * torch.einsum("oc,ncij->noij", turn, a)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    one, other = sfkd_viz.cka(a, b, levels=1), sfkd_viz.cka(turned[order], b[order], levels=1)
    np.testing.assert_allclose(one.values, other.values, atol=1e-8)


# -- files ------------------------------------------------------------------------------------------------------------

RECIPES = st.fixed_dictionaries(
    {
        "out": st.sampled_from(["runs/a", "runs/ü b", "runs/x'y\"z"]),
        "student": st.fixed_dictionaries({"name": st.just("resnet18"), "kwargs": st.just({})}),
        "data": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["torch/mnist", "sklearn/digits"]),
                "num_classes": st.integers(2, 1000),
                "input_size": st.tuples(st.just(3), st.integers(8, 64), st.integers(8, 64)).map(list),
                "crop_pct": st.floats(0.5, 1.0),
            }
        ),
        "schedule": st.fixed_dictionaries(
            {"epochs": st.integers(1, 300), "batch_size": st.integers(1, 512), "lr": st.floats(1e-9, 10.0)}
        ),
        "seed": st.integers(0, 2**31 - 1),
    }
)


@tried
@given(RECIPES)
def test_a_recipe_comes_back_from_its_file(values: dict[str, object]) -> None:
    recipe = parse_recipe(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(path) == recipe
