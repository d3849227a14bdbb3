"""The page's own components: HTML templates whose life is in page.js."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import plotly
from plotly.io.json import to_json_plotly

from sfkd_viz import theme

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
PLOTLY_ROUTE = "/sfkd/plotly.min.js"
_HERE = Path(__file__).parent
_TOOLS = {
    "reset": ("Reset zoom", "Show the whole figure again"),
    "png": ("PNG", "Save as PNG"),
    "svg": ("SVG", "Save as SVG"),
    "html": ("HTML", "Save as a page that opens offline"),
    "csv": ("CSV", "Save the numbers that are drawn"),
    "python": ("Python", "The lines that make this figure"),
}


def head() -> str:
    """The page's script, for the document's head."""
    templates = {"light": theme.TEMPLATE.to_plotly_json(), "dark": theme.DARK.to_plotly_json()}
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    script = script.replace("/*TEMPLATES*/ {}", to_json_plotly(templates)).replace("PLOTLY", PLOTLY_ROUTE.lstrip("/"))
    return f"<script>{script}</script>"


def css() -> str:
    """The page's style."""
    return (_HERE / "page.css").read_text(encoding="utf-8")


def figure(value: str, *, label: str, index: int, table: Callable[[Any], Any]) -> gr.HTML:
    """A plotly figure with its title, how to read it, and buttons; the value is JSON of `payload`, empty for nothing.

    Args:
        label: what the figure is, until there is one.
        index: its number in its view.
        table: (query of the page, number of the figure) → file name and CSV.
    """
    buttons = "".join(
        f"<button type='button' data-do='{do}' title='{title}'>{word}</button>" for do, (word, title) in _TOOLS.items()
    )
    return gr.HTML(
        value,
        html_template=(
            f"<figure hidden role='figure' aria-label='{label}' class='figure'><div class='head'>"
            f"<div><h3 class='title'></h3><p class='note'></p></div><div class='tools' role='toolbar'>{buttons}</div></div>"
            "<div class='python' hidden><button type='button' data-do='copy'>Copy</button>"
            "<pre tabindex='0' aria-label='Python of this figure'><code class='code'></code></pre></div>"
            "<div class='plot'></div></figure>"
        ),
        js_on_load=f"sfkd.figure(element, props, watch, server, {index})",
        server_functions=[table],
        apply_default_css=False,
    )


def strip(pictures: Sequence[tuple[str, str, str]], source: str) -> gr.HTML:
    """Pictures (source, label, data URI) to choose from; the value is `picked`."""
    buttons = "".join(
        f"<button type='button' role='radio' data-source='{source}' aria-label='{label}' title='{label}'>"
        f"<img alt='' src='{uri}'><span>{label}</span></button>"
        for source, label, uri in pictures
    )
    return gr.HTML(
        picked(source),
        html_template=f"<div class='strip' role='radiogroup' aria-label='Image'>{buttons}</div>",
        js_on_load="sfkd.strip(element, props, watch, trigger)",
        apply_default_css=False,
    )


def picked(source: str, own: Sequence[str] | None = None) -> dict[str, Any]:
    """Value of the strip: the chosen source, and an upload (source, label, data URI) that joins the pictures."""
    return {"source": source, "own": own}


def progress() -> gr.HTML:
    """How far a long computation is, and a button that triggers "cancel"; the value is `so_far`, or None."""
    return gr.HTML(
        None,
        html_template=(
            "<div class='progress' role='status' hidden><progress max='1' aria-label='Progress'></progress>"
            "<span class='words'></span><button type='button'>Stop</button></div>"
        ),
        js_on_load="sfkd.progress(element, props, watch, () => trigger('cancel'))",
        apply_default_css=False,
    )


def so_far(words: str, share: float | None) -> dict[str, Any]:
    """Value of the progress: words, and the share that is done."""
    return {"words": words, "share": share}


def remark(text: str, *, alert: bool = False) -> str:
    """A line for the visitor, as HTML; empty for nothing."""
    if not text:
        return ""
    if not alert:
        return f"<p class='remark' role='status'>{html.escape(text)}</p>"
    # the time makes it a new one, where the last was dismissed
    return f"<p class='remark wrong' role='alert' data-at='{time.time_ns()}'>{html.escape(text)}</p>"
