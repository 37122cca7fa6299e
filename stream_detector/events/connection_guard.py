"""Watches the connections of sockets that strangers reach, in a thread of its own.

It counts refused handshakes, and cuts connections that cost too much:

    of an event socket     a connection that sent more than PEER_BYTES, and PEER_BYTES_S more for every second; together
                           they may keep ALL_BYTES. What a subscriber sends are its prefixes, and libzmq reads all of
                           them, and builds its tree of prefixes, within calls of the thread that sends events
    of both sockets        connections beyond a number that leaves file descriptors for the cameras

The kernel counts the bytes (TCP_INFO), so the guard works while libzmq is busy. A connection that is cut stays open for
HOLD_S on this side, without being read: a peer that noticed would connect and send everything again at once. Paths
(ipc) and systems without TCP_INFO have no such limit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket as sockets
import struct
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice

import zmq
from zmq.utils.monitor import parse_monitor_message

from stream_detector.events.recovery_service import receive_ready
from stream_detector.types import Clock

log = logging.getLogger(__name__)

PEER_BYTES = 64 << 10
PEER_BYTES_S = 1 << 10
ALL_BYTES = 1 << 20
HOLD_S = 30.0
_MOST_HELD = 64
_LOG_INTERVAL_S = 10.0
_AT_ONCE = 2000  # the queue of a monitor must never be full, because its socket would then block
_QUICK_S, _SLOW_S = 0.01, 0.1  # between two looks at the bytes: at a connection younger than _YOUNG_S, at all
_YOUNG_S = 1.0
_CLOSE_S = 2.0
_CONNECTIONS, _SHARE_OF_FILES = 1000, 4
_INFO_BYTES, _RECEIVED_AT = 256, 128  # struct tcp_info of Linux: tcpi_bytes_received
_REFUSED = zmq.Event.HANDSHAKE_FAILED_AUTH | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
_MONITORED = _REFUSED | zmq.Event.ACCEPTED


@dataclass(slots=True, eq=False)
class _Watched:
    """A socket under guard. accepted: descriptor → (when, port of the socket)."""

    monitor: zmq.Socket[bytes]
    limit_bytes: bool
    accepted: dict[int, tuple[float, int]] = field(default_factory=dict)


class ConnectionGuard:
    """Guards several sockets. refused: number of refused handshakes so far.  cut: number of connections cut so far.

    `watch` every socket before it is bound, then `start`. `close` after `disable_monitor` of every socket.
    """

    def __init__(self, clock: Clock) -> None:
        self.refused = self.cut = 0
        self._clock = clock
        self._watched: list[_Watched] = []
        self._held: deque[tuple[float, sockets.socket]] = deque()
        self._log_s = self._log_cut_s = float("-inf")
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, socket: zmq.Socket[bytes], *, limit_bytes: bool) -> None:
        """Watch a socket that is not bound yet. limit_bytes: it is an event socket, and its peers send little."""
        self._watched.append(_Watched(socket.get_monitor_socket(_MONITORED), limit_bytes))

    def start(self) -> None:
        """Start the thread; from now on the monitors belong to it."""
        self._thread = threading.Thread(target=self._work, name="guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, which closes the monitors."""
        self._over.set()
        if self._thread is None:
            self._leave()
        elif self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_S)

    # -- its thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        poller = zmq.Poller()
        for watched in self._watched:
            poller.register(watched.monitor, zmq.POLLIN)
        look_s = 0.0
        try:
            while not self._over.is_set():
                now_s = time.monotonic()
                newest_s = max((s for watched in self._watched for s, _ in watched.accepted.values()), default=0.0)
                wait_s = _QUICK_S if now_s - newest_s < _YOUNG_S else _SLOW_S
                poller.poll(round(wait_s * 1e3))
                self._read()
                now_s = time.monotonic()
                if now_s >= look_s:
                    self._look(now_s)
                    took_s = time.monotonic() - now_s
                    look_s = now_s + max(_QUICK_S, 10 * took_s)  # at most a tenth of one core
        except Exception:
            log.exception("the guard of the connections ended; they are no longer limited")
        finally:
            self._leave()

    def _leave(self) -> None:
        for watched in self._watched:
            watched.monitor.close(0)
        for _, held in self._held:
            held.close()
        self._held.clear()

    def _read(self) -> None:
        for watched in self._watched:
            for frames in islice(receive_ready(watched.monitor, _AT_ONCE), _AT_ONCE):
                event = parse_monitor_message(frames)
                if event["event"] == zmq.Event.ACCEPTED:
                    port = event["endpoint"].rpartition(b":")[2]
                    if port.isdigit():  # otherwise a path
                        watched.accepted[event["value"]] = (time.monotonic(), int(port))
                elif event["event"] == zmq.Event.MONITOR_STOPPED:
                    self._over.set()
                else:
                    self._tell_refused(event["endpoint"], event["event"])

    def _tell_refused(self, endpoint: bytes, event: int) -> None:
        self.refused += 1
        if self._clock.monotonic() >= self._log_s:
            self._log_s = self._clock.monotonic() + _LOG_INTERVAL_S
            log.warning(
                "refused a handshake at %s (%s); %d refused so far: wrong or missing key, or not ZeroMQ",
                endpoint.decode("ascii", "replace")[:80],
                zmq.Event(event).name,
                self.refused,
            )

    def _look(self, now_s: float) -> None:
        while self._held and (self._held[0][0] <= now_s or len(self._held) > _MOST_HELD):
            self._held.popleft()[1].close()
        for watched in self._watched:
            kept: list[tuple[int, int]] = []  # (bytes beyond what its age allows, descriptor)
            for descriptor, (since_s, port) in list(watched.accepted.items()):
                connection = _connection(descriptor, port)
                if connection is None:  # closed meanwhile
                    del watched.accepted[descriptor]
                    continue
                with connection:
                    kept.append((max(0, _received(connection) - int(PEER_BYTES_S * (now_s - since_s))), descriptor))
            self._limit(watched, sorted(kept), now_s)

    def _limit(self, watched: _Watched, kept: list[tuple[int, int]], now_s: float) -> None:
        total = sum(size for size, _ in kept)
        while watched.limit_bytes and kept and (kept[-1][0] > PEER_BYTES or total > ALL_BYTES):
            size, descriptor = kept.pop()
            total -= size
            self._cut(watched, descriptor, now_s, "it sent too many prefixes", hold=True)
        newest = sorted((watched.accepted[descriptor][0], descriptor) for _, descriptor in kept)
        for _, descriptor in newest[_most_connections() :]:
            self._cut(watched, descriptor, now_s, "there are too many connections", hold=False)

    def _cut(self, watched: _Watched, descriptor: int, now_s: float, why: str, *, hold: bool) -> None:
        _, port = watched.accepted.pop(descriptor)
        connection = _connection(descriptor, port)
        if connection is None:
            return
        with contextlib.suppress(OSError):
            connection.shutdown(sockets.SHUT_RD if hold else sockets.SHUT_RDWR)
        if hold:
            self._held.append((now_s + HOLD_S, connection))
        else:
            connection.close()
        self.cut += 1
        if now_s >= self._log_cut_s:
            self._log_cut_s = now_s + _LOG_INTERVAL_S
            log.warning("cut the connection of a peer, because %s; %d cut so far", why, self.cut)


def _connection(descriptor: int, port: int) -> sockets.socket | None:
    """A duplicate of an accepted connection; None if the number now stands for something else, or for nothing.

    port: of the listening socket. No other file of the process has this local port, so none but a peer's is cut.
    """
    try:
        connection = sockets.socket(fileno=os.dup(descriptor))
    except OSError:
        return None
    with contextlib.suppress(OSError):
        if connection.family in (sockets.AF_INET, sockets.AF_INET6) and connection.getsockname()[1] == port:
            return connection
    connection.close()
    return None


def _received(connection: sockets.socket) -> int:
    """The bytes that a TCP connection received; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    try:
        info = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _INFO_BYTES)
    except OSError:
        return 0
    return int(struct.unpack_from("Q", info, _RECEIVED_AT)[0]) if len(info) >= _RECEIVED_AT + 8 else 0


def _most_connections() -> int:
    """How many connections one socket may have."""
    try:
        import resource
    except ImportError:
        return _CONNECTIONS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _CONNECTIONS if files == resource.RLIM_INFINITY else min(_CONNECTIONS, files // _SHARE_OF_FILES)
