"""HTTP for cameras: reads answers piece by piece, with limits of time and size, and only from the camera's host.

FFmpeg's own HTTP follows redirects to any host and accepts parts of any size. Therefore this module reads what cameras
send over HTTP: Basic and Digest authentication, https, redirects on the same host. Errors contain no address.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

MAX_REDIRECTS = 5
AGENT = "stream-detector"


class HttpError(OSError):
    """A request failed. The text is half a sentence: "answered 404". It contains no address."""


class Body:
    """The body of an answer, a file object for PyAV. kind: its content type, in lower case.

    A read waits at most the time-out for the next bytes, and at most `patience` seconds in total after the last
    `allow`. Therefore a server that sends byte by byte cannot hold the reader longer than a silent one.
    """

    def __init__(self, answer: http.client.HTTPResponse, timeout_s: float) -> None:
        self.kind = (answer.headers.get("Content-Type") or "").strip().lower()
        self.header = answer.headers.get("Content-Type") or ""
        self._answer = answer
        self._timeout_s = timeout_s
        self._until_s = 0.0
        self.allow()

    def allow(self) -> None:
        """Restart the time-out: the caller wants the next picture."""
        self._until_s = time.monotonic() + self._timeout_s

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at least one except at the end. Raises HttpError."""
        if time.monotonic() > self._until_s:
            raise HttpError("sent too little in time")
        try:
            return self._answer.read1(size if size > 0 else 65_536)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HttpError(_why(error)) from None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Close the connection."""
        self._answer.close()


class _HangUp(urllib.request.BaseHandler):
    """Closes an answer that asks for a password before the request is repeated; urllib leaves it open."""

    handler_order = 400  # runs before the handlers of Basic and Digest

    def http_error_401(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> None:
        fp.close()


class _SameHost(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = hosts

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not may_open(newurl, self._hosts):
            fp.close()
            raise HttpError("redirects to another host; allow it by `allow_hosts`, or give that address")
        return super().redirect_request(req, fp, code, msg, headers, urljoin(req.full_url, newurl))


def may_open(address: str, hosts: Collection[str]) -> bool:
    """Return whether an address is http or https and its host is among `hosts` (lower case)."""
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and (parts.hostname or "").lower() in hosts
    except ValueError:
        return False


def fetch(address: str, hosts: Collection[str], open_s: float, read_s: float) -> Body:
    """Send a GET and return the answer. hosts: the hosts that may be asked, including the address's own.

    open_s, read_s: time-outs in seconds.  Raises HttpError.
    """
    if not may_open(address, hosts):
        raise HttpError("names another host; allow it by `allow_hosts`")
    parts = urlsplit(address)
    place = parts.netloc.rpartition("@")[2]
    plain = urlunsplit((parts.scheme, place, parts.path or "/", parts.query, ""))
    known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        known.add_password(None, plain, unquote(parts.username), unquote(parts.password or ""))
    careless = ssl.create_default_context()  # cameras use their own certificates; this program has never checked them
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=careless),
        _HangUp(),
        urllib.request.HTTPBasicAuthHandler(known),
        urllib.request.HTTPDigestAuthHandler(known),
        _SameHost(hosts),
    )
    request = urllib.request.Request(plain, headers={"User-Agent": AGENT, "Accept": "*/*"})
    try:
        answer: Any = opener.open(request, timeout=open_s)
    except HttpError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise HttpError(_why(error)) from None
    sock = getattr(getattr(getattr(answer, "fp", None), "raw", None), "_sock", None)
    if sock is not None:
        sock.settimeout(read_s)
    return Body(answer, read_s)


def _why(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        asks = ": check user and password" if error.code in (401, 403) else ""
        return f"answered {error.code}{asks}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "did not answer in time"
    if isinstance(reason, ConnectionRefusedError):
        return "refused the connection"
    if isinstance(reason, OSError) and reason.strerror:
        return f"cannot be reached ({reason.strerror})"
    return "broke off" if isinstance(error, http.client.HTTPException) else "cannot be reached"
