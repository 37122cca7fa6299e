"""Access control of the page: bind address, token, sessions, host names. No sockets here."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_detector.config import WebConfig
from stream_detector.errors import ConfigError, EndpointError
from stream_detector.system.user_files import read_named
from stream_detector.telemetry.health import is_local_host

log = logging.getLogger(__name__)

COOKIE = "stream-detector"
SESSION_S = 12 * 3600.0
MAX_SESSIONS = 1000
MIN_TOKEN = 16
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::\d{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_BIND = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:/\s\[\]@]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class BindAddress:
    """An address to listen on. host: without brackets. local: whether only this machine reaches it. tls: whether TLS is
    on.
    """

    host: str
    port: int
    local: bool
    tls: bool

    def url(self, port: int) -> str:
        """Return the address to open in a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{port}/"


def parse_bind(config: WebConfig) -> BindAddress:
    """Parse the address in `config`. Raises EndpointError if it is malformed, or open to others without token and
    TLS.
    """
    match = _BIND.fullmatch(config.bind)
    if match is None or int(match["port"]) > 65535:
        raise EndpointError(f"--web {config.bind!r} is not understood; give HOST:PORT, for instance 127.0.0.1:8080")
    host = match["host"].strip("[]")
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if (config.cert is None) != (config.key is None):
        raise EndpointError("--web-cert and --web-key belong together; give both files, or neither")
    if not local and (config.token_file is None or config.cert is None):
        raise EndpointError(
            f"--web {config.bind!r} can be reached from other machines; bind to 127.0.0.1, or give --web-token-file, "
            "--web-cert and --web-key"
        )
    for path in (config.cert, config.key):
        if path is not None and not path.is_file():
            raise EndpointError(f"TLS file {str(path)!r} does not exist; give a PEM file")
    return BindAddress(host, int(match["port"]), local, config.cert is not None)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who was let in. author: as the journal names it.  operator: whether they may write."""

    author: str
    operator: bool


VIEWER = Principal("http:viewer", False)
LOCAL = Principal("http:local", True)  # anybody on loopback, where `access.local_writes` allows it


def read_token(path: Path) -> str:
    """The token in a file: its one line. Raises ConfigError if it is missing, too short or open to others."""
    token, mode = _read_secret(path)
    _check_token(token, path)
    _check_mode(mode, path)
    return token


def read_operators(path: Path) -> dict[str, str]:
    """The tokens of operators by name, from lines `NAME TOKEN`; a token alone is that of "operator".

    Raises ConfigError as `read_token` does, and for a name that occurs twice.
    """
    found: dict[str, str] = {}
    text, mode = _read_secret(path)
    _check_mode(mode, path)
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, token = (words[0], words[1]) if len(words) == 2 else ("operator", line.strip())
        if not _NAME.fullmatch(name) or name in found:
            raise ConfigError(
                f"the operators in {str(path)!r} must have names of their own, of letters, digits, '_', '-' and '.'; "
                "write a line NAME TOKEN for each"
            )
        _check_token(token, path)
        found[name] = token
    if not found:
        raise ConfigError(f"token file {str(path)!r} holds no token; write a line NAME TOKEN for each operator")
    return found


def _read_secret(path: Path) -> tuple[str, int]:
    try:
        text = read_named(path, "token file", ConfigError, most_bytes=1 << 16).decode("utf-8").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"token file {str(path)!r} cannot be read ({reason}); give a file with one line") from None
    return text, mode


def _check_mode(mode: int, path: Path) -> None:
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(
            f"token file {str(path)!r} can be read by others (mode {mode & 0o777:04o}); run: chmod 600 {path}"
        )


def _check_token(token: str, path: Path) -> None:
    if len(token) < MIN_TOKEN or not token.isprintable() or not token.isascii():
        raise ConfigError(
            f"the token in {str(path)!r} must be one line of at least {MIN_TOKEN} ASCII characters; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )


class AccessControl:
    """Decides who has access. token: "" gives access to everybody (loopback only); only digests are kept."""

    def __init__(
        self,
        token: str,
        *,
        local: bool,
        hosts: Sequence[str] = (),
        operators: Mapping[str, str] | None = None,
        local_writes: bool = False,
    ) -> None:
        """hosts: names under which the page may be asked for, beside the local ones if `local`.

        operators: token by name, of those who may write.  local_writes: whoever is let in may write, if `local`.
        """
        self._key = secrets.token_bytes(32)
        self._token = self._digest(token) if token else b""
        self._known = {
            self._digest(secret): Principal(f"http:{name}", True) for name, secret in (operators or {}).items()
        }
        if token:
            self._known.setdefault(self._token, VIEWER)
        self._local = local
        self._all_write = local and local_writes
        self._hosts = frozenset(name.lower() for name in hosts)
        self._sessions: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    @property
    def closed(self) -> bool:
        """Whether a token is required."""
        return bool(self._token)

    def host_allowed(self, host: str) -> bool:
        """Return whether a request may use this host name.

        On loopback only local names are allowed: a foreign name that points here is another site's attempt (DNS
        rebinding). Elsewhere only `hosts`, if there are any; otherwise every name, because a request under a foreign
        name carries no cookie of this page.
        """
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        if self._local and is_local_host(host):
            return True
        return match["name"].lower() in self._hosts or not (self._local or self._hosts)

    @property
    def has_operators(self) -> bool:
        """Whether somebody can sign in as an operator."""
        return any(principal.operator for principal in self._known.values())

    def identify(self, token: str) -> Principal | None:
        """Whose token this is; None if nobody's. Compares in constant time."""
        digest, found = self._digest(token), None
        for known, principal in self._known.items():
            if hmac.compare_digest(digest, known):
                found = principal
        return self._raised(found)

    def token_is_right(self, token: str) -> bool:
        """Whether it is somebody's token."""
        return self.identify(token) is not None

    def open_session(self, now_s: float, principal: Principal = VIEWER) -> str:
        """A new session's cookie."""
        cookie = secrets.token_urlsafe(32)
        self._sessions[self._digest(cookie)] = now_s + SESSION_S, principal
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return cookie

    def close_session(self, cookie: str) -> None:
        """Delete a session."""
        self._sessions.pop(self._digest(cookie), None)

    def session(self, cookie: str, now_s: float) -> Principal | None:
        """Who a session cookie lets in; without a token everybody is let in, to read."""
        until_s, principal = self._sessions.get(self._digest(cookie), (0.0, VIEWER)) if cookie else (0.0, VIEWER)
        if now_s < until_s:
            return self._raised(principal)
        return None if self._token else self._raised(VIEWER)

    def has_session(self, cookie: str, now_s: float) -> bool:
        """Whether a session cookie lets in."""
        return self.session(cookie, now_s) is not None

    def _raised(self, principal: Principal | None) -> Principal | None:
        return LOCAL if principal is VIEWER and self._all_write else principal

    def _digest(self, text: str) -> bytes:
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
