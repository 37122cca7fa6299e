"""The memory of a site on disk: features and scores of windows, alarms, verdicts. No picture and no name of a person.

    every window                                    for `window_hours`
    windows around alarms and misses, the highest   for `alarm_days`
    calm peaks of every hour, a spread-out sample
    alarms, verdicts, scored hours                  for `alarm_days`

One SQLite file (WAL): a kill at any moment loses at most what was not yet written (`BLOCK` windows per camera). Windows
are stored in blocks of consecutive ones, features in half precision: some 540 bytes per window of 256 features. `prune`
reduces blocks older than `window_hours` to the windows above; while the file is larger than `max_bytes` it reduces,
then deletes, the oldest blocks first. Features describe motion and scenes; they hold no picture, but with the bundle
they reveal much of what the camera recorded: protect the file like the recordings.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.system.own_files import MEMORY, check_own
from stream_detector.types import Float32Array

BLOCK = 64  # windows in one row
AROUND_S = 60.0  # stored before and after an alarm
PEAKS_AN_HOUR = 8
PEAK_CONTEXT = 2  # windows stored on either side of a peak
_APPLICATION_ID = MEMORY.application_id
_VACUUM_PAGES = 8000
_LOG_BYTES = 1 << 20  # of the write-ahead log
HOUR_S = 3600.0

_TABLES = """
CREATE TABLE IF NOT EXISTS blocks(n INTEGER PRIMARY KEY, camera TEXT NOT NULL, epoch TEXT NOT NULL,
    thin INTEGER NOT NULL, bundle TEXT NOT NULL, first_utc REAL NOT NULL, last_utc REAL NOT NULL,
    count INTEGER NOT NULL, dim INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS blocks_of ON blocks(camera, last_utc);
CREATE INDEX IF NOT EXISTS blocks_old ON blocks(thin, last_utc);
CREATE TABLE IF NOT EXISTS alarms(id TEXT NOT NULL, epoch TEXT NOT NULL, camera TEXT NOT NULL, start_s REAL NOT NULL,
    end_s REAL, start_utc REAL NOT NULL, peak REAL NOT NULL, threshold REAL NOT NULL, model TEXT NOT NULL,
    snapshot TEXT NOT NULL, PRIMARY KEY(id, epoch));
CREATE TABLE IF NOT EXISTS verdicts(id TEXT NOT NULL, alarm_epoch TEXT NOT NULL, camera TEXT NOT NULL,
    verdict TEXT NOT NULL, note TEXT NOT NULL, by TEXT NOT NULL, author TEXT NOT NULL, at_s REAL, at_utc REAL,
    lasting_s REAL, utc REAL NOT NULL, epoch TEXT NOT NULL, PRIMARY KEY(id, alarm_epoch));
CREATE TABLE IF NOT EXISTS hours(camera TEXT NOT NULL, hour INTEGER NOT NULL, windows INTEGER NOT NULL,
    seconds REAL NOT NULL, PRIMARY KEY(camera, hour)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS coresets(camera TEXT PRIMARY KEY, radius REAL NOT NULL, dim INTEGER NOT NULL,
    data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Consecutive windows of one camera and run. starts_s, ends_s: media time.  utc: of capture.  raw: the bundle's.

    features: (n, D) float16.  flags: 1 where another scene begins, 2 where the score is degraded.
    """

    camera: str
    epoch: str
    bundle: str
    starts_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    utc: NDArray[np.float64]
    raw: NDArray[np.float32]
    flags: NDArray[np.uint8]
    features: NDArray[np.float16]
    thin: bool = False

    def __len__(self) -> int:
        return len(self.raw)

    def pack(self) -> bytes:
        """Return the arrays as bytes, little-endian, one after the other."""
        parts = (self.starts_s, self.ends_s, self.utc, self.raw, self.flags, self.features)
        kinds = ("<f8", "<f8", "<f8", "<f4", "u1", "<f2")
        return b"".join(np.ascontiguousarray(a, kind).tobytes() for a, kind in zip(parts, kinds, strict=True))

    def take(self, chosen: NDArray[np.bool_]) -> list[Block]:
        """Return the chosen windows as blocks of consecutive windows, marked as thinned."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
        return [self.part(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]

    def part(self, first: int, last: int) -> Block:
        """Return the windows from `first` to before `last`, marked as thinned."""
        return Block(
            self.camera,
            self.epoch,
            self.bundle,
            self.starts_s[first:last],
            self.ends_s[first:last],
            self.utc[first:last],
            self.raw[first:last],
            self.flags[first:last],
            self.features[first:last],
            True,
        )


def unpack(camera: str, epoch: str, bundle: str, count: int, dim: int, data: bytes, thin: int) -> Block:
    """Read the bytes of `Block.pack`. Raises DataError if the size is wrong."""
    if len(data) != count * (8 * 3 + 4 + 1 + 2 * dim):
        raise DataError(f"a block of the site's memory of camera {camera!r} is damaged; prune it with `site prune`")
    place = 0
    arrays: list[NDArray[Any]] = []
    for kind, width in (("<f8", 1), ("<f8", 1), ("<f8", 1), ("<f4", 1), ("u1", 1), ("<f2", dim)):
        size = np.dtype(kind).itemsize * width * count
        arrays.append(np.frombuffer(data[place : place + size], kind))
        place += size
    starts, ends, utc, raw, flags, features = arrays
    return Block(camera, epoch, bundle, starts, ends, utc, raw, flags, features.reshape(count, dim), bool(thin))


@dataclass(frozen=True, slots=True)
class KeptAlarm:
    """An alarm in the memory. verdict: the newest, "" if there is none; note, by, author: of that verdict."""

    id: str
    epoch: str
    camera: str
    start_s: float
    end_s: float
    start_utc: float
    peak: float
    threshold: float
    model: str
    snapshot: str
    verdict: str = ""
    note: str = ""
    by: str = ""
    author: str = ""


@dataclass(frozen=True, slots=True)
class Miss:
    """An incident without an alarm. at_s: media time in run `epoch`; at_utc: UTC in seconds; one of them is None."""

    id: str
    camera: str
    at_s: float | None
    at_utc: float | None
    lasting_s: float
    epoch: str


@dataclass(frozen=True, slots=True)
class CameraMemory:
    """The content of the memory for one camera, for `site show`."""

    camera: str
    windows: int
    thinned: int
    hours: float
    bytes: int
    alarms: int
    verdicts: dict[str, int] = field(default_factory=dict)


class Memory:
    """The file. Used by one thread at a time. Raises DataError if it cannot be opened or is no memory of a site."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        check_own(path, MEMORY, "give another [site] directory", DataError)
        try:
            if read_only:
                self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
            self._open(read_only)
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"the site's memory {str(path)!r} cannot be opened ({error}); see [site] directory"
            ) from None

    def _open(self, read_only: bool) -> None:
        known = self._db.execute("PRAGMA application_id").fetchone()[0]
        empty = not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if known != _APPLICATION_ID and not (empty and not read_only):
            raise DataError(f"{str(self.path)!r} is not the memory of a site; give another [site] directory")
        if not read_only:
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 200")
            self._db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._db.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # -- writing ------------------------------------------------------------------------------------------------

    def add(self, blocks: Iterable[Block]) -> None:
        """Store blocks, and count their hours."""
        with self._db:
            for block in blocks:
                self._insert(block)
                self._count(block)

    def _insert(self, block: Block) -> None:
        values = (block.camera, block.epoch, int(block.thin), block.bundle, float(block.utc[0]), float(block.utc[-1]))
        self._db.execute(
            "INSERT INTO blocks(camera, epoch, thin, bundle, first_utc, last_utc, count, dim, data)"
            " VALUES (?,?,?,?,?,?,?,?,?)",
            (*values, len(block), block.features.shape[1], block.pack()),
        )

    def _count(self, block: Block) -> None:
        for hour in np.unique((block.utc // HOUR_S).astype(np.int64)):
            mine = (block.utc // HOUR_S).astype(np.int64) == hour
            seconds = float((block.ends_s[mine] - block.starts_s[mine]).sum())
            self._db.execute(
                "INSERT INTO hours VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET windows = windows + excluded.windows,"
                " seconds = seconds + excluded.seconds",
                (block.camera, int(hour), int(mine.sum()), seconds),
            )

    def alarm(self, alarm: KeptAlarm) -> None:
        """Store an alarm, or its new state."""
        values = (alarm.id, alarm.epoch, alarm.camera, alarm.start_s, alarm.end_s, alarm.start_utc)
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO alarms VALUES (?,?,?,?,?,?,?,?,?,?)",
                (*values, alarm.peak, alarm.threshold, alarm.model, alarm.snapshot),
            )

    def verdict(self, body: dict[str, Any], at_utc: float | None, utc: float) -> None:
        """Store the newest verdict of an alarm or miss. body: as journalled.  at_utc, utc: its times as seconds."""
        names = ("id", "camera", "verdict", "note", "by", "author", "at_s", "lasting_s", "epoch")
        value = {name: body.get(name) for name in names} | {"alarm_epoch": body.get("alarm_epoch") or ""}
        value |= {"at_utc": at_utc, "utc": utc}
        with self._db:
            kept = self._db.execute(  # a withdrawn miss keeps its time
                "SELECT at_s, at_utc, lasting_s, alarm_epoch FROM verdicts WHERE id = ? AND verdict = 'missed'",
                (value["id"],),
            ).fetchone()
            if kept and value["verdict"] != "missed":
                value |= {"at_s": kept[0], "at_utc": kept[1], "lasting_s": kept[2], "alarm_epoch": kept[3]}
            columns = sorted(value)
            self._db.execute(
                f"INSERT OR REPLACE INTO verdicts({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                tuple(value[name] for name in columns),
            )

    # -- bounds -------------------------------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """Size on disk of the file and its write-ahead log."""
        wal = self.path.with_name(self.path.name + "-wal")
        return self.path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)

    def _vacuum(self) -> None:
        self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")  # `execute` would free one page only

    def _used(self) -> int:
        """Bytes of the pages in use."""
        pages, free, size = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in _SIZES)
        return int((pages - free) * size)

    def prune(
        self, now_utc: float, *, window_hours: float, alarm_days: float, max_bytes: int, coreset: int, most: int = 10**9
    ) -> int:
        """Apply the limits; return the number of blocks that were thinned or deleted. most: limit of this number per
        call.

        window_hours, alarm_days: 0 means no limit of time.
        """
        changed = 0
        if window_hours:
            changed += self._thin_older(now_utc - window_hours * HOUR_S, coreset, most)
        if alarm_days:
            before = now_utc - alarm_days * 86400
            with self._db:
                changed += self._db.execute("DELETE FROM blocks WHERE last_utc < ?", (before,)).rowcount
                self._db.execute("DELETE FROM alarms WHERE start_utc < ?", (before,))
                self._db.execute("DELETE FROM verdicts WHERE utc < ?", (before,))
                self._db.execute("DELETE FROM hours WHERE hour < ?", (int(before // HOUR_S),))
        room = max_bytes - min(_LOG_BYTES * 2, max_bytes // 3)  # the log and the file grow between two calls
        while changed < most and self._used() > room:
            done = self._thin_oldest(coreset) or self._delete_oldest()
            if not done:
                break
            changed += done
        self._vacuum()
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return changed

    def forget(self, camera: str = "") -> None:
        """Delete everything of a camera, or of all cameras."""
        with self._db:
            for table in ("blocks", "alarms", "verdicts", "hours", "coresets"):
                self._db.execute(f"DELETE FROM {table} WHERE ? = '' OR camera = ?", (camera, camera))
        self._vacuum()
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _thin_older(self, before_utc: float, coreset: int, most: int) -> int:
        rows = self._db.execute(
            "SELECT n FROM blocks WHERE thin = 0 AND last_utc < ? ORDER BY last_utc LIMIT ?", (before_utc, most)
        ).fetchall()
        return self._thin([n for (n,) in rows], coreset)

    def _thin_oldest(self, coreset: int) -> int:
        rows = self._db.execute("SELECT n FROM blocks WHERE thin = 0 ORDER BY last_utc LIMIT 16").fetchall()
        return self._thin([n for (n,) in rows], coreset)

    def _delete_oldest(self) -> int:
        with self._db:
            return self._db.execute(
                "DELETE FROM blocks WHERE n IN (SELECT n FROM blocks ORDER BY last_utc LIMIT 16)"
            ).rowcount

    def _thin(self, numbers: Sequence[int], coreset: int) -> int:
        """Reduce blocks to the windows worth keeping. One transaction, so a kill leaves either state."""
        with self._db:
            for n in numbers:
                row = self._db.execute(
                    "SELECT camera, epoch, bundle, count, dim, data, thin FROM blocks WHERE n = ?", (n,)
                ).fetchone()
                self._db.execute("DELETE FROM blocks WHERE n = ?", (n,))
                if row is None or row[6]:
                    continue
                try:
                    block = unpack(*row)
                except DataError:
                    continue
                near = self._near_incidents(block)
                peaks = self._peaks(block, ~near)
                for part in block.take(near | peaks):
                    self._insert(part)
                self._sample(block, ~near, coreset)
        return len(numbers)

    def _near_incidents(self, block: Block) -> NDArray[np.bool_]:
        near = np.zeros(len(block), bool)
        lo, hi = float(block.utc[0]) - AROUND_S - 3600, float(block.utc[-1]) + AROUND_S
        for start_s, end_s in self._db.execute(
            "SELECT start_s, coalesce(end_s, start_s) FROM alarms WHERE camera = ? AND epoch = ?"
            " AND start_utc BETWEEN ? AND ?",
            (block.camera, block.epoch, lo, hi),
        ):
            near |= (block.ends_s >= start_s - AROUND_S) & (block.starts_s <= end_s + AROUND_S)
        for at_s, at_utc, lasting_s in self._db.execute(
            "SELECT at_s, at_utc, coalesce(lasting_s, 10) FROM verdicts WHERE camera = ? AND verdict = 'missed'"
            " AND (at_s IS NOT NULL OR at_utc BETWEEN ? AND ?)",
            (block.camera, lo, hi),
        ):
            times, at = (block.ends_s, at_s) if at_utc is None else (block.utc, at_utc)
            near |= (times >= at - AROUND_S) & (times <= at + lasting_s + AROUND_S)
        return near

    def _peaks(self, block: Block, calm: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Choose the highest calm windows, with their context, so that an hour keeps about PEAKS_AN_HOUR."""
        seconds = max(1.0, float(block.ends_s[-1] - block.starts_s[0]))
        share = PEAKS_AN_HOUR * seconds / HOUR_S
        number = int(share) + int(zero_to_one(block) < share % 1.0)
        chosen = np.zeros(len(block), bool)
        order = [int(k) for k in np.argsort(-block.raw, kind="stable") if calm[k]][:number]
        for k in order:
            chosen[max(0, k - PEAK_CONTEXT) : k + PEAK_CONTEXT + 1] = True
        return chosen & calm

    def _sample(self, block: Block, calm: NDArray[np.bool_], most: int) -> None:
        """Add the calm windows to the camera's coreset: a streaming k-center (Charikar et al. 1997).

        A window enters if no stored one lies within the radius; when there are too many, the radius grows and all are
        added again.
        """
        rows = block.features[calm].astype(np.float32)
        if not len(rows):
            return
        found = self._db.execute("SELECT radius, dim, data FROM coresets WHERE camera = ?", (block.camera,)).fetchone()
        dim = rows.shape[1]
        radius, kept = 0.0, np.empty((0, dim), np.float32)
        if found and found[1] == dim:
            radius, kept = float(found[0]), np.frombuffer(found[2], "<f2").reshape(-1, dim).astype(np.float32)
        kept, radius = grow_coreset(kept, rows, radius, most)
        self._db.execute(
            "INSERT OR REPLACE INTO coresets VALUES (?,?,?,?)",
            (block.camera, radius, dim, kept.astype("<f2").tobytes()),
        )

    # -- reading ------------------------------------------------------------------------------------------------

    def blocks(self, camera: str = "", bundle: str = "") -> Iterable[Block]:
        """Blocks in order of capture. camera, bundle: only of these, if given."""
        query = "SELECT camera, epoch, bundle, count, dim, data, thin FROM blocks"
        query += " WHERE (? = '' OR camera = ?) AND (? = '' OR bundle = ?) ORDER BY camera, first_utc, n"
        for row in self._db.execute(query, (camera, camera, bundle, bundle)):
            yield unpack(*row)

    def alarms(self, camera: str = "") -> list[KeptAlarm]:
        """Alarms with their newest verdict, oldest first."""
        rows = self._db.execute(
            "SELECT a.id, a.epoch, a.camera, start_s, coalesce(end_s, start_s), start_utc, peak, threshold, model,"
            " snapshot, v.verdict, v.note, v.by, v.author FROM alarms a LEFT JOIN verdicts v ON v.id = a.id"
            " AND (v.alarm_epoch = a.epoch OR v.alarm_epoch = '') WHERE ? = '' OR a.camera = ?"
            " ORDER BY start_utc, v.utc",
            (camera, camera),
        )
        found: dict[tuple[str, str], KeptAlarm] = {}
        for row in rows:
            found[row[0], row[1]] = KeptAlarm(*row[:10], *(value or "" for value in row[10:]))
        return list(found.values())

    def misses(self, camera: str = "") -> list[Miss]:
        """Misses that nobody has withdrawn."""
        rows = self._db.execute(
            "SELECT id, camera, at_s, at_utc, coalesce(lasting_s, 10), epoch FROM verdicts WHERE verdict = 'missed'"
            " AND (? = '' OR camera = ?) ORDER BY utc",
            (camera, camera),
        )
        return [Miss(*row) for row in rows]

    def hours(self, camera: str) -> list[tuple[int, float]]:
        """(hour since the epoch, scored seconds) of a camera, in order."""
        rows = self._db.execute("SELECT hour, seconds FROM hours WHERE camera = ? ORDER BY hour", (camera,))
        return [(int(hour), float(seconds)) for hour, seconds in rows]

    def coreset(self, camera: str) -> Float32Array:
        """Return (k, D): the spread-out sample of a camera's older calm; (0, 0) if there is none."""
        found = self._db.execute("SELECT dim, data FROM coresets WHERE camera = ?", (camera,)).fetchone()
        if found is None:
            return np.empty((0, 0), np.float32)
        result: Float32Array = np.frombuffer(found[1], "<f2").reshape(-1, found[0]).astype(np.float32)
        return result

    def cameras(self) -> list[CameraMemory]:
        """Return the content for every camera."""
        names = sorted(
            {
                n
                for t in ("blocks", "alarms", "verdicts", "hours")
                for (n,) in self._db.execute(f"SELECT DISTINCT camera FROM {t}")
            }
        )
        found = []
        for name in names:
            whole, thin, size = self._db.execute(
                "SELECT coalesce(sum(count * (1 - thin)), 0), coalesce(sum(count * thin), 0),"
                " coalesce(sum(length(data)), 0) FROM blocks WHERE camera = ?",
                (name,),
            ).fetchone()
            verdicts: dict[str, int] = {}
            for alarm in self.alarms(name):
                verdicts[alarm.verdict or "unjudged"] = verdicts.get(alarm.verdict or "unjudged", 0) + 1
            verdicts["missed"] = len(self.misses(name))
            alarms = self._db.execute("SELECT count(*) FROM alarms WHERE camera = ?", (name,)).fetchone()[0]
            seconds = sum(seconds for _, seconds in self.hours(name))
            found.append(CameraMemory(name, whole, thin, seconds / HOUR_S, size, alarms, verdicts))
        return found

    def fact(self, name: str) -> Any:
        """Return a stored value; None if there is none."""
        found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def set_fact(self, name: str, value: Any) -> None:
        """Store a value under a name."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?,?)", (name, json.dumps(value)))


_SIZES = ("page_count", "freelist_count", "page_size")


def zero_to_one(block: Block) -> float:
    """Return a number in [0, 1) computed from the block's position: pseudo-random, but equal in every run."""
    bits = struct.pack("<d", float(block.utc[0]))
    return (int.from_bytes(bits, "little") * 2654435761 % 2**32) / 2**32


def grow_coreset(kept: Float32Array, rows: Float32Array, radius: float, most: int) -> tuple[Float32Array, float]:
    """Return (coreset, radius) with `rows` added; at most `most` rows. All (k, D)."""
    for row in rows:
        if len(kept) and float(((kept - row) ** 2).sum(axis=1).min()) <= radius**2:
            continue
        kept = np.concatenate([kept, row[None]])
        while len(kept) > most:
            radius = max(radius * 1.3, _nearest(kept))
            fresh = kept[:1]
            for other in kept[1:]:
                if float(((fresh - other) ** 2).sum(axis=1).min()) > radius**2:
                    fresh = np.concatenate([fresh, other[None]])
            kept = fresh
    return kept, radius


def _nearest(rows: Float32Array) -> float:
    """Return the typical distance between neighbours among some of the rows."""
    some = rows[:: max(1, len(rows) // 64)]
    squares = ((some[:, None] - some[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    return float(np.sqrt(np.quantile(squares.min(axis=1), 0.25)))


def remove(path: Path) -> None:
    """Delete the memory, with its side files."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def check_memory(path: Path) -> str:
    """Return the result of SQLite's integrity check; "ok" if the file is sound."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        return str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
