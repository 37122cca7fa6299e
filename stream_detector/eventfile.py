"""The event file: JSON Lines, alarm events only, each line exactly the body that subscribers got."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path

from stream_detector.errors import UsageError
from stream_detector.wire import ALARM_SCHEMA, MAX_EVENT_BYTES

_WAITING = 10_000  # lines kept while the disk refuses them
_TAIL_BYTES = 2 * MAX_EVENT_BYTES
_BEGINNING = f'{{"schema":"{ALARM_SCHEMA}"'.encode()


class EventFile:
    """Appends to `path`, one write a line, so that a killed process leaves no torn line.

    While the disk is full, lines wait in memory (the newest 10,000) and are written when it takes them again; `tell`
    gets one sentence at the beginning and one at the end of such a time. Raises UsageError if the file cannot be
    opened, or holds something else.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._path, self._tell, self._failed = path, tell, False
        self._waiting: deque[bytes] = deque(maxlen=_WAITING)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(f"event file {str(path)!r} cannot be written ({error.strerror}); give another") from None
        status = os.fstat(self._descriptor)
        self._regular = stat.S_ISREG(status.st_mode)
        if self._regular and status.st_size:
            if os.pread(self._descriptor, len(_BEGINNING), 0) != _BEGINNING[: status.st_size]:
                os.close(self._descriptor)
                raise UsageError(f"file {str(path)!r} is not an event file; give another name for the events")
            self._cut_torn_line(status.st_size)

    def _cut_torn_line(self, size: int) -> None:
        """A crash of the machine can leave half a line; its event is in the journal, and comes again from there."""
        tail = os.pread(self._descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn:
            os.ftruncate(self._descriptor, size - torn)

    def last_line(self) -> bytes:
        """The newest whole line of the file, b"" if there is none."""
        if not self._regular:
            return b""
        size = os.fstat(self._descriptor).st_size
        tail = os.pread(self._descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        lines = tail.split(b"\n")
        return lines[-2] if len(lines) >= 2 else b""

    def write(self, body: bytes) -> None:
        """Add one line."""
        self._waiting.append(body)
        data = b"".join(line + b"\n" for line in self._waiting)
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                raise OSError(28, "no space left on device")
        except OSError as error:
            with contextlib.suppress(OSError):
                if self._regular:
                    os.ftruncate(self._descriptor, size)
            if not self._failed:
                self._failed = True
                self._tell(f"the event file {self._path} cannot be written ({error.strerror}); free or mend the disk")
            return
        self._waiting.clear()
        if self._failed:
            self._failed = False
            self._tell(f"the event file {self._path} is written again")

    def reopen(self) -> None:
        """Go on in a new file of the same name: the old one was renamed (logrotate). Keeps the old one, and tells,
        where that cannot be done."""
        try:
            fresh = EventFile(self._path, self._tell)
        except UsageError as error:
            self._tell(str(error))
            return
        os.close(self._descriptor)
        self._descriptor, self._regular = fresh._descriptor, fresh._regular

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
