"""Completes the event file from the journal; the file is a copy of the journal.

After the newest line that the journal knows, all missing events are appended, across any number of runs. If the journal
knows no line (it was begun anew, or is another journal), the file is completed from the event that was newest when it
was first opened with this journal; the journal stores that row number until it knows a line of the file. A new file
follows the newest line of the rotated file beside it, or else the newest journalled event, and names that event in its
first line. Completion goes behind that event only where the rotated file ends with events that were not in the journal
when they were written: their order in the journal can be another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from stream_detector.events.jsonl_file import EventFile, follows, position_of, rotated_lines, rotated_positions
from stream_detector.events.ledger_file import MARKED, Row
from stream_detector.events.protocol import EventPosition

ALARMS = "v1/alarm/"
_PAGE = 1000
_ROTATED = 20  # rotated files that are followed back


class CompletionJournal(Protocol):
    """The part of `ledger.Ledger` that completion uses."""

    def row_number_of(self, topic: str, epoch: str, seq: int) -> int | None: ...
    def events_after(self, place: int, prefix: str, limit: int) -> list[tuple[int, Row]]: ...
    def newest(self, prefix: str) -> Row | None: ...
    def last_row_number(self) -> int: ...
    def stored_number(self, name: str) -> int | None: ...
    def store_number(self, name: str, value: int | None) -> None: ...


class EventFileCopy:
    """One event file and the journal that it is a copy of. Completed when made, and by `complete`."""

    def __init__(self, file: EventFile, journal: CompletionJournal) -> None:
        self._file, self._journal = file, journal
        self._fact = f"events {file.path.absolute()}"
        self._held: list[bytes] = []  # ends that may still be superseded, see `hold`
        self._unknown = True  # no line of the file is known to be in the journal
        if file.empty:
            self._begin()
        else:
            self.complete()

    def write(self, body: bytes) -> None:
        """Append an event that was just journalled."""
        if self._file.write(body) and self._unknown:
            self._known()

    def hold(self, body: bytes) -> None:
        """Hold back an `end` that is in memory only while its `start` is on disk.

        If this process dies now, the next one ends the alarm, and the file must contain one end only.
        """
        self._held.append(body)

    def give(self) -> None:
        """Append the events that were held back, once the journal is on disk again."""
        for body in self._held:
            self.write(body)
        self._held.clear()

    def look(self) -> None:
        """Notice a rotation; append the events that were dropped while the disk was full."""
        self._file.look()
        if self._file.behind:
            self._file.behind = not self.complete()

    def complete(self) -> bool:
        """Append the events that the file lacks; False if it cannot be written now."""
        skip: set[EventPosition] = set()
        place: int | None = None
        for line in self._lines_back():
            named = position_of(line)
            if named is None:
                continue
            skip.add(named)
            found_at = self._journal.row_number_of(*named)
            if found_at is not None:
                place = found_at if place is None else min(place, found_at)
                if not line.endswith(MARKED) and not follows(line):  # those came to the journal later than to the file
                    break
        if place is None:
            place = self._journal.stored_number(self._fact)
            if place is None:  # nothing is missing yet
                self._journal.store_number(self._fact, self._journal.last_row_number())
                return True
        elif self._unknown:
            self._known()
        while found := self._journal.events_after(place, ALARMS, _PAGE):
            rows = [row for _, row in found if (row.topic, row.epoch, row.seq) not in skip]
            if not self._file.extend([row.text.encode() for row in rows]):
                return False
            if rows and self._unknown:
                self._known()
            place = found[-1][0]
        return True

    def _lines_back(self) -> Iterator[bytes]:
        """The lines of the file, and of the rotated ones that it follows, newest first."""
        lines: Iterable[bytes] = self._file.lines_back()
        for _ in range(_ROTATED):
            first = b""
            for first in lines:
                yield first
            before = follows(first)
            if before is None:
                return
            lines = rotated_lines(self._file.path, before)

    def _begin(self) -> None:
        """Begin an empty file: a new one, or one whose first lines were lost in a crash."""
        place = self._journal.stored_number(self._fact)
        if place is not None:
            self.complete()
            return
        for named in rotated_positions(
            self._file.path
        ):  # the process may have died before the last event reached that file
            if self._journal.row_number_of(*named) is not None:
                self._file.begin(named)
                self.complete()
                return
        before = self._journal.newest(ALARMS)
        if before is not None:
            self._file.begin((before.topic, before.epoch, before.seq))
            self._unknown = False
        else:
            self._journal.store_number(self._fact, self._journal.last_row_number())

    def _known(self) -> None:
        self._unknown = False
        self._journal.store_number(self._fact, None)
