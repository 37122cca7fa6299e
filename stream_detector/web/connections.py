"""Accepts, counts, times and closes the connections to the page, below HTTP.

    limit                           enforced by
    connections, in all and a peer  `ConnectionManager.admit`; when the limit is reached it closes the least active one:
                                    first a peer that does not read, then one without a request, then an idle one,
                                    never one that is being answered
    file descriptors                `ConnectionManager.admit`: the system assigns the lowest free number, so a high
                                    number means that few are left, and these are reserved for the cameras
    TLS handshake, TLS shutdown     asyncio, HANDSHAKE_S and FAREWELL_S
    head of a request               `Connection`, middleware.REQUEST_S; its body: `middleware.read_json`
    pause between two requests      uvicorn, IDLE_S
    data that a peer does not read  `ConnectionManager.sweep`, WRITE_S; also on a connection that is closing, which
                                    otherwise would never end

uvicorn has no limit for one peer, no time-out of its own for the handshake, and none for writing. Therefore
`ConnectionManager` accepts with asyncio's public `connect_accepted_socket`, and uvicorn has no listening socket.
`Connection` derives from uvicorn's H11Protocol, which is not documented as public, because no public API limits the
time for the head of a request. pyproject.toml pins the tested versions, and a test checks the attributes used.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from stream_detector.system.rate_limit import RateLimiter
from stream_detector.web import middleware

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 600
ARRIVAL_RATE, ARRIVAL_BURST = 100.0, 1000.0  # connections of one peer
HANDSHAKE_S = 5.0
FAREWELL_S = 10.0
IDLE_S = 15.0
WRITE_S = 20.0  # seconds; a peer that takes nothing for this long is disconnected; a slow one has taken 48 KiB by then
GRACE_S = 2.0  # seconds; a peer that connected or stopped reading more recently is not yet the first to go
SWEEP_S = 0.5
SLICE = 8 << 10  # bytes passed to HTTP in one call, so that its limit for a head always applies
RESERVED, RESERVED_A_CAMERA = 128, 8  # descriptors
MIN_CONNECTIONS = 16
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of connections. highest: descriptors of this number or above belong to the reserve."""

    most: int
    most_a_peer: int
    highest: int


