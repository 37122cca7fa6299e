"""The client: events exactly once and in order, across gaps and restarts of either side.

    with Subscriber("tcp://127.0.0.1:5555", cameras=["gate"]) as subscriber:
        for event in subscriber:
            print(event.body["type"], event.body["id"])

It subscribes, asks the recovery socket for the position of every topic, and then compares each message with the
position of its topic. It yields a message that follows directly and drops an older one. It fetches missing events
(shown by `seq`, by `last` of a heartbeat or by a new `epoch`) from the recovery socket in bounded pieces; meanwhile it
ignores live messages of that topic, because the fetch brings them. It has no thread: all work happens in `receive`.

With `cursor` the position survives the process. An event counts as handled when the next one is requested (or
`commit` is called), so a client killed in between sees that event again. A client that writes to a file gets
exactly-once by storing the length of the file with the position (`output_bytes`) and truncating the file to it at the
start, as `stream-detector subscribe --output` does. Without `recover` it is a plain subscriber that counts lost events.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import zmq

from stream_detector.client.cursor import Cursor, load_cursor
from stream_detector.client.recovery_client import REQUEST_S, ClientKeys, RecoveryClient, connect, milliseconds
from stream_detector.client.recovery_reply import apply_reply
from stream_detector.config import CAMERA_NAME
from stream_detector.errors import ProtocolError, UsageError
from stream_detector.events import protocol
from stream_detector.events.curve import KeyPair
from stream_detector.events.endpoint import recovery_endpoint
from stream_detector.events.protocol import Message
from stream_detector.types import Clock, SystemClock

log = logging.getLogger(__name__)

KINDS = ("alarm", "score", "status", "ack", "verdict", "control", "site", "shadow")
_PATIENCE_S = 10.0  # seconds of live messages without a reply after which missing events count as lost
_RESUME_S = 30.0  # seconds until recovery is tried again
_QUIET_S = 0.1
_READ_AT_ONCE = 1000
_EPOCHS_HEARD = 4


class Subscriber:
    """Receives the events of a detector, exactly once and in order; iterating yields `protocol.Message`.

    endpoint: of the publisher; recovery is at port + 1.  cameras: names; empty for all.  kinds: of KINDS. cursor: file
    that keeps the position.  from_start: without a cursor, begin at the oldest event in the journal instead of now.
    timeout_s: seconds without an event after which the iteration ends; None: no limit. keys, server_key: CURVE keys,
    both or neither. Counters: `lost` (events that are no longer available; a lower bound if the detector does not know
    the number; the next subscriber counts them again if this one ends before it handles the events behind them),
    `duplicates` (dropped), `recovered` (fetched), `malformed`. Raises EndpointError or UsageError (also for a
    damaged cursor file).
    """

    def __init__(
        self,
        endpoint: str,
        *,
        cameras: Sequence[str] = (),
        kinds: Sequence[str] = ("alarm", "status"),
        recover: bool = True,
        cursor: Path | None = None,
        from_start: bool = False,
        timeout_s: float | None = None,
        keys: KeyPair | None = None,
        server_key: bytes | None = None,
        clock: Clock | None = None,
    ) -> None:
        if (keys is None) != (server_key is None):
            raise UsageError("CURVE needs your own key pair and the server's public key; give both, or neither")
        self._prefixes = _prefixes(cameras, kinds)
        self._recover, self._timeout_s = recover, timeout_s
        self._cursor_path = cursor
        self._clock = clock or SystemClock()
        self.lost = self.duplicates = self.recovered = self.malformed = 0
        self.heartbeat: Message | None = None
        self._heard: dict[str, Message] = {}  # epoch → its last heartbeat
        self._heard_s = float("-inf")
        done = (load_cursor(cursor) if cursor else None) or Cursor()
        if not done.base and from_start:
            done.base = protocol.FIRST_EPOCH
        # saved with the position at every commit, for a caller that writes a file
        self.output_bytes = done.output_bytes
        self._done = done  # the position of the caller; base "": not joined yet
        self._seen = done.copy()  # the position including the events in _ready
        self._ready: deque[Message] = deque()
        self._given: Message | None = None
        self._joining = 0  # replayed events of the first snapshot that the caller has not handled
        self._joined = Cursor()  # the position to take when they are handled
        self._epoch = ""  # epoch of the publisher, as far as known
        self._ask_snapshot = recover
        self._behind: dict[str, None] = {}  # topics with a gap, as an ordered set
        self._retry_s = float("-inf")
        self._resume_s: float | None = None  # time of the next attempt at recovery after it was given up
        self._tries = 0
        self._alive_since_s: float | None = None  # time since which live messages arrive but no replies
        client_keys = ClientKeys(keys, server_key) if keys and server_key else None
        beside = recovery_endpoint(endpoint)
        self._context = zmq.Context()
        try:
            self._socket = connect(self._context, zmq.SUB, endpoint, client_keys)
        except BaseException:
            self._context.destroy(0)
            raise
        for prefix in (*self._prefixes, protocol.HEARTBEAT_TOPIC):
            self._socket.subscribe(prefix)
        self._client = RecoveryClient(self._context, beside, client_keys, self._clock) if recover else None

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        while (message := self.receive(self._timeout_s)) is not None:
            yield message

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """Return the next event, or None after `timeout_s` seconds without one. The call also handles the previous
        event.
        """
        if self._given is not None:
            self.commit()
        until_s = None if timeout_s is None else self._clock.monotonic() + timeout_s
        while not self._ready:
            left_s = REQUEST_S if until_s is None else until_s - self._clock.monotonic()
            self._step(max(0.0, min(left_s, REQUEST_S)))
            if left_s <= 0 and not self._ready:
                return None
        self._given = self._ready.popleft()
        return self._given

    def commit(self, save: bool = True) -> None:
        """Mark the last returned event as handled, and save the position if there is a cursor file. Raises LedgerError.

        save: False leaves the file unchanged until a later commit; after a kill the events since then are delivered
        again.
        """
        message, self._given = self._given, None
        if message is not None and self._joining:
            self._joining -= 1
            if not self._joining:  # until all are handled, a restart joins again
                self._done = self._joined.copy()
        elif message is not None:
            self._done.base = self._done.base or message.epoch
            self._done.take(message)
        if self._cursor_path and save:
            self._done.output_bytes = self.output_bytes
            self._done.save(self._cursor_path)

    @property
    def waiting(self) -> int:
        """The number of events that `receive` would return immediately."""
        return len(self._ready)

    @property
    def caught_up(self) -> bool:
        """Whether every event that the detector told of was given: nothing is being fetched, and nothing waits."""
        missing = self._ask_snapshot or self._behind or self._ready
        return self.heartbeat is not None and self.heartbeat.epoch == self._epoch and not missing

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the last message of the detector; infinite before the first."""
        return self._clock.monotonic() - self._heard_s

    def close(self) -> None:
        """Close the sockets. The last returned event counts as handled only after `commit` or another `receive`."""
        self._context.destroy(0)

    # -- live ---------------------------------------------------------------------------------------------------

    def _step(self, wait_s: float) -> None:
        wants = self._recover and bool(self._ask_snapshot or self._behind)
        if wants and self._client and self._clock.monotonic() >= self._retry_s:
            self._ask(self._client, wait_s)
            return
        if not self._socket.poll(milliseconds(min(wait_s, _QUIET_S) if wants else wait_s)):
            return
        for _ in range(_READ_AT_ONCE):
            message = self._read()
            if message is not None:
                self._take(message)
            if message is None or self._ready or (self._recover and (self._ask_snapshot or self._behind)):
                return

    def _read(self) -> Message | None:
        try:
            message = protocol.decode_message(self._socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return None
        except ProtocolError as error:
            self.malformed += 1
            if self.malformed % 1000 == 1:  # many bad messages must not fill the log
                log.warning("dropped a message (the %dth): %s", self.malformed, error)
            return None
        self._heard_s = self._clock.monotonic()
        return message

    def _take(self, message: Message) -> None:
        if message.kind == "heartbeat":
            self.heartbeat = message
            self._heard.pop(message.epoch, None)
            self._heard[message.epoch] = message
            while len(self._heard) > _EPOCHS_HEARD:
                del self._heard[next(iter(self._heard))]
            if self._resume_s is not None and self._clock.monotonic() >= self._resume_s:
                self._recover, self._resume_s, self._tries, self._alive_since_s = True, None, 0, None
            if self._recover:
                self._compare(message)
        elif not message.topic.startswith(self._prefixes):
            self.malformed += 1
        elif not self._recover:
            self._take_plain(message)
        elif message.replayed or self._ask_snapshot or message.topic in self._behind:
            pass  # the recovery reply brings it
        else:
            epoch, seq = self._seen.place(message.topic)
            if message.epoch == epoch:
                if message.seq == seq + 1:
                    self._accept(message)
                elif message.seq <= seq:
                    self.duplicates += 1
                else:
                    self._behind[message.topic] = None
            elif message.epoch == self._epoch:
                # the first message of this epoch: check that the previous epoch is complete
                self._behind[message.topic] = None
            else:
                self._ask_snapshot = True

    def _take_plain(self, message: Message) -> None:
        """Without recovery: yield in order, drop duplicates, count losses."""
        joined = bool(self._client and self._seen.base)  # recovery was given up, but the position is known
        epoch, seq = self._seen.place(message.topic) if joined else self._seen.places.get(message.topic, ("", 0))
        self._seen.base = self._seen.base or message.epoch
        if message.epoch == epoch and message.seq <= seq:
            self.duplicates += 1
            return
        if message.epoch == epoch and not message.replayed:
            self.lost += message.seq - seq - 1
        self._accept(message)

    def _compare(self, heartbeat: Message) -> None:
        if heartbeat.epoch != self._epoch:
            self._ask_snapshot = True
            return
        for topic, seq in heartbeat.body["last"].items():
            if topic.startswith(self._prefixes) and topic not in self._behind:
                had_epoch, had = self._seen.place(topic)
                if had_epoch != heartbeat.epoch or had < seq:
                    self._behind[topic] = None

    def _accept(self, message: Message) -> bool:
        """Advance the cursor; return whether the event goes to the caller (a second end of an alarm does not)."""
        second = self._seen.ended_before(message)
        self._seen.take(message)
        if second:
            self.duplicates += 1
        else:
            self._ready.append(message)
        return not second

    # -- recovery -----------------------------------------------------------------------------------------------

    def _ask(self, client: RecoveryClient, wait_s: float) -> None:
        """Send the next request, or wait up to `wait_s` for the reply to the previous one."""
        try:
            if not client.waiting:
                client.send(*self._question())
            answer = client.receive(wait_s)
        except ProtocolError as error:
            log.info("%s", error)
            self._failed(client)
            return
        if answer is None:
            return
        reply, topics = answer
        self._tries, self._alive_since_s = 0, None
        if reply.error:
            log.warning("the detector refused a recovery request: %s", reply.error)
            self._retry_s = self._clock.monotonic() + max(0.1, reply.retry_after_s)
        elif topics:
            self._fill(reply, topics)
        else:
            self._join(reply)

    def _question(self) -> tuple[dict[str, object], tuple[str, ...]]:
        """Return the next request and its topics (empty: a snapshot)."""
        if self._ask_snapshot:
            return {"snapshot": list(self._prefixes)}, ()
        epoch = self._seen.place(next(iter(self._behind)))[0]
        same = [topic for topic in self._behind if self._seen.place(topic)[0] == epoch]
        topics = tuple(same[: protocol.MAX_REQUEST_TOPICS])
        return {"from": {topic: self._seen.place(topic)[1] for topic in topics}, "epoch": epoch}, topics

    def _join(self, reply: protocol.Reply) -> None:
        self._epoch, self._ask_snapshot = reply.epoch, False
        places = {topic: place for topic, place in reply.last.items() if topic.startswith(self._prefixes)}
        if not self._seen.base:  # the first request ever: from now on, and the alarms that are open now
            self._seen = Cursor(reply.epoch, dict(places))
            self._joined = self._seen.copy()
            self._ready.extend(reply.events)
            self._joining = len(reply.events)
            if not self._joining:
                self._done = self._joined.copy()
                self.commit()
            return
        for topic, place in places.items():
            if self._seen.place(topic) != place:
                self._behind[topic] = None

    def _fill(self, reply: protocol.Reply, group: tuple[str, ...]) -> None:
        result = apply_reply(self._seen, reply, group, self._heard, self._accept)
        if result.unknown_epoch:
            log.warning(
                "the detector's journal does not reach back to the position of this subscriber; events may be lost"
            )
        if result.lost and not self._ready and not self._joining:  # no event is left to handle before that position
            self._done = self._seen.copy()
        self.lost += result.lost
        self.recovered += result.recovered
        self.duplicates += result.duplicates
        if reply.epoch != self._epoch:
            self._ask_snapshot = True
        if not reply.more or not result.taken:
            for topic in group:
                if topic not in result.ask_again:
                    self._behind.pop(topic, None)

    def _failed(self, client: RecoveryClient) -> None:
        """Handle a missing reply. It is normal while the detector is down; if live messages still arrive, give up
        later.
        """
        client.reset()
        now_s = self._clock.monotonic()
        heard = self._drain()
        self._tries += 1
        if self._tries == 1 or not heard:  # the messages drained at the first failure may be older than the failure
            self._alive_since_s = None
        elif self._alive_since_s is None:
            self._alive_since_s = now_s
        elif now_s - self._alive_since_s >= _PATIENCE_S:
            log.error("no answer from %s; continuing without recovery, lost events are counted", client.endpoint)
            self._recover, self._resume_s = False, now_s + _RESUME_S
            self._behind.clear()

    def _drain(self) -> bool:
        """Take the messages that arrived in the meantime; return whether there were any.

        A gap in one topic must not delay the others, because the detector may have sent their last events and ended.
        """
        heard = False
        for _ in range(10 * _READ_AT_ONCE):
            message = self._read()
            if message is None:
                break
            heard = True
            self._take(message)
        return heard


def _prefixes(cameras: Sequence[str], kinds: Sequence[str]) -> tuple[str, ...]:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UsageError(f"kinds {unknown or 'none'} are not known; choose of {', '.join(KINDS)}")
    prefixes = []
    for kind in dict.fromkeys(kinds):
        names = [*cameras, protocol.DETECTOR] if cameras and kind == "status" else cameras
        for camera in names:
            if not CAMERA_NAME.fullmatch(camera):
                raise UsageError(f"camera name {camera!r} is not allowed; use 1 to 64 of a-z, 0-9, '_' and '-'")
        prefixes += [f"v1/{kind}/{camera}/" for camera in dict.fromkeys(names)] or [f"v1/{kind}/"]
    if len(prefixes) > protocol.MAX_REQUEST_TOPICS:
        raise UsageError(f"{len(prefixes)} topics are too many; name fewer cameras, or none for all of them")
    return tuple(prefixes)
