"""One endpoint for subscribers, independent of the number of shards and of their restarts.

    shards' XPUB ─▶ XSUB │ XPUB ─▶ subscribers        messages pass unchanged; subscriptions pass back
    shards' ROUTER ◀─ DEALERs │ ROUTER ◀─ subscribers  a request goes to the shards that it concerns, see `merge`

All shards number events in the same epoch, that of the run, so subscribers see one detector. The forwarder stores
nothing: an event lost here (a full queue, a shard that dies) is a gap in `seq`, and the subscriber recovers it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import zmq

from stream_detector.cluster import merge
from stream_detector.config import PublishConfig
from stream_detector.errors import EndpointError, ProtocolError
from stream_detector.events import curve, endpoint
from stream_detector.events.connection_guard import ConnectionGuard
from stream_detector.events.protocol import MAX_REPLY_BYTES, MAX_REQUEST_BYTES, MAX_TOPIC_BYTES, Request, decode_request
from stream_detector.system.lock_file import LockFile
from stream_detector.system.rate_limit import RateLimiter
from stream_detector.types import Clock, SystemClock

log = logging.getLogger(__name__)

POLL_MS = 20
LAST_MS = 200  # seconds at the end, because the last events of a closed shard may still be on their way
ANSWER_S = 0.8  # seconds; a shard that does not answer in this time is absent; subscribers ask again after a second
_MESSAGES_A_ROUND = 500
_MAX_PENDING = 1000


@dataclass(slots=True)
class _Question:
    peer: list[bytes]
    request: Request
    asked: tuple[int, ...]
    until_s: float
    replies: dict[int, dict[str, Any]] = field(default_factory=dict)


class Forwarder:
    """Forwards events and recovery requests.

    config: bind address, keys and limits of the public endpoint; with bind "none" nothing is forwarded.  epoch: of the
    run. Raises EndpointError or ConfigError (keys).  Any thread may call `connect`, also again for a restarted shard.
    """

    def __init__(self, config: PublishConfig, shards: int, epoch: str, clock: Clock | None = None) -> None:
        self.endpoint = self.recovery_endpoint = "none"
        self.overflows = self.forwarded = 0
        self._config, self._shards, self._epoch = config, shards, epoch
        self._clock = clock or SystemClock()
        self._rate = RateLimiter()
        self._wanted: queue.Queue[tuple[int, str]] = queue.Queue()
        self._connected: dict[int, str] = {}
        self._questions: dict[str, _Question] = {}
        self._tokens = 0
        self._lock: LockFile | None = None
        self._authenticator: curve.CurveAuthenticator | None = None
        self._guard = ConnectionGuard(self._clock)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        if config.bind == "none":
            return
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._open()
        except BaseException:
            self._context.destroy(0)
            raise
        self._thread = threading.Thread(target=self._work, name="forwarder", daemon=True)
        self._thread.start()

    def connect(self, shard: int, at: str) -> None:
        """Read shard number `shard` at this endpoint from now on."""
        self._wanted.put((shard, at))

    def close(self) -> None:
        """Send the messages that have arrived, within the linger time, and close. Safe to call twice."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(10.0)
            self._thread = None

    # -- its thread -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        config, context = self._config, self._context
        endpoint.check(config.bind, config.curve_secret is not None, config.insecure)
        self._xsub, self._dealers = context.socket(zmq.XSUB), [context.socket(zmq.DEALER) for _ in range(self._shards)]
        self._xsub.rcvhwm = 0  # no message may be lost between two own sockets while this thread lives
        for socket in (self._xsub, *self._dealers):
            socket.linger = 0
        for dealer in self._dealers:
            dealer.maxmsgsize = MAX_REPLY_BYTES
        self._xpub, self._router = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
        if config.curve_secret and config.curve_clients:
            pair = curve.load_pair(config.curve_secret)
            self._authenticator = curve.CurveAuthenticator(context, pair, config.curve_clients, self._clock)
        for socket in (self._xpub, self._router):
            socket.linger = config.linger_ms
            socket.handshake_ivl = 5000
            endpoint.keep_alive(socket)
            socket.sndhwm = config.high_water_mark
            socket.ipv6 = config.bind.startswith("tcp://[")
            if self._authenticator:
                self._authenticator.secure(socket)
            self._guard.watch(socket, limit_bytes=socket is self._xpub)
        endpoint.limit_prefixes(self._xpub)
        self._xpub.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._xpub.setsockopt(zmq.XPUB_NODROP, 1)
        self._router.maxmsgsize = MAX_REQUEST_BYTES
        self._router.sndhwm = 2
        self._router.rcvhwm = 64
        try:
            self.endpoint, self.recovery_endpoint, self._lock = endpoint.bind_pair(
                self._xpub, self._router, config.bind
            )
        except zmq.ZMQError as error:
            raise EndpointError(
                f"endpoint {config.bind!r} cannot be bound ({error.strerror}); choose another"
            ) from None
        self._guard.start()

    def _work(self) -> None:
        poller = zmq.Poller()
        for socket in (self._xsub, self._xpub, self._router, *self._dealers):
            poller.register(socket, zmq.POLLIN)
        while not self._over.is_set():
            poller.poll(POLL_MS)
            try:
                self._round()
            except Exception:  # one malformed message must not silence all cameras
                log.exception("the forwarder ignored an error")
        with contextlib.suppress(Exception):
            while self._xsub.poll(LAST_MS):
                self._forward()
        for socket in (self._xsub, *self._dealers):
            socket.close(0)
        for socket in (self._xpub, self._router):
            with contextlib.suppress(zmq.ZMQError):
                socket.disable_monitor()
            socket.close(self._config.linger_ms)
        self._guard.close()
        if self._authenticator:
            self._authenticator.close()
        self._context.term()
        if self._lock:
            self._lock.release()

    def _round(self) -> None:
        while not self._wanted.empty():
            self._reconnect(*self._wanted.get())
        if self._authenticator:
            self._authenticator.service()
        for (frame,) in (f for f in _waiting(self._xpub, _MESSAGES_A_ROUND) if len(f) == 1):
            if frame[:1] in (b"\0", b"\1") and len(frame) <= MAX_TOPIC_BYTES + 1 and frame[1:].isascii():
                self._xsub.send(frame)
        self._forward()
        for frames in _waiting(self._router, 32):
            self._ask(frames)
        for shard, dealer in enumerate(self._dealers):
            for frames in _waiting(dealer, 32):
                self._answered(shard, frames[-1])
        now_s = self._clock.monotonic()
        for token in [t for t, question in self._questions.items() if question.until_s <= now_s]:
            question = self._questions.pop(token)
            self._reply(
                question.peer, merge.refusal(self._epoch, "a shard of the detector is restarting; ask again", 0.3)
            )

    def _reconnect(self, shard: int, at: str) -> None:
        before = self._connected.pop(shard, None)
        for socket, where in ((self._xsub, lambda e: e), (self._dealers[shard], endpoint.recovery_endpoint)):
            if before is not None:
                with contextlib.suppress(zmq.ZMQError):
                    socket.disconnect(where(before))
            socket.connect(where(at))
        self._connected[shard] = at

    def _forward(self) -> None:
        for frames in _waiting(self._xsub, _MESSAGES_A_ROUND):
            self.forwarded += 1
            if not endpoint.send_or_drop(self._xpub, frames):
                self.overflows += 1

    def _ask(self, frames: list[bytes]) -> None:
        if len(frames) not in (2, 3) or (len(frames) == 3 and frames[1]):
            return  # neither DEALER nor REQ
        now_s = self._clock.monotonic()
        if not self._rate.allow(frames[0], now_s) or len(self._questions) >= _MAX_PENDING:
            self._reply(frames[:-1], merge.refusal(self._epoch, "too many requests; wait a little", 1.0))
            return
        try:
            request = decode_request(frames[-1])
            self._tokens += 1
            token = str(self._tokens)
            parts = merge.split(request, token, self._shards)
        except ProtocolError as error:
            self._reply(frames[:-1], merge.refusal(self._epoch, str(error)))
            return
        self._questions[token] = _Question(frames[:-1], request, tuple(parts), now_s + ANSWER_S)
        for shard, data in parts.items():
            with contextlib.suppress(zmq.Again):  # not connected: the request is refused when its time is over
                self._dealers[shard].send(data, zmq.NOBLOCK)

    def _answered(self, shard: int, data: bytes) -> None:
        reply = json.loads(data)
        token = str(reply.get("request", ""))
        if not token:  # a refusal does not name its request: it is applied to the oldest one, which is asked again
            token = next((t for t, q in self._questions.items() if shard in q.asked and shard not in q.replies), "")
        question = self._questions.get(token)
        if question is None:
            return
        question.replies[shard] = reply
        if len(question.replies) == len(question.asked):
            del self._questions[token]
            replies = [question.replies[number] for number in question.asked]
            self._reply(question.peer, merge.join(question.request, self._epoch, replies))

    def _reply(self, peer: list[bytes], data: bytes) -> None:
        with contextlib.suppress(zmq.Again):  # the peer does not read its replies
            self._router.send_multipart([*peer, data], zmq.NOBLOCK)


def _waiting(socket: zmq.Socket[bytes], limit: int) -> Iterator[list[bytes]]:
    """Return up to `limit` messages that are ready."""
    for _ in range(limit):
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
