"""Figures as files: HTML that opens offline, PNG, SVG and PDF by a browser that is already there, CSV of what is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

if TYPE_CHECKING:
    from pandas import DataFrame

_IMAGES = (".png", ".svg", ".pdf")
_SUFFIXES = (".html", *_IMAGES, ".csv")
_DEFAULT_SIZE = (1000, 450)  # px, where a figure leaves width or height to the page


def save_figure(fig: go.Figure, path: str | Path, *, dpi: float = 192) -> Path:
    """Write `fig` as its suffix says, and return the path.

    `.html` is self-contained (plotly.js inside, nothing is fetched when it is opened); `.png`, `.svg` and `.pdf` are
    drawn by a Chromium-like browser of this machine through kaleido, which downloads nothing; `.csv` holds `figure_data`.
    A layout pixel is 1/96 inch: `save_figure(theme.paper(fig), "figure.pdf")` is exactly a column wide.

    Args:
        dpi: of a PNG; at 96 an image pixel is a layout pixel.

    Raises:
        TypeError: no figure.
        ValueError: another suffix, no such folder, dpi ≤ 0.
        RuntimeError: kaleido or a browser is missing; the message says what was looked for and what to install.
    """
    if not isinstance(fig, go.Figure):
        raise TypeError(f"save_figure expects a plotly Figure, got {type(fig).__name__}.")
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"save_figure expects a path that ends in {', '.join(_SUFFIXES)}, got {path.name!r}.")
    if not path.parent.is_dir():
        raise ValueError(f"save_figure expects a folder that exists, got {path.parent}: make it first.")
    if not dpi > 0:
        raise ValueError(f"save_figure expects dpi > 0, got {dpi!r}.")
    if suffix == ".html":
        path.write_text(fig.to_html(include_plotlyjs=True, full_html=True, div_id="figure"), encoding="utf-8")
    elif suffix == ".csv":
        figure_data(fig).to_csv(path, index=False)
    else:
        path.write_bytes(_image(fig, suffix[1:], dpi))
    return path


def figure_data(fig: go.Figure) -> DataFrame:
    """What `fig` draws: a row a value.

    Columns: `panel` (its title, or the figure's), `trace` (its name), `type`; `x` and `y` (numbers or categories);
    `value` (of a cell of a heat map, empty elsewhere); `x_title`, `y_title`, `value_title` (quantity and unit as on the
    axes); `error_up`, `error_down` where bars of uncertainty are drawn. Heat maps of more than 256 cells a side are drawn,
    and so listed, as area means.

    Raises:
        TypeError: no figure, or a trace that has no x and y (such as a pie).
    """
    from pandas import DataFrame, concat

    if not isinstance(fig, go.Figure):
        raise TypeError(f"figure_data expects a plotly Figure, got {type(fig).__name__}.")
    tables = [DataFrame(columns) for columns in _drawn(fig)]
    names = ("panel", "trace", "type", "x", "y", "value", "x_title", "y_title", "value_title")
    return concat(tables, ignore_index=True) if tables else DataFrame(columns=list(names))


def _drawn(fig: go.Figure) -> Iterator[dict[str, Any]]:
    for trace in fig.data:
        if not {"x", "y"} <= set(trace):
            raise TypeError(f"figure_data lists traces with x and y, got {trace.type!r} ({trace.name or 'unnamed'}).")
        if trace.visible == "legendonly" or trace.visible is False:
            continue
        x_axis, y_axis = (fig.layout[_axis(trace, letter)] for letter in "xy")
        where = {"panel": _panel(fig, x_axis, y_axis), "trace": trace.name or "", "type": trace.type}
        points = _cells(trace) if trace.type == "heatmap" else _points(trace)
        titles = {"x_title": x_axis.title.text or "", "y_title": y_axis.title.text or ""}
        yield {**where, **points, **titles, "value_title": _value_title(fig, trace), **_errors(trace)}


def _points(trace: Any) -> dict[str, Any]:
    lengths = [len(values) for values in (trace.x, trace.y) if values is not None]
    x, y = (np.arange(max(lengths, default=0)) if v is None else np.asarray(v) for v in (trace.x, trace.y))
    return {"x": x, "y": y, "value": np.nan}


def _cells(trace: Any) -> dict[str, Any]:
    z = np.asarray(trace.z)
    rows, columns = (_positions(trace, letter, n) for letter, n in zip("yx", z.shape, strict=True))
    return {"x": np.tile(columns, z.shape[0]), "y": np.repeat(rows, z.shape[1]), "value": z.ravel()}


def _positions(trace: Any, letter: str, count: int) -> np.ndarray:
    """Centres of a heat map's cells; plotly also takes edges, or a start and a step."""
    given = trace[letter]
    if given is None:
        start, step = (0 if trace[f"{letter}0"] is None else trace[f"{letter}0"], trace[f"d{letter}"] or 1)
        return start + step * np.arange(count)
    given = np.asarray(given)
    return (given[1:] + given[:-1]) / 2 if len(given) == count + 1 else given


def _errors(trace: Any) -> dict[str, Any]:
    bars = trace.error_y if "error_y" in trace else None
    if bars is None or bars.array is None:
        return {}
    up = np.asarray(bars.array)
    return {"error_up": up, "error_down": up if bars.arrayminus is None else np.asarray(bars.arrayminus)}


def _axis(trace: Any, letter: str) -> str:
    return f"{letter}axis" + (trace[f"{letter}axis"] or letter)[1:]


def _panel(fig: go.Figure, x_axis: Any, y_axis: Any) -> str:
    """The title above a panel, as `make_subplots` places it: centred over the panel, at its upper edge."""
    left, right = x_axis.domain or (0, 1)
    top = (y_axis.domain or (0, 1))[1]
    for note in fig.layout.annotations:
        on_paper = note.xref == "paper" and note.yref == "paper" and not note.showarrow
        if on_paper and abs(note.x - (left + right) / 2) < 1e-6 and abs(note.y - top) < 1e-6:
            return str(note.text)
    return str(fig.layout.title.text or "").partition("<br>")[0]


def _value_title(fig: go.Figure, trace: Any) -> str:
    if trace.type != "heatmap":
        return ""
    bar = fig.layout[trace.coloraxis].colorbar if trace.coloraxis else trace.colorbar
    return bar.title.text or ""


def _image(fig: go.Figure, form: str, dpi: float) -> bytes:
    try:
        import kaleido
    except ImportError as error:
        raise RuntimeError(
            f"a .{form} needs kaleido: pip install 'sfkd[analysis]', or save .html and print it from a browser."
        ) from error
    width, height = fig.layout.width or _DEFAULT_SIZE[0], fig.layout.height or _DEFAULT_SIZE[1]
    options = {"format": form, "width": width, "height": height, "scale": dpi / 96 if form == "png" else 1}
    # mathjax would be fetched from a server
    return kaleido.calc_fig_sync(fig, opts=options, kopts={"path": _browser(form), "mathjax": False})


def _browser(form: str) -> str:
    """The browser that kaleido would take, or a line that says where it was looked for."""
    from choreographer.browsers.chromium import Chromium

    found = Chromium.find_browser(skip_local=False)
    if found is None or not Path(found).is_file():
        asked = f"BROWSER_PATH={found} is no file; " if found else ""
        raise RuntimeError(
            f"a .{form} needs a browser, and none was found ({asked}looked for Chrome, Chromium, Edge, Brave and Vivaldi on "
            "PATH and in their usual places): install one (on Debian or Ubuntu, apt install chromium), set BROWSER_PATH to "
            "its file, or save .html."
        )
    return str(found)
