"""Figures by the values of their traces."""

import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import sfkd_viz
from sfkd import create_distiller

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("shape", [(14, 14), (8, 14, 14), (2, 8, 14, 14)])
@pytest.mark.parametrize("make", [torch.from_numpy, np.asarray])
def test_plot_spectrum_takes_two_to_four_dimensions(shape, make):
    x = RNG.normal(size=shape)
    fig = sfkd_viz.plot_spectrum(make(x))
    expected = np.log10(sfkd_viz.spectrum(x).power)
    np.testing.assert_allclose(fig.data[0].z, expected, atol=1e-4)
    assert fig.layout.height == 420
    assert {2: "[H, W]", 3: "[C, H, W]", 4: "[B, C, H, W]"}[len(shape)] in fig.layout.title.text


def test_plot_spectrum_shares_one_scale_and_takes_ready_results():
    a, b = RNG.normal(size=(3, 16, 16)), 100 * RNG.normal(size=(3, 8, 8))
    fig = sfkd_viz.plot_spectrum({"teacher": a, "student": sfkd_viz.spectrum(b)})
    assert [trace.coloraxis for trace in fig.data] == ["coloraxis"] * 2
    np.testing.assert_allclose(fig.data[1].z, np.log10(sfkd_viz.spectrum(b).share), atol=1e-4)
    titles = [a.text for a in fig.layout.annotations]
    assert titles[0].startswith("teacher · 16×16")
    assert "share of energy" in fig.layout.coloraxis.colorbar.title.text


def test_plot_radial_spectrum_draws_the_profile_and_nyquist():
    x = RNG.normal(size=(3, 16, 16))
    fig = sfkd_viz.plot_radial_spectrum({"a": x}, unit="cycles/pixel")
    profile = sfkd_viz.radial_spectrum(x, unit="cycles/pixel")
    np.testing.assert_allclose(fig.data[0].x, profile.frequency)
    np.testing.assert_allclose(fig.data[0].y, profile.share)
    assert fig.layout.shapes[0].x0 == 0.5
    assert "cycles/pixel" in fig.layout.xaxis.title.text


def test_plot_radial_spectrum_refuses_mixed_units():
    x = np.eye(8)
    mixed = {"a": sfkd_viz.radial_spectrum(x, unit="pi"), "b": sfkd_viz.radial_spectrum(x, unit="cycles/image")}
    with pytest.raises(ValueError, match="different units"):
        sfkd_viz.plot_radial_spectrum(mixed)


def test_plot_subbands_places_every_band_once():
    x = RNG.normal(size=(3, 16, 16))
    fig = sfkd_viz.plot_subbands(x, levels=2, channel=1)
    assert [t.name for t in fig.data] == ["A2", "H2", "V2", "D2", "H1", "V1", "D1"]
    assert {"A2", "H2", "V2", "D2", "H1", "V1", "D1"} <= {a.text for a in fig.layout.annotations}
    covered = sum(np.size(t.z) * t.dx * t.dy for t in fig.data)
    assert covered == pytest.approx(256)
    measured = sfkd_viz.subbands(x, levels=2, channel=1)
    for trace in fig.data:
        np.testing.assert_allclose(trace.z, measured.bands[trace.name], atol=1e-6)
    assert fig.layout.coloraxis.cmin == -fig.layout.coloraxis.cmax


@pytest.mark.parametrize("wavelet", ["db2", "bior2.2"])
def test_plot_subbands_of_long_filters_and_odd_sizes(wavelet):
    fig = sfkd_viz.plot_subbands({"a": RNG.normal(size=(3, 15, 13)), "b": RNG.normal(size=(3, 4, 4))}, wavelet, 3)
    assert any("levels fit" in a.text for a in fig.layout.annotations)


def test_plot_gaussian_mask_shows_kept_energy():
    x = RNG.normal(size=(3, 8, 8))
    fig = sfkd_viz.plot_gaussian_mask(x, sigma=0.2, channel=0)
    measured = sfkd_viz.gaussian_filter(x, 0.2, channel=0)
    np.testing.assert_allclose(fig.data[0].z, measured.mask)
    np.testing.assert_allclose(fig.data[2].z, measured.kept, atol=1e-6)
    assert any(f"{100 * measured.kept_energy:.1f} %" in a.text for a in fig.layout.annotations)
    circle = fig.layout.shapes[0]
    assert (circle.type, circle.x1) == ("circle", 0.2)


def test_plot_gaussian_mask_of_a_shape_and_of_a_band():
    fig = sfkd_viz.plot_gaussian_mask((16, 16), sigma=(0.1, 0.3), kind="band")
    assert np.asarray(fig.data[0].z)[8, 8] == pytest.approx(0)
    assert len(fig.layout.shapes) == 2


def test_plot_ds2s_says_untrained(tiny):
    distiller = create_distiller("sfkd", student=tiny("swin"), teacher=tiny("convnext"))
    fig = sfkd_viz.plot_ds2s(distiller, torch.randn(1, 1, 32, 32), channel="pc1")
    assert "untrained: the identity" in fig.layout.title.text
    gains = [t for t in fig.data if isinstance(t, go.Bar) and not t.showlegend]
    assert len(gains) == 2
    np.testing.assert_allclose(np.concatenate([g.y for g in gains]), 1)
    with pytest.raises(ValueError, match="none were given"):
        sfkd_viz.plot_ds2s(distiller)


def test_figures_survive_zero_maps_and_one_pixel():
    for x in (np.zeros((2, 8, 8)), np.ones((1, 1, 1))):
        sfkd_viz.plot_spectrum(x).to_json()
        sfkd_viz.plot_radial_spectrum({"a": x}).to_json()
        sfkd_viz.plot_subbands(x).to_json()
        sfkd_viz.plot_gaussian_mask(x).to_json()


def test_import_is_light():
    code = "import sys, sfkd_viz; sys.exit('torch' in sys.modules or 'plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
