"""What stands before the routes: headers, hosts, rates, sizes, tokens; and a protocol that outlasts slow clients."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from stream_detector.errors import DataError
from stream_detector.health import PATHS as HEALTH
from stream_detector.ratelimit import RateLimit
from stream_detector.web.auth import COOKIE, Gate

log = logging.getLogger(__name__)

REQUEST_S = 10.0  # a request must be whole in this time
MAX_CONNECTIONS = 600
MAX_BODY = 64 << 10
RATE, BURST = 100.0, 800.0  # requests of one address
LOGIN_RATE, LOGIN_BURST = 0.2, 10.0  # wrong tokens of one address
PEERS = 2000  # addresses remembered
OPEN_PATHS = frozenset({"/login", *HEALTH})  # and /static/
METHODS = frozenset({"GET", "HEAD", "POST"})

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class SlowGuard(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, with a deadline for every request's head and a limit on connections.

    uvicorn times the pause between two requests, but waits for ever for the first and for an unfinished head.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Refuse at once beyond the limit; else start the clock."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Stop the clock while a request is being answered."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_clock()
        elif self._deadline is None:
            self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _start_clock(self) -> None:
        self._stop_clock()
        self._deadline = self.loop.call_later(REQUEST_S, self._overdue)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _overdue(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Guard:
    """ASGI middleware. rate, burst: requests of one address; the page itself needs about 20 to open."""

    def __init__(self, app: ASGIApp, gate: Gate, *, tls: bool, rate: float = RATE, burst: float = BURST) -> None:
        self._app, self._gate, self._tls = app, gate, tls
        self._requests = RateLimit(rate, burst, PEERS)
        self._logins = RateLimit(LOGIN_RATE, LOGIN_BURST, PEERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = [*_HEADERS, (b"strict-transport-security", b"max-age=31536000")] if self._tls else _HEADERS
                names = {name for name, _ in message.get("headers", [])}
                message["headers"] = [*message.get("headers", []), *(h for h in own if h[0] not in names)]
                if b"cache-control" not in names:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None and refusal[0] == 401 and not scope["path"].startswith(("/api/", "/metrics")):
                await _redirect(guarded, "/login")
            elif refusal is not None:
                await answer(guarded, *refusal)
            else:
                await self._app(scope, receive, guarded)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except DataError as error:
            await answer(guarded, 400, str(error))
        except TimeoutError:
            log.debug("a viewer was too slow")
            if not started:
                await answer(guarded, 408, "the request came too slowly")
        except Exception:
            log.exception("the page failed at %s", scope["path"])
            if not started:
                await answer(guarded, 500, "the server made a mistake; its log says more")

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        now_s = time.monotonic()
        address = scope["client"][0] if scope.get("client") else "?"
        path = scope["path"]
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not self._requests.allow(address, now_s):
            return 429, "too many requests; wait a little"
        if scope["method"] not in METHODS:
            return 405, "only GET, HEAD and POST are answered"
        if not self._gate.host_allowed(headers.get(b"host", "")):
            return 421, "this host name is not served; open the page under a name of [web] hosts, or as localhost"
        if scope["method"] == "POST" and not _own_origin(headers):
            return 403, "another site's page sent this; it was refused"
        scope["state"] = {"cookie": _cookie(headers.get(b"cookie", "")), "address": address, "logins": self._logins}
        bearer = headers.get(b"authorization", "").removeprefix("Bearer ")
        admitted = self._gate.admits(scope["state"]["cookie"], bearer, now_s)
        if bearer and self._gate.closed and not admitted and not self._logins.allow(address, now_s):
            return 429, "too many wrong tokens; wait a minute"
        scope["state"]["admitted"] = admitted
        if admitted or path in OPEN_PATHS or path.startswith("/static/"):
            return None
        return 401, "a token is needed; sign in at /login"


async def answer(send: Send, status: int, text: str) -> None:
    """A small JSON answer."""
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (429, 503):
        headers.append((b"retry-after", b"2"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _redirect(send: Send, to: str) -> None:
    headers = [(b"location", to.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def read_json(receive: Receive, scope: Scope) -> dict[str, Any]:
    """The body as a JSON object of at most MAX_BODY bytes. Raises DataError, TimeoutError."""
    kind = dict(scope["headers"]).get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise DataError("send JSON with content-type application/json")
    body = bytearray()
    async with asyncio.timeout(REQUEST_S):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise DataError("the request was broken off")
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                raise DataError(f"at most {MAX_BODY} bytes are taken")
            if not message.get("more_body"):
                break
    try:
        value = json.loads(bytes(body), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise DataError("the body is not JSON") from None
    if not isinstance(value, dict):
        raise DataError("send one JSON object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _own_origin(headers: dict[bytes, str]) -> bool:
    """Whether a browser says that our own page sent it; programs send no Origin."""
    if headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get(b"origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get(b"host", "")
    except ValueError:
        return False


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
