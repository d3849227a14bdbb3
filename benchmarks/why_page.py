"""The part of docs/results.md that asks why: which bands move under each method, and which matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import spearmanr
from why import ABLATED, IMAGES

from sfkd_viz import save_figure, theme

LOOKS = {  # of a heat map: title, colours, format
    "alone": ("alignment of the student alone", "Blues", ".2f"),
    "movement": ("movement of alignment", "RdBu_r", ".3f"),
    "without": ("top-1 without the band, points", "RdBu", ".1f"),
}


def why(table: Path, images: Path) -> str:
    """Text and three figures from why.csv.

    Args:
        table: as `make why` fills it. images: folder of the figures.
    """
    rows = pd.read_csv(table)
    banded, whole = rows[rows.band != "all"], rows[rows.band == "all"]
    of_methods = {name: _by(banded, "method", name) for name in ("movement", "without")}
    of_methods["without"].loc["none"] = banded.groupby("band").without_alone.mean()
    sfkd = banded[banded.method == "sfkd"]
    of_pairs = {name: _by(sfkd, "pair", name) for name in ("alone", "movement")}
    runs = whole.groupby(["pair", "method", "seed"], sort=False)[["movement", "gain"]].mean().reset_index()
    note = "Mean over {}seeds and layers that bear the band. A: the coarsest approximation; H, V, D: details."
    save_figure(_heat(of_methods, "Bands by method", note.format("pairs, ")), images / "bands.png", dpi=130)
    save_figure(_heat(of_pairs, "Bands by pair, under SFKD", note.format("")), images / "pairs.png", dpi=130)
    save_figure(_movement(runs), images / "movement.png", dpi=130)
    together = spearmanr(runs.movement, runs.gain)
    inside = [spearmanr(some.movement, some.gain).statistic for _, some in runs.groupby("pair")]
    lines = []
    for method, values in of_methods["movement"].iterrows():
        of_method = runs[runs.method == method]
        most, least = values.idxmax(), values.idxmin()
        lines.append(
            f"| {method} | {of_method.movement.mean():+.3f} | {most} {values[most]:+.3f} | {least} {values[least]:+.3f} "
            f"| {_strongest(of_methods['without'].loc[method])} | {of_method.gain.mean():+.2f} |"
        )
    return f"""## Why: which bands move, and which matter

`make why` measures the students of the grid with `sfkd_viz.analyze`: how much nearer to the teacher each band of each layer
came than in the student alone (movement of CKA, at most {IMAGES:,} test images), and what the student's top-1 loses when the
band is taken away inside it (at most {ABLATED} images). `benchmarks/results/why.csv` has every layer, with intervals.

![Bands by method](images/results/bands.png)

| method | movement of whole maps | most moved | least moved | dearest band, points of top-1 | gain over the student alone |
|-|-|-|-|-|-|
{chr(10).join(lines)}

Which components move depends on the pair:

![Bands by pair](images/results/pairs.png)

Spearman's ρ of a band's alignment in the student alone and its movement, over pairs, layers, bands and seeds:
{_far(banded)}.
Where it is negative, what was far from the teacher came nearer. Part of that is chance: the student alone stands in both
numbers, so its noise drives them apart, under any method.

Does movement go with the gain?

![Movement and gain](images/results/movement.png)

Over all {len(runs)} students Spearman's ρ of the two is {together.statistic:+.2f} (p = {together.pvalue:.2g}); inside a pair
it is {np.mean(inside):+.2f} on average ({min(inside):+.2f} to {max(inside):+.2f}). Where the first is large and the second
is not, it is the pairs that differ, not the methods."""


def _by(rows: pd.DataFrame, of: str, value: str) -> pd.DataFrame:
    """Means of a column of the table: (`of`) × (band), both in the order of the table."""
    return rows.pivot_table(index=of, columns="band", values=value, sort=False)[list(dict.fromkeys(rows.band))]


def _strongest(values: pd.Series) -> str:
    """The band without which most is lost."""
    return f"{values.idxmin()} {values.min():+.1f}"


def _far(banded: pd.DataFrame) -> str:
    """Spearman's ρ of alignment alone and movement, by method."""
    both = banded.dropna(subset=["alone", "movement"]).groupby("method", sort=False)
    return ", ".join(f"`{method}` {spearmanr(rows.alone, rows.movement).statistic:+.2f}" for method, rows in both)


def _heat(tables: dict[str, pd.DataFrame], title: str, note: str) -> go.Figure:
    """Two heat maps side by side, rows as they are named, a column each band."""
    fig = theme.subplots(1, 2, [LOOKS[name][0] for name in tables], horizontal_spacing=0.18)
    for column, (name, table) in enumerate(tables.items(), 1):
        _, scale, text = LOOKS[name]
        most = float(np.nanmax(np.abs(table.to_numpy())))
        heat = go.Heatmap(
            z=table.to_numpy(),
            x=list(table.columns),
            y=list(table.index),
            colorscale=scale,
            zmin=0 if name == "alone" else -most,
            zmax=most,
            texttemplate=f"%{{z:{text}}}",
            showscale=False,
        )
        fig.add_trace(heat, row=1, col=column)
    fig.update_yaxes(autorange="reversed")
    height = 160 + 34 * max(len(table) for table in tables.values())
    return theme.titled(fig, title, note, height).update_layout(width=960)


def _movement(runs: pd.DataFrame) -> go.Figure:
    fig = go.Figure()
    for number, (method, some) in enumerate(runs.groupby("method", sort=False)):
        marker = {"color": theme.PALETTE[number % len(theme.PALETTE)], "size": 8}
        fig.add_scatter(x=some.movement, y=some.gain, mode="markers", name=str(method), marker=marker)
    fig.update_xaxes(title_text="movement of the whole maps, mean over layers")
    fig.update_yaxes(title_text="gain over the student alone, points of top-1")
    note = "A point is a student: pair, method, seed."
    return theme.titled(fig, "Movement and gain", note, 460).update_layout(width=760)
