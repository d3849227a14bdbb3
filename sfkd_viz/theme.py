"""The look of every figure: one template (light, dark, paper), one palette, one way to lay out and to thin out panels."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

SEQUENTIAL = "Magma"
DIVERGING = "RdBu_r"
PALETTE = ("#3b6fb6", "#d9822b", "#2f9e77", "#a05195", "#7a7f87")
DEPTH = ("#3b6fb6", "#a05195", "#d9822b")  # middling lightness throughout, so that lines show on light and on dark
MOST_CELLS = 256
_DASHES = ("solid", "dash", "dot")
_SCREEN = 1000  # px, the width at which heights and margins of the figures were chosen


def _template(ink: str, grid: str, ground: str) -> go.layout.Template:
    axis = {"gridcolor": grid, "zerolinecolor": grid, "linecolor": grid, "automargin": True}
    axis |= {"title": {"font": {"size": 13}}, "ticks": ""}  # else axes without a grid have ticks, labels or not
    return go.layout.Template(
        layout={
            "font": {"family": "Inter, Helvetica Neue, Arial, sans-serif", "size": 13, "color": ink},
            "title": {"x": 0.01, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 18}, "font": {"size": 16}},
            "paper_bgcolor": ground,
            "plot_bgcolor": ground,
            "colorway": PALETTE,
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"},
            "margin": {"l": 56, "r": 24, "t": 96, "b": 56},
            "hoverlabel": {"font": {"family": "ui-monospace, Menlo, monospace", "size": 12}},
        }
    )


TEMPLATE = _template("#2a2f36", "#d5d9de", "white")
DARK = _template("#e6e8eb", "#454b54", "#16191d")


def dark(fig: go.Figure) -> go.Figure:
    """A copy of `fig` on a dark ground; the plots set no colour that only one ground can bear."""
    return go.Figure(fig).update_layout(template=DARK)


def paper(fig: go.Figure, *, columns: Literal[1, 2] = 1) -> go.Figure:
    """A copy of `fig` for print: as wide as one column (83 mm) or two (175 mm), 7 pt text, caption instead of title.

    Widths are those of a two-column page as CVPR and IEEE set it (our choice; ECCV's single column of 122 mm takes
    `columns=2` scaled down); figures of more than three panels a row want two columns. A layout pixel is 1/96 inch, so
    SVG and PDF have these millimetres exactly, and PNG at any dpi of `save_figure`. The title, in papers the caption's
    work, moves to `fig.layout.meta["caption"]`.

    Examples:
        >>> round(paper(go.Figure(), columns=2).layout.width / 96 * 25.4)
        175
    """
    if columns not in (1, 2):
        raise ValueError(f"paper expects columns=1 (83 mm) or columns=2 (175 mm), got {columns!r}.")
    width = round({1: 83, 2: 175}[columns] / 25.4 * 96)
    text = 7 / 72 * 96
    printed = go.Figure(fig)
    layout = printed.layout
    scale = width / (layout.width or _SCREEN)
    margin = layout.margin.to_plotly_json() or TEMPLATE.layout.margin.to_plotly_json()
    body = ((layout.height or 450) - margin.get("t", 96) - margin.get("b", 56)) * scale
    if any(axis.scaleanchor is None and axis.visible is not False for axis in printed.select_yaxes()):
        # lines and bars need height more than maps, which stay square
        rows = len({axis.domain[0] if axis.domain else 0 for axis in printed.select_yaxes()})
        body = max(body, max(0.55, 0.45 * rows) * min(width, 400))
    caption = layout.title.text or ""
    layout.title = None
    _wrap(printed, width, text)
    heads = 1 + max((a.text.count("<br>") for a in layout.annotations if a.text), default=0)
    bottom = 4.5 * text if any(axis.visible is not False for axis in printed.select_xaxes()) else text
    shown = [trace for trace in printed.data if trace.showlegend is not False and trace.type != "heatmap"]
    aside = layout.legend.orientation == "v"
    if aside and columns == 1:  # a legend beside the panels would take half of the column
        below = -(bottom - text) / body
        layout.legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": below, "yanchor": "top"}
        groups = [trace.legendgroup for trace in shown]
        bottom += 1.6 * text * (1 + max(map(groups.count, groups), default=0))
    top = text * (1.3 * heads + 1 + 1.6 * (bool(shown) and not aside))
    printed.update_layout(
        width=width,
        height=round(body + top + bottom),
        font_size=text,
        margin={"l": round(2 * text), "r": round(0.8 * text), "t": round(top), "b": round(bottom)},
        meta={"caption": caption},
        legend={"font": {"size": text}, "tracegroupgap": 2},
    )
    for note in layout.annotations:
        note.font.size = text if note.xref == "paper" else 0.7 * text
    printed.update_xaxes(title_font_size=text, title_standoff=4)
    printed.update_yaxes(title_font_size=text, title_standoff=4)
    printed.update_traces(line_width=1.2, marker_size=3, selector={"type": "scatter"})
    _thin_cell_texts(printed, width, 0.75 * text)
    for axis in printed.select_coloraxes():
        axis.colorbar.update(thickness=6, title_font_size=text)
        if (axis.colorbar.x or 1) < 0.9:  # between panels there is no room; their titles have the unit
            axis.colorbar.title.text = None
    return printed


def _wrap(fig: go.Figure, width: int, text: float) -> None:
    """Break titles of panels and horizontal axes into lines that their panel is wide enough for."""
    for axis in fig.select_xaxes():
        left, right = axis.domain or (0, 1)
        letters = max(8, int(0.85 * (right - left) * width / (0.52 * text)))  # margins take the rest
        if axis.title.text:
            axis.title.text = "<br>".join(textwrap.wrap(axis.title.text, letters))
        upper = fig.layout[f"yaxis{(axis.anchor or 'y')[1:]}"].domain or (0, 1)
        for note in fig.layout.annotations:
            above = note.xref == "paper" and abs(note.x - (left + right) / 2) < 1e-6 and abs(note.y - upper[1]) < 1e-6
            if above and note.text and "<br>" not in note.text:
                note.text = "<br>".join(textwrap.wrap(note.text, letters))


def _thin_cell_texts(fig: go.Figure, width: int, size: float) -> None:
    """Write in the cells of heat maps at a size, and only what fits: else a star, where there is one, and no number."""
    for heat in fig.select_traces({"type": "heatmap"}):
        if heat.text is None:
            continue
        heat.textfont.size = size
        left, right = fig.layout[f"xaxis{(heat.xaxis or 'x')[1:]}"].domain or (0, 1)
        letters = 0.65 * (right - left) * width / max(1, np.shape(heat.z)[1]) / (0.55 * size)
        if max((len(cell) for row in heat.text for cell in row), default=0) > letters:
            heat.text = [["*" if cell.endswith("*") else "" for cell in row] for row in heat.text]


def stroke(i: int) -> dict[str, Any]:
    """Line style of the i-th curve: colours first, then dashes."""
    return {"color": PALETTE[i % len(PALETTE)], "dash": _DASHES[i // len(PALETTE) % len(_DASHES)], "width": 2}


def depth_colours(count: int) -> list[str]:
    """One colour a layer, from the first (blue) to the last (orange)."""
    at = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
    return list(sample_colorscale(DEPTH, [float(a) for a in at]))


def cells(z: np.ndarray, *, most: int = MOST_CELLS) -> np.ndarray:
    """`z` `[h, w]` as float32 of at most `most` cells a side, each the mean of the area that it covers.

    Give it the quantity itself, before a logarithm. `thinned` says in words what was done; `centres` thins the axes.

    Examples:
        >>> cells(np.array([[1.0, 3.0], [5.0, 7.0]]), most=1)
        array([[4.]], dtype=float32)
    """
    rows, columns = (_area_means(n, most) for n in np.shape(z))
    return (rows @ np.asarray(z, dtype=np.float64) @ columns.T).astype(np.float32)


def centres(positions: np.ndarray, *, most: int = MOST_CELLS) -> np.ndarray:
    """Where the cells of `cells` lie, for evenly spaced `positions` `[n]`; float32."""
    return (_area_means(len(positions), most) @ np.asarray(positions, dtype=np.float64)).astype(np.float32)


def thinned(*shapes: tuple[int, ...], most: int = MOST_CELLS) -> str:
    """What `cells` did to maps of these shapes, for the title; empty where it left them alone."""
    large = sorted({(int(h), int(w)) for h, w in shapes if max(h, w) > most}, reverse=True)
    return " ".join(f"{h}×{w} drawn as {min(h, most)}×{min(w, most)} area means." for h, w in large)


def evenly(count: int, *, most: int = MOST_CELLS) -> np.ndarray:
    """Numbers of at most `most` of `count` things that have no mean, such as layers: the first, the last, and even steps."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _area_means(n: int, most: int) -> np.ndarray:
    """`[min(n, most), n]`: share of each of n cells in each of at most `most` cells of equal width; rows sum to 1."""
    if n <= most:
        return np.eye(n)
    edges = np.linspace(0, n, most + 1)
    overlap = np.minimum(edges[1:, None], np.arange(1, n + 1)) - np.maximum(edges[:-1, None], np.arange(n))
    return np.clip(overlap, 0, None) * (most / n)


