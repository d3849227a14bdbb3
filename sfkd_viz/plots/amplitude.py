"""Relative log amplitude over depth, in the two panels of Park and Kim."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from sfkd_viz import theme
from sfkd_viz.measures.amplitude import RelativeAmplitude, relative_amplitude
from sfkd_viz.measures.inputs import Feature

_VALUE = "Δ log amplitude"


def plot_relative_amplitude(
    features: Feature | Mapping[str, Feature] | RelativeAmplitude,
    *,
    num_prefix_tokens: int | None = None,
    grid: tuple[int, int] | None = None,
) -> go.Figure:
    """Δ log amplitude against frequency, a colour a depth, and at the highest frequency against normalised depth.

    Args:
        features: maps by layer name in order of depth (or one), or a measured `RelativeAmplitude`.
        num_prefix_tokens, grid: where features are token sequences, as in `relative_amplitude`.
    """
    measured = (
        features
        if isinstance(features, RelativeAmplitude)
        else relative_amplitude(features, num_prefix_tokens=num_prefix_tokens, grid=grid)
    )
    heads = ["along the diagonal, per layer", "at the highest frequency"]
    fig = theme.panels(1, 2, heads, horizontal=0.12)
    colours = theme.depth_colours(len(measured))
    for (name, values), colour in zip(measured.items(), colours, strict=True):
        line = go.Scatter(
            x=measured.frequencies[name].astype(np.float32),
            y=values.astype(np.float32),
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 5},
            showlegend=False,
            hovertemplate="%{x:.2f}π: %{y:.3f}<extra>" + name + "</extra>",
        )
        fig.add_trace(line, 1, 1)
    slopes = np.diff(measured.high) if len(measured) > 1 else np.zeros(1)
    high = go.Scatter(
        x=measured.depth.astype(np.float32),
        y=measured.high.astype(np.float32),
        name="highest frequency",
        mode="lines+markers" + ("+text" if len(measured) <= 6 else ""),
        text=list(measured),
        # on the side that the line leaves free
        textposition=["top left" if slope > 0 else "top right" for slope in (*slopes, slopes[-1])][: len(measured)],
        cliponaxis=False,
        line={"color": theme.PALETTE[4], "width": 1.5},
        marker={"color": colours, "size": 9},
        showlegend=False,
        hovertemplate="%{text}, depth %{x:.2f}: %{y:.3f}<extra></extra>",
    )
    fig.add_trace(high, 1, 2)
    fig.update_xaxes(title_text="frequency (×π rad/pixel of each map)", range=[-0.03, 1.03], row=1, col=1)
    fig.update_xaxes(title_text="normalised depth (0 first, 1 last layer)", range=[-0.15, 1.15], row=1, col=2)
    fig.update_yaxes(title_text=_VALUE, row=1, col=1)
    fig.update_yaxes(title_text=_VALUE, row=1, col=2)
    note = (
        "log amplitude minus its value at zero frequency, mean over images and channels (Park and Kim, ICLR 2022). "
        "Colours: depth, as on the right.<br>×π compares filters, not image content, across unequal grids; even grids end "
        "just short of 1.0π."
    )
    return theme.titled(fig, "Relative log amplitude over depth", note, 440).update_layout(margin_t=112)
