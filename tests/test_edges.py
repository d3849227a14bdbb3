"""Every measure and its plot with inputs at the edge: one image, unequal sides, one cell, nothing in them, NaN, bfloat16.

Measures of features alone are in `test_plots.py`; here are those that compare features, and those that run models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch import Tensor, nn

import sfkd_viz
from sfkd import Backbone, create_distiller

RNG = np.random.default_rng(6)


def drawn(fig: go.Figure) -> None:
    """A figure with something in it, that goes through JSON and into a table."""
    assert len(fig.data) > 0
    fig.to_json()
    assert len(sfkd_viz.figure_data(fig))


# -- features against features ----------------------------------------------------------------------------------------

FEATURES: dict[str, Callable[[], Any]] = {
    "unequal sides": lambda: RNG.normal(size=(8, 3, 6, 10)),
    "odd sides": lambda: RNG.normal(size=(8, 3, 7, 5)),
    "one cell": lambda: RNG.normal(size=(8, 3, 1, 1)),
    "one row": lambda: RNG.normal(size=(8, 3, 1, 6)),
    "one channel": lambda: RNG.normal(size=(8, 1, 4, 4)),
    "constant": lambda: np.full((8, 3, 8, 8), 2.0),
    "zero": lambda: np.zeros((8, 3, 8, 8)),
    "bfloat16": lambda: torch.randn(8, 3, 8, 8).bfloat16(),
    "integers": lambda: RNG.integers(-5, 5, size=(8, 3, 8, 8)),
    "not contiguous": lambda: torch.randn(8, 8, 8, 3).permute(0, 3, 1, 2),
    "with a gradient": lambda: torch.randn(8, 3, 8, 8, requires_grad=True),
    "large": lambda: 1e15 * RNG.normal(size=(8, 3, 8, 8)),
    "small": lambda: 1e-15 * RNG.normal(size=(8, 3, 8, 8)),
}
DEAD = ("constant", "zero")


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_aligned_and_drawn(name: str) -> None:
    x, other = FEATURES[name](), RNG.normal(size=(8, 2, 8, 8))
    measured = sfkd_viz.cka({"x": x, "other": other}, {"x": x})
    assert np.isnan(measured.values[0, 0]) == (name in DEAD)
    if name not in DEAD:
        assert measured.values[0, 0] == pytest.approx(1, abs=1e-5)
    assert len(measured.to_dataframe())
    drawn(sfkd_viz.plot_cka(measured))


@pytest.mark.parametrize("name", FEATURES)
def test_movements_of_features_are_measured_and_drawn(name: str) -> None:
    x = FEATURES[name]()
    moved = sfkd_viz.transfer(x, x, x, block_size=4, resamples=20)
    assert np.isnan(moved.values[0, 0, 0]) == (name in DEAD)
    assert moved.sentence()
    assert len(moved.to_dataframe())
    drawn(sfkd_viz.plot_transfer(moved))


@pytest.mark.parametrize("measure", [sfkd_viz.cka, lambda a, b: sfkd_viz.transfer(a, b, b)], ids=["cka", "transfer"])
@pytest.mark.parametrize(
    ("b", "message"),
    [
        (np.zeros((1, 2, 4, 4)), "CKA needs 4 images at least"),
        (np.full((1, 2, 4, 4), np.nan), "layer '(b|student)' has 32 NaN"),
        (np.zeros((1, 2, 4, 4)) + 1j, "complex"),
        (np.zeros((1, 0, 4, 4)), "is empty"),
    ],
)
def test_features_that_cannot_be_compared_are_refused_by_name(
    measure: Callable[..., Any], b: np.ndarray, message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        measure(np.zeros((1, 2, 4, 4)), b)


def test_values_whose_squares_overflow_are_named() -> None:
    x = torch.full((8, 3, 4, 4), 1e25)
    with pytest.raises(ValueError, match=r"layer 'a' of a has values up to 1e\+25, whose squares exceed float32"):
        sfkd_viz.cka(x, x)


# -- models -------------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Any image size; its second layer is one cell."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.first(x).relu()).flatten(1))


def small(size: tuple[int, int] = (8, 8)) -> Backbone:
    return Backbone(Small(), layers=["first", "cell"], input_size=(1, *size)).eval()


IMAGES: dict[str, Callable[[], Tensor]] = {
    "one image": lambda: torch.randn(1, 1, 8, 8),
    "unequal sides": lambda: torch.randn(4, 1, 6, 10),
    "odd sides": lambda: torch.randn(4, 1, 7, 9),
    "constant": lambda: torch.ones(4, 1, 8, 8),
    "zero": lambda: torch.zeros(4, 1, 8, 8),
    "bfloat16": lambda: torch.randn(4, 1, 8, 8).bfloat16(),
}


@pytest.mark.parametrize("name", IMAGES)
def test_bands_are_taken_away_from_any_image(name: str) -> None:
    x = IMAGES[name]()
    model = small(tuple(x.shape[-2:])).to(x.dtype)  # type: ignore[arg-type]
    measured = sfkd_viz.band_ablation(model, [(x, torch.zeros(len(x), dtype=torch.long))])
    assert measured.images == len(x)
    assert np.isfinite(measured.kl[:2]).all()
    assert np.isnan(measured.kl[2]).all()  # one cell
    assert measured.sentence()
    assert len(measured.to_dataframe())
    drawn(sfkd_viz.plot_band_ablation(measured))


@pytest.mark.parametrize("layer", ["input", "first", "cell"])
@pytest.mark.parametrize("name", IMAGES)
def test_any_image_is_explained(name: str, layer: str) -> None:
    x = IMAGES[name]()
    model = small(tuple(x.shape[-2:])).to(x.dtype)  # type: ignore[arg-type]
    measured = sfkd_viz.wavelet_attribution(model, x, layer=layer, steps=4)
    assert np.isfinite(measured.values).all()
    assert measured.sentence()
    assert len(measured.to_dataframe()) == measured.values.size
    drawn(sfkd_viz.plot_attribution(measured))
    cam = sfkd_viz.grad_cam(model, x, layer)
    assert len(cam.to_dataframe()) == cam.maps.size


@pytest.mark.parametrize("name", IMAGES)
def test_ds2s_shows_any_image(name: str, tiny: Callable[..., Backbone]) -> None:
    x = torch.nn.functional.interpolate(IMAGES[name](), scale_factor=5)  # these models halve it four times
    distiller = create_distiller("sfkd", student=tiny("resnet"), teacher=tiny("convnext")).eval()
    measured = sfkd_viz.ds2s(distiller, x)
    assert len(measured.to_dataframe())
    drawn(sfkd_viz.plot_ds2s(measured))


@pytest.mark.parametrize("name", IMAGES)
def test_any_images_are_analysed(name: str) -> None:
    x = IMAGES[name]()
    size = tuple(x.shape[-2:])
    models = [small(size).to(x.dtype) for _ in range(3)]  # type: ignore[arg-type]
    loader = [(x, torch.zeros(len(x), dtype=torch.long))]
    if len(x) == 1:
        with pytest.raises(ValueError, match="4 images at least"):
            sfkd_viz.analyze(*models[:2], loader, models[2], progress=False)
        found = sfkd_viz.analyze(*models[:2], loader, measures=["spectrum", "band_energy"], progress=False)
    else:
        found = sfkd_viz.analyze(*models[:2], loader, models[2], progress=False)
        drawn(sfkd_viz.plot_cka(found.cka["student"]))
        assert np.isnan(found.cka["student"].values).all() == (name in DEAD)
    assert found.images == len(x)
    assert found.sentence()
    assert len(found.to_dataframe())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: sfkd_viz.band_ablation(m, [(x, y)]), "layer 'input' of Small has 64 NaN"),
        (sfkd_viz.wavelet_attribution, "layer 'input' of Small has 64 NaN"),
        (lambda m, x, y: sfkd_viz.grad_cam(m, x, targets=y), "layer 'input' of Small has 64 NaN"),
        (lambda m, x, y: sfkd_viz.analyze(m, m, [(x, y)], progress=False), "layer 'first' of teacher has 256 NaN"),
        (
            lambda m, x, y: sfkd_viz.analyze(m, m, [(x, y)], measures=["spectrum"], progress=False),
            "layer 'first' of teacher has 256 NaN",
        ),
    ],
    ids=["band_ablation", "wavelet_attribution", "grad_cam", "analyze", "analyze spectra"],
)
def test_images_with_nan_are_refused_by_name(call: Callable[..., Any], message: str) -> None:
    x = torch.randn(4, 1, 8, 8)
    x[2] = float("nan")
    with pytest.raises(ValueError, match=message):
        call(small(), x, torch.zeros(4, dtype=torch.long))


def test_ds2s_refuses_images_with_nan(tiny: Callable[..., Backbone]) -> None:
    distiller = create_distiller("sfkd", student=tiny("resnet"), teacher=tiny("convnext"))
    with pytest.raises(ValueError, match="images has 1024 NaN"):
        sfkd_viz.ds2s(distiller, torch.full((1, 1, 32, 32), float("nan")))
