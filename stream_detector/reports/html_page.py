"""A report as one self-contained HTML page: inline style, script and pictures, nothing from other places.

The template is `assets/report.html.j2`; this module computes the values that it shows. Names, sources and causes come
from outside: Jinja2 escapes every text, links only lead to relative files, pictures are embedded only if they are JPEG
or PNG, and a content security policy in the page forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import jinja2

from stream_detector.reports.plots import clock_label, step_s
from stream_detector.reports.read_back import AlarmRecord
from stream_detector.reports.scores_file import ScoreRow
from stream_detector.reports.summary import CameraReport, Report

WIDTH = 10_000  # units of a timeline's x axis
TOP, HEIGHT = 70, 1000  # score 1 lies at TOP, score 0 at HEIGHT
MIN_WIDTH = 8  # a shorter alarm is drawn with this width, so that it is visible
MAX_POINTS = 1500  # points per camera; more windows are downsampled, peaks are kept
MAX_PICTURE_BYTES = 2_000_000
MAX_PICTURES_BYTES = 40_000_000
MAX_SPANS = 200
COVERAGE_HEAD = ("camera", "windows scored", "coverage", "watched", "holes", "alarms", "highest score", "threshold")


@dataclass(frozen=True, slots=True)
class _Card:
    kind: str
    value: str
    name: str


@dataclass(frozen=True, slots=True)
class _Bar:
    """A span of a timeline. x, width: units of the axis."""

    x: int
    width: int
    tip: str


@dataclass(frozen=True, slots=True)
class _Tick:
    kind: str
    left: str
    label: str


@dataclass(frozen=True, slots=True)
class _Panel:
    """One camera's timeline. grid, threshold_y: units of the axis.  lines: (class, SVG points).  data: JSON."""

    camera: str
    label: str
    note: str
    grid: tuple[int, ...]
    alarms: tuple[_Bar, ...]
    degraded: tuple[_Bar, ...]
    lines: tuple[tuple[str, str], ...]
    threshold_y: int | None
    ticks: tuple[_Tick, ...]
    data: str


@dataclass(frozen=True, slots=True)
class _Picture:
    """An embedded picture. kind: "jpeg" or "png".  data: base64.  missing: the reason if there is none."""

    kind: str = ""
    data: str = ""
    missing: str = ""


@dataclass(frozen=True, slots=True)
class _AlarmItem:
    camera: str
    picture: _Picture
    span: str
    scores: str
    start_utc: str
    degraded: str
    clip_link: str
    clip_name: str
    from_s: str
    to_s: str


def page(report: Report, *, title: str, base: Path, out: Path, pace_note: str = "") -> str:
    """Render the page; return its text.

    base: the folder (of the events file) in which evidence is also searched.  out: the path of the page, for relative
    links to clips.
    """
    script = _asset("report.js")
    pin = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    bundles = ", ".join(report.bundles)
    spans = _degraded(report)
    return _template().render(
        title=title,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{pin}'",
        css=_asset("report.css"),
        script=script,
        subtitle=(f"model bundle {bundles}" if bundles else "") + pace_note,
        rendered=report.rendered,
        cards=_cards(report),
        width=WIDTH,
        height=HEIGHT,
        panels=[_panel(camera) for camera in report.cameras if camera.rows],
        alarms=_alarms(report, base, out),
        no_alarm=_no_alarm(report),
        coverage_head=COVERAGE_HEAD,
        coverage=_coverage(report),
        degraded=spans[:MAX_SPANS],
        degraded_hidden=max(0, len(spans) - MAX_SPANS),
        latency=_latency(report),
    )


