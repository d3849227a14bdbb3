"""Which bands speak for a class in one image: a bar a band, where in the image, and Grad-CAM beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sfkd_viz import theme
from sfkd_viz.measures.attribution import ENOUGH, WaveletAttribution

_FEWEST_COLUMNS = 4
_FOR, _AGAINST = "#d6604d", "#4393c3"  # of the maps' diverging scale


def plot_attribution(
    measured: WaveletAttribution, image: int = 0, *, classes: Sequence[str] | None = None, name: str | None = None
) -> go.Figure:
    """Attribution of one image: the picture, Grad-CAM, each band's part of the logit, and where it lies.

    Args:
        measured: what `wavelet_attribution` returned.
        image: its number.
        classes: names of the classes, name: of the model, for the title; default its number, the model's own.

    Raises:
        TypeError: no `WaveletAttribution`.
        ValueError: an image that is not there.
    """
    if not isinstance(measured, WaveletAttribution):
        raise TypeError(
            f"plot_attribution expects what sfkd_viz.wavelet_attribution returns, got {type(measured).__name__}: "
            "measure first."
        )
    count = len(measured.values)
    if isinstance(image, bool) or not isinstance(image, (int, np.integer)) or not 0 <= image < count:
        raise ValueError(f"image expects a number from 0 to {count - 1}, got {image!r}.")
    values, maps, cam = measured.values[image], measured.maps[image], measured.cam[image]
    columns = max(len(measured.bands), _FEWEST_COLUMNS)
    wide = max(1, round(2 * columns / 7))
    specs: list[list[Any]] = [[None] * columns, [{} if i < len(measured.bands) else None for i in range(columns)]]
    places = (0, wide, 2 * wide)
    for place, span in zip(places, (wide, wide, columns - 2 * wide), strict=True):
        specs[0][place] = {"colspan": span}
    heads = [
        "picture",
        f"Grad-CAM at {measured.cam_layer}" + ("" if cam.any() else ": zero"),
        "part of the logit difference per band",
        *(f"{band}: {value:+.2f}" for band, value in zip(measured.bands, values, strict=True)),
    ]
    fig = theme.subplots(
        2,
        columns,
        heads,
        specs=specs,
        horizontal_spacing=0.02,
        vertical_spacing=0.16,
        row_heights=[0.6, 0.4],
    )
    _map(fig, measured.pictures[image], (1, 1), {"colorscale": "Greys_r", "showscale": False}, "picture")
    _map(fig, cam, (1, wide + 1), {"coloraxis": "coloraxis2"}, "Grad-CAM")
    fig.add_trace(
        go.Bar(
            x=list(measured.bands),
            y=values.astype(np.float32),
            name="attribution",
            marker_color=[_FOR if v >= 0 else _AGAINST for v in values],
            showlegend=False,
            hovertemplate="%{x}: %{y:+.3f} logits<extra></extra>",
        ),
        1,
        2 * wide + 1,
    )
    fig.update_yaxes(title_text="logits", side="right", row=1, col=2 * wide + 1)
    for column, (band, cells) in enumerate(zip(measured.bands, maps, strict=True), 1):
        _map(fig, cells, (2, column), {"coloraxis": "coloraxis"}, band)
    means = [theme.cells(cells) for cells in maps]
    limit = max(float(np.abs(m).max()) for m in means) or 1.0
    fig.update_layout(
        coloraxis={
            "colorscale": theme.DIVERGING,
            "cmin": -limit,
            "cmax": limit,
            "colorbar": theme.colorbar("logits per position", y=0.16, length=0.36),
        },
        coloraxis2={"colorscale": theme.SEQUENTIAL, "cmin": 0.0, "showscale": False},
    )
    return theme.titled(fig, _title(measured, image, classes, name or measured.model), _note(measured, image), 560)


def _map(fig: go.Figure, cells: np.ndarray, place: tuple[int, int], colours: dict[str, Any], name: str) -> None:
    row, column = place
    heat = go.Heatmap(z=theme.cells(cells), name=name, hovertemplate=f"{name}: %{{z:.3g}}<extra></extra>", **colours)
    fig.add_trace(heat, row, column)
    theme.square(fig, row, column)


def _title(measured: WaveletAttribution, image: int, classes: Sequence[str] | None, model: str) -> str:
    number = int(measured.classes[image])
    said = f"class {number}" if classes is None else classes[number]
    return f"Attribution in the wavelet domain · {model}, {measured.layer} · image {image}, {said}"


def _note(measured: WaveletAttribution, image: int) -> str:
    logit, start = measured.logit[image], measured.baseline_logit[image]
    error = measured.completeness_error[image]
    start_of = {"zero": "zero", "mean": "the channels' means", "given": "the given baseline"}[measured.baseline]
    adds = f"parts sum to {measured.values[image].sum():+.2f}" + (
        "" if error <= ENOUGH else f", {100 * error:.0f} % off: raise steps"
    )
    note = (
        f"Logit {logit:.2f}, {start:.2f} from {start_of}: {logit - start:+.2f} in all; {adds}. "
        "Blue speaks against the class, red for it; one scale for all bands."
    )
    return " ".join(filter(None, (note, theme.thinned(measured.maps.shape[-2:], measured.pictures.shape[-2:]))))
