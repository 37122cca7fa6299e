"""Reads the events.jsonl of a run, for plots, reports and calibration; `scores_file` reads scores.csv.

The file may come from any source, so every field is checked; an error names the first invalid field and its line. Times
are media seconds. Raises DataError with one sentence.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream_detector.errors import DataError
from stream_detector.reports.scores_file import ScoreRow, text_lines, unreadable
from stream_detector.system.user_files import open_named
from stream_detector.types import ALARM_SCHEMA, FORMER_WINDOW_KEY

EVENT_TYPES = ("start", "update", "end")


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """One alarm, assembled from its start, updates and end. end_s: None if the file has no end for it.

    timings: the `timing` of each event, milliseconds by stage.  ended: whether an end event was read.
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


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read the alarm events of a JSONL file in order; lines of other schemas are skipped. Raises DataError.

    An incomplete last line, left by a kill, is ignored.
    """
    events: list[dict[str, Any]] = []
    try:
        with open_named(path, "event file", DataError) as file:
            for number, (line, whole) in enumerate(text_lines(file, path, "events"), 1):
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
        raise DataError(unreadable(path, "events", error)) from None
    return events


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
    """Return one record per alarm, in the order of their first events; repeated events count once.

    A file that is played again repeats its ids: a start in another epoch is another alarm.
    """
    alarms: dict[tuple[str, str, int], AlarmRecord] = {}
    begun: dict[tuple[str, str], tuple[int, object]] = {}  # camera and id → number of starts, epoch of the last one
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
    """Return stage → milliseconds of an event's `timing`, each stage once; a former key is read as
    `capture_to_window`.
    """
    times = {str(name): float(value) for name, value in timing.items() if _is_number(value)}
    former = times.pop(FORMER_WINDOW_KEY, None)
    return times if former is None else {"capture_to_window": former, **times}


def by_camera(rows: list[ScoreRow]) -> dict[str, list[ScoreRow]]:
    """Group rows by camera, in the order of the cameras' first rows."""
    cameras: dict[str, list[ScoreRow]] = {}
    for row in rows:
        cameras.setdefault(row.camera, []).append(row)
    return cameras


def spans_of(rows: list[ScoreRow]) -> list[tuple[float, float, tuple[str, ...]]]:
    """Return the degraded spans (start_s, end_s, causes) of one camera; neighbouring windows with equal causes are
    merged.
    """
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
