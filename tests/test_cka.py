"""Fourier crop and CKA against closed forms and a plain float64 implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

import sfkd_viz
from sfkd import decompose
from sfkd_viz.measures.blocks import HSICStream
from sfkd_viz.measures.crop import fourier_crop

RNG = np.random.default_rng(3)


def wave(cycles: float, side: int, phase: float = 0.0) -> Tensor:
    """cos along the columns, `[side, side]`."""
    x = torch.arange(side, dtype=torch.float64)
    return torch.cos(2 * math.pi * cycles * x / side + phase).expand(side, side)


# -- Fourier crop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transpose", [False, True])
def test_a_wave_too_fast_for_the_grid_vanishes_instead_of_aliasing(transpose: bool) -> None:
    x = wave(8, 56)
    cropped = fourier_crop(x.T if transpose else x, (14, 14))
    assert cropped.abs().max() < 1e-12
    averaged = torch.nn.functional.adaptive_avg_pool2d(x[None], 14)
    assert averaged.abs().max() > 0.3  # what an area average would have kept, at a false frequency


@pytest.mark.parametrize(("cycles", "phase"), [(0, 0.0), (3, 0.0), (3, 1.0), (6, 2.0)])
def test_a_wave_that_fits_keeps_amplitude_and_phase(cycles: int, phase: float) -> None:
    torch.testing.assert_close(fourier_crop(wave(cycles, 56, phase), (14, 14)), wave(cycles, 14, phase))


def test_at_nyquist_the_part_that_the_grid_can_show_stays() -> None:
    torch.testing.assert_close(fourier_crop(wave(7, 56), (56, 14))[0], wave(7, 14)[0])
    assert fourier_crop(wave(7, 56, math.pi / 2), (56, 14)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("shape", "target"), [((56, 56), (14, 14)), ((15, 12), (7, 5)), ((9, 16), (4, 16)), ((6, 6), (1, 1))]
)
def test_crop_equals_scipy(shape: tuple[int, int], target: tuple[int, int]) -> None:
    x = RNG.normal(size=(2, *shape))
    expected = scipy.signal.resample(scipy.signal.resample(x, target[1], axis=-1), target[0], axis=-2)
    np.testing.assert_allclose(fourier_crop(torch.from_numpy(x), target).numpy(), expected, atol=1e-12)


def test_two_steps_equal_one() -> None:
    x = torch.randn(2, 56, 48, dtype=torch.float64)
    torch.testing.assert_close(fourier_crop(fourier_crop(x, (28, 24)), (14, 9)), fourier_crop(x, (14, 9)))
    assert fourier_crop(x, (56, 48)) is x


def test_crop_refuses_to_grow() -> None:
    with pytest.raises(ValueError, match="goes from a grid of 4×4 to a smaller one"):
        fourier_crop(torch.zeros(4, 4), (4, 5))


# -- CKA --------------------------------------------------------------------------------------------------------------


def plain_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """Song et al. 2012, eq. 5, term by term."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ l) + middle - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3)))


