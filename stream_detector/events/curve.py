"""CURVE: key files, the list of admitted clients, and the authentication of handshakes.

A key pair is two files in ZeroMQ's certificate format: NAME.key (public) and NAME.key_secret. The secret file is
created with mode 0600; a secret file that others may read is refused. A server admits exactly the public keys in its
clients' folder. It reads the folder again when it changes, so a client can be added while the detector runs. A key that
was removed is refused at its next connection; open connections stay open.

`CurveAuthenticator` is the ZAP handler of RFC 27. The thread that owns the sockets polls it; it has no thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.utils.z85

from stream_detector.errors import ConfigError
from stream_detector.types import Clock, SystemClock

log = logging.getLogger(__name__)

ZAP_DOMAIN = b"stream-detector"
_MAX_KEY_FILE = 16 << 10
_MAX_CLIENTS = 10_000
_LOG_INTERVAL_S = 10.0
_KEY_LINE = re.compile(r'^\s*(public-key|secret-key)\s*=\s*"([^"]{40})"\s*$', re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


WRITER = "writer:"  # how the name begins under which ZeroMQ knows a client that may write


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """A key pair as Z85 text, 40 bytes each. It has no `repr`, so that no log or traceback shows the secret."""

    public: bytes
    secret: bytes


def _parse(text: str, path: Path) -> dict[str, bytes]:
    keys = {}
    for name, value in _KEY_LINE.findall(text):
        try:
            raw = zmq.utils.z85.decode(value.encode("ascii"))
        except (ValueError, KeyError, struct.error, zmq.ZMQError):
            raise ConfigError(f"key file {str(path)!r} holds a malformed {name}; make a new pair") from None
        if len(raw) != 32:
            raise ConfigError(f"key file {str(path)!r} holds a malformed {name}; make a new pair")
        keys[name] = value.encode("ascii")
    return keys


def _read(path: Path, secret: bool) -> dict[str, bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"key file {str(path)!r} is not a regular file; give a file made by 'keys new'")
            if secret and os.name == "posix" and status.st_mode & 0o077:
                raise ConfigError(
                    f"secret key file {str(path)!r} can be read by others (mode {status.st_mode & 0o777:04o}); "
                    f"run: chmod 600 {path}"
                )
            data = file.read(_MAX_KEY_FILE + 1)
    except OSError as error:
        raise ConfigError(f"key file {str(path)!r} cannot be read ({error.strerror}); give an existing one") from None
    if len(data) > _MAX_KEY_FILE:
        raise ConfigError(f"key file {str(path)!r} is too large; give a file made by 'keys new'")
    return _parse(data.decode("utf-8", "replace"), path)


def load_pair(path: Path) -> KeyPair:
    """Read a secret key file (both keys). Raises ConfigError, also if others may read the file."""
    keys = _read(path, secret=True)
    if "public-key" not in keys or "secret-key" not in keys:
        raise ConfigError(f"key file {str(path)!r} holds no key pair; give the NAME.key_secret file of a pair")
    return KeyPair(keys["public-key"], keys["secret-key"])


def load_public(path: Path) -> bytes:
    """Read a public key. Raises ConfigError."""
    keys = _read(path, secret=False)
    if "public-key" not in keys:
        raise ConfigError(f"key file {str(path)!r} holds no public key; give the NAME.key file of a pair")
    return keys["public-key"]


def new_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Make NAME.key and NAME.key_secret (mode 0600 from the first byte). Raises ConfigError; never overwrites."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"key name {name!r} is not allowed; use 1 to 64 letters, digits, '_', '-' and '.'")
    public, secret = zmq.curve_keypair()
    public_path, secret_path = folder / f"{name}.key", folder / f"{name}.key_secret"
    head = "#   ZeroMQ CURVE certificate. {}\n\nmetadata\ncurve\n"
    text = f'    public-key = "{public.decode()}"\n'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _create(
            secret_path,
            head.format("SECRET: never share it.") + text + f'    secret-key = "{secret.decode()}"\n',
            0o600,
        )
        try:
            _create(public_path, head.format("Public: give it to the other side.") + text, 0o644)
        except OSError:
            secret_path.unlink(missing_ok=True)  # half a pair is none
            raise
    except FileExistsError as error:
        raise ConfigError(f"key file {str(error.filename)!r} already exists; choose another name") from None
    except OSError as error:
        raise ConfigError(
            f"keys cannot be written to {str(folder)!r} ({error.strerror}); give a writable folder"
        ) from None
    return public_path, secret_path


def _create(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.chmod(path, mode)  # regardless of the umask
        file.write(text)


class CurveAuthenticator:
    """Authenticates the clients of one ZeroMQ context: admits the public keys in `folder` and in its folder `writers`,
    refuses and logs all others.

    Create it before the server sockets bind; call `service` often, from the thread that owns the sockets. A message of
    an admitted client carries the name of its key as "User-Id" (after `WRITER`, of a key in `writers`).
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], pair: KeyPair, folder: Path, clock: Clock | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._log_s = float("-inf")
        self._pair = pair
        self._folder = folder
        self._stamp: tuple[int, ...] = ()
        self._allowed: dict[bytes, str] = {}
        self.refused = 0
        self._load()
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind("inproc://zeromq.zap.01")

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Make `socket` a CURVE server that uses this authenticator. Call it before bind."""
        socket.curve_server = True
        socket.curve_publickey = self._pair.public
        socket.curve_secretkey = self._pair.secret
        socket.zap_domain = ZAP_DOMAIN

    def service(self, limit: int = 64) -> None:
        """Answer up to `limit` waiting handshakes. Never blocks."""
        for _ in range(limit):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._socket.send_multipart(self._authenticate(frames))

    def close(self) -> None:
        """Close the socket of the ZAP handler."""
        self._socket.close(0)

    def _authenticate(self, frames: list[bytes]) -> list[bytes]:
        request = frames[1] if len(frames) > 1 else b""
        address = frames[3] if len(frames) > 3 else b""
        name = None
        if len(frames) == 7 and frames[2] == ZAP_DOMAIN and frames[5] == b"CURVE" and len(frames[6]) == 32:
            with contextlib.suppress(ConfigError):  # while the folder cannot be read, the last list stays valid
                self._load()
            name = self._allowed.get(zmq.utils.z85.encode(frames[6]))
        if name is None:
            self.refused += 1
            if self._clock.monotonic() >= self._log_s:  # a flood of handshakes must not flood the log
                self._log_s = self._clock.monotonic() + _LOG_INTERVAL_S
                shown = ascii(address.decode("ascii", "replace")[:64])
                text = "refused a client at %s: its key is not among those in %s (%d refused so far)"
                log.warning(text, shown, self._folder, self.refused)
            return [b"1.0", request, b"400", b"key not allowed", b"", b""]
        return [b"1.0", request, b"200", b"OK", name.encode(), b""]

    def _load(self) -> None:
        try:
            writers = sorted((self._folder / "writers").glob("*.key"))[:_MAX_CLIENTS]
            paths = sorted(self._folder.glob("*.key"))[:_MAX_CLIENTS] + writers
            stamp = tuple(hash((str(path), path.stat().st_mtime_ns)) for path in paths)
            if not self._folder.is_dir():
                raise ConfigError(
                    f"folder of client keys {str(self._folder)!r} does not exist; "
                    "create it and put the NAME.key files into it"
                )
        except OSError as error:
            raise ConfigError(
                f"folder of client keys {str(self._folder)!r} cannot be read ({error.strerror})"
            ) from None
        if stamp == self._stamp and self._allowed:
            return
        allowed = {}
        for path in paths:
            try:
                allowed[load_public(path)] = (WRITER if path in writers else "") + path.stem
            except ConfigError as error:
                log.warning("%s", error)
        self._allowed, self._stamp = allowed, stamp
