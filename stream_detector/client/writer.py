"""Writes to a detector over its recovery socket, and looks up alarms there by the beginning of their id."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import zmq

from stream_detector.client.recovery_client import REQUEST_S, ClientKeys, connect, milliseconds
from stream_detector.errors import AccessError, EndpointError, ProtocolError, UsageError
from stream_detector.events import protocol
from stream_detector.events.endpoint import recovery_endpoint
from stream_detector.events.protocol_checks import decode_object
from stream_detector.types import Clock, SystemClock

TRIES = 5
_PAGES = 10_000  # replies of one look-up; a journal holds fewer
REFUSED = "you may read but not write"  # how the refusal of a write begins


@dataclass(frozen=True, slots=True)
class FoundAlarm:
    """An alarm of the journal. epoch: of its `start`."""

    id: str
    epoch: str
    camera: str
    start_utc: str


class Writer:
    """One DEALER socket; a context manager. endpoint: of the events.  keys: of CURVE; the key must be a writer's.

    Raises EndpointError.
    """

    def __init__(self, endpoint: str, keys: ClientKeys | None = None, clock: Clock | None = None) -> None:
        self._endpoint = recovery_endpoint(endpoint)
        self._keys, self._clock = keys, clock or SystemClock()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close(0)
        self._socket = None
        self._context.term()

    def write(self, value: dict[str, Any]) -> dict[str, Any]:
        """Send one write (see `events.writes`); returns the journalled body.

        It is sent once: after a time-out nobody knows whether it was journalled. Raises AccessError if this client may
        not write, ProtocolError for a refusal, EndpointError if no answer comes.
        """
        reply = self._ask({"write": value}, tries=1, wait_s=TRIES * REQUEST_S)
        written = reply.get("written")
        if not isinstance(written, dict):
            raise ProtocolError(f"the answer of {self._endpoint} holds no 'written'; update the detector")
        return written

    def find_alarms(self, beginning: str) -> list[FoundAlarm]:
        """Alarms whose id begins so, oldest first, a run of a file that repeats an id again."""
        cameras = self._ask({"snapshot": ["v1/alarm/"]})
        topics = cameras.get("last")
        found: list[FoundAlarm] = []
        for topic in topics if isinstance(topics, dict) else ():
            found += self._alarms_of(str(topic), beginning)
        return found

    def _alarms_of(self, topic: str, beginning: str) -> list[FoundAlarm]:
        epoch, seq = protocol.FIRST_EPOCH, 0
        found: list[FoundAlarm] = []
        for _ in range(_PAGES):
            reply = protocol.decode_reply(protocol.encode(self._ask({"from": {topic: seq}, "epoch": epoch})))
            for message in reply.events:
                body = message.body
                if body.get("type") == "start" and str(body.get("id")).startswith(beginning):
                    found.append(FoundAlarm(str(body["id"]), message.epoch, message.camera, str(body.get("start_utc"))))
            if not reply.more or not reply.events:
                break
            epoch, seq = reply.events[-1].epoch, reply.events[-1].seq
        return found

    def _ask(self, body: dict[str, object], tries: int = TRIES, wait_s: float = REQUEST_S) -> dict[str, Any]:
        for _ in range(tries):
            name = secrets.token_hex(8)
            if self._socket is None:
                self._socket = connect(self._context, zmq.DEALER, self._endpoint, self._keys)
            try:
                self._socket.send(protocol.encode({"request": name, **body}), zmq.NOBLOCK)
            except zmq.ZMQError:
                pass
            else:
                until_s = self._clock.monotonic() + wait_s
                while self._socket.poll(milliseconds(until_s - self._clock.monotonic())):
                    data = self._socket.recv_multipart(zmq.NOBLOCK)[-1]
                    reply = decode_object(data, protocol.MAX_REPLY_BYTES, "reply")
                    if reply.get("error"):
                        error = str(reply["error"])[:500]
                        raise AccessError(error) if error.startswith(REFUSED) else ProtocolError(error)
                    if reply.get("request") == name:
                        return reply
            self._socket.close(0)
            self._socket = None
        raise EndpointError(f"no answer from {self._endpoint}; is the detector running, and is your key admitted?")


def one_alarm(found: list[FoundAlarm], wanted: str) -> FoundAlarm:
    """The newest alarm of the one id that begins as `wanted`. Raises UsageError for none and for several ids."""
    ids = sorted({alarm.id for alarm in found})
    if not ids:
        raise UsageError(f"no alarm has an id that begins with {wanted!r}; `subscribe --from-start` lists them")
    if len(ids) > 1:
        shown = ", ".join(ids[:5])
        raise UsageError(f"{len(ids)} alarms have an id that begins with {wanted!r} ({shown} …); give more of it")
    return found[-1]
