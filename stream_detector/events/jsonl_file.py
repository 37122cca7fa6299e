"""The event file: JSON Lines of alarm events; each line is exactly the body that subscribers received.

It is a copy of the journal and can be completed after any crash (see `jsonl_completion`). A file that replaces an
earlier one (rotated, deleted, truncated) begins with a line of another schema that names the event it follows.
Completion never goes back before that event:

    {"schema": "stream-detector.follows/1", "topic": "v1/alarm/gate/", "epoch": "9f1c2a7be0d34455", "seq": 12}
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stream_detector.errors import ProtocolError, UsageError
from stream_detector.events.protocol import (
    ALARM_SCHEMA,
    FOLLOWS_SCHEMA,
    MAX_EVENT_BYTES,
    EventPosition,
    check_position,
    decode_object,
    encode,
    topic_of,
)
from stream_detector.system.lock_file import LockFile, claim_events

log = logging.getLogger(__name__)

_WAITING = 10_000  # lines kept while the disk refuses them; further ones are read from the journal later
_BLOCK_BYTES = 1 << 20
_TAIL_BYTES = 2 * MAX_EVENT_BYTES
_MOST_BYTES = 256 << 20  # how far back the file is searched for a line that the journal knows
_ROTATED = 20  # rotated files that are searched
_ROTATED_LINES = 1000
_BEGINNINGS = tuple(f'{{"schema":"{schema}"'.encode() for schema in (ALARM_SCHEMA, FOLLOWS_SCHEMA))


class EventFile:
    """Appends lines to `path` with one write each, so that a killed process leaves no partial line.

    While the disk is full, lines wait in memory (the newest 10,000) and are written when the disk accepts them again.
    Beyond that number the file is `behind`, and its owner completes it from the journal. on_problem: called with one
    sentence when such a time begins and when it ends.  lock: the file's lock if the caller holds it already.
    Raises UsageError if the file cannot be opened, is not a regular file, is not an event file, or belongs to another
    detector.
    """

    def __init__(self, path: Path, on_problem: Callable[[str], None], lock: LockFile | None = None) -> None:
        self.path, self._on_problem, self._failed = path, on_problem, False
        self.behind = False  # lines were dropped: complete the file from the journal
        self._waiting: deque[bytes] = deque()
        self._descriptor = -1
        check_ordinary(path)
        try:
            self._lock = lock or claim_events(path)
            self._descriptor = self._open()
            self._lock.hold(path)
            self._cut_torn_line()
        except OSError as error:
            self.close()
            raise UsageError(
                f"event file {str(path)!r} cannot be written ({error.strerror}); give another path"
            ) from None
        except UsageError:
            self.close()
            raise
        self._last = next(self.lines_back(), b"")
        self._size = self._length()

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(self.path, flags, 0o644)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            check_ordinary(self.path)
            raise OSError(22, "it is not a regular file")
        beginning = os.pread(descriptor, max(map(len, _BEGINNINGS)), 0)
        length = len(beginning)
        if not any(b[: min(length, len(b))] == beginning[: len(b)] for b in _BEGINNINGS):
            os.close(descriptor)
            raise UsageError(f"file {str(self.path)!r} is not an event file; give another path for the events")
        return descriptor

    def _length(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _cut_torn_line(self) -> None:
        """Remove a partial last line, as a crash of the machine can leave; the journal still holds its event."""
        size = self._length()
        tail = os.pread(self._descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn:
            os.ftruncate(self._descriptor, size - torn)

    @property
    def empty(self) -> bool:
        """Whether the file holds no line and no line waits to be written."""
        return not self._waiting and not self._length()

    def last_line(self) -> bytes:
        """The newest line; b"" if there is none."""
        return self._last

    def lines_back(self) -> Iterator[bytes]:
        """The complete lines of the last 256 MiB of the file, newest first."""
        return _lines_back(self._descriptor)

    def begin(self, place: EventPosition) -> None:
        """Write the first line, which names the event that the file follows."""
        topic, epoch, seq = place
        body = {"schema": FOLLOWS_SCHEMA, "topic": topic, "epoch": epoch, "seq": seq}
        self.write(encode(body))

    def write(self, body: bytes) -> bool:
        """Append one line; returns whether it is in the file now."""
        if self.behind:
            return False
        self._waiting.append(body)
        if self._append(b"".join(line + b"\n" for line in self._waiting)):
            self._last = self._waiting[-1]
            self._waiting.clear()
            return True
        if len(self._waiting) >= _WAITING:
            self.behind = True
            self._waiting.clear()
        return False

    def extend(self, bodies: Sequence[bytes]) -> bool:
        """Append missing lines, all or none; returns whether they are in the file now."""
        if bodies and not self._append(b"".join(body + b"\n" for body in bodies)):
            return False
        self._last = bodies[-1] if bodies else self._last
        return True

    def _append(self, data: bytes) -> bool:
        size = self._length()
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                raise OSError(28, "no space left on device")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            if not self._failed:
                self._failed = True
                self._report(
                    f"the event file {self.path} cannot be written ({error.strerror}); free or repair the disk"
                )
            return False
        self._size = size + len(data)
        if self._failed:
            self._failed = False
            self._report(f"the event file {self.path} is written again")
        return True

    def look(self) -> None:
        """Check whether `path` is still this file; if it was moved, deleted or truncated, begin a new file there.

        Call it about every second, and immediately after a rotation.
        """
        try:
            there, mine = self.path.stat(), os.fstat(self._descriptor)
            moved = (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)
            if not moved and mine.st_size >= self._size:
                return
        except OSError:
            moved = True
        place = position_of(self._last)
        if moved:
            try:
                check_ordinary(self.path)
                descriptor = self._open()
            except (OSError, UsageError) as error:
                if not self._failed:
                    self._failed = True
                    self._report(
                        f"the event file {self.path} was moved or deleted, and no new one can be created ({error})"
                    )
                return
            os.close(self._descriptor)
            self._descriptor = descriptor
            self._cut_torn_line()
        self._size = self._length()
        log.warning("the event file %s was moved, deleted or truncated; a new one was begun at its path", self.path)
        if not self._size and place is not None:
            body = encode({"schema": FOLLOWS_SCHEMA, "topic": place[0], "epoch": place[1], "seq": place[2]})
            if not self._append(body + b"\n"):
                self._waiting.appendleft(body)

    def _report(self, text: str) -> None:
        """Report a failure or a recovery in the log and to the owner."""
        log.warning("%s", text)
        self._on_problem(text)

    def close(self) -> None:
        """Close the file and release its lock. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        lock = getattr(self, "_lock", None)
        if lock is not None:
            lock.release()


