"""Reads back what a run wrote: scores.csv and events.jsonl, for plots, reports and calibration.

Both files may come from anywhere, so every field is checked; the first that is wrong is named with its line. Times are
media seconds. Raises DataError with one sentence.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from stream_detector.errors import DataError
from stream_detector.system.outputs import SCORE_COLUMNS
from stream_detector.types import FORMER_WINDOW_KEY, Score, Timing, WindowRef

COLUMNS = SCORE_COLUMNS
ALARM_SCHEMA = "stream-detector.alarm/1"
EVENT_TYPES = ("start", "update", "end")
MAX_LINE = 1 << 20
_NO_TIME = Timing(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One window: one row of scores.csv. raw, smoothed: in [0, 1].  degraded: causes, empty normally."""

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
        """The score that this row was written from, for the alarm machine; every clock reads the end of the window."""
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


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """One alarm, put together from its start, updates and end. end_s: None when the file holds no end for it.

    timings: what each event says about where its milliseconds went.  ended: an end event was read.
    """

    id: str
    camera: str
    start_s: float
    end_s: float | None
    start_utc: str
    peak_score: float
    threshold: float
    reason: str | None = None
    degraded: tuple[str, ...] = ()
    bundle: str = ""
    clip: str | None = None
    snapshot: str | None = None
    events: int = 0
    ended: bool = False
    timings: tuple[dict[str, float], ...] = ()


def read_scores(path: Path) -> list[ScoreRow]:
    """All rows of a scores.csv in the file's order. A last line cut off by a kill is left out. Raises DataError."""
    rows: list[ScoreRow] = []
    try:
        with path.open("rb") as file:
            reader = csv.reader(text for text, _ in _lines(file, path, "scores"))
            header = next(reader, None)
            if header is None or tuple(header) != COLUMNS:
                raise DataError(
                    f"{path}: not a scores file: the first line must be {','.join(COLUMNS)!r}; "
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
            if problem and (not cells or len(cells) == len(COLUMNS)):
                raise DataError(problem)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(_unreadable(path, "scores", error)) from None
    return rows


def _score_row(cells: list[str]) -> ScoreRow:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} columns instead of {len(COLUMNS)}")
    numbers: dict[str, float] = {}
    for name, cell in zip(COLUMNS[2:9], cells[2:9], strict=True):
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


def read_events(path: Path) -> list[dict[str, Any]]:
    """The alarm events of a JSONL file in its order; lines of other schemas are passed over. Raises DataError.

    A last line without its line end, cut off by a kill, is left out.
    """
    events: list[dict[str, Any]] = []
    try:
        with path.open("rb") as file:
            for number, (line, whole) in enumerate(_lines(file, path, "events"), 1):
                try:
                    event = json.loads(line) if line.strip() else {}
                    if not isinstance(event, dict):
                        raise ValueError("not a JSON object")
                    if event.get("schema") == ALARM_SCHEMA:
                        _check_event(event)
                        events.append(event)
                except (ValueError, RecursionError) as error:
                    if whole:
                        sentence = f"{path}, line {number}: not an event ({error}); give the file that --events wrote"
                        raise DataError(sentence) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(_unreadable(path, "events", error)) from None
    return events


def _lines(file: BinaryIO, path: Path, what: str) -> Iterator[tuple[str, bool]]:
    """The lines of a file, and of each whether it has its line end: a kill may cut the last one, also in a character.

    Raises DataError at a line of more than MAX_LINE bytes (a device, a recording), UnicodeDecodeError.
    """
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise DataError(f"{path}, line {number}: longer than 1 MiB; give the file that --{what} wrote")
        whole = line.endswith(b"\n")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", "strict" if whole else "replace"), whole


