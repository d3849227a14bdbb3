"""Relative log amplitude against the published curve and closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

import sfkd_viz

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def published():
    with np.load(Path(__file__).parent / "reference" / "published_losses.npz", allow_pickle=False) as file:
        curves = {f"{name}_curve": file[f"{name}_relative_log_amplitude"] for name in ("map", "tokens")}
        return {name: file[name] for name in ("map", "tokens")} | curves


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_published_curves(published, make):
    maps = sfkd_viz.relative_amplitude({"layer": make(published["map"])})
    np.testing.assert_allclose(maps["layer"], published["map_curve"], rtol=2e-6, atol=1e-12)
    tokens = sfkd_viz.relative_amplitude({"layer": make(published["tokens"])}, num_prefix_tokens=0)
    np.testing.assert_allclose(tokens["layer"], published["tokens_curve"], rtol=2e-6, atol=1e-12)


def test_prefix_tokens_are_dropped(published):
    tokens = np.concatenate([RNG.normal(size=(3, 1, 24)), published["tokens"]], axis=1)
    measured = sfkd_viz.relative_amplitude({"layer": tokens}, num_prefix_tokens=1)
    np.testing.assert_allclose(measured["layer"], published["tokens_curve"], rtol=2e-6, atol=1e-12)
    with pytest.raises(ValueError, match="pass num_prefix_tokens=1"):
        sfkd_viz.relative_amplitude({"layer": tokens}, num_prefix_tokens=0)


@pytest.mark.parametrize("side", [1, 2, 5, 6])
def test_an_impulse_is_flat_and_the_frequencies_are_those_of_the_grid(side):
    impulse = np.zeros((side, side))
    impulse[0, 0] = 1
    measured = sfkd_viz.relative_amplitude({"a": impulse})
    np.testing.assert_allclose(measured["a"], np.zeros((side + 1) // 2), atol=1e-12)
    expected = 2 * np.fft.fftfreq(side)[: (side + 1) // 2]
    np.testing.assert_allclose(measured.frequencies["a"], expected)


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (5, 8), (8, 5)])
def test_unequal_sides_follow_the_diagonal_of_frequencies(shape):
    # log|F| of a separable filter is a sum over axes; the points on the true diagonal are cells where the sides allow it
    x = RNG.normal(size=shape)
    measured = sfkd_viz.relative_amplitude({"a": x})
    log = np.log(np.abs(np.fft.fft2(x)) + 1e-6)
    height, width = shape
    n = min(shape)
    for k, value in enumerate(measured["a"]):
        row, column = k * height / n, k * width / n
        if row == int(row) and column == int(column):
            assert value == pytest.approx(log[int(row), int(column)] - log[0, 0])
        else:
            longer = log if height < width else log.T
            position = max(row, column)
            ends = longer[k, int(position)], longer[k, (int(position) + 1) % max(shape)]
            assert min(ends) <= value + log[0, 0] <= max(ends)
    np.testing.assert_allclose(sfkd_viz.relative_amplitude({"a": x.T})["a"], measured["a"])


def test_it_is_a_mapping_in_order_of_depth():
    measured = sfkd_viz.relative_amplitude({"b": RNG.normal(size=(8, 8)), "a": RNG.normal(size=(4, 4))})
    assert list(measured) == ["b", "a"]
    assert list(measured.depth) == [0, 1]
    np.testing.assert_array_equal(measured.high, [measured["b"][-1], measured["a"][-1]])
    table = measured.to_dataframe()
    assert list(table) == ["layer", "normalised_depth", "times_pi", "delta_log_amplitude"]
    assert len(table) == 4 + 2


def test_plot_draws_the_curves_and_the_highest_frequency():
    features = {"first": RNG.normal(size=(2, 3, 8, 8)), "last": RNG.normal(size=(2, 3, 4, 4))}
    measured = sfkd_viz.relative_amplitude(features)
    for fig in (sfkd_viz.plot_relative_amplitude(features), sfkd_viz.plot_relative_amplitude(measured)):
        first, last, high = fig.data
        np.testing.assert_allclose(first.y, measured["first"], rtol=1e-6)
        np.testing.assert_allclose(last.y, measured["last"], rtol=1e-6)
        np.testing.assert_allclose(high.y, measured.high, rtol=1e-6)
        assert first.line.color != last.line.color
        assert list(high.marker.color) == [first.line.color, last.line.color]
