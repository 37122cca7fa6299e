"""The client of the recovery socket: one request at a time, with a time-out."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import zmq

from stream_detector.errors import EndpointError, ProtocolError
from stream_detector.events import protocol
from stream_detector.events.curve import KeyPair
from stream_detector.events.endpoint import keep_alive
from stream_detector.types import Clock

REQUEST_S = 1.0  # seconds; time-out of one attempt of one request


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """CURVE keys of a client: its own key pair, and the server's public key."""

    pair: KeyPair
    server: bytes


@dataclass(frozen=True, slots=True)
class _Pending:
    name: str
    topics: tuple[str, ...]
    sent_s: float


def connect(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, endpoint: str, keys: ClientKeys | None
) -> zmq.Socket[bytes]:
    """Return a connected client socket with bounded message sizes and linger 0. Raises EndpointError."""
    socket = context.socket(kind)
    socket.linger = 0
    socket.maxmsgsize = protocol.MAX_REPLY_BYTES
    socket.reconnect_ivl = 50
    socket.reconnect_ivl_max = 1000
    keep_alive(socket)
    socket.ipv6 = "[" in endpoint
    if keys:
        socket.curve_publickey, socket.curve_secretkey = keys.pair.public, keys.pair.secret
        socket.curve_serverkey = keys.server
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        raise EndpointError(f"endpoint {endpoint!r} cannot be used ({error.strerror}); check it") from None
    return socket


def milliseconds(seconds: float) -> int:
    """Convert to milliseconds for `poll`: never negative, and a positive time is at least 1 ms."""
    return max(0, math.ceil(seconds * 1000))


class RecoveryClient:
    """Owns one DEALER socket and replaces it after every failure, so that no late reply answers a later request."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: ClientKeys | None, clock: Clock
    ) -> None:
        self.endpoint = endpoint
        self._context, self._keys, self._clock = context, keys, clock
        self._socket: zmq.Socket[bytes] | None = None
        self._pending: _Pending | None = None

    @property
    def waiting(self) -> bool:
        """Whether a request waits for its reply."""
        return self._pending is not None

    def send(self, body: dict[str, object], topics: tuple[str, ...]) -> None:
        """Send a request about `topics` (empty: a snapshot). Raises ProtocolError if it cannot be sent."""
        name = secrets.token_hex(8)
        if self._socket is None:
            self._socket = connect(self._context, zmq.DEALER, self.endpoint, self._keys)
        self._pending = _Pending(name, topics, self._clock.monotonic())
        try:
            self._socket.send(protocol.encode({"request": name, **body}), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise ProtocolError(
                f"the recovery socket accepted no request ({error.strerror}); it will be repeated"
            ) from None

    def receive(self, wait_s: float) -> tuple[protocol.Reply, tuple[str, ...]] | None:
        """Return (reply, the requested topics), or None if no reply has arrived. Raises ProtocolError for a bad or late
        reply.
        """
        pending, socket = self._pending, self._socket
        if pending is None or socket is None:
            return None
        until_s = self._clock.monotonic() + wait_s
        while socket.poll(milliseconds(until_s - self._clock.monotonic())):
            reply = protocol.decode_reply(socket.recv_multipart(zmq.NOBLOCK)[-1])
            if reply.request in (pending.name, ""):  # a refusal does not name its request
                self._pending = None
                return reply, pending.topics
        if self._clock.monotonic() - pending.sent_s >= REQUEST_S:
            raise ProtocolError(f"no answer from {self.endpoint} in {REQUEST_S:g} s; the request is repeated")
        return None

    def reset(self) -> None:
        """Drop the current request and its socket."""
        if self._socket is not None:
            self._socket.close(0)
        self._socket = self._pending = None