def _check_event(event: dict[str, Any]) -> None:
    for name in ("id", "camera"):
        if not isinstance(event.get(name), str):
            raise ValueError(f"{name} is not a text")
    if event.get("type") not in EVENT_TYPES:
        raise ValueError(f"type is not one of {', '.join(EVENT_TYPES)}")
    for name in ("start_s", "peak_score", "threshold"):
        if not _is_number(event.get(name)):
            raise ValueError(f"{name} is not a finite number")
    if event.get("end_s") is not None and not _is_number(event["end_s"]):
        raise ValueError("end_s is neither null nor a finite number")
    evidence = event.get("evidence")
    if evidence is not None and not isinstance(evidence, dict):
        raise ValueError("evidence is neither null nor an object")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def gather_alarms(events: list[dict[str, Any]]) -> list[AlarmRecord]:
    """One record per alarm, in the order in which they first appear; events that come twice count once.

    A file that is played again repeats its ids: a start in another epoch is another alarm.
    """
    alarms: dict[tuple[str, str, int], AlarmRecord] = {}
    begun: dict[tuple[str, str], tuple[int, object]] = {}  # camera and id → how often it began, epoch of the last time
    seen: set[tuple[object, ...]] = set()
    for event in events:
        once = (event["camera"], event["id"], event["type"], event.get("epoch"), event.get("seq"))
        if event.get("seq") is not None and once in seen:
            continue
        seen.add(once)
        name = (event["camera"], event["id"])
        times, epoch = begun.get(name, (0, None))
        if event["type"] == "start" and epoch != event.get("epoch"):
            times, epoch = times + (epoch is not None), event.get("epoch")
        begun[name] = (times, epoch)
        key = (*name, times)
        evidence = event.get("evidence") or {}
        timing = event.get("timing")
        old = alarms.get(key) or AlarmRecord(
            id=event["id"],
            camera=event["camera"],
            start_s=float(event["start_s"]),
            end_s=None,
            start_utc=str(event.get("start_utc") or ""),
            peak_score=0.0,
            threshold=float(event["threshold"]),
            bundle=str(event.get("bundle") or ""),
        )
        ended = event["type"] == "end"
        causes = event.get("degraded") if isinstance(event.get("degraded"), list) else []
        alarms[key] = replace(
            old,
            end_s=float(event["end_s"]) if ended and event.get("end_s") is not None else old.end_s,
            peak_score=max(old.peak_score, float(event["peak_score"])),
            reason=str(event["reason"]) if ended and event.get("reason") else old.reason,
            degraded=tuple(sorted({*old.degraded, *(str(cause) for cause in causes or [])})),
            clip=_path_text(evidence.get("clip")) or old.clip,
            snapshot=_path_text(evidence.get("snapshot")) or old.snapshot,
            events=old.events + 1,
            ended=old.ended or ended,
            timings=(*old.timings, stage_times(timing)) if isinstance(timing, dict) else old.timings,
        )
    return list(alarms.values())


def _path_text(value: object) -> str | None:
    return value if isinstance(value, str) and value and "\0" not in value else None


def stage_times(timing: dict[str, Any]) -> dict[str, float]:
    """stage → milliseconds of an event's `timing`, each stage once: the former key is read as `capture_to_window`."""
    times = {str(name): float(value) for name, value in timing.items() if _is_number(value)}
    former = times.pop(FORMER_WINDOW_KEY, None)
    return times if former is None else {"capture_to_window": former, **times}


def _unreadable(path: Path, what: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{what} file {str(path)!r} does not exist; give the file that --{what} wrote"
    reason = getattr(error, "strerror", None) or error
    return f"{what} file {str(path)!r} cannot be read ({reason}); give the file that --{what} wrote"


def by_camera(rows: list[ScoreRow]) -> dict[str, list[ScoreRow]]:
    """Rows by camera, cameras in the order in which they first appear."""
    cameras: dict[str, list[ScoreRow]] = {}
    for row in rows:
        cameras.setdefault(row.camera, []).append(row)
    return cameras


def spans_of(rows: list[ScoreRow]) -> list[tuple[float, float, tuple[str, ...]]]:
    """Degraded stretches (start_s, end_s, causes) of one camera: neighbouring windows with equal causes as one."""
    spans: list[tuple[float, float, tuple[str, ...]]] = []
    follows = False
    for row in rows:
        if not row.degraded:
            follows = False
            continue
        if follows and spans[-1][2] == row.degraded and row.end_s >= spans[-1][1]:
            spans[-1] = (spans[-1][0], row.end_s, row.degraded)
        else:
            spans.append((row.start_s, row.end_s, row.degraded))
        follows = True
    return spans
