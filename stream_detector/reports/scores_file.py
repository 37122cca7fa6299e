"""scores.csv, one row per window: the row, its writer and its reader.

A table may come from any source, so the reader checks every field; an error names the first invalid field and its line.
Times are media seconds.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from stream_detector.errors import DataError, RunError, UsageError
from stream_detector.system.outputs import SCORE_COLUMNS, rename_former
from stream_detector.system.user_files import open_named
from stream_detector.types import Decision, Score, Timing, WindowRef

FLUSH_S = 1.0  # seconds of scores that a killed run may lose
MAX_LINE = 1 << 20
_NO_TIME = Timing(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One window: one row of scores.csv.

    source: as shown, without a password.  camera: name.  window: number of the window, from 0.  start_frame, end_frame:
    numbers of its first and last frame in the source.  start_s, end_s: media time of these frames, seconds.  raw:
    probability that the window is abnormal.  smoothed: the score that alarms go by; both in [0, 1].  degraded: causes
    that impair the window, empty normally.
    """

    source: str
    camera: str
    window: int
    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    raw: float
    smoothed: float
    degraded: tuple[str, ...] = ()

    def score(self) -> Score:
        """Convert to a Score for the alarm rule; every clock reads the end of the window."""
        ref = WindowRef(
            camera=self.camera,
            source=self.source,
            index=self.window,
            start_frame=self.start_frame,
            end_frame=self.end_frame,
            start_s=self.start_s,
            end_s=self.end_s,
            captured_s=self.end_s,
            captured_utc=self.end_s,
            completed_s=self.end_s,
            degraded=self.degraded,
        )
        return Score(ref, self.raw, self.end_s, _NO_TIME)


class ScoresFile:
    """Writes scores.csv: one row per window, columns SCORE_COLUMNS. Only the decision thread uses it."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        """Open the file.

        keep_bytes: continue after this many bytes of the existing file (see `flush`) instead of starting a new one.  A
        table of a former run is kept under another name, `kept`.  Raises UsageError.
        """
        self.kept = None if keep_bytes else rename_former(path, "scores")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open(
                "r+" if keep_bytes else "w", newline="", encoding="utf-8", errors="backslashreplace"
            )
            if keep_bytes:
                self._file.seek(keep_bytes)
                self._file.truncate()
        except OSError as error:
            raise UsageError(
                f"scores file {str(path)!r} cannot be written ({error.strerror}); give another path"
            ) from None
        self._flushed_s = time.monotonic()
        self._writer = csv.writer(self._file)
        self._path = path
        if not keep_bytes:
            try:
                with self._named():
                    self._writer.writerow(SCORE_COLUMNS)
                    self._file.flush()
            except RunError:
                self._file.close()
                raise

    def write(self, decision: Decision) -> None:
        """Add the row of one window."""
        ref = decision.score.ref
        with self._named():
            self._write(decision, ref)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """An error of the disk names the file."""
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError, ValueError):  # what is buffered would be tried again at the end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._file.fileno())
                os.close(nowhere)
            raise RunError(
                f"scores file {str(self._path)!r} cannot be written ({error.strerror}); free the disk, or give another"
            ) from None

    def _write(self, decision: Decision, ref: WindowRef) -> None:
        self._writer.writerow(
            (
                ref.source,
                ref.camera,
                ref.index,
                ref.start_frame,
                ref.end_frame,
                f"{ref.start_s:.3f}",
                f"{ref.end_s:.3f}",
                f"{decision.score.raw:.7f}",
                f"{decision.smoothed:.7f}",
                "+".join(ref.degraded),
            )
        )
        if time.monotonic() - self._flushed_s > FLUSH_S:
            self._file.flush()
            self._flushed_s = time.monotonic()

    def flush(self) -> int:
        """Write the buffered rows to the file; return its length in bytes."""
        with self._named():
            self._file.flush()
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        with self._named():
            self._file.close()


def read_scores(path: Path) -> list[ScoreRow]:
    """Read all rows of a scores.csv in order. An incomplete last line, left by a kill, is ignored. Raises DataError."""
    rows: list[ScoreRow] = []
    try:
        with open_named(path, "table of scores", DataError) as file:
            reader = csv.reader(text for text, _ in text_lines(file, path, "scores"))
            header = next(reader, None)
            if header is None or tuple(header) != SCORE_COLUMNS:
                raise DataError(
                    f"{path}: not a scores file: the first line must be {','.join(SCORE_COLUMNS)!r}; "
                    "give the file that --scores wrote"
                )
            problem = ""
            for cells in reader:
                if problem:
                    raise DataError(problem)
                try:
                    rows.append(_score_row(cells))
                except ValueError as error:
                    problem = f"{path}, line {reader.line_num}: {error}; give the file that --scores wrote"
            if problem and (not cells or len(cells) == len(SCORE_COLUMNS)):
                raise DataError(problem)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(unreadable(path, "scores", error)) from None
    return rows


def _score_row(cells: list[str]) -> ScoreRow:
    if len(cells) != len(SCORE_COLUMNS):
        raise ValueError(f"{len(cells)} columns instead of {len(SCORE_COLUMNS)}")
    numbers: dict[str, float] = {}
    for name, cell in zip(SCORE_COLUMNS[2:9], cells[2:9], strict=True):
        try:
            value = float(cell)
        except ValueError:
            raise ValueError(f"{name} is {cell[:40]!r}, not a number") from None
        if not math.isfinite(value):
            raise ValueError(f"{name} is {cell[:40]!r}, not a finite number")
        numbers[name] = value
    for name in ("raw", "smoothed"):
        if not 0.0 <= numbers[name] <= 1.0:
            raise ValueError(f"{name} is {numbers[name]:g}, outside 0 to 1")
    if numbers["end_s"] < numbers["start_s"]:
        raise ValueError(f"the window ends at {numbers['end_s']:g} s, before it starts")
    return ScoreRow(
        source=cells[0],
        camera=cells[1],
        window=int(numbers["window"]),
        start_frame=int(numbers["start_frame"]),
        end_frame=int(numbers["end_frame"]),
        start_s=numbers["start_s"],
        end_s=numbers["end_s"],
        raw=numbers["raw"],
        smoothed=numbers["smoothed"],
        degraded=tuple(cause for cause in cells[9].split("+") if cause),
    )


def text_lines(file: BinaryIO, path: Path, what: str) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a file, and for each whether it has its line end: a kill may cut the last one within a
    character.

    Raises DataError at a line of more than MAX_LINE bytes (a device, a recording), UnicodeDecodeError.
    """
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise DataError(f"{path}, line {number}: longer than 1 MiB; give the file that --{what} wrote")
        whole = line.endswith(b"\n")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", "strict" if whole else "replace"), whole


def unreadable(path: Path, what: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{what} file {str(path)!r} does not exist; give the file that --{what} wrote"
    reason = getattr(error, "strerror", None) or error
    return f"{what} file {str(path)!r} cannot be read ({reason}); give the file that --{what} wrote"
