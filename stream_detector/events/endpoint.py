"""Endpoints: what may be bound, where the recovery socket lies, and the bind itself. Raises EndpointError."""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Sequence
from pathlib import Path

import zmq

from stream_detector.errors import EndpointError
from stream_detector.system.lock_file import LockFile

_TCP = re.compile(r"tcp://(?P<host>\[[0-9a-fA-F:.]+\]|[^:/\s\[\]]+):(?P<port>\d{1,5}|\*)")
_TRIES = 50
_PREFIX_BYTES = 512
_WAITING_PREFIXES = 200
_PREFIX_BUFFER = 32 << 10


def recovery_endpoint(endpoint: str) -> str:
    """Where the ROUTER socket of a publisher lies: tcp port + 1, or the ipc path with `.recovery` behind it."""
    if endpoint.startswith("ipc://") and len(endpoint) > 6:
        return f"{endpoint}.recovery"
    match = _TCP.fullmatch(endpoint)
    port = int(match["port"]) if match and match["port"] != "*" else 0
    if match is None or not 0 < port < 65535:
        raise EndpointError(
            f"endpoint {endpoint!r} is not understood; give tcp://HOST:PORT with a port from 1 to 65534, or ipc://PATH"
        )
    return f"tcp://{match['host']}:{port + 1}"


def is_local(endpoint: str) -> bool:
    """Whether only this machine can reach `endpoint` (a loopback address or an ipc path)."""
    if endpoint.startswith("ipc://"):
        return True
    match = _TCP.fullmatch(endpoint)
    host = match["host"].strip("[]") if match else ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check(endpoint: str, encrypted: bool, insecure: bool) -> None:
    """Raise EndpointError if `endpoint` is malformed, or open to the network without CURVE."""
    match = _TCP.fullmatch(endpoint)
    wildcard = bool(match) and match is not None and match["port"] in ("0", "*")
    if not wildcard:
        recovery_endpoint(endpoint)
    if not is_local(endpoint) and not encrypted and not insecure:
        raise EndpointError(
            f"endpoint {endpoint!r} can be reached from other machines, and without CURVE anybody could read the "
            f"events; bind to 127.0.0.1, set up keys, or allow it with --insecure"
        )


def keep_alive(socket: zmq.Socket[bytes]) -> None:
    """Have dead connections noticed after a minute, by TCP and not by ZMTP heartbeats.

    libzmq 4.3.5 aborts the process ("Assertion failed: !_io_error") when a ZMTP heartbeat falls due on a connection
    that was closed while its incoming queue was full (libzmq issue 4841): a client that floods and leaves would end
    the detector, and a detector that dies would end a slow subscriber.
    """
    socket.heartbeat_ivl = 0
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = 30
    socket.tcp_keepalive_intvl = 10
    socket.tcp_keepalive_cnt = 3


def limit_prefixes(socket: zmq.Socket[bytes]) -> None:
    """Bound what subscribers may send to an XPUB socket; `connection_guard` bounds how much of it. Call it before bind.

    A prefix is at most as long as a topic; the rest of the limit is for the messages of a CURVE handshake.
    """
    socket.maxmsgsize = _PREFIX_BYTES
    socket.rcvhwm = _WAITING_PREFIXES
    socket.rcvbuf = _PREFIX_BUFFER


def send_or_drop(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> bool:
    """Send one multipart message through an XPUB socket that has XPUB_NODROP set, without waiting.

    Returns False if the queue of a subscriber is full; that subscriber loses the message, all others get it.
    """
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.Again:
        socket.setsockopt(zmq.XPUB_NODROP, 0)
        try:
            socket.send_multipart(frames, zmq.NOBLOCK)
        finally:
            socket.setsockopt(zmq.XPUB_NODROP, 1)
        return False
    return True


def bind_pair(
    events: zmq.Socket[bytes], recovery: zmq.Socket[bytes], endpoint: str
) -> tuple[str, str, LockFile | None]:
    """Bind both sockets; returns their real endpoints and, for ipc, the lock that guards the path.

    A wildcard port (`0` or `*`) is a free one whose neighbour is free as well. Raises EndpointError.
    """
    match = _TCP.fullmatch(endpoint)
    if match and match["port"] in ("0", "*"):
        return (*_bind_any(events, recovery, match["host"]), None)
    beside = recovery_endpoint(endpoint)
    lock = None
    if endpoint.startswith("ipc://"):  # a second bind on an ipc path succeeds, and steals it without a word
        lock = LockFile(Path(endpoint.removeprefix("ipc://") + ".lock"))
        try:
            if not lock.acquire():
                raise EndpointError(f"endpoint {endpoint!r} is in use by another process; stop it, or choose another")
        except OSError as error:
            raise EndpointError(
                f"endpoint {endpoint!r} cannot be made ({error.strerror}); choose another path"
            ) from None
    try:
        bind(events, endpoint)
        bind(recovery, beside)
    except EndpointError:
        if lock:
            lock.release()
        raise
    return endpoint, beside, lock


def bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind one socket. Raises EndpointError."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise EndpointError(
                f"endpoint {endpoint!r} is in use by another process; stop it, or choose another with --bind"
            ) from None
        raise EndpointError(f"endpoint {endpoint!r} cannot be bound ({error.strerror}); choose another") from None


def _bind_any(events: zmq.Socket[bytes], recovery: zmq.Socket[bytes], host: str) -> tuple[str, str]:
    for _ in range(_TRIES):
        port = random.randrange(20_000, 60_000)
        first, second = f"tcp://{host}:{port}", f"tcp://{host}:{port + 1}"
        try:
            bind(recovery, second)
        except EndpointError:
            continue
        try:
            bind(events, first)
            return first, second
        except EndpointError:
            recovery.unbind(second)
    raise EndpointError(f"no two neighbouring free ports were found on {host}; name a port")
