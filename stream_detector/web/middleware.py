"""Checks every request before the routes: headers, host names, rates, sizes, tokens."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_detector.errors import DataError
from stream_detector.events.write_side import REFUSED_WRITE
from stream_detector.system.rate_limit import RateLimiter
from stream_detector.telemetry.health import PATHS as HEALTH
from stream_detector.web.auth import COOKIE, AccessControl

log = logging.getLogger(__name__)

REQUEST_S = 10.0  # seconds; a request must be complete in this time
MAX_HEADERS = 100
MAX_BODY = 64 << 10
RATE, BURST = 100.0, 800.0  # requests per second of one peer
GUESS_RATE, GUESS_BURST = 0.2, 10.0  # wrong tokens per minute of one peer
PEERS = 2000  # number of peers remembered
OPEN_PATHS = frozenset({"/login", *HEALTH})  # and /static/
READING_POST = re.compile(r"/login|/logout|/api/tune/[^/]+")  # every other POST writes, and needs an operator
ANSWERED_IN_JSON = ("/api/", "/metrics", "/openapi.json")  # others lead to /login
TOO_MANY_GUESSES = "too many wrong tokens; wait a minute"
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


class SecurityMiddleware:
    """ASGI middleware. rate, burst: requests of one peer; opening the page needs about 20."""

    def __init__(
        self, app: ASGIApp, access: AccessControl, *, tls: bool, rate: float = RATE, burst: float = BURST
    ) -> None:
        self._app, self._access, self._tls = app, access, tls
        self._requests = RateLimiter(rate, burst, PEERS)
        self._guesses = RateLimiter(GUESS_RATE, GUESS_BURST, PEERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
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
            if refusal is not None and refusal[0] == 401 and not scope["path"].startswith(ANSWERED_IN_JSON):
                await _redirect(guarded, "/login")
            elif refusal is not None:
                await answer(guarded, *refusal, close=refusal[0] in (400, 431))
            else:
                await self._app(scope, receive, guarded)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except DataError as error:
            await answer(guarded, 400, str(error))
        except TimeoutError:
            log.debug("a viewer was too slow")
            if not started:
                await answer(guarded, 408, "the request was too slow")
        except Exception:
            log.exception("the page failed at %r", scope["path"][:200])
            if not started:
                await answer(guarded, 500, "the server failed; see its log")

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        now_s = time.monotonic()
        peer = peer_of(scope["client"][0] if scope.get("client") else "?")
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not self._requests.allow(peer, now_s):
            return 429, "too many requests; wait a little"
        if len(scope["headers"]) > MAX_HEADERS:
            return 431, f"at most {MAX_HEADERS} headers are taken"
        if b"transfer-encoding" in headers and b"content-length" in headers:  # a proxy may see another request in it
            return 400, "a request has either a content-length or a transfer-encoding"
        if scope["method"] not in METHODS:
            return 405, "only GET, HEAD and POST are answered"
        if not self._access.host_allowed(headers.get(b"host", "")):
            return 421, "this host name is not served; open the page under a name of [web] hosts, or as localhost"
        if scope["method"] == "POST" and not _own_origin(headers):
            return 403, "the request came from another site and was refused"
        return self._admission(scope, headers, peer, now_s)

    def _admission(self, scope: Scope, headers: dict[bytes, str], peer: str, now_s: float) -> tuple[int, str] | None:
        """Who asks, in scope["state"], and whether they may."""
        path = scope["path"]
        cookie = _cookie(headers.get(b"cookie", ""))
        principal = self._access.session(cookie, now_s)
        bearer = headers.get(b"authorization", "").removeprefix("Bearer ")
        asks = principal is None or (not principal.operator and self._access.has_operators)
        if bearer and asks:
            right = self.guess(peer, bearer, now_s)
            if right is None and path not in OPEN_PATHS:
                return 429, TOO_MANY_GUESSES
            principal = self._access.identify(bearer) if right else principal
        scope["state"] = {
            "cookie": cookie,
            "peer": peer,
            "admitted": principal is not None,
            "principal": principal,
            "guess": lambda token: self.guess(peer, token, now_s),
        }
        if principal is None and path not in OPEN_PATHS and not path.startswith("/static/"):
            return 401, "a token is needed; sign in at /login"
        writes = scope["method"] == "POST" and not READING_POST.fullmatch(path)
        if writes and not (principal and principal.operator):
            return 403, REFUSED_WRITE
        return None

    def guess(self, peer: str, token: str, now_s: float) -> bool | None:
        """Return whether `token` is right; None, without a comparison, if `peer` has recently guessed wrong too
        often.
        """
        if self._guesses.spent(peer, now_s):
            return None
        right = self._access.token_is_right(token)
        if not right:
            self._guesses.allow(peer, now_s)
        return right


async def answer(send: Send, status: int, text: str, *, close: bool = False) -> None:
    """Send a small JSON answer."""
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if close:
        headers.append((b"connection", b"close"))
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
    """Read the body as a JSON object of at most MAX_BODY bytes. Raises DataError, TimeoutError."""
    kind = dict(scope["headers"]).get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise DataError("send JSON with content-type application/json")
    body = bytearray()
    async with asyncio.timeout(REQUEST_S):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise DataError("the request is incomplete")
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
    """Return whether a browser says that this page sent the request; programs send no Origin."""
    if headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get(b"origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get(b"host", "")
    except ValueError:
        return False


def _cookie(header: str) -> str:
    """Return the value of the session cookie; "" if there is none. Its values contain no quotes, so nothing is
    unquoted.
    """
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def peer_of(address: str) -> str:
    """Return the peer of an address: the IPv4 address, or the 64-bit IPv6 network, because one machine may have a whole
    one.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found) if found.is_loopback else str(ipaddress.ip_network((found, 64), strict=False))
