"""The queries of the journal, on top of `ledger_file` and `pruning`; `ledger.Ledger` is the journal.

Every query goes through `_guard`, which replaces a database that fails and repeats the query.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from stream_detector.events import ledger_file, pruning
from stream_detector.events.ledger_file import Row
from stream_detector.events.protocol import FIRST_EPOCH
from stream_detector.events.pruning import LostEvents


class LedgerReader:
    """The queries of a Ledger. epoch: of this process."""

    epoch: str
    degraded: bool
    _db: sqlite3.Connection
    _seqs: dict[str, int]
    _numbers: dict[str, int | None]

    def _guard(self, action: Callable[[], object], again: bool = False) -> None:
        raise NotImplementedError

    def store_number(self, name: str, value: int | None) -> None:
        """Store a row number (or 0) under a name, in the same file; None deletes it."""
        self._numbers[name] = value
        self._guard(lambda: ledger_file.write_fact(self._db, name, value), again=True)

    def since(self, topic: str, epoch: str | None, seq: int, limit: int) -> tuple[list[str], bool]:
        """(bodies as JSON texts, whether the epoch is unknown): up to `limit` events of `topic` after (epoch, seq).

        Oldest first, including later epochs. epoch: None means this process's; "first" or an unknown epoch gives
        everything that the journal holds of the topic.
        """
        found: tuple[list[str], bool] = ([], False)

        def read() -> None:
            nonlocal found
            found = ledger_file.read_since(self._db, topic, self.epoch if epoch is None else epoch, seq, limit)

        self._guard(read, again=True)
        return found

    def lost(self, topic: str, epoch: str | None, seq: int) -> LostEvents | None:
        """The events of `topic` after (epoch, seq) that retention deleted; None if none. epoch: as for `since`."""
        found: list[LostEvents | None] = [None]
        if epoch != FIRST_EPOCH:
            of = self.epoch if epoch is None else epoch
            self._guard(lambda: found.append(pruning.lost_since(self._db, topic, of, seq)), again=True)
        return found[-1]

    def row_number_of(self, topic: str, epoch: str, seq: int) -> int | None:
        """The row number of an event, for `events_after`; 0 if it was deleted, None if the journal does not know it."""
        found: list[int | None] = [None]
        self._guard(lambda: found.append(ledger_file.row_number_of(self._db, topic, epoch, seq)), again=True)
        return found[-1]

    def events_after(self, place: int, prefix: str, limit: int) -> list[tuple[int, Row]]:
        """(row number, event): up to `limit` events after row `place`, of topics that begin with `prefix`, in order."""
        found: list[list[tuple[int, Row]]] = [[]]
        self._guard(lambda: found.append(ledger_file.read_after(self._db, place, prefix, limit)), again=True)
        return found[-1]

    def newest(self, prefix: str) -> Row | None:
        """The newest event of topics that begin with `prefix`; while degraded, the newest that is on disk."""
        found: list[Row | None] = [None]
        self._guard(lambda: found.append(ledger_file.newest(self._db, prefix, self.degraded)), again=True)
        return found[-1]

    def last_row_number(self) -> int:
        """The row number of the newest event; 0 if there is none."""
        found = [0]
        self._guard(lambda: found.append(ledger_file.last_n(self._db)), again=True)
        return found[-1]

    def stored_number(self, name: str) -> int | None:
        """The number that `store_number` stored under a name, or None."""
        found: list[int | None] = [None]
        self._guard(lambda: found.append(ledger_file.read_fact(self._db, name)), again=True)
        return found[-1]

    def last_positions(self) -> dict[str, tuple[str, int]]:
        """topic → (epoch, seq) of its newest event, of every epoch the journal holds."""
        found: dict[str, tuple[str, int]] = {}
        self._guard(lambda: found.update(ledger_file.read_positions(self._db)), again=True)
        return {**found, **{topic: (self.epoch, seq) for topic, seq in self._seqs.items()}}
