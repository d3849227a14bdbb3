"""The page on a port, with its files and its guard."""

from __future__ import annotations

import mimetypes
import re
from functools import lru_cache
from pathlib import Path

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

_ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


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
            "routes": [Route(PLOTLY_ROUTE, _plotly), Route("/assets/{name:path}", _asset)],
            "middleware": [Middleware(Guard, hosts=hosts)],
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
        },
        **LAUNCH_OPTIONS,
    )
    return page


async def _plotly(_: Request) -> Response:
    return Response(_read(PLOTLY), media_type="text/javascript", headers={"cache-control": "public, max-age=86400"})


async def _asset(request: Request) -> Response:
    """A script or style of Gradio's, whose name changes with what it holds.

    Gradio reads and sends each of the seventy in steps that a busy server waits between; sent at once, the page stands in
    half the time.
    """
    name = request.path_params["name"]
    if not _NAME.fullmatch(name) or not (_ASSETS / name).is_file():
        return Response(status_code=404)
    kept = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(_read(_ASSETS / name), media_type=_type(name), headers=kept)


def _type(name: str) -> str | None:
    """Of the two that matter without asking the machine, whose table of types may say what browsers refuse to run."""
    return {".js": "text/javascript", ".css": "text/css"}.get(Path(name).suffix) or mimetypes.guess_type(name)[0]


@lru_cache(maxsize=256)
def _read(path: Path) -> bytes:
    return path.read_bytes()
