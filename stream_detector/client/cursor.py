"""The position of a subscriber in every topic, and the file that stores it across restarts.

Events marked `unjournalled` need more than a position, because a later run of the detector may not know their epoch. So
the cursor keeps the last position before them as an anchor, with the events received since. A later run may also end an
alarm again, with reason `restart`, if its end was such an event.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from stream_detector.errors import LedgerError, ProtocolError, UsageError
from stream_detector.events.protocol import FIRST_EPOCH, MAX_SEQ, Message, decode_object, parse_topic
from stream_detector.system.user_files import read_named, write_whole

SCHEMA = "stream-detector.cursor/1"
_MAX_BYTES = 4 << 20
_MAX_TOPICS = 20_000


_MOST_IDS = 1000


@dataclass(slots=True)
class Anchor:
    """The position before unjournalled events.

    place: (epoch, seq) of the last journalled event.  had: epoch → last seq since.
    """

    place: tuple[str, int]
    had: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Cursor:
    """The position of a subscriber.

    places: topic → (epoch, seq) of its newest event handled.  output_bytes: length of the output file that belongs to
    this place, or None; a program that writes events to a file truncates it to this length at its next start.
    anchors: topic → where it stood before the events that were not journalled, if the newest is one of them.
    started, ended: ids of alarms that started, or ended, in such an event; an alarm that did both is in `ended` alone.
    """

    base: str = ""
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    output_bytes: int | None = None
    anchors: dict[str, Anchor] = field(default_factory=dict)
    started: dict[str, None] = field(default_factory=dict)
    ended: dict[str, None] = field(default_factory=dict)

    def place(self, topic: str) -> tuple[str, int]:
        """Return (epoch, seq) of the newest event received of `topic`."""
        return self.places.get(topic, (self.base, 0))

    def take(self, message: Message) -> None:
        """Advance the cursor by this event."""
        topic = message.topic
        if message.body.get("unjournalled") is True:
            anchor = self.anchors.setdefault(topic, Anchor(self.place(topic)))
            anchor.had[message.epoch] = message.seq
            self._note_alarm(message)
        else:
            self.anchors.pop(topic, None)
        self.places[topic] = (message.epoch, message.seq)

    def _note_alarm(self, message: Message) -> None:
        name, kind = str(message.body.get("id")), message.body.get("type")
        if message.kind != "alarm":
            return
        if kind == "start":
            self.started[name] = None
        elif kind == "end":  # its start may reach the disk later, without this end
            self.started.pop(name, None)
            self.ended[name] = None
        for ids in (self.started, self.ended):
            while len(ids) > _MOST_IDS:
                del ids[next(iter(ids))]

    def had(self, message: Message) -> bool:
        """Return whether this event was received before."""
        epoch, seq = self.place(message.topic)
        if message.epoch == epoch and message.seq <= seq:
            return True
        anchor = self.anchors.get(message.topic)
        return anchor is not None and message.seq <= anchor.had.get(message.epoch, 0)

    def ended_before(self, message: Message) -> bool:
        """Return whether this is the second end of an alarm whose first end was not journalled."""
        body = message.body
        return message.kind == "alarm" and body.get("reason") == "restart" and str(body.get("id")) in self.ended

    def copy(self) -> Cursor:
        """Return an independent copy."""
        anchors = {topic: Anchor(a.place, dict(a.had)) for topic, a in self.anchors.items()}
        return Cursor(self.base, dict(self.places), self.output_bytes, anchors, dict(self.started), dict(self.ended))

    def save(self, path: Path) -> None:
        """Write atomically: after a kill the file holds the old position or the new one. Raises LedgerError."""
        body: dict[str, object] = {"schema": SCHEMA, "base": self.base, "places": self.places}
        body["output_bytes"] = self.output_bytes
        if self.anchors or self.started or self.ended:
            anchors = {topic: [*anchor.place, anchor.had] for topic, anchor in self.anchors.items()}
            body["unjournalled"] = {"anchors": anchors, "started": [*self.started], "ended": [*self.ended]}
        try:
            write_whole(path, json.dumps(body).encode())
        except OSError as error:
            raise LedgerError(
                f"cursor file {str(path)!r} cannot be written ({error.strerror}); free the disk"
            ) from None


def load_cursor(path: Path) -> Cursor | None:
    """Read the cursor in `path`; return None if there is no such file. Raises UsageError if it is damaged."""
    try:
        data = read_named(path, "cursor file", most_bytes=_MAX_BYTES)
    except FileNotFoundError:
        return None
    try:
        return parse_cursor(data)
    except ProtocolError as error:
        raise UsageError(f"cursor file {str(path)!r} is damaged ({error}); delete it to start again") from None


def parse_cursor(data: bytes) -> Cursor:
    """Parse the bytes of a cursor file. Raises ProtocolError."""
    body = decode_object(data, _MAX_BYTES, "cursor")
    base, places, length = body.get("base"), body.get("places"), body.get("output_bytes")
    sane = body.get("schema") == SCHEMA and isinstance(places, dict) and len(places) <= _MAX_TOPICS
    if not sane or not (_is_epoch(base) or (base == "" and not places)):
        raise ProtocolError("it is not a cursor of this program")
    if length is not None and (type(length) is not int or not 0 <= length <= MAX_SEQ):
        raise ProtocolError("its output_bytes is not a length")
    cursor = Cursor(str(base), {}, length)
    for topic, place in (places or {}).items():
        parse_topic(topic)
        fits = isinstance(place, list) and len(place) == 2 and _is_epoch(place[0]) and type(place[1]) is int
        if not fits or not 0 <= place[1] <= MAX_SEQ:
            raise ProtocolError(f"the place of {topic!r} is not [epoch, seq]")
        cursor.places[topic] = (place[0], place[1])
    _parse_unjournalled(body.get("unjournalled", {}), cursor)
    return cursor


def _parse_unjournalled(body: object, cursor: Cursor) -> None:
    wrong = ProtocolError("its entries about unjournalled events are damaged")
    if not isinstance(body, dict) or not isinstance(anchors := body.get("anchors", {}), dict):
        raise wrong
    for topic, value in anchors.items():
        parse_topic(topic)
        if not isinstance(value, list) or len(value) != 3 or not isinstance(had := value[2], dict):
            raise wrong
        seqs = [value[1], *had.values()]
        epochs = (_is_epoch(epoch) for epoch in (value[0], *had))
        if not all(epochs) or not all(type(seq) is int and 0 <= seq <= MAX_SEQ for seq in seqs):
            raise wrong
        cursor.anchors[topic] = Anchor((value[0], value[1]), had)
    for name, ids in (("started", cursor.started), ("ended", cursor.ended)):
        listed = body.get(name, [])
        if not isinstance(listed, list) or len(listed) > _MOST_IDS or not all(isinstance(i, str) for i in listed):
            raise wrong
        ids.update(dict.fromkeys(listed))


def _is_epoch(value: object) -> bool:
    if value == FIRST_EPOCH:
        return True
    return isinstance(value, str) and len(value) == 16 and all(c in "0123456789abcdef" for c in value)
