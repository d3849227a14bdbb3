"""A figure as the page's figure component takes it: JSON with title and note apart, and colours left to the page's theme."""

from __future__ import annotations

import json
import re
from typing import Any

from plotly.io.json import to_json_plotly
from settings import Settings
from views.base import Drawn

_HEAD = 44  # px above the panels that stay when the title moves into the page: for their own titles and the legend
_BREAK = re.compile(r"<br\s*/?>")
_TAG = re.compile(r"<[^>]+>")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


def payload(drawn: Drawn, settings: Settings, query: str, label: str) -> str:
    """JSON of a figure, in ASCII.

    Keys: `data`, `layout` (without template and title), `full` (title and upper margin for exports), `title`, `note`,
    `label` (what it is, for those who do not see it), `python`, `name` (of files), `query` (of the page that shows it),
    `revision` (zoom is kept while it stays the same).
    """
    figure: dict[str, Any] = drawn.figure.to_dict()
    layout = figure["layout"]
    layout.pop("template", None)
    full = {"title": layout.pop("title", {}), "margin": layout.get("margin", {}), "height": layout.get("height", 450)}
    title, note = told(full["title"].get("text") or drawn.name)
    spare = max(full["margin"].get("t", 96) - _HEAD, 0)
    layout |= {"margin": {**full["margin"], "t": _HEAD}, "height": full["height"] - spare}
    text = to_json_plotly(
        {
            "data": figure["data"],
            "layout": layout,
            "full": full,
            "title": title,
            "note": drawn.note or note,
            "label": label,
            "python": drawn.python,
            "name": drawn.name,
            "query": query,
            "revision": f"{settings.view}|{settings.pair}|{settings.layer}|{settings.levels}|{settings.band}",
        }
    )
    # ASCII, for one σ doubles the memory of a string, and sending it as UTF-8 keeps a copy of it inside
    return _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def told(text: str) -> tuple[str, str]:
    """A figure's title, and the line under it, without markup.

    >>> told("Spectrum<br><span style='x'>a &lt; b<br>c</span>")
    ('Spectrum', 'a &lt; b c')
    """
    title, *rest = _BREAK.split(text)
    return _TAG.sub("", title), _TAG.sub("", " ".join(rest))
