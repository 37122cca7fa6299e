"""What the recovery socket answers: missed events after a position, and the snapshot for a late joiner.

Bounded on every side: the request's size and number of topics (`wire.decode_request`), the reply's events and bytes,
and the requests of one peer in a second (`ratelimit`). No sockets here; `publish` owns them.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from stream_detector.errors import ProtocolError
from stream_detector.wire import FIRST_EPOCH, RECOVERY_SCHEMA, Request, decode_request, encode

_REPLY_BYTES = 256 << 10  # a reply stops growing here; what follows is asked for again
_RING_EVENTS = 2000


class OpenAlarmLike(Protocol):
    """An open alarm as the journal tells it: its `start` event, and its newest event (maybe the same)."""

    @property
    def topic(self) -> str: ...
    @property
    def first(self) -> dict[str, Any]: ...
    @property
    def last(self) -> dict[str, Any]: ...


class Journal(Protocol):
    """What publishing asks of `ledger.Ledger`."""

    epoch: str
    last_text: str

    def append(self, topic: str, body: dict[str, Any]) -> int: ...
    def since(self, topic: str, epoch: str | None, seq: int, limit: int) -> tuple[list[str], bool]: ...
    def rest(self, topic: str, epoch: str, seq: int, prefix: str) -> list[str]: ...
    def last_seqs(self) -> dict[str, int]: ...
    def last_positions(self) -> dict[str, tuple[str, int]]: ...
    def last_events(self, prefix: str) -> list[tuple[str, dict[str, Any]]]: ...
    def open_alarms(self) -> list[Any]: ...
    def take_troubles(self) -> list[str]: ...


class ScoreRing:
    """The newest scores of every camera, in memory only: they come often and lose their worth quickly.

    So a gap in `v1/score/…` is filled if it is younger than the last 2,000 scores of that camera and than this process.
    """

    def __init__(self, epoch: str, events: int = _RING_EVENTS, seqs: Mapping[str, int] | None = None) -> None:
        """seqs: topic → last seq already sent in this epoch, by a process that this one replaces."""
        self._epoch = epoch
        self._events = events
        self._rings: dict[str, deque[tuple[int, str]]] = {}
        self._seqs: dict[str, int] = dict(seqs or {})

    def next_seq(self, topic: str) -> int:
        """The seq that the next score of `topic` must carry."""
        return self._seqs.get(topic, 0) + 1

    def append(self, topic: str, seq: int, text: str) -> None:
        """Keep one score as JSON text."""
        self._seqs[topic] = seq
        self._rings.setdefault(topic, deque(maxlen=self._events)).append((seq, text))

    def since(self, topic: str, epoch: str | None, seq: int, limit: int) -> tuple[list[str], bool]:
        """As `Ledger.since`."""
        known = epoch in (None, self._epoch)
        texts = [text for number, text in self._rings.get(topic, ()) if not known or number > seq]
        return texts[:limit], not known and epoch != FIRST_EPOCH

    def last_seqs(self) -> dict[str, int]:
        """topic → last seq."""
        return dict(self._seqs)


class Answerer:
    """Turns one request into one reply."""

    def __init__(self, journal: Journal, scores: ScoreRing, limit: int) -> None:
        self._journal = journal
        self._scores = scores
        self._limit = limit
        self.refused = 0  # malformed requests

    def answer(self, data: bytes) -> bytes:
        """The reply to any bytes whatever; a malformed request gets `error`."""
        try:
            request = decode_request(data)
        except ProtocolError as error:
            self.refused += 1
            return self.refusal(str(error))
        return self._snapshot(request) if request.snapshot is not None else self._missed(request)

    def refusal(self, why: str, retry_after_s: float = 0.0) -> bytes:
        """A reply that only says no."""
        body = {"schema": RECOVERY_SCHEMA, "epoch": self._journal.epoch, "error": why, "retry_after_s": retry_after_s}
        return encode(body)

    def replays(self, prefix: str) -> list[tuple[str, dict[str, Any]]]:
        """(topic, body) of what a late joiner of `prefix` must know: open alarms and last statuses, marked replayed."""
        found = []
        for alarm in self._journal.open_alarms():
            if alarm.topic.startswith(prefix):
                found.append((alarm.topic, {**alarm.first, "replayed": True}))
                if alarm.last["seq"] != alarm.first["seq"]:
                    found.append((alarm.topic, {**alarm.last, "replayed": True}))
        if prefix.startswith("v1/status/") or "v1/status/".startswith(prefix):
            statuses = self._journal.last_events(prefix if prefix.startswith("v1/status/") else "v1/status/")
            found.extend((topic, {**body, "replayed": True}) for topic, body in statuses)
        return found

    def _missed(self, request: Request) -> bytes:
        left = min(request.limit or self._limit, self._limit)
        pairs: list[str] = []
        size, more, unknown = 0, False, False
        for topic, seq in request.positions.items():
            source = self._scores if topic.startswith("v1/score/") else self._journal
            texts, lost = source.since(topic, request.epoch, seq, left - len(pairs) + 1)
            unknown = unknown or lost
            for text in texts:
                if len(pairs) >= left or size > _REPLY_BYTES:
                    more = True
                    break
                pairs.append(f"[{json.dumps(topic)},{text}]")
                size += 4 * len(text) if not text.isascii() else len(text)
            if more:
                break
        head = self._head(request)
        return (
            f'{head},"more":{json.dumps(more)},"unknown_epoch":{json.dumps(unknown)},"events":[{",".join(pairs)}]}}'
        ).encode()

    def _snapshot(self, request: Request) -> bytes:
        prefixes = request.snapshot or ()
        last = {**self._journal.last_positions()}
        last.update({topic: (self._journal.epoch, seq) for topic, seq in self._scores.last_seqs().items()})
        events: dict[str, None] = {}
        for prefix in prefixes:
            for topic, body in self.replays(prefix):
                events[f"[{json.dumps(topic)},{encode(body).decode()}]"] = None  # overlapping prefixes: once
        matching = {topic: place for topic, place in last.items() if topic.startswith(prefixes)}
        head = self._head(request)
        return f'{head},"last":{json.dumps(matching)},"events":[{",".join(events)}]}}'.encode()

    def _head(self, request: Request) -> str:
        body = {"schema": RECOVERY_SCHEMA, "epoch": self._journal.epoch, "request": request.request}
        return encode(body).decode()[:-1]
