"""The publisher: journal first, then the event file, then the sockets.

    XPUB    binds; events out, subscriptions in (a new one is greeted with a snapshot marked `"replayed": true`)
    ROUTER  on port + 1; `recovery.Answerer` answers what was missed
    PAIRs   socket monitors: refused handshakes are logged

One thread owns a Publisher: it makes every call, and calls `service` often (every 20–50 ms). Nothing here blocks: a
subscriber that does not read loses messages beyond the high-water mark (see `overflows`), and fetches them again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from stream_detector import curve, endpoint, wire
from stream_detector.config import PublishConfig
from stream_detector.errors import EndpointError, ProtocolError
from stream_detector.eventfile import EventFile
from stream_detector.lockfile import LockFile
from stream_detector.ratelimit import RateLimit
from stream_detector.recovery import Answerer, Journal, ScoreRing
from stream_detector.types import AlarmEvent, CameraStatus, Clock, Decision

log = logging.getLogger(__name__)

SNAPSHOT_INTERVAL_S = 0.25  # a topic is replayed at most so often, however many subscribe
_SUBSCRIPTIONS_A_CALL = 256
_REQUESTS_A_CALL = 8
_SERVICE_BUDGET_S = 0.02  # beyond this, requests wait for the next call
_RECOVERY_SHARE = 0.2  # of the thread's time, at most: a flood of requests must not slow the decisions
_CHEAP_S = 0.0002
_PEER_BYTES = wire.MAX_REQUEST_BYTES  # largest message a peer may send; ZeroMQ cuts off whoever sends more
_LOG_INTERVAL_S = 10.0  # refused handshakes are counted, and told at most so often
_MONITORED = (
    zmq.Event.HANDSHAKE_FAILED_AUTH | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)


class Publisher:
    """Implements `types.EventSink`; see the module docstring.

    config: endpoint, keys, limits; bind "none" opens no socket.  ledger: an open `ledger.Ledger`, closed by its maker.
    events_path: the JSONL file, or None.  camera_names: cameras whose age of the last score the heartbeat tells.
    health: further entries of the heartbeat, called once per heartbeat.  name: under which it speaks of itself.
    score_seqs: topic → last seq sent in this epoch by the process that this one replaces.
    Raises EndpointError, ConfigError (keys) or UsageError (event file) here, before anything else is started. Alarms
    that an earlier process left open are ended here, with reason `restart`, unless `end_left_open` says that the caller
    will (some may go on).
    """

    def __init__(
        self,
        config: PublishConfig,
        ledger: Journal,
        *,
        clock: Clock,
        events_path: Path | None = None,
        camera_names: Sequence[str] = (),
        health: Callable[[], dict[str, Any]] | None = None,
        name: str = wire.DETECTOR,
        score_seqs: Mapping[str, int] | None = None,
        end_left_open: bool = True,
    ) -> None:
        self.endpoint = "none"
        self.recovery_endpoint = "none"
        self.overflows = 0  # times that a subscriber's queue was found full; it then loses until it reads again
        self.refused_handshakes = 0
        self._config, self._ledger, self._clock, self._health = config, ledger, clock, health
        self._name = name
        self._scores = ScoreRing(ledger.epoch, seqs=score_seqs)
        self._answerer = Answerer(ledger, self._scores, config.recovery_limit)
        self._rate = RateLimit()
        self._scored_s: dict[str, float | None] = dict.fromkeys(camera_names)
        self._trouble = ""
        self._heartbeats = 0
        self._heartbeat_at_s = clock.monotonic()
        self._snapshots: dict[bytes, None] = {}  # subscribed prefixes still to be greeted, as an ordered set
        self._snapshot_at_s = float("-inf")
        self._tell_refused_s = float("-inf")
        self._answer_again_s = float("-inf")
        self._closed = False
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._gatekeeper: curve.Gatekeeper | None = None
        self._monitors: list[zmq.Socket[bytes]] = []
        self._lock: LockFile | None = None
        self._file: EventFile | None = None
        try:
            if config.bind != "none":
                self._open()
            self._file = EventFile(events_path, self._tell) if events_path else None
            self._complete_file()
        except BaseException:
            self.close()
            raise
        if end_left_open:
            self.end_left_open(())

    # -- EventSink ----------------------------------------------------------------------------------------------

    def alarm(self, event: AlarmEvent) -> dict[str, Any]:
        """Journal, write down, send; returns the body as sent. Raises ProtocolError for a body JSON cannot hold."""
        emitted_utc = self._clock.utc() if event.emitted_utc is None else event.emitted_utc
        body = wire.alarm_to_dict(event, self._ledger.epoch, 0, emitted_utc)
        return self._journal_and_send(wire.topic_of("alarm", event.camera), body)

    def score(self, decision: Decision) -> None:
        """Send one score, and keep it for a while in memory."""
        camera = decision.score.ref.camera
        topic = wire.topic_of("score", camera)
        self._scored_s[camera] = self._clock.monotonic()
        seq = self._scores.next_seq(topic)
        emitted_utc = self._clock.utc() if decision.emitted_utc is None else decision.emitted_utc
        data = wire.encode(wire.score_to_dict(decision, self._ledger.epoch, seq, emitted_utc))
        self._scores.append(topic, seq, data.decode())
        self._send(topic, data)

    def status(self, status: CameraStatus) -> None:
        """Journal, then send a camera's status."""
        body = wire.status_to_dict(status, self._ledger.epoch, 0, self._clock.utc())
        self._journal_and_send(wire.topic_of("status", status.camera), body)

    def acknowledge(self, camera: str, alarm: str, note: str, by: str, alarm_epoch: str = "") -> dict[str, Any]:
        """Journal, then send on `v1/ack/<camera>/`, that somebody has seen an alarm; returns the body as sent.

        alarm_epoch: of the alarm's `start` (see `wire.ack_to_dict`).
        """
        body = wire.ack_to_dict(camera, alarm, note, by, self._ledger.epoch, 0, self._clock.utc(), alarm_epoch)
        return self._journal_and_send(wire.topic_of("ack", camera), body)

    def end_left_open(self, going_on: Container[str]) -> None:
        """End with reason `restart` what the journal holds open, except the alarms whose ids are given."""
        for alarm in self._ledger.open_alarms():
            if alarm.last["id"] not in going_on:
                self._journal_and_send(alarm.topic, wire.restart_end(alarm.last, self._clock.utc()))

    def service(self) -> None:
        """Answer requests and handshakes, greet new subscribers, send the heartbeat when due. Never blocks."""
        for text in self._ledger.take_troubles():
            self._tell(text)
        if self._context is None or self._closed:
            return
        if self._gatekeeper:
            self._gatekeeper.service()
        self._read_monitors()
        self._read_subscriptions()
        if self._snapshots and self._clock.monotonic() - self._snapshot_at_s >= SNAPSHOT_INTERVAL_S:
            self._greet()
        self._answer_requests()
        if self._clock.monotonic() >= self._heartbeat_at_s:
            self._heartbeat()

    def close(self) -> None:
        """A last heartbeat, then every socket and file, within `linger_ms`. Safe to call twice."""
        if self._closed:
            return
        if self._context is not None:
            with contextlib.suppress(Exception):  # best effort: closing goes on whatever the last heartbeat meets
                if self.endpoint != "none":
                    self._heartbeat()
            self._closed = True
            for socket, name in ((self._events, "events"), (self._recovery, "recovery")):
                with contextlib.suppress(zmq.ZMQError):
                    socket.disable_monitor()
                socket.close(self._config.linger_ms)
                log.debug("closed the %s socket", name)
            for monitor in self._monitors:
                monitor.close(0)
            if self._gatekeeper:
                self._gatekeeper.close()
            self._context.term()
        self._closed = True
        if self._lock:
            self._lock.release()
        if self._file:
            self._file.close()

    # -- sending ------------------------------------------------------------------------------------------------

    def _journal_and_send(self, topic: str, body: dict[str, Any]) -> dict[str, Any]:
        self._ledger.append(topic, body)
        data = self._ledger.last_text.encode()
        if self._file and topic.startswith("v1/alarm/"):
            self._file.write(data)
        self._send(topic, data)
        return body

    def _send(self, topic: str, data: bytes) -> None:
        if self._context is None or self._closed:
            return
        frames = (topic.encode(), data)
        try:
            self._events.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:  # a subscriber's queue is full: count it, and send to the others
            self.overflows += 1
            self._events.setsockopt(zmq.XPUB_NODROP, 0)
            try:
                self._events.send_multipart(frames, zmq.NOBLOCK)
            finally:
                self._events.setsockopt(zmq.XPUB_NODROP, 1)

    def _complete_file(self) -> None:
        """A process killed between journal and file left its last events out of the file: bring them in."""
        if self._file is None:
            return
        with contextlib.suppress(ProtocolError, TypeError):  # what is no event of ours is no reason to stop
            body = wire.decode_object(self._file.last_line(), wire.MAX_EVENT_BYTES, "line")
            last = wire.check_message(wire.topic_of("alarm", body.get("camera", "")), body)
            for text in self._ledger.rest(last.topic, last.epoch, last.seq, "v1/alarm/"):
                self._file.write(text.encode())

    def reopen_events(self) -> None:
        """Go on in a new event file of the same name. By the decision thread."""
        if self._file:
            self._file.reopen()

    def _tell(self, text: str) -> None:
        """Something is wrong with the detector itself: a loud status, and a line in every heartbeat from now on."""
        self._trouble = text
        body = {**wire.trouble_to_dict(text, self._ledger.epoch, 0, self._clock.utc()), "camera": self._name}
        self._journal_and_send(wire.topic_of("status", self._name), body)

    def _heartbeat(self) -> None:
        now_s = self._clock.monotonic()
        self._heartbeat_at_s = now_s + self._config.heartbeat_s
        self._heartbeats += 1
        body = {
            "schema": wire.HEARTBEAT_SCHEMA,
            "epoch": self._ledger.epoch,
            "seq": self._heartbeats,
            "emitted_utc": wire.rfc3339(self._clock.utc()),
            "interval_s": self._config.heartbeat_s,
            "last": {**self._ledger.last_seqs(), **self._scores.last_seqs()},
            "scored_age_s": {
                camera: None if at_s is None else round(now_s - at_s, 3) for camera, at_s in self._scored_s.items()
            },
            "overflows": self.overflows,
            "trouble": self._trouble or None,
            "health": self._health() if self._health else {},
        }
        self._send(wire.HEARTBEAT_TOPIC, wire.encode(body))

    # -- listening ----------------------------------------------------------------------------------------------

    def _read_subscriptions(self) -> None:
        for frame in _waiting(self._events, _SUBSCRIPTIONS_A_CALL):
            prefix = frame[0][1:]
            sane = len(frame) == 1 and len(prefix) <= wire.MAX_TOPIC_BYTES and prefix.isascii()
            if sane and frame[0][:1] == b"\x01" and len(self._snapshots) < _SUBSCRIPTIONS_A_CALL:
                self._snapshots[prefix] = None

    def _greet(self) -> None:
        """One snapshot for all who came since the last: everybody gets it, and drops by seq what they had."""
        self._snapshot_at_s = self._clock.monotonic()
        sent: set[tuple[str, int]] = set()
        for prefix in self._snapshots:
            for topic, body in self._answerer.replays(prefix.decode("ascii")):
                if (topic, body["seq"]) not in sent:
                    sent.add((topic, body["seq"]))
                    self._send(topic, wire.encode(body))
        self._snapshots.clear()

    def _answer_requests(self) -> None:
        begun_s = time.monotonic()  # real time: this guards the thread, it decides nothing
        if begun_s < self._answer_again_s:
            return
        self._answer_some(begun_s + _SERVICE_BUDGET_S)
        spent_s = time.monotonic() - begun_s
        self._answer_again_s = begun_s + spent_s / _RECOVERY_SHARE if spent_s > _CHEAP_S else begun_s

    def _answer_some(self, until_s: float) -> None:
        for frames in _waiting(self._recovery, _REQUESTS_A_CALL):
            if len(frames) not in (2, 3) or (len(frames) == 3 and frames[1]):
                continue  # neither DEALER nor REQ
            if self._rate.allow(frames[0], self._clock.monotonic()):
                reply = self._answerer.answer(frames[-1])
            else:
                reply = self._answerer.refusal("too many requests; wait a little", retry_after_s=1.0)
            with contextlib.suppress(zmq.Again):  # the peer does not read its replies
                self._recovery.send_multipart([*frames[:-1], reply], zmq.NOBLOCK)
            if time.monotonic() >= until_s:
                return

    def _read_monitors(self) -> None:
        for monitor in self._monitors:
            for frames in _waiting(monitor, 2000):
                event = parse_monitor_message(frames)
                self.refused_handshakes += 1
                if self._clock.monotonic() >= self._tell_refused_s:
                    self._tell_refused_s = self._clock.monotonic() + _LOG_INTERVAL_S
                    log.warning(
                        "refused a handshake at %s (%s); %d refused so far: wrong or missing key, or not ZeroMQ",
                        event["endpoint"].decode("ascii", "replace")[:80],
                        zmq.Event(event["event"]).name,
                        self.refused_handshakes,
                    )

    # -- opening ------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        config = self._config
        endpoint.check(config.bind, config.curve_secret is not None, config.insecure)
        pair = curve.load_pair(config.curve_secret) if config.curve_secret else None
        context = self._context = zmq.Context()
        self._events = context.socket(zmq.XPUB)
        self._recovery = context.socket(zmq.ROUTER)
        if pair and config.curve_clients:
            self._gatekeeper = curve.Gatekeeper(context, pair, config.curve_clients, self._clock)
        for socket in (self._events, self._recovery):
            socket.linger = config.linger_ms
            socket.maxmsgsize = _PEER_BYTES
            socket.handshake_ivl = 5000  # half-open connections end
            endpoint.keep_alive(socket)
            socket.sndhwm = config.high_water_mark
            socket.ipv6 = config.bind.startswith("tcp://[")
            if self._gatekeeper:
                self._gatekeeper.secure(socket)
            self._monitors.append(socket.get_monitor_socket(_MONITORED))
        self._events.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._events.setsockopt(zmq.XPUB_NODROP, 1)
        self._recovery.sndhwm = 2  # replies are large; who does not read them loses them
        self._recovery.rcvhwm = 64
        self.endpoint, self.recovery_endpoint, self._lock = _bind(self._events, self._recovery, config.bind)
        log.info("events at %s, recovery at %s", self.endpoint, self.recovery_endpoint)


def _bind(events: zmq.Socket[bytes], recovery: zmq.Socket[bytes], wanted: str) -> tuple[str, str, LockFile | None]:
    try:
        return endpoint.bind_pair(events, recovery, wanted)
    except zmq.ZMQError as error:
        raise EndpointError(f"endpoint {wanted!r} cannot be bound ({error.strerror}); choose another") from None


def _waiting(socket: zmq.Socket[bytes], limit: int) -> Iterator[list[bytes]]:
    """Up to `limit` messages that lie ready."""
    for _ in range(limit):
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
