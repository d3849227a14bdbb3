"""The part of docs/results.md that asks why: which bands move under each method, and which matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import spearmanr
from why import ABLATED, IMAGES

from sfkd_viz import save_figure, theme

TITLES = {"movement": "movement of alignment", "without": "top-1 without the band, points"}


def why(table: Path, images: Path) -> str:
    """Text and two figures from why.csv; nothing where that is not there.

    Args:
        table: as `make why` fills it. images: folder of the figures.
    """
    if not table.is_file():
        return ""
    rows = pd.read_csv(table)
    banded, whole = rows[rows.band != "all"], rows[rows.band == "all"]
    bands = list(dict.fromkeys(banded.band))
    means = {
        name: banded.pivot_table(index="method", columns="band", values=name, sort=False)[bands] for name in TITLES
    }
    means["without"].loc["none"] = banded.groupby("band").without_alone.mean()[bands]
    runs = whole.groupby(["pair", "method", "seed"], sort=False)[["movement", "gain"]].mean().reset_index()
    save_figure(_bands(means), images / "bands.png", dpi=130)
    save_figure(_movement(runs), images / "movement.png", dpi=130)
    together = spearmanr(runs.movement, runs.gain)
    inside = [spearmanr(some.movement, some.gain).statistic for _, some in runs.groupby("pair")]
    return f"""## Why: which bands move, and which matter

`make why` measures the students of the grid with `sfkd_viz.analyze`: how much nearer to the teacher each band of each layer
came than in the student alone (movement of CKA, at most {IMAGES:,} test images), and what the student's top-1 loses when the
band is taken away inside it (at most {ABLATED} images). `benchmarks/results/why.csv` has every layer, with intervals.

![Bands](images/results/bands.png)

Most moved {_strongest(means["movement"])}; most is lost without {_strongest(means["without"])}.

![Movement and gain](images/results/movement.png)

Does movement go with the gain? Over all {len(runs)} students Spearman's ρ of the two is {together.statistic:+.2f}
(p = {together.pvalue:.2g}); inside a pair it is {np.mean(inside):+.2f} on average ({min(inside):+.2f} to
{max(inside):+.2f}). Where the first is large and the second is not, it is the pairs that differ, not the methods."""


def _strongest(table: pd.DataFrame) -> str:
    """The cell that is furthest from zero, in words."""
    method, band = table.abs().stack().idxmax()
    return f"{band} under `{method}` ({table.loc[method, band]:+.3f})"


def _bands(tables: dict[str, pd.DataFrame]) -> go.Figure:
    fig = theme.subplots(1, 2, list(TITLES.values()), horizontal_spacing=0.16)
    looks = {"movement": ("RdBu_r", "%{z:.3f}"), "without": ("RdBu", "%{z:.1f}")}
    for column, (name, table) in enumerate(tables.items(), 1):
        values = table.to_numpy()
        most = float(np.nanmax(np.abs(values)))
        scale, text = looks[name]
        heat = go.Heatmap(
            z=values,
            x=list(table.columns),
            y=list(table.index),
            colorscale=scale,
            zmin=-most,
            zmax=most,
            texttemplate=text,
            showscale=False,
        )
        fig.add_trace(heat, row=1, col=column)
    fig.update_yaxes(autorange="reversed")
    note = "Mean over pairs, seeds and layers that bear the band. A: the coarsest approximation; H, V, D: details."
    height = 160 + 34 * len(tables["without"])
    return theme.titled(fig, "Bands of the trained students", note, height).update_layout(width=900)


def _movement(runs: pd.DataFrame) -> go.Figure:
    fig = go.Figure()
    for number, (method, some) in enumerate(runs.groupby("method", sort=False)):
        marker = {"color": theme.PALETTE[number % len(theme.PALETTE)], "size": 8}
        fig.add_scatter(x=some.movement, y=some.gain, mode="markers", name=str(method), marker=marker)
    fig.update_xaxes(title_text="movement of the whole maps, mean over layers")
    fig.update_yaxes(title_text="gain over the student alone, points of top-1")
    note = "A point is a student: pair, method, seed."
    return theme.titled(fig, "Movement and gain", note, 460).update_layout(width=760)