def _lines_back(descriptor: int) -> Iterator[bytes]:
    end = os.fstat(descriptor).st_size
    stop = max(0, end - _MOST_BYTES)
    rest = b""
    while end > stop:
        begin = max(stop, end - _BLOCK_BYTES)
        block = os.pread(descriptor, end - begin, begin) + rest
        first, *lines = block.split(b"\n")
        if begin == 0:
            lines.insert(0, first)
        yield from (line for line in reversed(lines) if line)
        rest, end = first if begin else b"", begin


def rotated_positions(path: Path) -> Iterator[EventPosition]:
    """The newest positions in the files that `path` may have been renamed to (`<path>.1`, `<path>-20250301`, …).

    The newest file comes first, and in each file the newest position. Only a few files and a few positions of each are
    read; files that cannot be read are skipped.
    """
    for lines in _rotated_files(path):
        places = map(position_of, lines)
        yield from (place for place in places if place is not None)


def rotated_lines(path: Path, event: EventPosition) -> list[bytes]:
    """The newest lines, newest first, of the rotated file in which one of them names this event; [] if there is none.

    Newer lines than that one are of events that the journal does not know.
    """

    def holds(lines: list[bytes]) -> bool:
        return any(position_of(line) == event for line in lines if not line.startswith(_BEGINNINGS[1]))

    return next((lines for lines in _rotated_files(path) if holds(lines)), [])


def follows(line: bytes) -> EventPosition | None:
    """The event that a file follows, if this is its first line; else None."""
    return position_of(line) if line.startswith(_BEGINNINGS[1]) else None


def _rotated_files(path: Path) -> Iterator[list[bytes]]:
    """The newest lines of each rotated file, newest first."""
    dated: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            status = other.lstat() if other.name.startswith(path.name) and other.name != path.name else None
            if status is not None and stat.S_ISREG(status.st_mode):
                dated.append((status.st_mtime, other))
    for _, other in sorted(dated, reverse=True)[:_ROTATED]:
        try:
            descriptor = os.open(other, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            yield list(itertools.islice(_lines_back(descriptor), _ROTATED_LINES))
        except OSError as error:
            log.debug("the rotated event file %s cannot be read (%s)", other, error)
        finally:
            os.close(descriptor)


def check_ordinary(path: Path) -> None:
    """Raise UsageError for a FIFO, a device or a socket: its reader could block the detector."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # for a folder, the error of `open` names the problem
        return
    kinds = {"FIFO": stat.S_ISFIFO, "socket": stat.S_ISSOCK}
    kind = next((name for name, is_one in kinds.items() if is_one(mode)), "device")
    raise UsageError(
        f"event file {str(path)!r} is a {kind}, which could block the detector; give a regular file, or read the "
        f"events with 'stream-detector subscribe'"
    )


def position_of(line: bytes) -> EventPosition | None:
    """(topic, epoch, seq) that a line of an event file names, or None."""
    try:
        body = decode_object(line, MAX_EVENT_BYTES, "line")
        topic = body.get("topic") if body.get("schema") == FOLLOWS_SCHEMA else topic_of("alarm", body.get("camera", ""))
        return check_position(topic, body.get("epoch"), body.get("seq"))
    except (ProtocolError, TypeError):  # skip lines that are not events
        return None
