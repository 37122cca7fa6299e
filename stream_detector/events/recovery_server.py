"""Replies of the recovery socket: missed events after a position, and the snapshot for late subscribers.

Requests are bounded in size and topics (`protocol.decode_request`), replies in events and bytes. The sockets are in
`recovery_service`.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from stream_detector.errors import ProtocolError, StreamDetectorError
from stream_detector.events.current_state import CurrentState, OpenAlarmSource, below
from stream_detector.events.protocol import FIRST_EPOCH, RECOVERY_SCHEMA, Request, decode_request, encode
from stream_detector.events.pruning import LostEvents

_REPLY_BYTES = 256 << 10  # bytes; a reply ends here, and the client asks for the rest
_RING_EVENTS = 2000
_COSTLY_S = 0.002  # seconds; a snapshot that takes longer is reused for a while
_RECENT_S = 0.5
_RECENT = 8


class RecoveryJournal(OpenAlarmSource, Protocol):
    """The part of `ledger.Ledger` that the recovery server uses."""

    epoch: str

    def since(self, topic: str, epoch: str | None, seq: int, limit: int) -> tuple[list[str], bool]: ...
    def lost(self, topic: str, epoch: str | None, seq: int) -> LostEvents | None: ...
    def places(self) -> Mapping[str, tuple[str, int]]: ...


class ScoreRing:
    """The newest scores of every camera, in memory only.

    A gap in `v1/score/…` can be filled if it lies within the last 2,000 scores of that camera and within this process.
    """

    def __init__(self, epoch: str, events: int = _RING_EVENTS, seqs: Mapping[str, int] | None = None) -> None:
        """Create an empty ring.

        seqs: topic → last seq already sent in this epoch by the process that this one replaces.
        """
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


class RecoveryServer:
    """Turns one request into one reply."""

    def __init__(
        self,
        journal: RecoveryJournal,
        scores: ScoreRing,
        limit: int,
        present: CurrentState | None = None,
        write: Callable[[dict[str, Any], str], dict[str, Any]] | None = None,
    ) -> None:
        """write: takes a write of a peer and its author, returns the journalled body; raises for what it refuses."""
        self._write = write
        self._journal = journal
        self._scores = scores
        self._limit = limit
        self._state = present or CurrentState(journal)
        self._topics: list[str] = []
        self._recent: dict[tuple[str, ...], tuple[float, bytes]] = {}  # prefixes → (until, snapshot) of slow snapshots
        self.refused = 0  # number of malformed requests

    def answer(self, data: bytes, author: str = "") -> bytes:
        """Return the reply to a request of any bytes; a malformed request gets `error`.

        author: who sent it, if that peer may write; "" otherwise.
        """
        try:
            request = decode_request(data)
            if request.write is not None:
                return self._written(request, author)
        except StreamDetectorError as error:
            self.refused += 1
            return self.refusal(str(error))
        return self._snapshot(request) if request.snapshot is not None else self._missed(request)

    def _written(self, request: Request, author: str) -> bytes:
        if self._write is None:
            raise ProtocolError("this detector takes no writes; send them to the one that journals the events")
        written = self._write(request.write or {}, author)
        return f'{self._head(request)},"written":{encode(written).decode()}}}'.encode()

    def refusal(self, why: str, retry_after_s: float = 0.0) -> bytes:
        """Return a refusal: a reply with `error`."""
        body = {"schema": RECOVERY_SCHEMA, "epoch": self._journal.epoch, "error": why, "retry_after_s": retry_after_s}
        return encode(body)

    def _missed(self, request: Request) -> bytes:
        left = min(request.limit or self._limit, self._limit)
        pairs: list[str] = []
        size, more, unknown = 0, False, False
        gone: dict[str, list[object]] = {}
        reached: dict[str, tuple[str, int]] = {}
        for topic, seq in request.positions.items():
            of_journal = not topic.startswith("v1/score/")
            source = self._journal if of_journal else self._scores
            texts, strange = source.since(topic, request.epoch, seq, left - len(pairs) + 1)
            unknown = unknown or strange
            lost = self._journal.lost(topic, request.epoch, seq) if of_journal else None
            if lost is not None:
                gone[topic] = [lost.count, lost.epoch, lost.seq]
            for text in texts:
                if len(pairs) >= left or size > _REPLY_BYTES:
                    more = True
                    break
                pairs.append(f"[{json.dumps(topic)},{text}]")
                size += 4 * len(text) if not text.isascii() else len(text)
            if more:
                break
            newest = self._journal.places().get(topic) if of_journal else None
            after = (lost.epoch, lost.seq) if lost else (request.epoch or self._journal.epoch, seq)
            after = _place(texts[-1]) if texts else after
            if newest is not None and (after[0] != newest[0] or after[1] < newest[1]):
                reached[topic] = newest
        head = self._head(request) + "".join(
            f',"{name}":{json.dumps(value)}' for name, value in (("lost", gone), ("reached", reached)) if value
        )
        return (
            f'{head},"more":{json.dumps(more)},"unknown_epoch":{json.dumps(unknown)},"events":[{",".join(pairs)}]}}'
        ).encode()

    def _snapshot(self, request: Request) -> bytes:
        prefixes = request.snapshot or ()
        now_s = time.monotonic()
        known = self._recent.get(prefixes)
        if known is None or now_s >= known[0]:
            begun_s = time.thread_time()
            body = self._make_snapshot(prefixes)
            known = (now_s, body)
            if time.thread_time() - begun_s > _COSTLY_S:  # later events are fetched like any other gap
                while len(self._recent) >= _RECENT:
                    del self._recent[next(iter(self._recent))]
                known = self._recent[prefixes] = (now_s + _RECENT_S, body)
        return self._head(request).encode() + known[1]

    def _make_snapshot(self, prefixes: tuple[str, ...]) -> bytes:
        topics, places = self._sorted_topics(), self._journal.places()
        scores = self._scores.last_seqs()
        matching: dict[str, tuple[str, int]] = {}
        repeated: dict[str, None] = {}
        for prefix in prefixes:
            for topic in below(topics, prefix):
                matching[topic] = (self._journal.epoch, scores[topic]) if topic in scores else places[topic]
            # overlapping prefixes give each topic once
            repeated.update(dict.fromkeys(below(self._state.topics(), prefix)))
        events = [f'["{topic}",{text}]' for topic in repeated for text in self._state.texts(topic)]
        return f',"last":{json.dumps(matching)},"events":[{",".join(events)}]}}'.encode()

    def _sorted_topics(self) -> list[str]:
        """Return all topics that were ever numbered; the set only grows."""
        places, scores = self._journal.places(), self._scores.last_seqs()
        if len(self._topics) != len(places) + len(scores):
            self._topics = sorted({*places, *scores})
        return self._topics

    def _head(self, request: Request) -> str:
        body = {"schema": RECOVERY_SCHEMA, "epoch": self._journal.epoch, "request": request.request}
        return encode(body).decode()[:-1]


def _place(text: str) -> tuple[str, int]:
    body = json.loads(text)
    return str(body.get("epoch")), int(body.get("seq", 0))
