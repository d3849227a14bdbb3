"""Measures against closed forms and PyWavelets, numpy and scipy."""

import numpy as np
import pytest
import pywt
import scipy.fft
import torch

import sfkd_viz
from sfkd import create_distiller
from sfkd_viz.measures.inputs import as_maps, channel_loading

RNG = np.random.default_rng(0)


def test_spectrum_is_the_mean_power_of_scipy():
    x = RNG.normal(size=(2, 3, 8, 6))
    expected = np.fft.fftshift(np.abs(scipy.fft.fft2(x, norm="ortho")) ** 2, axes=(-2, -1)).mean((0, 1))
    measured = sfkd_viz.spectrum(x)
    np.testing.assert_allclose(measured.power, expected, rtol=1e-10)
    assert (measured.images, measured.channels) == (2, 3)
    np.testing.assert_allclose(measured.power.sum(), (x**2).sum((-2, -1)).mean(), rtol=1e-10)


def test_spectrum_puts_a_sinusoid_in_its_two_cells():
    columns = np.arange(16)
    wave = np.cos(2 * np.pi * 3 * columns / 16) * np.ones((16, 1))
    measured = sfkd_viz.spectrum(wave)
    rows_f, columns_f = measured.frequencies
    row, column = np.unravel_index(measured.share.argmax(), (16, 16))
    assert rows_f[row] == 0
    assert abs(columns_f[column]) == 3 / 16
    np.testing.assert_allclose(np.sort(measured.share.ravel())[-2:], 0.5, atol=1e-12)


@pytest.mark.parametrize(("unit", "expected"), [("cycles/image", 3), ("cycles/pixel", 3 / 16), ("pi", 6 / 16)])
def test_radial_spectrum_puts_a_sinusoid_in_its_ring(unit, expected):
    wave = np.cos(2 * np.pi * 3 * np.arange(16) / 16) * np.ones((16, 1))
    measured = sfkd_viz.radial_spectrum(wave, unit=unit)
    assert measured.frequency[measured.share.argmax()] == pytest.approx(expected)
    assert measured.share.sum() == pytest.approx(1)
    assert measured.share.max() == pytest.approx(1)


def test_constant_and_zero_maps():
    assert sfkd_viz.spectrum(np.ones((5, 7))).share[2, 3] == pytest.approx(1)
    assert sfkd_viz.spectrum(np.zeros((4, 4))).share.sum() == 0
    assert sfkd_viz.radial_spectrum(np.zeros((4, 4))).share.sum() == 0
    energy = sfkd_viz.band_energy(np.ones((8, 8)))
    assert energy.share["A2"] == pytest.approx(1)
    assert max(v for k, v in energy.share.items() if k != "A2") < 1e-30  # rounding, squared
    assert np.isnan(sfkd_viz.gaussian_filter(np.zeros((4, 4))).kept_energy)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_band_energy_against_pywavelets(wavelet):
    x = RNG.normal(size=(2, 3, 16, 16))
    measured = sfkd_viz.band_energy(x, wavelet, 2)
    approximation, coarse, fine = pywt.wavedec2(x, wavelet, "symmetric", 2)
    expected = [approximation, *coarse, *fine]
    for (name, energy), band in zip(measured.energy.items(), expected, strict=True):
        assert energy == pytest.approx((band**2).sum((-2, -1)).mean(), rel=1e-5), name
    assert sum(measured.share.values()) == pytest.approx(1)


def test_subbands_of_one_channel_are_coefficients_in_units_of_rms():
    x = RNG.normal(size=(2, 3, 8, 8))
    measured = sfkd_viz.subbands(x, "haar", 1, channel=2)
    a, (h, v, d) = pywt.dwt2(x[0, 2], "haar", "symmetric")
    rms = np.sqrt((x[0, 2] ** 2).mean())
    for name, band in zip(("A1", "H1", "V1", "D1"), (a, h, v, d), strict=True):
        np.testing.assert_allclose(measured.bands[name], band / rms, atol=1e-6)
    assert measured.signed
    assert "image 1 of 2" in measured.channel


def test_subbands_tell_clamped_levels():
    measured = sfkd_viz.subbands(np.ones((4, 4)), levels=3)
    assert (measured.levels, measured.asked_levels) == (1, 3)