def titled(fig: go.Figure, title: str, note: str, height: int) -> go.Figure:
    """Title, a line under it that says how to read the figure, height, template."""
    text = f"{title}<br><span style='font-size:12px;opacity:0.75'>{note}</span>"
    fig.update_layout(template=TEMPLATE, title_text=text, height=height)
    return fig


def log_axis(drawn: np.ndarray) -> dict[str, Any]:
    """A logarithmic axis for positive numbers whose every tick can be read alone: powers of ten, and 2 and 5 between few.

    Plotly would write a lone 2 or 5 and leave the power to a tick that may lie outside.

    Examples:
        >>> log_axis(np.array([0.03, 0.4]))["ticktext"]
        ['0.01', '0.02', '0.05', '0.1', '0.2', '0.5', '1']
        >>> log_axis(np.array([1e-7, 1.0]))["ticktext"][::3]
        ['10<sup>−7</sup>', '10<sup>−4</sup>', '10<sup>−1</sup>']
    """
    low, high = np.log10(drawn.min()), np.log10(drawn.max())
    digits = (1, 2, 5) if high - low <= 2 else (1,)
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1, max(1, round((high - low) / 8)))
    ticks = [(digit, power) for power in powers for digit in digits if digit == 1 or power < np.ceil(high)]
    values = [digit * 10.0**power for digit, power in ticks]
    if sum(drawn.min() <= value <= drawn.max() for value in values) < 2:
        return {"type": "log"}  # a narrow range, in which plotly's own are whole numbers
    if powers[0] >= -2 and powers[-1] <= 4:
        words = [f"{value:g}" for value in values]
    else:
        words = [f"{digit}·10<sup>{power}</sup>".removeprefix("1·").replace("-", "−") for digit, power in ticks]
    return {"type": "log", "tickvals": values, "ticktext": words}


