"""The page on a port, with its one file and its guard."""

from __future__ import annotations

from functools import lru_cache

import gradio as gr
from components import PLOTLY, PLOTLY_ROUTE, css, head
from guard import LOOPBACK, Guard
from microscope import Microscope
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from ui import LAUNCH_OPTIONS, dimmed
from wiring import build


def serve(
    microscope: Microscope, *, host: str, port: int | None, share: bool, users: list[tuple[str, str]] | None
) -> gr.Blocks:
    """Start to answer, and return the page.

    Args:
        users: who may enter; None for a server that this machine alone can reach.

    Raises:
        OSError: the port cannot be opened.
    """
    page = build(microscope).queue(api_open=False)
    hosts = LOOPBACK if users is None else None
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        auth=users,
        prevent_thread_lock=True,
        head=head(),
        css=css() + dimmed(),
        app_kwargs={
            "routes": [Route(PLOTLY_ROUTE, _plotly)],
            "middleware": [Middleware(Guard, hosts=hosts)],
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
        },
        **LAUNCH_OPTIONS,
    )
    return page


async def _plotly(_: Request) -> Response:
    return Response(_library(), media_type="text/javascript", headers={"cache-control": "public, max-age=86400"})


@lru_cache(maxsize=1)
def _library() -> bytes:
    """Plotly's script, 5 MB, sent at once: a file is sent in a hundred steps, and a busy server waits between them."""
    return PLOTLY.read_bytes()
