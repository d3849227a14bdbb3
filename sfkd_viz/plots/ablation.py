"""What each band is worth to a network: two heat maps, layers × bands."""

from __future__ import annotations

import textwrap

import numpy as np
import plotly.graph_objects as go

from sfkd_viz import theme
from sfkd_viz.measures.ablation import BandAblation, Quantity

_MOST_WRITTEN = 12  # bands a panel; cells of more are too narrow to write in


def plot_band_ablation(measured: BandAblation, *, name: str | None = None) -> go.Figure:
    """Change of top-1 (of the model's own answers where there are no targets) and KL, per layer and band taken away.

    Rows in the order of the layers, from the input down; a star marks a band whose joint interval excludes no change.
    Intervals, shares of energy and the agreement with a reference are on hover.

    Args:
        measured: what `band_ablation` returned.
        name: of the model, for the title; default its own.

    Raises:
        TypeError: no `BandAblation`.
    """
    if not isinstance(measured, BandAblation):
        raise TypeError(
            f"plot_band_ablation expects what sfkd_viz.band_ablation returns, got {type(measured).__name__}: measure first."
        )
    labelled = measured.labelled > 0
    quantity: Quantity = "top1" if labelled else "agreement"
    change = measured.top1_change if labelled else measured.agreement - 100
    word = "change of top-1, points" if labelled else "answers that change, points"
    fig = theme.panels(1, 2, [f"{word} (* beyond its joint interval)", "KL(intact ‖ ablated), nats"], horizontal=0.2)
    for column, (values, form, marks) in enumerate(
        ((change, "+.1f", measured.matters), (measured.kl, ".2f", np.zeros_like(measured.matters))), 1
    ):
        fig.add_trace(_heat(measured, values, form, marks, column), 1, column)
    limit = float(np.nanmax(np.abs(change), initial=0.0)) or 1.0
    top = float(np.nanmax(measured.kl, initial=0.0)) or 1.0
    bars = [theme.colorbar(title, x=x) for title, x in (("percentage points", 0.405), ("nats", 1.0))]
    fig.update_layout(
        coloraxis={"colorscale": theme.DIVERGING, "cmin": -limit, "cmax": limit, "colorbar": bars[0]},
        coloraxis2={"colorscale": theme.SEQUENTIAL, "cmin": 0.0, "cmax": top, "colorbar": bars[1]},
    )
    fig.update_xaxes(showgrid=False, type="category", title_text="band taken away")
    fig.update_yaxes(showgrid=False, type="category", autorange="reversed")
    fig.update_yaxes(title_text="layer", col=1)
    fig.update_yaxes(showticklabels=False, col=2)
    for trace, shown in zip(fig.data, (quantity, "kl"), strict=True):
        trace.customdata = _about(measured, shown)
    told = f"{measured.sentence()} Empty: the grid does not bear the band."
    note = "<br>".join(textwrap.wrap(told, 150))
    extra = 16 * note.count("<br>") + 8
    fig.update_layout(margin_t=96 + extra)
    answered = f"top-1 {measured.top1:.1f} %" if labelled else f"{measured.images:,} images"
    return theme.titled(
        fig,
        f"Band ablation · {name or measured.model}, {answered}",
        note,
        190 + extra + 34 * min(len(measured.layers), 24),
    )


def _heat(measured: BandAblation, values: np.ndarray, form: str, marks: np.ndarray, number: int) -> go.Heatmap:
    written = len(measured.bands) <= _MOST_WRITTEN
    text = [
        [f"{v:{form}}{'*' * bool(m)}" if written and np.isfinite(v) else "" for v, m in zip(row, mark, strict=True)]
        for row, mark in zip(values, marks, strict=True)
    ]
    return go.Heatmap(
        z=values.astype(np.float32),
        x=list(measured.bands),
        y=[f"{layer} · {h}×{w}" for layer, (h, w) in zip(measured.layers, measured.grids, strict=True)],
        name="change" if number == 1 else "KL",
        coloraxis="coloraxis" if number == 1 else "coloraxis2",
        text=text,
        texttemplate="%{text}",
        textfont={"size": 11},
        hoverongaps=False,
        hovertemplate="%{x} of %{y}<br>%{customdata}<extra></extra>",
    )


def _about(measured: BandAblation, quantity: str) -> list[list[str]]:
    """Value, intervals, share and agreements of each cell."""
    values, unit = {
        "top1": (measured.top1_change, " points of top-1"),
        "agreement": (measured.agreement, " % of the answers stay"),
        "kl": (measured.kl, " nats"),
    }[quantity]
    bounds = [measured.interval(quantity, joint=joint) for joint in (False, True)]  # type: ignore[arg-type]
    (own_low, own_high), (low, high) = bounds
    reference = measured.reference_change
    return [
        [
            f"{values[i, j]:.3g}{unit}<br>interval of this cell {own_low[i, j]:.3g} to {own_high[i, j]:.3g}, joint "
            f"{low[i, j]:.3g} to {high[i, j]:.3g}<br>{measured.agreement[i, j]:.1f} % of the answers stay<br>"
            f"{100 * measured.share[i, j]:.2g} % of the energy; {measured.kl_per_share[i, j]:.2g} nats per share"
            + (f"<br>agreement with {measured.reference} {reference[i, j]:+.1f} points" if measured.reference else "")
            for j in range(len(measured.bands))
        ]
        for i in range(len(measured.layers))
    ]
