"""Alignment between all layers of two models as a heat map."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sfkd_viz import theme
from sfkd_viz.measures.blocks import WHOLE
from sfkd_viz.measures.cka import CKA, cka
from sfkd_viz.measures.inputs import Feature

COLUMNS = 4
MOST_WRITTEN = 64  # cells a panel; more are too small to write in
_MOST_TOLD = 1024  # cells a panel; more would make the hover texts larger than all the rest


def plot_cka(
    a: CKA | Feature | Mapping[str, Feature],
    b: Feature | Mapping[str, Feature] | None = None,
    *,
    band: str | None = None,
    **options: Any,
) -> go.Figure:
    """Heat map of CKA, 0 to 1, rows: layers of the first model, columns: layers of the second.

    Args:
        a, b: a ready `CKA`, or features of both models with the `options` of `cka`.
        band: one band's name; default the whole maps and every band, a panel each.
    """
    if isinstance(a, CKA):
        if b is not None or options:
            raise ValueError("plot_cka takes a ready CKA alone: its features and options are fixed.")
        measured = a
    else:
        if b is None:
            raise ValueError("plot_cka expects a ready CKA, or features of two models: plot_cka(a, b).")
        measured = cka(a, b, **options)
    measured, _, thinned = drawable(measured)
    shown = list(measured.bands) if band is None else [band]
    values = {name: measured.band(name) for name in shown}
    fig, height = small_multiples(measured, list(values), measured.a, measured.b)
    for number, (name, cells) in enumerate(values.items()):
        heat = heat_map(measured, name, cells, "CKA")
        fig.add_trace(heat, number // COLUMNS + 1, number % COLUMNS + 1)
    bar = theme.colorbar("CKA (unbiased, linear)")
    fig.update_layout(coloraxis={"colorscale": theme.SEQUENTIAL, "cmin": 0.0, "cmax": 1.0, "colorbar": bar})
    blocks = len(measured.counts)
    note = (
        f"{measured.images:,} images in {blocks} block{'s' * (blocks > 1)}; both maps on the smaller of their grids. "
        f"Empty: the grid does not bear the band, or a layer is constant.{thinned}"
    )
    what = f" · {band}" if band is not None and band != WHOLE else ""
    return theme.titled(fig, f"Alignment of layers (CKA): {measured.a} × {measured.b}{what}", note, height)


def drawable(measured: CKA) -> tuple[CKA, tuple[np.ndarray, np.ndarray], str]:
    """`measured` with 256 layers a side at most, evenly chosen; which they are, and what to say of it."""
    kept = theme.evenly(len(measured.rows)), theme.evenly(len(measured.columns))
    if tuple(map(len, kept)) == (len(measured.rows), len(measured.columns)):
        return measured, kept, ""
    at = np.ix_(*kept)
    tables: dict[str, Any] = {name: getattr(measured, name)[..., at[0], at[1]] for name in ("cross", "own_a", "own_b")}
    for side, numbers in zip(("rows", "columns"), kept, strict=True):
        tables[side] = tuple(getattr(measured, side)[n] for n in numbers)
    few = dataclasses.replace(measured, **tables, grids=measured.grids[at])
    sides = f"{len(measured.rows)}×{len(measured.columns)} layers drawn as {len(few.rows)}×{len(few.columns)}"
    return few, kept, f" {sides}, evenly chosen."


def small_multiples(measured: CKA, bands: list[str], a: str, b: str) -> tuple[go.Figure, int]:
    """A panel a band, four a row, with the models' names a and b on the outer axes; and the figure's height."""
    columns = min(COLUMNS, len(bands))
    rows = -(-len(bands) // columns)
    titles = ["whole maps" if band == WHOLE else band for band in bands]
    fig = theme.panels(rows, columns, titles, horizontal=0.03, vertical=0.3 / rows if rows > 1 else 0.12)
    for number in range(len(bands)):
        row, column = divmod(number, columns)
        panel = fig.get_subplot(row + 1, column + 1)
        for axis, outer, model in (
            (panel.xaxis, number + columns >= len(bands), b),
            (panel.yaxis, column == 0, a),
        ):
            axis.showgrid, axis.showticklabels, axis.type = False, outer, "category"
            if outer:
                axis.title = {"text": f"layer of {model}", "standoff": 4}
    return fig, 170 + rows * (110 + 34 * min(len(measured.rows), 12))


def heat_map(
    measured: CKA,
    band: str,
    values: np.ndarray,
    quantity: str,
    *,
    form: str = ".2f",
    marks: np.ndarray | None = None,
    about: list[list[str]] | None = None,
) -> go.Heatmap:
    """One band's panel, deepest layer on top: values written where they are few, starred by `marks`; `about` on hover."""
    written = values.size <= MOST_WRITTEN
    marks = np.zeros(values.shape, dtype=bool) if marks is None else marks
    cells = [
        [
            f"{v:{form}}{'*' * bool(m)}" if written and np.isfinite(v) else "*" * bool(m)
            for v, m in zip(row, mark, strict=True)
        ]
        for row, mark in zip(values, marks, strict=True)
    ]
    number, told = measured.bands.index(band), values.size <= _MOST_TOLD
    hover = told and [
        [
            hover_text(measured, number, i, j) + ("" if about is None else f"<br>{about[i][j]}")
            for j in range(values.shape[1])
        ]
        for i in range(values.shape[0])
    ]
    return go.Heatmap(
        z=values.astype(np.float32),
        x=list(measured.columns),
        y=list(measured.rows),
        name=band,
        coloraxis="coloraxis",
        text=cells,
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=hover or None,
        hovertemplate=f"%{{y}} × %{{x}}, {band}<br>{quantity} %{{z:.3f}}"
        + ("<br>%{customdata}<extra></extra>" if told else "<extra></extra>"),
    )


def hover_text(measured: CKA, band: int, row: int, column: int) -> str:
    """Grid and frequencies of a cell."""
    cycles = measured.cycles(measured.bands[band], row, column)
    grid = "{}×{}".format(*measured.grids[row, column])
    return f"on {grid}" + (f", {cycles[0]:g}–{cycles[1]:g} cycles/image" if cycles else ": too small for this band")