def test_principal_component_finds_a_planted_direction():
    pattern = RNG.normal(size=(1, 1, 8, 8))
    direction = np.array([0.6, -0.8, 0.0]).reshape(1, 3, 1, 1)
    x = torch.from_numpy(10 * pattern * direction + 0.01 * RNG.normal(size=(1, 3, 8, 8)))
    loading, label = channel_loading(x, "pc1")
    np.testing.assert_allclose(loading, [-0.6, 0.8, 0.0], atol=1e-2)
    assert "100 %" in label


@pytest.mark.parametrize("sigma", [0.1, 0.25, 5.0])
def test_gaussian_filter_splits_a_map(sigma):
    x = RNG.normal(size=(1, 2, 8, 8))
    measured = sfkd_viz.gaussian_filter(x, sigma, channel=1)
    np.testing.assert_allclose(measured.kept + measured.removed, x[0, 1], atol=1e-6)
    power = sfkd_viz.spectrum(x).power
    expected = (measured.mask.astype(float) ** 2 * power).sum() / power.sum()
    assert measured.kept_energy == pytest.approx(expected, rel=1e-5)
    assert 0 < measured.kept_energy_without_dc <= measured.kept_energy + 1e-6 or sigma == 5.0


def test_gaussian_filter_of_a_shape_is_the_mask_alone():
    measured = sfkd_viz.gaussian_filter((8, 6), 0.2)
    assert measured.mask.shape == (8, 6)
    assert measured.kept_energy is None


def test_ds2s_measure_of_a_fresh_distiller_is_the_identity(tiny):
    distiller = create_distiller("sfkd", student=tiny("swin"), teacher=tiny("convnext"), layers=None)
    measured = sfkd_viz.ds2s(distiller, torch.randn(2, 1, 32, 32))
    assert not measured.trained
    for stage in ("within", "across"):
        assert measured.gain[stage] == pytest.approx(dict.fromkeys(measured.gain[stage], 1.0))
        for name, band in measured.stages[stage].bands.items():
            np.testing.assert_array_equal(band, measured.stages["input"].bands[name])


def test_ds2s_measure_sees_a_planted_gain(tiny):
    distiller = create_distiller("sfkd", ds2s="full", student=tiny("swin"), teacher=tiny("convnext"), layers=None)
    refine = distiller.spatial_frequency[0].refine
    with torch.no_grad():
        refine.low.weight[:, :, 1, 1] = 1.0  # doubles A, so four times its energy
    measured = sfkd_viz.ds2s(distiller, torch.randn(2, 1, 32, 32))
    assert measured.trained
    assert measured.gain["within"]["A2"] == pytest.approx(4, rel=1e-5)
    assert measured.gain["within"]["H1"] == pytest.approx(1)


def test_ds2s_refuses_what_has_none(tiny):
    kd = create_distiller("kd", student=tiny("swin"), teacher=tiny("convnext"))
    with pytest.raises(TypeError, match="other methods have no DS2S"):
        sfkd_viz.ds2s(kd, torch.randn(1, 1, 32, 32))
    sfkd = create_distiller("sfkd", student=tiny("swin"), teacher=tiny("convnext"), layers=None)
    with pytest.raises(ValueError, match="is not paired; choose one of"):
        sfkd_viz.ds2s(sfkd, torch.randn(1, 1, 32, 32), layer="nowhere")


@pytest.mark.parametrize(
    ("feat", "error", "message"),
    [
        (torch.ones(4, 4, dtype=torch.complex64), TypeError, "complex"),
        (np.ones((4, 4), dtype=complex), TypeError, "complex"),
        (torch.tensor([[1.0, float("nan")], [float("inf"), 0.0]]), ValueError, "1 NaN and 1 infinite"),
        (np.ones(4), ValueError, "1 dimension"),
        (np.ones((1, 1, 1, 2, 2)), ValueError, "5 dimension"),
        (np.ones((0, 4)), ValueError, "empty"),
        (np.array([["a"]]), TypeError, "numeric array"),
    ],
)
def test_inputs_are_refused_by_name(feat, error, message):
    with pytest.raises(error, match=message):
        sfkd_viz.spectrum(feat)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int64])
def test_inputs_of_every_real_type(dtype):
    x = torch.ones(3, 4, 4, dtype=dtype, requires_grad=dtype.is_floating_point)
    assert as_maps(x).shape == (1, 3, 4, 4)
    assert not as_maps(x).requires_grad


