"""What the server answers at all: the page's own requests, from the page's own address."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# Gradio has more: files, proxies, streams, a dashboard, an editor
_SERVED = re.compile(
    r"/(config|login|logout|theme\.css|favicon\.ico|robots\.txt|manifest\.json)?/?"
    r"|/(sfkd|assets|static|svelte)/.*"
    r"|/gradio_api/(info|config|app_id|user|login_check|token|theme\.css|startup-events|component_server|upload|upload_progress"
    r"|reset|cancel|queue/(join|data|status))/?"
    r"|/gradio_api/(heartbeat|run|call)/.*"
)
# nothing is fetched from outside, and nothing outside frames the page; Gradio compiles templates in the browser
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'",
    "frame-ancestors 'self'",
    "form-action 'self'",
    "base-uri 'self'",
)
_HEADERS = {
    b"content-security-policy": "; ".join(_POLICY).encode(),
    b"referrer-policy": b"same-origin",
    b"x-content-type-options": b"nosniff",
}


class Guard:
    """ASGI middleware that refuses foreign hosts and origins, and every route that the page does not need.

    Args:
        hosts: names under which the server may be addressed, without port; None allows any, which is for servers that
            ask for a password: a foreign name is how a page elsewhere would reach one that does not.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] | None) -> None:
        self.app, self.hosts = app, None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refused = self.refused(scope["path"], Headers(scope=scope))
        if refused is not None:
            return await PlainTextResponse(refused[1], refused[0])(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS.items()]
            await send(message)

        return await self.app(scope, receive, with_headers)

    def refused(self, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason, None for what is answered."""
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return 421, "This server is addressed by another name.\n"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "This request comes from another site.\n"
        return None if _SERVED.fullmatch(path) else (404, "Nothing is served here.\n")


def _name(host: str) -> str:
    """A host without its port."""
    return re.sub(r":\d*$", "", host).lower()
