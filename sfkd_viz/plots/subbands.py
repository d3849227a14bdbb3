"""Wavelet sub-bands as the familiar pyramid: approximation in the corner, details around it, finest outermost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from sfkd.wavelet import Mode
from sfkd_viz import theme
from sfkd_viz.measures.inputs import Channel, Feature, measured
from sfkd_viz.measures.subbands import BandImages, subbands

_CORNER = {"A": (0, 0), "H": (0, 1), "V": (1, 0), "D": (1, 1)}  # (row, column) of a band in its level's square
_FLOOR = 1e-6
_LABEL = {
    "xanchor": "left",
    "yanchor": "top",
    "showarrow": False,
    "font": {"size": 10, "color": "#22272e"},
    "bgcolor": "rgba(255,255,255,0.75)",
    "borderpad": 1,
}


def plot_subbands(
    feat: Feature | BandImages | Mapping[str, Feature | BandImages],
    wavelet: str = "haar",
    levels: int = 2,
    channel: Channel = "energy",
    *,
    mode: Mode = "symmetric",
) -> go.Figure:
    """Sub-bands of one feature, or of several side by side on shared colour scales.

    Args:
        feat: a feature, measured `BandImages`, or several by name.
        wavelet, levels, mode: of `sfkd.decompose`; the panel says where a grid bears fewer levels.
        channel: a channel's number, "pc1" to "pc3", or "energy".

    Examples:
        >>> [tile.name for tile in plot_subbands(np.eye(8), levels=1).data]
        ['A1', 'H1', 'V1', 'D1']
    """
    pyramids = measured(feat, lambda f: subbands(f, wavelet, levels, channel, mode), BandImages)
    if len({(m.wavelet, m.signed) for m in pyramids.values()}) > 1:
        raise ValueError(
            "plot_subbands expects results of one wavelet, all signed or all energies, which share a colour scale; got "
            + ", ".join(f"{name}: {m.wavelet}, {m.channel}" for name, m in pyramids.items())
        )
    fig = theme.panels(1, len(pyramids), [panel_title(name, m) for name, m in pyramids.items()])
    add_pyramids(fig, list(pyramids.values()))
    first = next(iter(pyramids.values()))
    labels = {m.channel for m in pyramids.values()}
    shown = first.channel if len(labels) == 1 else _common(first)
    note = (
        "Corner A: approximation. H, V, D: horizontal, vertical, diagonal detail, number = level, finest outermost. "
        + ("In units of each map's RMS." if first.signed else "Energy in units of each map's mean square.")
    )
    note = " ".join(filter(None, (note, theme.thinned(*(m.shape for m in pyramids.values())))))
    return theme.titled(fig, f"Wavelet sub-bands · {first.wavelet} · {shown}", note, 470)


def panel_title(name: str, measured: BandImages) -> str:
    """Name, grid, and the levels where they were clamped."""
    height, width = measured.shape
    parts = [name] if name else []
    parts.append(f"{height}×{width}")
    if measured.levels < measured.asked_levels:
        parts.append(f"{measured.levels} of {measured.asked_levels} levels fit")
    return " · ".join(parts)


def add_pyramids(fig: go.Figure, measured: Sequence[BandImages], row: int = 1) -> None:
    """One pyramid a column in `row`, sharing colour scales: signed details diverge around zero, approximations apart."""
    signed = measured[0].signed
    boxes, labels = list(fig.layout.shapes), list(fig.layout.annotations)
    for column, images in enumerate(measured, 1):
        for name, band in images.bands.items():
            fig.add_trace(_tile(name, band, images), row, column)
        theme.square(fig, row, column)
        tile_boxes, tile_labels = _marks(images, theme.axes(fig, row, column))
        boxes += tile_boxes
        labels += tile_labels
    # set once: add_shape and add_annotation check all that are there, each time
    fig.layout.shapes, fig.layout.annotations = boxes, labels
    if signed:
        details = [b for m in measured for n, b in m.bands.items() if not n.startswith("A")]
        approximations = [b for m in measured for n, b in m.bands.items() if n.startswith("A")]
        fig.update_layout(
            coloraxis=_diverging(details or approximations, "details", 0.75),
            coloraxis2=_diverging(approximations, "approximation", 0.25),
        )
        return
    values = np.concatenate([_log(b).ravel() for m in measured for b in m.bands.values()])
    top = float(values.max())
    fig.update_layout(
        coloraxis={
            "colorscale": theme.SEQUENTIAL,
            "cmin": max(float(np.percentile(values, 1)), top - 5),
            "cmax": top,
            "colorbar": theme.colorbar("log₁₀ energy"),
        }
    )


def _tile(name: str, band: np.ndarray, images: BandImages) -> go.Heatmap:
    """A band as a heat map in the pixel coordinates of the pyramid."""
    top, left, height, width = _place(name, images)
    rows, columns = band.shape
    means = theme.cells(band, most=max(1, theme.MOST_CELLS >> int(name[1:])))  # a pyramid is one panel
    dy, dx = height / means.shape[0], width / means.shape[1]
    axis = "coloraxis2" if images.signed and name.startswith("A") else "coloraxis"
    return go.Heatmap(
        z=means if images.signed else _log(means),
        x0=left + dx / 2,
        dx=dx,
        y0=top + dy / 2,
        dy=dy,
        coloraxis=axis,
        name=name,
        hovertemplate=f"{name} ({rows}×{columns}): " + "%{z:.3g}<extra></extra>",
    )


def _place(name: str, images: BandImages) -> tuple[float, float, float, float]:
    """Top, left, height, width of a band's tile."""
    level = int(name[1:])
    height, width = (side / 2**level for side in images.shape)
    row, column = _CORNER[name[0]]
    return row * height, column * width, height, width


def _marks(images: BandImages, axes: tuple[str, str]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Borders and names of a pyramid's tiles."""
    x, y = axes
    boxes: list[dict[str, object]] = []
    labels: list[dict[str, object]] = []
    for name in images.bands:
        top, left, height, width = _place(name, images)
        box = {"x0": left, "x1": left + width, "y0": top, "y1": top + height}
        boxes.append({"type": "rect", "xref": x, "yref": y, **box, "line": {"color": "white", "width": 1.5}})
        labels.append({**_LABEL, "x": left, "y": top, "xref": x, "yref": y, "text": name})
    return boxes, labels


def _diverging(bands: Sequence[np.ndarray], word: str, y: float) -> dict[str, object]:
    limit = max((float(np.abs(b).max()) for b in bands), default=1.0) or 1.0
    bar = theme.colorbar(word, y=y, length=0.5)
    return {"colorscale": theme.DIVERGING, "cmin": -limit, "cmax": limit, "colorbar": bar}


def _common(images: BandImages) -> str:
    """What several panels of different channel counts show."""
    return images.channel.partition(" (")[0] if images.signed else "mean energy of all channels"


def _log(band: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(band, _FLOOR))
