"""The publisher: journal first, then the event file, then the sockets.

    XPUB    binds; events out, subscriptions in (a new one is greeted with a snapshot marked `"replayed": true`)
    ROUTER  on port + 1; `answering.RecoverySocket` answers what was missed
    PAIRs   socket monitors, read by the thread of `connection_guard`, which also bounds what subscribers ask for

One thread owns a Publisher: it makes every call, and calls `service` often (every 20–50 ms). Only `close` may come from
another one: it waits CLOSE_WAIT_S for a call to end, and otherwise leaves everything open. No call blocks: a
subscriber that does not read loses messages beyond the high-water mark (see `overflows`) and can fetch them again.
Requests of peers get a bounded share of the thread's time, independent of their number and content.

While the journal is not on disk, events are still sent, marked `unjournalled`. The ends of alarms that earlier runs
left open wait until a run can write them to the journal, so that each is sent exactly once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import zmq

from stream_detector.config import PublishConfig
from stream_detector.errors import EndpointError
from stream_detector.events import curve, endpoint, jsonl_completion, protocol, recovery_server
from stream_detector.events.connection_guard import ConnectionGuard
from stream_detector.events.current_state import CurrentState, StateReplayer
from stream_detector.events.jsonl_file import EventFile
from stream_detector.events.open_alarms import OpenAlarm
from stream_detector.events.recovery_server import RecoveryServer, ScoreRing
from stream_detector.events.recovery_service import RecoverySocket, receive_ready
from stream_detector.events.write_side import LOCAL_AUTHOR, WriteSide
from stream_detector.system.lock_file import LockFile
from stream_detector.types import AlarmEvent, CameraStatus, Clock, Decision

log = logging.getLogger(__name__)

_SUBSCRIPTIONS_A_CALL = 256
_PEERS_S = 0.02  # requests handled in one call; further requests wait
_PEERS_SHARE = 0.2  # fraction of the thread's time, at most: a flood of requests must not delay the decisions
_NEGLIGIBLE_S = 0.0002
_FILE_LOOK_S = 1.0
CLOSE_WAIT_S = 1.0
# bytes; largest message a peer may send; ZeroMQ disconnects a peer that sends more
_REQUEST_BYTES = protocol.MAX_REQUEST_BYTES
_REPLY_BUFFER = 128 << 10  # bytes buffered for one peer; few, so that a peer that does not read is noticed


_left_open: list[object] = []  # keeps what must not be closed, not even by the garbage collector


class PublisherJournal(recovery_server.RecoveryJournal, jsonl_completion.CompletionJournal, Protocol):
    """The part of `ledger.Ledger` that the publisher uses."""

    last_text: str
    last_end_pending: bool
    degraded: bool
    unjournalled: int

    def append(self, topic: str, body: dict[str, Any], ends: str = "") -> int: ...
    def last_seqs(self) -> dict[str, int]: ...
    def open_alarms(self) -> Sequence[OpenAlarm]: ...
    def take_problems(self) -> list[str]: ...
    def maintain(self) -> None: ...


class Publisher(WriteSide):
    """Implements `types.EventSink`; see the module docstring.

    config: endpoint, keys, limits; bind "none" opens no socket.  ledger: an open `ledger.Ledger`, closed by its maker.
    events_path: the JSONL file, or None.  camera_names: cameras whose `scored_age_s` the heartbeat reports.
    health: further entries of the heartbeat, called once per heartbeat.  name: camera name in its own statuses.
    score_seqs: topic → last seq sent in this epoch by the process that this one replaces.  events_lock: of the event
    file, if it is held already.
    Raises EndpointError, ConfigError (keys) or UsageError (event file) here, before anything else is started. Alarms
    that an earlier process left open are ended here, with reason `restart`, unless `end_left_open` says that the caller
    will (some may go on).
    """

    def __init__(
        self,
        config: PublishConfig,
        ledger: PublisherJournal,
        *,
        clock: Clock,
        events_path: Path | None = None,
        camera_names: Sequence[str] = (),
        health: Callable[[], dict[str, Any]] | None = None,
        name: str = protocol.DETECTOR,
        score_seqs: Mapping[str, int] | None = None,
        end_left_open: bool = True,
        events_lock: LockFile | None = None,
        local_writes: bool = False,
    ) -> None:
        super().__init__()
        keyless = config.curve_secret is None and endpoint.is_local(config.bind)  # where there are keys, they decide
        self._local_author = LOCAL_AUTHOR if local_writes and keyless else ""
        self.endpoint = "none"
        self.recovery_endpoint = "none"
        self.overflows = 0  # how often a subscriber's queue was full; it then loses messages until it reads again
        self._config, self._ledger, self._clock, self._health = config, ledger, clock, health
        self._name = name
        self._scores = ScoreRing(ledger.epoch, seqs=score_seqs)
        self._state = CurrentState(ledger)
        self._server = RecoveryServer(ledger, self._scores, config.recovery_limit, self._state, self._peer_write)
        self._replayer = StateReplayer(self._state, clock.monotonic())
        self._scored_s: dict[str, float | None] = dict.fromkeys(camera_names)
        self._problem = ""
        self._heartbeats = 0
        self._heartbeat_at_s = clock.monotonic()
        self._peers_again_s = float("-inf")
        self._file_look_s = clock.monotonic() + _FILE_LOOK_S
        self._pending_ends: set[str] | None = None  # keys of alarms to end when the journal is on disk; None: none
        self._going_on: Container[str] = ()
        self._closed = False
        self._in_use = threading.RLock()  # of the sockets
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._authenticator: curve.CurveAuthenticator | None = None
        self._guard = ConnectionGuard(clock)
        self._lock: LockFile | None = None
        self._file: EventFile | None = None
        self._copy: jsonl_completion.EventFileCopy | None = None
        try:
            if events_path:
                self._file = EventFile(events_path, self._report_problem, events_lock)
            if config.bind != "none":
                self._open()
            if self._file:
                self._copy = jsonl_completion.EventFileCopy(self._file, ledger)
            self._load_statuses()
        except BaseException:
            self.close()
            raise
        if end_left_open:
            self.end_left_open(())

    @property
    def refused_handshakes(self) -> int:
        """The number of refused connections: a wrong or missing key, or not ZeroMQ."""
        return self._guard.refused

    def add_camera(self, name: str) -> None:
        """A camera came: the heartbeat names it, and writes may."""
        self._scored_s[name] = None

    def remove_camera(self, name: str) -> None:
        """A camera is gone: neither does any more."""
        self._scored_s.pop(name, None)

    # -- EventSink ----------------------------------------------------------------------------------------------

    def alarm(self, event: AlarmEvent) -> dict[str, Any]:
        """Journal, write to the event file, send; returns the body as sent. Raises ProtocolError if not JSON."""
        emitted_utc = self._clock.utc() if event.emitted_utc is None else event.emitted_utc
        body = protocol.alarm_to_dict(event, self._ledger.epoch, 0, emitted_utc)
        return self._journal_and_send(protocol.topic_of("alarm", event.camera), body)

    def score(self, decision: Decision) -> None:
        """Send one score, and keep it in memory for recovery."""
        camera = decision.score.ref.camera
        topic = protocol.topic_of("score", camera)
        self._scored_s[camera] = self._clock.monotonic()
        seq = self._scores.next_seq(topic)
        emitted_utc = self._clock.utc() if decision.emitted_utc is None else decision.emitted_utc
        data = protocol.encode(protocol.score_to_dict(decision, self._ledger.epoch, seq, emitted_utc))
        self._scores.append(topic, seq, data.decode())
        self._send(topic, data)

    def status(self, status: CameraStatus) -> None:
        """Journal, then send a camera's status."""
        body = protocol.status_to_dict(status, self._ledger.epoch, 0, self._clock.utc())
        self._journal_and_send(protocol.topic_of("status", status.camera), body)

    def end_left_open(self, going_on: Container[str]) -> None:
        """End the journal's open alarms with reason `restart`, except those whose ids are in `going_on`.

        While the journal is not on disk nothing is ended; the first process that can write the journal does it.
        """
        left = [alarm for alarm in self._ledger.open_alarms() if alarm.last["id"] not in going_on]
        if self._ledger.degraded:
            self._pending_ends, self._going_on = {alarm.key for alarm in left}, going_on
            if left:
                log.warning("%d alarms of earlier runs stay open until the journal can be written", len(left))
            return
        for alarm in left:
            self._end(alarm)

    def _end(self, alarm: OpenAlarm) -> None:
        self._journal_and_send(alarm.topic, protocol.restart_end(alarm.last, self._clock.utc()), alarm.key)

    def _end_pending(self, owing: set[str]) -> None:
        self._pending_ends = None
        for alarm in self._ledger.open_alarms():
            earlier = alarm.first["epoch"] != self._ledger.epoch and alarm.last["id"] not in self._going_on
            if alarm.key in owing or earlier:
                self._end(alarm)

    def reopen_events(self) -> None:
        """Continue in the file that is now at the event file's path. Call it in the decision thread."""
        self._file_look_s = self._clock.monotonic() + _FILE_LOOK_S
        if self._copy:
            self._copy.look()

    def service(self) -> None:
        """Maintain the files, send the heartbeat when due, then serve the peers. Never blocks."""
        self._maintain()
        if self._context is None or self._closed:
            return
        if self._clock.monotonic() >= self._heartbeat_at_s:
            self._heartbeat()
        begun_s = time.monotonic()  # real time, because this protects the thread and decides nothing
        if begun_s >= self._peers_again_s:
            with self._in_use:
                if not self._closed:
                    self._serve_peers()
            spent_s = time.monotonic() - begun_s
            self._peers_again_s = begun_s + spent_s / _PEERS_SHARE if spent_s > _NEGLIGIBLE_S else begun_s

    def _maintain(self) -> None:
        if self._closed:
            return
        self._ledger.maintain()
        if self._copy and not self._ledger.degraded:
            self._copy.give()
        if self._pending_ends is not None and not self._ledger.degraded:
            self._end_pending(self._pending_ends)
        if self._clock.monotonic() >= self._file_look_s:
            self.reopen_events()
        if self.last_controls:
            self.repeat_controls()
        for text in self._ledger.take_problems():
            self._report_problem(text)

    def _serve_peers(self) -> None:
        """Serve the peers; each kind of work has its own share of the time, so that a flood of one does not stop the
        others.
        """
        if self._authenticator:
            self._authenticator.service()
        self._read_subscriptions(time.monotonic() + 0.2 * _PEERS_S)
        self._greet(time.monotonic() + 0.2 * _PEERS_S)
        self._answer_requests(time.monotonic() + 0.6 * _PEERS_S)

    def close(self) -> None:
        """Send a last heartbeat, then close all sockets and files within `linger_ms`. Safe to call twice.

        Where another thread is within a call of a socket and stays there, everything is left open for the process's
        end: closing a socket that is in use ends the process at once, without a word.
        """
        if not self._in_use.acquire(timeout=CLOSE_WAIT_S):
            _left_open.append(self)
            log.warning("the event sockets are still in use after %g s; they are left open", CLOSE_WAIT_S)
            return
        try:
            self._close()
        finally:
            self._in_use.release()

    def _close(self) -> None:
        if self._closed:
            return
        if self._ledger.degraded and self._ledger.unjournalled:
            with contextlib.suppress(Exception):
                self._report_problem(
                    f"this run ends while the journal is in memory only: {self._ledger.unjournalled + 1} events of it, "
                    f"including this one, are lost"
                )
        if self._context is not None:
            with contextlib.suppress(Exception):  # closing continues if the last heartbeat fails
                if self.endpoint != "none":
                    self._heartbeat(closing=True)
            self._closed = True
            for socket, name in ((self._events, "events"), (self._recovery, "recovery")):
                with contextlib.suppress(zmq.ZMQError):
                    socket.disable_monitor()
                socket.close(self._config.linger_ms)
                log.debug("closed the %s socket", name)
            self._guard.close()
            if self._authenticator:
                self._authenticator.close()
            ending = threading.Thread(target=self._context.term, name="zmq-term", daemon=True)
            ending.start()
            ending.join(self._config.linger_ms / 1e3 + CLOSE_WAIT_S)
        self._closed = True
        if self._lock:
            self._lock.release()
        if self._file:
            self._file.close()

    # -- sending ------------------------------------------------------------------------------------------------

    def _journal_and_send(self, topic: str, body: dict[str, Any], ends: str = "") -> dict[str, Any]:
        copied = self._copy if topic.startswith(jsonl_completion.ALARMS) else None
        if copied:
            copied.look()  # before the commit: a new file then names what it follows, and this event is missing in it
        self._ledger.append(topic, body, ends)
        text = self._ledger.last_text
        data = text.encode()
        if copied:
            if not self._ledger.degraded:  # the journal may have returned to the disk for this event
                copied.give()
            if self._ledger.last_end_pending:
                copied.hold(data)
            else:
                copied.write(data)
        elif topic.startswith("v1/status/"):
            self._state.status(topic, text)
        self._send(topic, data)
        return body

    def _send(self, topic: str, data: bytes) -> None:
        with self._in_use:
            if self._context is None or self._closed:
                return
            if not endpoint.send_or_drop(self._events, (topic.encode(), data)):
                self.overflows += 1

    def _load_statuses(self) -> None:
        """Load the statuses of a process that this one replaces in the same epoch."""
        for topic, seq in self._ledger.last_seqs().items():
            if topic.startswith("v1/status/"):
                texts, _ = self._ledger.since(topic, self._ledger.epoch, seq - 1, 1)
                for text in texts:
                    self._state.status(topic, text)

    def _report_problem(self, text: str) -> None:
        """Report a problem of the detector itself: send a status, and repeat it in every later heartbeat."""
        self._problem = text
        body = {**protocol.problem_to_dict(text, self._ledger.epoch, 0, self._clock.utc()), "camera": self._name}
        self._journal_and_send(protocol.topic_of("status", self._name), body)

    def _heartbeat(self, closing: bool = False) -> None:
        now_s = self._clock.monotonic()
        self._heartbeat_at_s = now_s + self._config.heartbeat_s
        self._heartbeats += 1
        body = {
            "schema": protocol.HEARTBEAT_SCHEMA,
            "epoch": self._ledger.epoch,
            "seq": self._heartbeats,
            "emitted_utc": protocol.rfc3339(self._clock.utc()),
            "interval_s": self._config.heartbeat_s,
            "last": {**self._ledger.last_seqs(), **self._scores.last_seqs()},
            "scored_age_s": {
                camera: None if at_s is None else round(now_s - at_s, 3) for camera, at_s in self._scored_s.items()
            },
            "overflows": self.overflows,
            "problem": self._problem or None,
            "trouble": self._problem or None,  # the former key; version 0.2 removes it
            "unjournalled": self._ledger.unjournalled,
            "health": self._health() if self._health else {},
        }
        if closing:
            body["closing"] = True
        self._send(protocol.HEARTBEAT_TOPIC, protocol.encode(body))

    # -- listening ----------------------------------------------------------------------------------------------

    def _read_subscriptions(self, until_s: float) -> None:
        for frame in receive_ready(self._events, _SUBSCRIPTIONS_A_CALL):
            prefix = frame[0][1:]
            sane = len(frame) == 1 and len(prefix) <= protocol.MAX_TOPIC_BYTES and prefix.isascii()
            if sane and frame[0][:1] == b"\x01":
                self._replayer.wanted(prefix.decode("ascii"))
            if time.monotonic() >= until_s:
                return

    def _greet(self, until_s: float) -> None:
        """Repeat the current state for new subscribers; others receive it as well and drop it by seq."""
        for topic, texts in self._replayer.slice(self._clock.monotonic()):
            for text in texts:
                self._send(topic, text.encode())
            if time.monotonic() >= until_s:
                return

    def _answer_requests(self, until_s: float) -> None:
        self._answering.serve(until_s)

    # -- opening ------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        config = self._config
        endpoint.check(config.bind, config.curve_secret is not None, config.insecure)
        pair = curve.load_pair(config.curve_secret) if config.curve_secret else None
        context = self._context = zmq.Context()
        self._events = context.socket(zmq.XPUB)
        self._recovery = context.socket(zmq.ROUTER)
        if pair and config.curve_clients:
            self._authenticator = curve.CurveAuthenticator(context, pair, config.curve_clients, self._clock)
        for socket in (self._events, self._recovery):
            socket.linger = config.linger_ms
            socket.handshake_ivl = 5000  # half-open connections end
            endpoint.keep_alive(socket)
            socket.sndhwm = config.high_water_mark
            socket.ipv6 = config.bind.startswith("tcp://[")
            if self._authenticator:
                self._authenticator.secure(socket)
            self._guard.watch(socket, limit_bytes=socket is self._events)
        endpoint.limit_prefixes(self._events)
        self._events.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._events.setsockopt(zmq.XPUB_NODROP, 1)
        self._recovery.maxmsgsize = _REQUEST_BYTES
        self._recovery.sndhwm = 2  # replies are large; a peer that does not read them loses them
        self._recovery.rcvhwm = 64
        self._recovery.sndbuf = _REPLY_BUFFER
        self._answering = RecoverySocket(self._recovery, self._server, self._clock, self._local_author)
        self.endpoint, self.recovery_endpoint, self._lock = _bind(self._events, self._recovery, config.bind)
        self._guard.start()
        log.info("events at %s, recovery at %s", self.endpoint, self.recovery_endpoint)


def _bind(events: zmq.Socket[bytes], recovery: zmq.Socket[bytes], wanted: str) -> tuple[str, str, LockFile | None]:
    try:
        return endpoint.bind_pair(events, recovery, wanted)
    except zmq.ZMQError as error:
        raise EndpointError(f"endpoint {wanted!r} cannot be bound ({error.strerror}); choose another") from None
