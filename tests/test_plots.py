"""Figures by the values of their traces."""

import subprocess
import sys
from pathlib import Path

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


def test_plot_band_energy_writes_shares_where_a_grid_bears_the_band():
    features = {"large": RNG.normal(size=(3, 16, 16)), "small": RNG.normal(size=(3, 4, 4)), "cell": np.ones((3, 1, 1))}
    fig = sfkd_viz.plot_band_energy(features)
    (heat,) = fig.data
    assert (list(heat.x), list(heat.y)) == (["A", "H2", "V2", "D2", "H1", "V1", "D1"], ["large", "small", "cell"])
    large, small = (sfkd_viz.band_energy(features[name]).share for name in ("large", "small"))
    np.testing.assert_allclose(heat.z[0], np.log10([large[b.replace("A", "A2")] for b in heat.x]), rtol=1e-5)
    assert heat.z[1][0] == pytest.approx(np.log10(small["A1"]), rel=1e-5)
    assert np.isnan(heat.z[1][1:4]).all()
    assert (heat.text[1][1], heat.text[1][0]) == ("", f"{100 * small['A1']:.0f}")
    assert (heat.text[2][0], fig.layout.coloraxis.cmax) == ("100", 0)
    with pytest.raises(ValueError, match=r"results of one wavelet.*a: haar, b: db2"):
        sfkd_viz.plot_band_energy({"a": sfkd_viz.band_energy(np.eye(8)), "b": sfkd_viz.band_energy(np.eye(8), "db2")})


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
    distiller = create_distiller("sfkd", student=tiny("swin"), teacher=tiny("convnext"), layers=None)
    fig = sfkd_viz.plot_ds2s(distiller, torch.randn(1, 1, 32, 32), channel="pc1")
    assert "untrained: the identity" in fig.layout.title.text
    gains = [t for t in fig.data if isinstance(t, go.Bar) and not t.showlegend]
    assert len(gains) == 2
    np.testing.assert_allclose(np.concatenate([g.y for g in gains]), 1)
    with pytest.raises(ValueError, match="none were given"):
        sfkd_viz.plot_ds2s(distiller)


FEATURES = {
    "one image": RNG.normal(size=(1, 3, 8, 8)),
    "non-square": RNG.normal(size=(2, 3, 6, 10)),
    "odd": RNG.normal(size=(2, 3, 7, 5)),
    "one cell": RNG.normal(size=(2, 3, 1, 1)),
    "one row": RNG.normal(size=(2, 3, 1, 6)),
    "constant": np.full((1, 3, 8, 8), 2.0),
    "zero": np.zeros((2, 3, 8, 8)),
    "bfloat16": torch.randn(2, 3, 8, 8).bfloat16(),
    "no gradient wanted": torch.randn(1, 3, 4, 4, requires_grad=True),
}
DESCRIPTIVE = {
    "spectrum": sfkd_viz.plot_spectrum,
    "radial_spectrum": sfkd_viz.plot_radial_spectrum,
    "subbands": sfkd_viz.plot_subbands,
    "gaussian_filter": sfkd_viz.plot_gaussian_mask,
    "relative_amplitude": sfkd_viz.plot_relative_amplitude,
    "band_energy": sfkd_viz.plot_band_energy,
}


@pytest.mark.parametrize("feat", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("name", DESCRIPTIVE)
def test_any_feature_is_measured_tabulated_and_drawn(name, feat):
    measured = getattr(sfkd_viz, name)(feat)
    assert len(measured.to_dataframe())
    plot = DESCRIPTIVE[name]
    ready = plot(measured)
    named = plot({"layer": feat})
    assert len(ready.data) == len(named.data) > 0
    assert len(sfkd_viz.figure_data(named))
    named.to_json()


@pytest.mark.parametrize("name", DESCRIPTIVE)
def test_a_feature_with_nan_is_refused_by_its_name(name):
    features = {"teacher": np.ones((4, 4)), "student": np.full((4, 4), np.nan)}
    with pytest.raises(ValueError, match=r"student has 16 NaN and 0 infinite"):
        DESCRIPTIVE[name](features)
    with pytest.raises(ValueError, match="16 NaN"):
        getattr(sfkd_viz, name)(features["student"])


def test_results_that_share_no_scale_are_refused():
    x = RNG.normal(size=(3, 8, 8))
    with pytest.raises(ValueError, match="share a colour scale"):
        sfkd_viz.plot_subbands({"a": sfkd_viz.subbands(x, channel=0), "b": sfkd_viz.subbands(x)})
    with pytest.raises(ValueError, match="a mask alone for b"):
        sfkd_viz.plot_gaussian_mask({"a": x, "b": (8, 8)})


def test_masks_of_different_widths_say_so_in_their_rows():
    x = RNG.normal(size=(3, 8, 8))
    rows = {"narrow": sfkd_viz.gaussian_filter(x, 0.1), "wide": sfkd_viz.gaussian_filter(x, 0.4)}
    titles = [a.text for a in sfkd_viz.plot_gaussian_mask(rows).layout.annotations]
    assert "narrow · 8×8 · low, σ = 0.1" in titles
    assert f"removed {100 * rows['wide'].removed_energy:.1f} %" in titles


def test_ds2s_gains_are_written_in_decibel(tiny):
    distiller = create_distiller("sfkd", ds2s="full", student=tiny("swin"), teacher=tiny("convnext"), layers=None)
    with torch.no_grad():
        distiller.spatial_frequency[0].refine.low.weight[:, :, 1, 1] = 1.0
    fig = sfkd_viz.plot_ds2s(distiller, torch.randn(2, 1, 32, 32))
    within = next(t for t in fig.data if isinstance(t, go.Bar) and not t.showlegend)
    assert dict(zip(within.x, within.text, strict=True))["A2"] == "+6.0"


HEAVY = ("torch", "plotly", "captum", "pandas", "kaleido", "timm")


@pytest.mark.parametrize(
    ("lines", "absent"),
    [
        ("import sfkd_viz", HEAVY),
        ("import sfkd_viz; dir(sfkd_viz)", HEAVY),
        ("import sfkd_viz; sfkd_viz.spectrum([[1.0, 2.0]])", ("plotly", "captum", "kaleido")),
        ("import sfkd_viz; sfkd_viz.plot_spectrum([[1.0, 2.0]])", ("captum", "kaleido", "timm", "pandas")),
        ("import sfkd_viz.theme; sfkd_viz.save_figure; sfkd_viz.figure_data", ("torch", "captum", "pandas", "kaleido")),
        (
            "import sfkd_viz; sfkd_viz.analyze; sfkd_viz.band_ablation; sfkd_viz.grad_cam",
            ("plotly", "captum", "kaleido"),
        ),
        ("import sfkd_viz; sfkd_viz.plot_training('sfkd/demo')", ("captum", "kaleido", "pandas")),
    ],
)
def test_imports_wait_until_they_are_needed(lines, absent):
    code = f"{lines}\nimport sys; print(*[name for name in {absent!r} if name in sys.modules])"
    root = Path(sfkd_viz.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == ""
