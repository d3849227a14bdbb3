"""What the server answers at all: the page's own requests, from the page's own address."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# Gradio has more: files, proxies, streams, a dashboard, an editor
_SERVED = re.compile(
    r"/(config|login|logout|theme\.css|favicon\.ico|robots\.txt|manifest\.json)?/?"
    r"|/(sfkd|assets|static|svelte)/.*"
    r"|/gradio_api/(info|config|app_id|user|login_check|token|theme\.css|startup-events|component_server|upload|upload_progress"
    r"|reset|cancel|queue/(join|data|status))/?"
    r"|/gradio_api/(heartbeat|run|call)/.*"
)
# of that, what is answered before a login: the form that asks for it, and what every installation has
_OPEN = re.compile(
    r"/(login|theme\.css|favicon\.ico|robots\.txt|manifest\.json)?/?"
    r"|/(sfkd|assets|static|svelte)/.*"
    r"|/gradio_api/(theme\.css|startup-events)"  # the second is asked by Gradio itself, to see that it answers
)
# nothing is fetched from outside, and nothing outside frames the page; Gradio compiles templates in the browser
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'",
    "frame-ancestors 'self'",
    "form-action 'self'",
    "base-uri 'self'",
)
_LONGEST = 255  # bytes of a path: what no file system has for a name is an error of this machine
_HEADERS = {
    b"content-security-policy": "; ".join(_POLICY).encode(),
    b"referrer-policy": b"same-origin",
    b"x-content-type-options": b"nosniff",
}


class Guard:
    """ASGI middleware that refuses foreign hosts and origins, every route that the page does not need, and who has not
    entered.

    Args:
        hosts: names under which the server may be addressed, without port; None allows any and asks for a login: a
            foreign name is how a page elsewhere would reach a server that does not.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] | None) -> None:
        self.app, self.hosts = app, None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await WebSocketClose()(scope, receive, send)
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refused = self.refused(scope["path"], Headers(scope=scope))
        if refused is None and self.hosts is None and not _OPEN.fullmatch(scope["path"]) and not _entered(scope):
            refused = 401, "Log in first.\n"
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
        named = (host, headers.get("x-forwarded-host", host))  # Gradio takes the second for its own, where there is one
        if self.hosts is not None and not self.hosts.issuperset(map(_name, named)):
            return 421, "This server is addressed by another name.\n"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "This request comes from another site.\n"
        return (
            None
            if _SERVED.fullmatch(path) and len(path.encode(errors="replace")) <= _LONGEST
            else (404, "Nothing is served here.\n")
        )


def _entered(scope: Scope) -> bool:
    """Whether a request carries the cookie of a login; Gradio, which gives them, lets some routes do without."""
    server, cookies = scope.get("app"), HTTPConnection(scope).cookies
    names = (f"access-token-{kind}{getattr(server, 'cookie_id', '')}" for kind in ("", "unsecure-"))
    return any(cookies.get(name) in getattr(server, "tokens", {}) for name in names)


def _name(host: str) -> str:
    """A host without its port."""
    return re.sub(r":\d*$", "", host).lower()
