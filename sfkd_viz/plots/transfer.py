"""What distillation moved: one heat map a band, on one diverging scale."""

from __future__ import annotations

import dataclasses
import textwrap

import numpy as np
import plotly.graph_objects as go

from sfkd_viz import theme
from sfkd_viz.measures.transfer import Transfer
from sfkd_viz.plots.cka import COLUMNS, drawable, heat_map, small_multiples

_READING = "How many cycles/image a band spans depends on the grid of the pair: see each cell."


def plot_transfer(measured: Transfer, *, band: str | None = None) -> go.Figure:
    """Movement of alignment per layer pair, a panel a band; red: nearer to the teacher. A star: beyond the joint interval.

    Args:
        measured: what `transfer` or `analyze` returned.
        band: one band's name; default all of them.

    Raises:
        TypeError: no `Transfer`.
        ValueError: a band that was not measured.
    """
    if not isinstance(measured, Transfer):
        raise TypeError(
            f"plot_transfer expects what sfkd_viz.transfer returns, got {type(measured).__name__}: it needs features of "
            "three models, so measure first."
        )
    said = measured.sentence()
    measured, thinned = _drawable(measured)
    alone = measured.alone
    if band is not None:
        alone.band(band)
    shown = list(alone.bands) if band is None else [band]
    values, moved = measured.values, measured.moved
    fig, height = small_multiples(alone, shown, "teacher", "student")
    for place, name in enumerate(shown):
        number = alone.bands.index(name)
        heat = heat_map(
            alone, name, values[number], "movement", form="+.2f", marks=moved[number], about=_about(measured, number)
        )
        fig.add_trace(heat, place // COLUMNS + 1, place % COLUMNS + 1)
    limit = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    bar = theme.colorbar("movement of CKA")
    fig.update_layout(coloraxis={"colorscale": theme.DIVERGING, "cmin": -limit, "cmax": limit, "colorbar": bar})
    note = "<br>".join(textwrap.wrap(f"{said} {_READING}{thinned}", 150))
    extra = 16 * note.count("<br>") + 8
    fig.update_layout(margin_t=96 + extra)
    title = "Transfer: alignment with the teacher, distilled − alone (* beyond its joint interval)"
    return theme.titled(fig, title, note, height + extra)


def _drawable(measured: Transfer) -> tuple[Transfer, str]:
    """`measured` with 256 layers a side at most, and what to say of it."""
    alone, kept, thinned = drawable(measured.alone)
    if not thinned:
        return measured, ""
    at = (slice(None), *np.ix_(*kept))
    bounds = {name: getattr(measured, name)[at] for name in ("low", "high", "joint_low", "joint_high")}
    few = dataclasses.replace(measured, distilled=drawable(measured.distilled)[0], alone=alone, **bounds)
    return few, thinned


def _about(measured: Transfer, number: int) -> list[list[str]]:
    """Both alignments and the intervals of each cell of a band."""
    before, after = measured.alone.by_band[number], measured.distilled.by_band[number]
    bounds = (measured.low, measured.high, measured.joint_low, measured.joint_high)
    own_low, own_high, low, high = (bound[number] for bound in bounds)
    return [
        [
            f"alone {before[i, j]:.3f}, distilled {after[i, j]:.3f}<br>interval of this cell {own_low[i, j]:+.3f} to "
            f"{own_high[i, j]:+.3f}, joint {low[i, j]:+.3f} to {high[i, j]:+.3f}"
            for j in range(before.shape[1])
        ]
        for i in range(before.shape[0])
    ]