@pytest.mark.parametrize(
    ("channel", "message"), [(3, "channels 0 to 2"), ("pc4", "expects a number"), (True, "expects a number")]
)
def test_channels_are_refused_by_name(channel, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sfkd_viz.subbands(np.ones((3, 4, 4)), channel=channel)


def test_tables_in_long_form_with_units():
    x = RNG.normal(size=(2, 3, 8, 6))
    spectrum = sfkd_viz.spectrum(x)
    table = spectrum.to_dataframe()
    assert list(table) == ["vertical_cycles_per_pixel", "horizontal_cycles_per_pixel", "power", "share"]
    at = table[(table.vertical_cycles_per_pixel == 0.125) & (table.horizontal_cycles_per_pixel == 0)]
    assert at.power.item() == spectrum.power[5, 3]
    energy = sfkd_viz.band_energy(x, levels=1)
    table = energy.to_dataframe().set_index(["level", "orientation"])
    assert table.loc[(1, "vertical")].energy == energy.energy["V1"]
    assert table.loc[(1, "approximation")].share == energy.share["A1"]
    bands = sfkd_viz.subbands(x, levels=1, channel=0)
    table = bands.to_dataframe()
    row = table[(table.band == "D1") & (table.row == 2) & (table.column == 1)]
    assert row.value.item() == bands.bands["D1"][2, 1]


@pytest.mark.parametrize("unit", ["cycles/image", "cycles/pixel", "pi"])
def test_table_of_rings_has_every_unit(unit):
    table = sfkd_viz.radial_spectrum(RNG.normal(size=(8, 12)), unit=unit).to_dataframe()
    np.testing.assert_allclose(table.cycles_per_image, np.arange(len(table)))
    np.testing.assert_allclose(table.cycles_per_pixel, table.cycles_per_image / 12)
    np.testing.assert_allclose(table.times_pi, table.cycles_per_image / 6)
    assert table.share.sum() == pytest.approx(1)


@pytest.mark.parametrize(("kind", "sigma"), [("low", 0.2), ("high", 0.2), ("band", (0.1, 0.3))])
def test_every_kind_of_mask_keeps_and_removes(kind, sigma):
    x = RNG.normal(size=(1, 1, 8, 8))
    measured = sfkd_viz.gaussian_filter(x, sigma, kind, channel=0)
    fy, fx = np.meshgrid(np.fft.fftfreq(8), np.fft.fftfreq(8), indexing="ij")

    def gaussian(s):
        return np.exp(-(fy**2 + fx**2) / (2 * s**2))

    expected = {"low": lambda: gaussian(0.2), "high": lambda: 1 - gaussian(0.2)}
    mask = expected.get(kind, lambda: gaussian(0.3) - gaussian(0.1))()
    f = np.fft.fft2(x[0, 0])
    np.testing.assert_allclose(measured.kept, np.fft.ifft2(f * mask).real, atol=1e-6)
    np.testing.assert_allclose(measured.removed, np.fft.ifft2(f * (1 - mask)).real, atol=1e-6)
    total = (x**2).sum()
    assert measured.kept_energy == pytest.approx((measured.kept**2).sum() / total, rel=1e-5)
    assert measured.removed_energy == pytest.approx((measured.removed**2).sum() / total, rel=1e-5)
    assert measured.kept_energy + measured.removed_energy <= 1
    table = measured.to_dataframe()
    assert table.groupby("picture").size().to_dict() == dict.fromkeys(("mask", "original", "kept", "removed"), 64)
    kept = table[table.picture == "kept"].value
    np.testing.assert_allclose(kept.to_numpy().reshape(8, 8), measured.kept)


def test_ds2s_of_every_layer_with_gains_per_band(tiny):
    distiller = create_distiller("sfkd", ds2s="full", student=tiny("swin"), teacher=tiny("convnext"), layers=None)
    with torch.no_grad():
        distiller.spatial_frequency[0].refine.low.weight[:, :, 1, 1] = 1.0
    images = torch.randn(2, 1, 32, 32)
    layers = sfkd_viz.ds2s_layers(distiller, images)
    assert list(layers) == [student for student, _ in distiller.pairs]
    first = next(iter(layers))
    assert layers[first].gain == sfkd_viz.ds2s(distiller, images, layer=first).gain
    table = layers[first].to_dataframe().set_index(["stage", "band"])
    assert table.loc[("within", "A2")].gain_db == pytest.approx(10 * np.log10(4), rel=1e-5)
    assert table.loc[("within", "A2")].energy == pytest.approx(4 * table.loc[("input", "A2")].energy, rel=1e-5)
    assert np.isnan(table.loc[("input", "A2")].gain)
    assert set(table[table.stream == "low"].orientation) == {"approximation"}
    assert len(table) == 4 * 7