def panels(
    rows: int, columns: int, titles: Sequence[str], *, horizontal: float = 0.05, vertical: float = 0.12
) -> go.Figure:
    """An empty grid of panels for maps, each with its title above."""
    return subplots(rows, columns, titles, yshift=4, horizontal_spacing=horizontal, vertical_spacing=vertical)


def subplots(rows: int, columns: int, titles: Sequence[str], *, yshift: float = 0, **arrangement: Any) -> go.Figure:
    """Plotly's `make_subplots` with small titles; each arrangement is made once and copied, in a quarter of the time.

    Args:
        titles: of the panels in reading order, none of them empty. yshift: of the titles, px.
        **arrangement: of `make_subplots`.
    """
    fig = go.Figure(_arranged(rows, columns, len(titles), json.dumps(arrangement)))
    heads = [{**note.to_plotly_json(), "font": {"size": 12.5}, "yshift": yshift} for note in fig.layout.annotations]
    fig.layout.annotations = [{**head, "text": title} for head, title in zip(heads, titles, strict=True)]
    return fig


@lru_cache(maxsize=64)
def _arranged(rows: int, columns: int, titles: int, arrangement: str) -> go.Figure:
    fig = make_subplots(rows, columns, subplot_titles=["title"] * titles, **json.loads(arrangement))
    fig.layout.template = None  # which a copy would validate, for longer than all the rest takes
    return fig


def axes(fig: go.Figure, row: int, column: int) -> tuple[str, str]:
    """Names of a panel's axes, such as ("x3", "y3")."""
    panel = fig.get_subplot(row, column)
    return panel.xaxis.plotly_name.replace("axis", ""), panel.yaxis.plotly_name.replace("axis", "")


def square(fig: go.Figure, row: int, column: int, *, hidden: bool = True, from_top: bool = True) -> None:
    """Square cells in a panel; without ticks, and with row 0 on top, where it shows an image."""
    panel = fig.get_subplot(row, column)
    anchor = {"scaleanchor": panel.xaxis.plotly_name.replace("axis", "")}
    both = {"constrain": "domain", "showgrid": False, "zeroline": False, "visible": not hidden}
    # one by one: update_xaxes and update_yaxes look at every axis of the figure, each time
    for axis, values in (
        (panel.xaxis, both),
        (panel.yaxis, anchor | {"autorange": "reversed" if from_top else True} | both),
    ):
        for name, value in values.items():
            axis[name] = value


def colorbar(title: str, *, x: float = 1.0, y: float = 0.5, length: float = 1.0) -> dict[str, object]:
    """A slim colour bar with its quantity written along it."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": 12}},
        "thickness": 12,
        "outlinewidth": 0,
        "x": x,
        "xanchor": "left",
        "y": y,
        "len": length,
    }
