"""The place of a subscriber in every topic, and the file that keeps it across restarts."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from stream_detector.errors import LedgerError, ProtocolError
from stream_detector.wire import FIRST_EPOCH, MAX_SEQ, decode_object, parse_topic

SCHEMA = "stream-detector.cursor/1"
_MAX_BYTES = 4 << 20
_MAX_TOPICS = 20_000


@dataclass(slots=True)
class Cursor:
    """base: the epoch in which the subscriber first joined; a topic not named in `places` is at (base, 0). "" before.

    places: topic → (epoch, seq) of its newest event handled.  output_bytes: length of the output file that belongs to
    this place, or None; whoever writes events to a file truncates it to this length when it starts again.
    """

    base: str = ""
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    output_bytes: int | None = None

    def place(self, topic: str) -> tuple[str, int]:
        """(epoch, seq) of the newest event had of `topic`."""
        return self.places.get(topic, (self.base, 0))

    def copy(self) -> Cursor:
        """An independent copy."""
        return Cursor(self.base, dict(self.places), self.output_bytes)

    def save(self, path: Path) -> None:
        """Write atomically: after a kill the file holds either the old place or the new. Raises LedgerError."""
        body = {"schema": SCHEMA, "base": self.base, "places": self.places, "output_bytes": self.output_bytes}
        aside = path.with_name(f"{path.name}.tmp")
        try:
            aside.write_text(json.dumps(body), encoding="utf-8")
            os.replace(aside, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise LedgerError(
                f"cursor file {str(path)!r} cannot be written ({error.strerror}); free the disk"
            ) from None


def load_cursor(path: Path) -> Cursor | None:
    """The cursor in `path`, or None if there is no such file. Raises ProtocolError if it is damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ProtocolError(f"cursor file {str(path)!r} cannot be read ({error.strerror}); give another") from None
    try:
        return parse_cursor(data)
    except ProtocolError as error:
        raise ProtocolError(f"cursor file {str(path)!r} is damaged ({error}); delete it to begin anew") from None


def parse_cursor(data: bytes) -> Cursor:
    """A cursor from the bytes of its file. Raises ProtocolError."""
    body = decode_object(data, _MAX_BYTES, "cursor")
    base, places, length = body.get("base"), body.get("places"), body.get("output_bytes")
    sane = body.get("schema") == SCHEMA and isinstance(places, dict) and len(places) <= _MAX_TOPICS
    if not sane or not (_is_epoch(base) or (base == "" and not places)):
        raise ProtocolError("it is no cursor of this program")
    if length is not None and (type(length) is not int or not 0 <= length <= MAX_SEQ):
        raise ProtocolError("its output_bytes is not a length")
    cursor = Cursor(str(base), {}, length)
    for topic, place in (places or {}).items():
        parse_topic(topic)
        fits = isinstance(place, list) and len(place) == 2 and _is_epoch(place[0]) and type(place[1]) is int
        if not fits or not 0 <= place[1] <= MAX_SEQ:
            raise ProtocolError(f"the place of {topic!r} is not [epoch, seq]")
        cursor.places[topic] = (place[0], place[1])
    return cursor


def _is_epoch(value: object) -> bool:
    if value == FIRST_EPOCH:
        return True
    return isinstance(value, str) and len(value) == 16 and all(c in "0123456789abcdef" for c in value)
