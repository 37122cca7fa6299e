"""The recovery socket: reads requests, queues them fairly, and answers them within a time budget.

A peer that does not read its replies costs no time: after a reply that cannot be sent, its requests stay unanswered for
a quarter of a second, then for twice as long, up to a minute. Other peers are served in the order of `fair_queue`, each
with a limited number of requests a second (`rate_limit`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator

import zmq

from stream_detector.events.curve import WRITER
from stream_detector.events.fair_queue import FairQueue
from stream_detector.events.recovery_server import RecoveryServer
from stream_detector.system.rate_limit import RateLimiter
from stream_detector.types import Clock

_READ_AT_ONCE = 256
_BACKOFF_S, _MAX_BACKOFF_S = 0.25, 60.0
_BACKOFF_PEERS = 2000
_LEARN = 0.1


class RecoverySocket:
    """Serves one socket. socket: a bound ROUTER, not owned.  clock: for the limits of peers; the duration of work uses
    real time.

    local_author: the author of writes of peers that have no key; "" where such peers may not write.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], answerer: RecoveryServer, clock: Clock, local_author: str = ""
    ) -> None:
        self._socket, self._server, self._clock = socket, answerer, clock
        self._local_author = local_author
        self._rate = RateLimiter()
        self._refusals = RateLimiter(rate=2.0, burst=20.0)  # refusals take time as well
        self._queue: FairQueue[tuple[str, list[bytes]]] = FairQueue()  # (author, frames)
        self._costs = {"snapshot": 0.001, "from": 0.0002, "write": 0.0005}  # seconds, usually
        self._backoff: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # peer → (until, for how long)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # raises an error if a reply cannot be sent

    def serve(self, until_s: float) -> None:
        """Read and answer requests until none is left or `time.monotonic()` reaches `until_s`."""
        now_s = time.monotonic()
        enough_s = now_s + (until_s - now_s) / 2  # a flood must leave time for replies
        for author, frames in self._receive():
            # otherwise the peer is neither DEALER nor REQ
            if len(frames) in (2, 3) and (len(frames) == 2 or not frames[1]):
                self._take(author, frames)
            if time.monotonic() >= enough_s:
                break
        while True:
            begun_s = time.monotonic()
            taken = self._queue.take() if begun_s < until_s else None
            if taken is None:
                return
            peer, (author, frames) = taken
            if not self._is_backing_off(peer):
                self._send(frames, self._server.answer(frames[-1], author))
            spent_s, kind = time.monotonic() - begun_s, _kind(frames[-1])
            self._costs[kind] += _LEARN * (spent_s - self._costs[kind])
            self._queue.spent(peer, spent_s)

    def _receive(self) -> Iterator[tuple[str, list[bytes]]]:
        """(author, frames) of messages that can be received without waiting; author: "" where the peer may not write.

        The author is that of the message: a peer chooses its identity, and may take that of another one later.
        """
        for _ in range(_READ_AT_ONCE):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            user = _user_of(frames[-1])
            author = f"key:{user.removeprefix(WRITER)}" if user.startswith(WRITER) else self._local_author
            yield author, [frame.bytes for frame in frames]

    def _take(self, author: str, frames: list[bytes]) -> None:
        peer, refusal = frames[0], ""
        if self._is_backing_off(peer):
            return
        if not self._rate.allow(peer, self._clock.monotonic()):
            refusal = "too many requests; wait a little"
        elif not self._queue.put(peer, (author, frames), sum(map(len, frames)), self._costs[_kind(frames[-1])]):
            refusal = "too many requests wait for an answer; wait a little"
        if refusal and self._refusals.allow(peer, self._clock.monotonic()):
            self._send(frames, self._server.refusal(refusal, retry_after_s=1.0))

    def _is_backing_off(self, peer: bytes) -> bool:
        known = self._backoff.get(peer)
        return known is not None and self._clock.monotonic() < known[0]

    def _send(self, frames: list[bytes], reply: bytes) -> None:
        peer = frames[0]
        try:
            self._socket.send_multipart([*frames[:-1], reply], zmq.NOBLOCK)
        except zmq.Again:
            _, before_s = self._backoff.pop(peer, (0.0, _BACKOFF_S / 2))
            wait_s = min(_MAX_BACKOFF_S, 2 * before_s)
            self._backoff[peer] = (self._clock.monotonic() + wait_s, wait_s)
            if len(self._backoff) > _BACKOFF_PEERS:
                self._backoff.popitem(last=False)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:  # otherwise the peer has disconnected
                raise
        else:
            self._backoff.pop(peer, None)


def _user_of(frame: zmq.Frame) -> str:
    """The name of the key that CURVE knows the sender by; "" without CURVE."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


def _kind(request: bytes) -> str:
    return "snapshot" if b'"snapshot"' in request else "write" if b'"write"' in request else "from"


def receive_ready(socket: zmq.Socket[bytes], limit: int) -> Iterator[list[bytes]]:
    """Return up to `limit` messages that can be received without waiting."""
    for _ in range(limit):
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