def plain_cka(x: np.ndarray, y: np.ndarray, block: int) -> float:
    sums = np.zeros(3)
    for start in range(0, len(x), block):
        a, b = (z[start : start + block].reshape(len(z[start : start + block]), -1).astype(np.float64) for z in (x, y))
        if len(a) >= 4:
            k, m = a @ a.T, b @ b.T
            sums += len(a) / block * np.array([plain_hsic(k, m), plain_hsic(k, k), plain_hsic(m, m)])
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def related(count: int, *, side: int = 8, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Features `[N, 5, side, side]` and `[N, 3, side, side]` with something in common and a large mean."""
    common = RNG.normal(size=(count, 1, side, side))
    a = 20 + common + 0.5 * RNG.normal(size=(count, 5, side, side))
    b = -3 + common + 0.5 * RNG.normal(size=(count, 3, side, side))
    return a.astype(dtype), b.astype(dtype)


@pytest.mark.parametrize("count", [4, 50, 600])
def test_cka_equals_a_plain_implementation(count: int) -> None:
    """One block, less than one, and two with a shorter last one."""
    a, b = related(count)
    measured = sfkd_viz.cka(a, b)
    assert measured.values.shape == (1, 1)
    assert measured.values[0, 0] == pytest.approx(plain_cka(a, b, min(256, count)), abs=1e-6)
    assert measured.images == count


def test_each_band_equals_a_plain_implementation_on_the_smaller_grid() -> None:
    a, b = related(300)
    large = fourier_crop(torch.from_numpy(np.kron(a, np.ones((1, 1, 2, 2), np.float32))), (16, 16)).numpy()
    measured = sfkd_viz.cka({"a": large}, {"b": b}, wavelet="db2", levels=1)
    assert measured.bands == ("all", "A", "H1", "V1", "D1")
    assert measured.grids.tolist() == [[[8, 8]]]
    cropped = fourier_crop(torch.from_numpy(large).double(), (8, 8))
    ours, theirs = (dict(decompose(x, "db2", 1).items()) for x in (cropped, torch.from_numpy(b).double()))
    for band in measured.bands[1:]:
        name = "A1" if band == "A" else band
        expected = plain_cka(ours[name].numpy(), theirs[name].numpy(), 256)
        assert measured.band(band)[0, 0] == pytest.approx(expected, abs=1e-6)


def test_rotated_scaled_and_shifted_features_align_fully() -> None:
    x = RNG.normal(size=(40, 6, 8, 8))
    rotation = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    turned = 5 - 3 * np.einsum("nchw,cd->ndhw", x, rotation)
    measured = sfkd_viz.cka(x, turned)
    np.testing.assert_allclose(measured.by_band, 1, atol=1e-10)


def test_independent_features_do_not_align() -> None:
    x, y = RNG.normal(size=(2, 512, 40, 4, 4))
    assert abs(sfkd_viz.cka(x, y, levels=0).values[0, 0]) < 0.02  # the biased estimator would say 0.7


def test_one_block_of_all_images_is_the_full_gram_matrix_and_the_gap_is_small() -> None:
    a, b = related(512, side=4)
    full = sfkd_viz.cka(a, b, block_size=None)
    assert full.counts.tolist() == [512]
    assert full.values[0, 0] == pytest.approx(plain_cka(a, b, 512), abs=1e-6)
    assert abs(full.values - sfkd_viz.cka(a, b).values).max() < 0.02


@pytest.mark.parametrize("batch", [1, 7, 64, 300])
def test_batches_do_not_matter(batch: int) -> None:
    a, b = related(300)
    stream = sfkd_viz.CKAStream()
    for start in range(0, 300, batch):
        stream.update(a[start : start + batch], b[start : start + batch])
    np.testing.assert_allclose(stream.result().by_band, sfkd_viz.cka(a, b).by_band, atol=1e-10)


def test_one_to_three_left_over_images_are_not_used() -> None:
    a, b = related(259)
    measured, without = sfkd_viz.cka(a, b), sfkd_viz.cka(a[:256], b[:256])
    assert measured.images == 256
    np.testing.assert_array_equal(measured.by_band, without.by_band)


def test_all_pairs_of_unequal_grids_bands_and_cycles() -> None:
    maps = {
        "large": RNG.normal(size=(30, 2, 16, 12)),
        "small": RNG.normal(size=(30, 3, 4, 6)),
        "one": RNG.normal(size=(30, 2, 1, 1)),
    }
    measured = sfkd_viz.cka(maps, maps)
    assert measured.grids[0, 1].tolist() == [4, 6]
    np.testing.assert_allclose(np.diagonal(measured.values), 1)
    np.testing.assert_allclose(measured.by_band, measured.by_band.swapaxes(1, 2))
    deep = measured.bands.index("H2")
    assert np.isfinite(measured.by_band[deep]).tolist() == [[True, False, False]] + [[False] * 3] * 2
    assert np.isnan(measured.band("A")[2]).all()
    assert measured.cycles("all", 0, 0) == (0, 6)
    assert measured.cycles("H1", 0, 0) == (3, 6)
    assert measured.cycles("A", 0, 0) == (0, 1.5)
    assert measured.cycles("A", 0, 1) == (0, 1)
    assert measured.cycles("H2", 0, 1) is None
    table = measured.to_dataframe()
    row = table[(table.band == "V1") & (table.a == "large") & (table.b == "small")]
    assert row.cka.item() == measured.band("V1")[0, 1]
    assert row.grid.item() == "4×6"


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_features_have_no_cka(value: float) -> None:
    a, _ = related(20)
    measured = sfkd_viz.cka({"live": a, "dead": np.full_like(a, value)}, a)
    assert np.isnan(measured.by_band[:, 1]).all()
    np.testing.assert_allclose(measured.by_band[:, 0], 1, atol=1e-6)


def test_a_band_of_rounding_errors_has_no_cka() -> None:
    """Maps without spatial variation: their details are rounding, in proportion to the map itself."""
    flat = np.broadcast_to(RNG.normal(size=(64, 5, 1, 1)), (64, 5, 12, 12)).astype(np.float32)
    measured = sfkd_viz.cka(flat, flat, wavelet="db2")
    assert measured.values[0, 0] == pytest.approx(1)
    assert np.isnan(measured.by_band[2:]).all()


def test_bfloat16_and_batches_of_one_grid_cell() -> None:
    a = torch.randn(20, 4, 4, 4)
    half = sfkd_viz.cka(a.bfloat16(), a)
    assert half.values[0, 0] == pytest.approx(1, abs=1e-4)


def test_autocast_does_not_reach_the_gram_matrix() -> None:
    a, b = related(40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sfkd_viz.cka(a, b)
    np.testing.assert_array_equal(inside.by_band, sfkd_viz.cka(a, b).by_band)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_refused_by_the_name_of_the_layer(bad: float) -> None:
    a, b = related(8)
    a[3, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"layer 'stage2'.*1 "):
        sfkd_viz.cka({"stage1": b, "stage2": a}, b)
    with pytest.raises(ValueError, match="layer 'stage2' of teacher has 1 NaN"):
        HSICStream([("teacher", "student")]).update(
            {"teacher": {"stage2": torch.from_numpy(a)}, "student": {"x": torch.from_numpy(b)}}
        )


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros((3, 2, 4, 4)), np.zeros((3, 2, 4, 4))), {}, "4 images at least"),
        ((np.zeros((8, 2, 4, 4)), np.zeros((9, 2, 4, 4))), {}, r"same images, got \[8, 9\]"),
        ((np.zeros((8, 2, 4)), np.zeros((8, 2, 4, 4))), {}, r"layer 'a' expects maps \[N, C, H, W\]"),
        (({}, np.zeros((8, 2, 4, 4))), {}, "none of a"),
        ((np.zeros((8, 2, 4, 4)),) * 2, {"block_size": 3}, "block_size expects"),
        ((np.zeros((8, 2, 4, 4)),) * 2, {"wavelet": "harr"}, "unknown discrete wavelet 'harr'"),
        ((np.zeros((8, 2, 4, 4)),) * 2, {"levels": -1}, "levels expects an integer"),
    ],
)
def test_mistakes_are_named(arguments: tuple[np.ndarray, np.ndarray], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sfkd_viz.cka(*arguments, **options)


def test_a_stream_refuses_other_layers_and_grids() -> None:
    stream, x = sfkd_viz.CKAStream(), np.zeros((4, 2, 4, 4))
    stream.update(x, x)
    with pytest.raises(ValueError, match="all images need one size"):
        stream.update(x, np.zeros((4, 2, 5, 5)))


# -- plot -------------------------------------------------------------------------------------------------------------


def test_very_many_layers_are_drawn_as_256_evenly_chosen_ones() -> None:
    maps = {f"layer {i}": RNG.normal(size=(4, 1, 2, 2)) for i in range(300)}
    fig = sfkd_viz.plot_cka(sfkd_viz.cka(maps, {"t": maps["layer 0"]}, levels=0))
    (heat,) = fig.data
    assert np.shape(heat.z) == (256, 1)
    assert (heat.y[0], heat.y[-1], len(set(heat.y))) == ("layer 0", "layer 299", 256)
    assert heat.z[0][0] == pytest.approx(1)
    assert "300×1 layers drawn as 256×1, evenly chosen" in fig.layout.title.text
    moved = sfkd_viz.transfer({"t": maps["layer 0"]}, maps, maps, levels=0, block_size=4)
    fig = sfkd_viz.plot_transfer(moved)
    assert np.shape(fig.data[0].z) == (1, 256)
    assert "1×300 layers drawn as 1×256" in fig.layout.title.text.replace("<br>", " ")
    many = {name: x[:, 0] for name, x in maps.items()}
    assert len(sfkd_viz.plot_band_energy(many).data[0].y) == 256
    side = {f"{i}": RNG.normal(size=(4, 1, 2, 2)) for i in range(40)}
    assert len(sfkd_viz.plot_cka(side, side, levels=0).to_json()) < 60_000  # 1,600 hover texts would take 150,000


def test_plot_cka_draws_every_band_on_one_scale() -> None:
    a, b = related(30)
    measured = sfkd_viz.cka({"s1": a, "s2": a[:, :, ::2, ::2]}, {"t": b})
    fig = sfkd_viz.plot_cka(measured)
    assert [trace.name for trace in fig.data] == list(measured.bands)
    for trace, values in zip(fig.data, measured.by_band, strict=True):
        np.testing.assert_allclose(trace.z, values, atol=1e-6)
        assert np.asarray(trace.z).dtype == np.float32
        assert trace.coloraxis == "coloraxis"
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, 1)
    assert fig.data[0].text[0][0] == f"{measured.values[0, 0]:.2f}"
    assert "30 images" in fig.layout.title.text
    one = sfkd_viz.plot_cka(a, b, band="H1", levels=1, names=("teacher", "student"))
    assert "teacher × student" in one.layout.title.text
    assert (one.layout.yaxis.title.text, one.layout.xaxis.title.text) == ("layer of teacher", "layer of student")
    assert len(one.data) == 1
    assert "H1" in one.layout.title.text
    with pytest.raises(ValueError, match="unknown band 'H9'"):
        sfkd_viz.plot_cka(measured, band="H9")
    with pytest.raises(ValueError, match="features of two models"):
        sfkd_viz.plot_cka(a)
    with pytest.raises(ValueError, match="takes a ready CKA alone"):
        sfkd_viz.plot_cka(measured, b)