def _asset(name: str) -> str:
    return resources.files("stream_detector").joinpath("reports", "assets", name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["printable"] = printable
    return environment.from_string(_asset("report.html.j2"))


def printable(text: object) -> str:
    """Return `text` with visible control characters; the template escapes it."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def _cards(report: Report) -> list[_Card]:
    coverage = report.coverage
    whole = coverage is not None and coverage >= 0.999
    return [
        _Card(
            "hot" if report.alarms else "good",
            str(len(report.alarms)),
            "alarm" if len(report.alarms) == 1 else "alarms",
        ),
        _Card("", str(len(report.cameras)), "camera" if len(report.cameras) == 1 else "cameras"),
        _Card("", duration_text(report.watched_s), "footage watched"),
        _Card("", f"{report.scored:,}", "windows scored"),
        _Card(
            "good" if whole else "poor",
            "–" if coverage is None else share_text(coverage),
            "of expected windows",
        ),
        _Card("poor" if report.degraded_windows else "", f"{report.degraded_windows:,}", "degraded windows"),
    ]


def _panel(camera: CameraReport) -> _Panel:
    rows = sorted(camera.rows, key=lambda row: row.end_s)
    start_s = min(row.start_s for row in rows)
    end_s = max(max(row.end_s for row in rows), start_s + 1e-3)

    def x(seconds: float) -> int:
        return round(min(1.0, max(0.0, (seconds - start_s) / (end_s - start_s))) * WIDTH)

    def y(score: float) -> int:
        return round(HEIGHT - score * (HEIGHT - TOP))

    def bar(first_s: float, last_s: float, tip: str) -> _Bar:
        return _Bar(x(first_s), max(MIN_WIDTH, x(last_s) - x(first_s)), tip)

    points = downsampled(rows)
    data = json.dumps(
        {
            "camera": camera.name,
            "start": round(start_s, 3),
            "end": round(end_s, 3),
            "x": [x(row.end_s) for row in points],
            "raw": [round(row.raw, 3) for row in points],
            "smoothed": [round(row.smoothed, 3) for row in points],
            "causes": [", ".join(row.degraded) for row in points],
        },
        separators=(",", ":"),
    ).translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&"})  # nothing is escaped inside a script element
    drawn = "" if len(points) == len(rows) else f", {len(points)} of {len(rows)} windows drawn, peaks kept"
    return _Panel(
        camera=camera.name,
        label=f"Scores of {camera.name} over {duration_text(end_s - start_s)}, {len(camera.alarms)} alarms",
        note=", ".join(camera.sources) + drawn,
        grid=(y(0.5), y(1.0)),
        alarms=tuple(
            bar(alarm.start_s, end_s if alarm.end_s is None else alarm.end_s, f"alarm, peak {alarm.peak_score:.2f}")
            for alarm in camera.alarms
        ),
        degraded=tuple(
            bar(first_s, last_s, f"degraded: {', '.join(causes)}")
            for first_s, last_s, causes in camera.spans[:MAX_SPANS]
        ),
        lines=tuple(
            (kind, " ".join(f"{x(row.end_s)},{y(getattr(row, kind))}" for row in part))
            for kind in ("raw", "smoothed")
            for part in split_at_gaps(points, camera.gaps)
        ),
        threshold_y=None if camera.threshold is None else y(camera.threshold),
        ticks=tuple(_ticks(start_s, end_s)),
        data=data,
    )


def _ticks(start_s: float, end_s: float) -> list[_Tick]:
    step = step_s(end_s - start_s, 4)
    labels = []
    number = math.ceil(start_s / step - 1e-9)
    while number * step <= end_s + 1e-9:
        share = (number * step - start_s) / (end_s - start_s)
        kind = "first" if share < 0.04 else "last" if share > 0.96 else ""
        labels.append(_Tick(kind, f"{100 * share:.2f}", clock_label(round(number * step, 6), end_s)))
        number += 1
    return labels


def downsampled(rows: list[ScoreRow]) -> list[ScoreRow]:
    """Reduce the rows to about MAX_POINTS, in order.

    Of each group of neighbours it keeps the highest and lowest smoothed, the highest raw and the first degraded row.
    """
    size = math.ceil(3 * len(rows) / MAX_POINTS)
    if len(rows) <= MAX_POINTS or size <= 3:
        return rows
    kept: list[ScoreRow] = []
    for first in range(0, len(rows), size):
        group = rows[first : first + size]
        numbers = range(len(group))
        wanted = {
            max(numbers, key=lambda i: group[i].smoothed),
            min(numbers, key=lambda i: group[i].smoothed),
            max(numbers, key=lambda i: group[i].raw),
        }
        wanted |= {next((i for i in numbers if group[i].degraded), 0)}
        kept += [group[i] for i in sorted(wanted)]
    return kept


def split_at_gaps(rows: list[ScoreRow], gaps: tuple[tuple[float, float], ...]) -> list[list[ScoreRow]]:
    """Split `rows` at the gaps between neighbours."""
    holes = sorted(gaps)
    parts: list[list[ScoreRow]] = [[]]
    at = 0
    for row in rows:
        while at < len(holes) and holes[at][1] <= row.start_s + 1e-9:
            if parts[-1]:
                parts.append([])
            at += 1
        parts[-1].append(row)
    return [part for part in parts if part]


def _no_alarm(report: Report) -> str:
    if not report.coverage:
        return "no window was scored"
    return f"{share_text(report.coverage)} of the expected windows were scored"


def _alarms(report: Report, base: Path, out: Path) -> list[_AlarmItem]:
    items = []
    room = MAX_PICTURES_BYTES
    for alarm in report.alarms:
        picture, used = _picture(alarm, base, room)
        room -= used
        items.append(_alarm(alarm, picture, base, out))
    return items


def _alarm(alarm: AlarmRecord, picture: _Picture, base: Path, out: Path) -> _AlarmItem:
    longest = max(alarm.start_s, alarm.end_s or 0.0)
    start = clock_label(round(alarm.start_s, 1), longest)
    if alarm.end_s is None:
        span = f"{start}, no end recorded"
    else:
        span = f"{start} – {clock_label(round(alarm.end_s, 1), longest)} ({alarm.end_s - alarm.start_s:.1f} s)"
    reason = "" if alarm.reason in (None, "normal") else f", ended by {alarm.reason}"
    clip = find_evidence(alarm.clip, base)
    return _AlarmItem(
        camera=alarm.camera,
        picture=picture,
        span=span + reason,
        scores=f"peak {alarm.peak_score:.2f}, threshold {alarm.threshold:.2f}",
        start_utc=alarm.start_utc,
        degraded=", ".join(alarm.degraded),
        clip_link="" if clip is None else link_to(clip, out),
        clip_name=alarm.clip or "" if clip is None else clip.name,
        from_s=f"{alarm.start_s:.3f}",
        to_s=f"{alarm.start_s if alarm.end_s is None else alarm.end_s:.3f}",
    )


def _picture(alarm: AlarmRecord, base: Path, room: int) -> tuple[_Picture, int]:
    """Load the snapshot of an alarm; return the picture and the bytes that it takes of `room`."""
    path = find_evidence(alarm.snapshot, base)
    if path is None:
        why = f"snapshot {alarm.snapshot} no longer exists" if alarm.snapshot else "no snapshot"
        return _Picture(missing=why), 0
    try:
        size = path.stat().st_size
        if size > min(room, MAX_PICTURE_BYTES):
            return _Picture(missing=f"snapshot {path.name} is too large to embed"), 0
        content = path.read_bytes()
    except OSError:
        return _Picture(missing=f"snapshot {path.name} cannot be read"), 0
    kind = "jpeg" if content.startswith(b"\xff\xd8\xff") else "png" if content.startswith(b"\x89PNG") else ""
    if not kind:
        return _Picture(missing=f"snapshot {path.name} is not a picture"), 0
    return _Picture(kind, base64.b64encode(content).decode()), len(content)


def find_evidence(name: str | None, base: Path) -> Path | None:
    """Return the file that an event names: at its path, else under `base` by ever shorter tails (the folder may have
    moved).
    """
    if not name:
        return None
    path = Path(name)
    tails = [Path(*path.parts[first:]) for first in range(1 if path.is_absolute() else 0, len(path.parts))]
    for candidate in (path, *(base / tail for tail in tails)):
        try:
            if candidate.is_file():
                return candidate
        except (OSError, ValueError):
            continue
    return None


def link_to(target: Path, out: Path) -> str:
    """Return a relative URL from the page to a file; never one with a scheme."""
    return "./" + quote(Path(os.path.relpath(target.absolute(), out.absolute().parent)).as_posix())


def _coverage(report: Report) -> list[tuple[object, ...]]:
    lines: list[tuple[object, ...]] = []
    for camera in report.cameras:
        holes_s = sum(last - first for first, last in camera.gaps)
        peak = camera.peak
        at = "" if peak is None else f"{peak.smoothed:.2f} at {clock_label(round(peak.end_s, 1), peak.end_s)}"
        lines.append(
            (
                camera.name,
                f"{camera.scored:,} of {camera.expected:,}",
                "–" if camera.coverage is None else share_text(camera.coverage),
                duration_text(camera.watched_s),
                f"{len(camera.gaps)} ({duration_text(holes_s)})" if camera.gaps else "none",
                len(camera.alarms),
                at or "–",
                "–" if camera.threshold is None else f"{camera.threshold:.2f}",
            )
        )
    return lines


def _degraded(report: Report) -> list[tuple[object, ...]]:
    lines: list[tuple[object, ...]] = []
    for camera in report.cameras:
        for first_s, last_s, causes in camera.spans:
            longest = max(last_s, 120.0)
            span = f"{clock_label(round(first_s, 1), longest)} – {clock_label(round(last_s, 1), longest)}"
            lines.append((camera.name, span, f"{last_s - first_s:.1f} s", ", ".join(causes)))
    return lines


def _latency(report: Report) -> Sequence[tuple[object, ...]]:
    return [
        (stage, *(f"{values[name]:.2f}" for name in ("p50", "p95", "max")), f"{values['count']:.0f}")
        for stage, values in report.latency.items()
    ]


def share_text(share: float) -> str:
    """Format a share in per cent; 100 only if it is complete."""
    return "100 %" if share >= 1 else f"{min(99.9, math.floor(share * 1000) / 10):.1f} %"


def duration_text(seconds: float) -> str:
    """Format a duration: '57.6 s', '12 min 5 s', '3 h 20 min'."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"
