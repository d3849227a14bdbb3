"""The look of every figure: one template, one palette, one way to lay out panels of maps."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

SEQUENTIAL = "Magma"
DIVERGING = "RdBu_r"
PALETTE = ("#3b6fb6", "#d9822b", "#2f9e77", "#a05195", "#7a7f87")
_INK, _GRID = "#2a2f36", "#d5d9de"
_AXIS = {
    "gridcolor": _GRID,
    "zerolinecolor": _GRID,
    "linecolor": _GRID,
    "automargin": True,
    "title": {"font": {"size": 13}},
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Inter, Helvetica Neue, Arial, sans-serif", "size": 13, "color": _INK},
        "title": {"x": 0.01, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 18}, "font": {"size": 16}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": PALETTE,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 24, "t": 96, "b": 56},
        "hoverlabel": {"font": {"family": "ui-monospace, Menlo, monospace", "size": 12}},
    }
)


def titled(fig: go.Figure, title: str, note: str, height: int) -> go.Figure:
    """Title, a line under it that says how to read the figure, height, template."""
    text = f"{title}<br><span style='font-size:12px;opacity:0.75'>{note}</span>"
    fig.update_layout(template=TEMPLATE, title_text=text, height=height)
    return fig


def panels(
    rows: int, columns: int, titles: Sequence[str], *, horizontal: float = 0.05, vertical: float = 0.12
) -> go.Figure:
    """An empty grid of panels for maps, each with its title above."""
    fig = make_subplots(
        rows, columns, subplot_titles=list(titles), horizontal_spacing=horizontal, vertical_spacing=vertical
    )
    fig.update_annotations(font_size=12.5, yshift=4)
    return fig


def axes(fig: go.Figure, row: int, column: int) -> tuple[str, str]:
    """Names of a panel's axes, such as ("x3", "y3")."""
    x_axis, y_axis = next(fig.select_xaxes(row=row, col=column)), next(fig.select_yaxes(row=row, col=column))
    return x_axis.plotly_name.replace("axis", ""), y_axis.plotly_name.replace("axis", "")


def square(fig: go.Figure, row: int, column: int, *, hidden: bool = True, from_top: bool = True) -> None:
    """Square cells in a panel; without ticks, and with row 0 on top, where it shows an image."""
    anchor, _ = axes(fig, row, column)
    fig.update_xaxes(constrain="domain", showgrid=False, zeroline=False, visible=not hidden, row=row, col=column)
    fig.update_yaxes(
        scaleanchor=anchor,
        constrain="domain",
        autorange="reversed" if from_top else True,
        showgrid=False,
        zeroline=False,
        visible=not hidden,
        row=row,
        col=column,
    )


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