def connection_limits(cameras: int, descriptors: int | None = None) -> ConnectionLimits:
    """Return the connections that the limit on open files (`ulimit -n`; None: ask the system) leaves besides the
    cameras.
    """
    if descriptors is None:
        descriptors = _descriptors()
    reserve = min(descriptors * 3 // 4, RESERVED + RESERVED_A_CAMERA * cameras)
    most = max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, (descriptors - reserve) // 2))
    return ConnectionLimits(most, max(MIN_CONNECTIONS // 2, most // 2), descriptors - reserve)


def _descriptors() -> int:
    try:
        import resource
    except ModuleNotFoundError:  # not POSIX: sockets are not numbered like files there
        return 1 << 30
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 30 if soft in (resource.RLIM_INFINITY, -1) else soft


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, with a deadline for every request's head, and a record of its activity.

    uvicorn limits the pause between two requests, but waits for ever for the first request and for an incomplete head.
    """

    _deadline: asyncio.TimerHandle | None = None
    on_lost: Callable[[], None] | None = None
    since_s = 0.0  # the time of the present state
    progress_s = 0.0  # when the peer last took data, or had none to take
    unread = 0  # bytes that waited for the peer at the last `look`

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self.since_s = self.progress_s = self.loop.time()
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Stop the clock while a request is being answered."""
        for first in range(0, len(data), SLICE):
            if self.transport.is_closing():
                return
            super().data_received(data[first : first + SLICE])
        if self.busy:
            self._stop_clock()
        elif self._deadline is None:
            self._start_clock()

    def on_response_complete(self) -> None:
        """Mark the connection as idle, unless the next request is already waiting."""
        self.since_s = self.loop.time()
        super().on_response_complete()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self.progress_s = self.loop.time()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clear the clocks."""
        self._stop_clock()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def asking(self) -> bool:
        """Whether the peer still has to send a complete head."""
        return self._deadline is not None

    def look(self, now_s: float) -> float:
        """Return for how long the peer has taken none of its waiting data, in seconds."""
        unread = self.transport.get_write_buffer_size()
        closing = self.transport.is_closing()
        if unread < self.unread or (not unread and not closing):
            self.progress_s = now_s
        self.unread = unread
        return now_s - self.progress_s

    def _start_clock(self) -> None:
        self._stop_clock()
        self._deadline = self.loop.call_later(middleware.REQUEST_S, self._overdue)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _overdue(self) -> None:
        self._deadline = None
        if not self.busy:
            self.transport.close()


@dataclass(eq=False, slots=True)
class _Held:
    """One connection since its acceptance. came_s: by the loop's clock.  protocol: None until the TLS handshake is
    done.
    """

    peer: str
    came_s: float
    task: asyncio.Task[None] | None = None
    protocol: Connection | None = None

    def rank(self, now_s: float) -> tuple[int, float]:
        """Return (level of activity: 0 least, 4 working; since when)."""
        found = self.protocol
        if found is None or found.transport is None:
            return (1 if now_s - self.came_s > GRACE_S else 3), self.came_s
        quiet_s = found.look(now_s)
        if quiet_s > GRACE_S or found.transport.is_closing():
            return 0, now_s - quiet_s
        if found.busy:
            return 4, found.since_s
        if found.asking and now_s - found.since_s > GRACE_S:
            return 1, found.since_s
        return (3 if found.asking else 2), found.since_s

    def let_go(self) -> None:
        """Close it immediately, without sending the rest."""
        if self.protocol is not None and self.protocol.transport is not None:
            self.protocol.transport.abort()
        elif self.task is not None:
            self.task.cancel()


@dataclass(eq=False)
class ConnectionManager:
    """Accepts connections on `listener` for the protocols of `make` until `close`. context: of TLS, or None."""

    listener: socket.socket
    make: Callable[[], Connection]
    context: ssl.SSLContext | None
    room: ConnectionLimits
    refused: int = 0
    _held: dict[str, set[_Held]] = field(default_factory=dict)
    _count: int = 0
    _arrivals: RateLimiter = field(default_factory=lambda: RateLimiter(ARRIVAL_RATE, ARRIVAL_BURST, middleware.PEERS))

    async def run(self) -> None:
        """Accept connections, and sweep, until cancelled."""
        self.listener.setblocking(False)
        loop = asyncio.get_running_loop()
        sweeping = asyncio.create_task(self._sweep_often())
        try:
            while True:
                try:
                    accepted, address = await loop.sock_accept(self.listener)
                except OSError as error:
                    if error.errno in _NO_ROOM:  # accepting again immediately would loop
                        self._make_room(self._everyone(), loop.time())
                        await asyncio.sleep(SWEEP_S)
                    else:
                        await asyncio.sleep(0)  # the peer disconnected before it was accepted
                    continue
                self._greet(accepted, str(address[0]), loop)
        finally:
            sweeping.cancel()

    def close(self) -> None:
        """Close all connections."""
        for held in list(self._everyone()):
            held.let_go()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return self._count

    def admit(self, peer: str, descriptor: int, now_s: float) -> bool:
        """Return whether a connection of `peer` may stay; another one may be closed for it."""
        if not self._arrivals.allow(peer, now_s):
            return False
        if descriptor >= self.room.highest:
            self._make_room(self._everyone(), now_s)  # so that the next one finds room
            return False
        own = self._held.get(peer, ())
        if len(own) >= self.room.most_a_peer:
            return self._make_room(own, now_s)
        if self._count < self.room.most:
            return True
        largest = max(self._held.values(), key=len)
        fair = self.room.most // max(1, len(self._held))
        return self._make_room(largest, now_s) or (len(largest) > max(fair, len(own)) and self._push_out(largest))

    def sweep(self, now_s: float) -> None:
        """Close every connection whose peer has taken nothing for WRITE_S."""
        for held in list(self._everyone()):
            found = held.protocol
            if found is not None and found.transport is not None and found.look(now_s) > WRITE_S:
                held.let_go()

    async def _sweep_often(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep(loop.time())

    def _everyone(self) -> Iterable[_Held]:
        return (held for own in self._held.values() for held in own)

    def _make_room(self, among: Iterable[_Held], now_s: float) -> bool:
        """Close the least active connection; return False if all are working."""
        ranked = [(held.rank(now_s), held) for held in among]
        (rank, _), found = min(ranked, key=lambda entry: entry[0], default=((4, 0.0), None))
        if found is None or rank >= 4:
            return False
        self._forget(found)
        found.let_go()
        return True

    def _push_out(self, among: Iterable[_Held]) -> bool:
        """Close the oldest connection of a peer with more than its share of all connections."""
        found = min(among, key=lambda held: held.came_s)
        self._forget(found)
        found.let_go()
        return True

    def _greet(self, accepted: socket.socket, address: str, loop: asyncio.AbstractEventLoop) -> None:
        peer = middleware.peer_of(address)
        if not self.admit(peer, accepted.fileno(), loop.time()):
            self.refused += 1
            accepted.close()
            return
        held = _Held(peer, loop.time())
        self._held.setdefault(peer, set()).add(held)
        self._count += 1
        held.task = loop.create_task(self._open(accepted, held, loop))
        held.task.add_done_callback(lambda done: self._opened(done, accepted, held))

    async def _open(self, accepted: socket.socket, held: _Held, loop: asyncio.AbstractEventLoop) -> None:
        protocol = self.make()
        protocol.on_lost = lambda: self._forget(held)
        tls = self.context is not None  # asyncio accepts the time-outs of TLS only with a context
        accepted.setblocking(False)
        await loop.connect_accepted_socket(
            lambda: protocol,
            accepted,
            ssl=self.context,
            ssl_handshake_timeout=HANDSHAKE_S if tls else None,
            ssl_shutdown_timeout=FAREWELL_S if tls else None,
        )
        held.protocol = protocol

    def _opened(self, done: asyncio.Task[None], accepted: socket.socket, held: _Held) -> None:
        """Clean up after a connection that was closed for another one, did not speak TLS, or was too slow."""
        error = None if done.cancelled() else done.exception()
        if not done.cancelled() and error is None:
            return
        if error is not None and not isinstance(error, OSError):
            log.error("a connection to the page failed (%s: %s)", type(error).__name__, error)
        self._forget(held)
        with contextlib.suppress(OSError):
            accepted.close()

    def _forget(self, held: _Held) -> None:
        own = self._held.get(held.peer)
        if own is None or held not in own:
            return
        own.discard(held)
        self._count -= 1
        if not own:
            del self._held[held.peer]
