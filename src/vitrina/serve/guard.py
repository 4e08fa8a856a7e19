"""The outermost layer: body limits, hosts, security headers; time and status of each request."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from vitrina.serve.settings import Settings
from vitrina.serve.telemetry import Telemetry
from vitrina.serve.wire import Problem, encode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Content security policy of everything but the report: nothing inline, nothing from elsewhere."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
POLICY = b"content-security-policy"


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: App, *, settings: Settings, telemetry: Telemetry) -> None:
        self.app, self.settings, self.telemetry = app, settings, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self.settings.max_body_bytes)
        began = time.perf_counter()
        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await exchange.refuse(*refusal)
            else:
                await self.app(scope, exchange.receive, exchange.send)
        finally:
            fixed = scope["path"].startswith("/static/")
            route = "/static" if fixed else getattr(scope.get("route"), "path", "other")
            self.telemetry.request(route, exchange.status, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15:
            return 400, f"the header Content-Length {length[:40]!r} is not a number of bytes"
        if int(length) > self.settings.max_body_bytes:
            return 413, _too_large(self.settings.max_body_bytes)
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.settings.allowed_hosts and name not in self.settings.allowed_hosts:
            return 400, f"the host {host[:100]!r} is not served here; name it in allowed_hosts to allow it"
        return None


class _Exchange:
    """One request and its answer: counts the bytes that come, adds headers to what goes."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self._scope, self._receive, self._send, self._limit = scope, receive, send, limit
        self._n_bytes = 0
        self.status = 500

    async def receive(self) -> Message:
        message = await self._receive()
        self._n_bytes += len(message.get("body", b""))
        if self._n_bytes > self._limit:
            raise HTTPException(413, _too_large(self._limit))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", []))
            names = {name.lower() for name, _ in given}
            given.extend(HEADERS)
            if POLICY not in names:
                given.append((POLICY, PAGE_POLICY.encode()))
            if b"cache-control" not in names:
                fixed = self._scope["path"].startswith("/static/")
                given.append((b"cache-control", b"no-cache" if fixed else b"no-store"))
            if self.status == 413:  # the rest of the body is not read, so the connection cannot be used again
                given.append((b"connection", b"close"))
            message = {**message, "headers": given}
        await self._send(message)

    async def refuse(self, status: int, detail: str) -> None:
        """Answer with a problem, reading nothing."""
        body = encode(problem(status, detail))
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


TITLES = {
    400: "Bad request",
    404: "Not found",
    405: "Method not allowed",
    413: "Body too large",
    415: "Unsupported media type",
    422: "Unprocessable request",
    500: "Internal error",
    503: "Not available now",
}


def problem(status: int, detail: str) -> Problem:
    """An error answer: one sentence under the title of its status."""
    return Problem(TITLES.get(status, "Error"), status, detail)


def _too_large(limit: int) -> str:
    return f"the request body is larger than {limit} bytes; send the events in several batches"
