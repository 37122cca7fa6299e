"""A report as one self-contained HTML page: inline style, script and pictures, nothing from any other place.

Names, sources and causes come from outside: every text is escaped, links only lead to relative files, pictures are
embedded only if they are JPEG or PNG, and a content policy in the page forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from stream_detector.plots import clock_label, step_s
from stream_detector.records import AlarmRecord, ScoreRow
from stream_detector.report import CameraReport, Report

WIDTH = 10_000  # units of a timeline's x axis
TOP, HEIGHT = 70, 1000  # score 1 lies at TOP, score 0 at HEIGHT
MAX_POINTS = 1500  # per camera; more windows are thinned, keeping peaks
MAX_PICTURE_BYTES = 2_000_000
MAX_PICTURES_BYTES = 40_000_000
MAX_SPANS = 200


def page(report: Report, *, title: str, base: Path, out: Path, pace_note: str = "") -> str:
    """The page's text.

    base: the folder that evidence is also looked for in (that of the events file).  out: where the page will lie, for
    relative links to clips.
    """
    css = _asset("report.css")
    script = _asset("report.js")
    pin = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{pin}'"
    notice = (
        '<p class="notice">Rendered footage: this scene is drawn by a program, no camera filmed it.</p>'
        if report.rendered
        else ""
    )
    bundles = ", ".join(report.bundles)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{esc(policy)}">
<title>{esc(title)}</title>
<style>{css}</style>
</head>
<body>
<main>
<h1>{esc(title)}</h1>
<p class="soft">{esc(f"model bundle {bundles}" if bundles else "")}{esc(pace_note)}</p>
{notice}
{_cards(report)}
<h2>Timeline</h2>
{_legend()}
{"".join(_panel(camera) for camera in report.cameras if camera.rows) or '<p class="soft">No scores.</p>'}
<h2>Alarms</h2>
{_alarms(report, base, out)}
<h2>Coverage</h2>
{_coverage(report)}
<h2>Degraded windows</h2>
{_degraded(report)}
<h2>Latency</h2>
{_latency(report)}
</main>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files("stream_detector").joinpath("assets", name).read_text(encoding="utf-8")


def esc(text: object) -> str:
    """`text` for HTML, in and between tags; control characters become visible."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))
    return html.escape(shown, quote=True)


def _cards(report: Report) -> str:
    coverage = report.coverage
    whole = coverage is not None and coverage >= 0.999
    cards = [
        ("hot" if report.alarms else "good", str(len(report.alarms)), "alarm" if len(report.alarms) == 1 else "alarms"),
        ("", str(len(report.cameras)), "camera" if len(report.cameras) == 1 else "cameras"),
        ("", duration_text(report.watched_s), "footage watched"),
        ("", f"{report.scored:,}", "windows scored"),
        ("good" if whole else "poor", "–" if coverage is None else share_text(coverage), "of expected windows"),
        ("poor" if report.degraded_windows else "", f"{report.degraded_windows:,}", "degraded windows"),
    ]
    inner = "".join(
        f'<div class="card {kind}"><b>{esc(value)}</b><span>{name}</span></div>' for kind, value, name in cards
    )
    return f'<div class="cards">{inner}</div>'


def _legend() -> str:
    lines = "".join(
        f'<span><i style="border-top:2px {style} var(--{colour})"></i>{name}</span>'
        for colour, style, name in (
            ("smoothed", "solid", "smoothed"),
            ("raw", "solid", "raw"),
            ("ink", "dashed", "threshold"),
        )
    )
    boxes = "".join(
        f'<span><i class="box" style="background:var(--{colour})"></i>{name}</span>'
        for colour, name in (("alarm", "alarm"), ("degraded", "degraded"))
    )
    return f'<div class="legend">{lines}{boxes}<span>drag to zoom, double click for all</span></div>'


def _panel(camera: CameraReport) -> str:
    rows = sorted(camera.rows, key=lambda row: row.end_s)
    start_s = min(row.start_s for row in rows)
    end_s = max(max(row.end_s for row in rows), start_s + 1e-3)

    def x(seconds: float) -> int:
        return round(min(1.0, max(0.0, (seconds - start_s) / (end_s - start_s))) * WIDTH)

    def y(score: float) -> int:
        return round(HEIGHT - score * (HEIGHT - TOP))

    points = thinned(rows)
    shapes = [f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y(s)}" y2="{y(s)}"/>' for s in (0.5, 1.0)]
    for alarm in camera.alarms:
        first, last = x(alarm.start_s), x(end_s if alarm.end_s is None else alarm.end_s)
        width = max(8, last - first)
        tip = f"<title>alarm, peak {alarm.peak_score:.2f}</title>"
        shapes.append(f'<rect class="alarm" x="{first}" y="0" width="{width}" height="{HEIGHT}">{tip}</rect>')
        shapes.append(f'<rect class="alarm-edge" x="{first}" y="0" width="{width}" height="45"/>')
    for first_s, last_s, causes in camera.spans[:MAX_SPANS]:
        tip = f"<title>degraded: {esc(', '.join(causes))}</title>"
        width = max(8, x(last_s) - x(first_s))
        shapes.append(f'<rect class="degraded" x="{x(first_s)}" y="955" width="{width}" height="45">{tip}</rect>')
    for kind in ("raw", "smoothed"):
        for part in unbroken(points, camera.gaps):
            line = " ".join(f"{x(row.end_s)},{y(getattr(row, kind))}" for row in part)
            shapes.append(f'<polyline class="{kind}" points="{line}"/>')
    if camera.threshold is not None:
        at = y(camera.threshold)
        shapes.append(f'<line class="threshold" x1="0" x2="{WIDTH}" y1="{at}" y2="{at}"/>')
    shapes.append('<rect class="pick" y="0" x="0" width="0" height="1000" style="display:none"/>')
    shapes.append('<line class="cursor" x1="0" x2="0" y1="0" y2="1000" style="display:none"/>')
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
    ).translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&"})
    sources = ", ".join(camera.sources)
    note = "" if len(points) == len(rows) else f", {len(points)} of {len(rows)} windows drawn, peaks kept"
    label = f"Scores of {camera.name} over {duration_text(end_s - start_s)}, {len(camera.alarms)} alarms"
    return f"""<section class="panel">
<div class="bar"><h3>{esc(camera.name)}</h3><output></output><button type="button" hidden>show all</button></div>
<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" tabindex="0" \
aria-label="{esc(label)}">{"".join(shapes)}</svg>
<div class="ticks">{_ticks(start_s, end_s)}</div>
<p class="soft">{esc(sources)}{esc(note)}</p>
<script type="application/json">{data}</script>
</section>
"""


def _ticks(start_s: float, end_s: float) -> str:
    step = step_s(end_s - start_s, 4)
    labels = []
    number = math.ceil(start_s / step - 1e-9)
    while number * step <= end_s + 1e-9:
        share = (number * step - start_s) / (end_s - start_s)
        kind = "first" if share < 0.04 else "last" if share > 0.96 else ""
        text = clock_label(round(number * step, 6), end_s)
        labels.append(f'<span class="{kind}" style="left:{100 * share:.2f}%">{text}</span>')
        number += 1
    return "".join(labels)


def thinned(rows: list[ScoreRow]) -> list[ScoreRow]:
    """At most about MAX_POINTS rows: of each group of neighbours the highest and lowest smoothed, the highest raw, the
    first degraded one, in order."""
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


def unbroken(rows: list[ScoreRow], gaps: tuple[tuple[float, float], ...]) -> list[list[ScoreRow]]:
    """`rows` split where a hole lies between two neighbours."""
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


def _alarms(report: Report, base: Path, out: Path) -> str:
    if not report.alarms:
        coverage = report.coverage
        told = "no window was scored" if not coverage else f"{share_text(coverage)} of the expected windows were scored"
        return f'<p class="soft">No alarm; {told}.</p>'
    items = []
    room = MAX_PICTURES_BYTES
    for alarm in report.alarms:
        picture, used = _picture(alarm, base, room)
        room -= used
        items.append(_alarm(alarm, picture, base, out))
    return f'<div class="items">{"".join(items)}</div>'


def _alarm(alarm: AlarmRecord, picture: str, base: Path, out: Path) -> str:
    longest = max(alarm.start_s, alarm.end_s or 0.0)
    start = clock_label(round(alarm.start_s, 1), longest)
    if alarm.end_s is None:
        span = f"{start}, no end told"
    else:
        span = f"{start} – {clock_label(round(alarm.end_s, 1), longest)} ({alarm.end_s - alarm.start_s:.1f} s)"
    reason = "" if alarm.reason in (None, "normal") else f", ended by {alarm.reason}"
    facts = [
        f"{esc(span)}{esc(reason)}",
        f"peak {alarm.peak_score:.2f}, threshold {alarm.threshold:.2f}",
        f'<span class="soft">{esc(alarm.start_utc)}</span>',
    ]
    if alarm.degraded:
        facts.append(f'<span class="soft">degraded: {esc(", ".join(alarm.degraded))}</span>')
    clip = find_evidence(alarm.clip, base)
    if clip is not None:
        facts.append(f'<a href="{esc(link_to(clip, out))}">clip {esc(clip.name)}</a>')
    elif alarm.clip:
        facts.append(f'<span class="soft">clip {esc(alarm.clip)} is not there any more</span>')
    last_s = alarm.start_s if alarm.end_s is None else alarm.end_s
    show = (
        f'<button type="button" class="show" data-camera="{esc(alarm.camera)}" data-from="{alarm.start_s:.3f}" '
        f'data-to="{last_s:.3f}">show in the timeline</button>'
    )
    told = "".join(f"<p>{fact}</p>" for fact in facts)
    return f'<article class="item">{picture}<div class="text"><h3>{esc(alarm.camera)}</h3>{told}{show}</div></article>'


def _picture(alarm: AlarmRecord, base: Path, room: int) -> tuple[str, int]:
    path = find_evidence(alarm.snapshot, base)
    if path is None:
        why = f"snapshot {alarm.snapshot} is not there any more" if alarm.snapshot else "no snapshot"
        return f'<div class="none">{esc(why)}</div>', 0
    try:
        size = path.stat().st_size
        if size > min(room, MAX_PICTURE_BYTES):
            return f'<div class="none">snapshot {esc(path.name)} is too large to embed</div>', 0
        content = path.read_bytes()
    except OSError:
        return f'<div class="none">snapshot {esc(path.name)} cannot be read</div>', 0
    kind = "jpeg" if content.startswith(b"\xff\xd8\xff") else "png" if content.startswith(b"\x89PNG") else ""
    if not kind:
        return f'<div class="none">snapshot {esc(path.name)} is no picture</div>', 0
    text = base64.b64encode(content).decode()
    label = f"{alarm.camera} at the peak of the alarm"
    return f'<img alt="{esc(label)}" loading="lazy" src="data:image/{kind};base64,{text}">', len(content)


def find_evidence(told: str | None, base: Path) -> Path | None:
    """The file that an event names: as told, else under `base` by ever shorter tails (the folder may have moved)."""
    if not told:
        return None
    path = Path(told)
    tails = [Path(*path.parts[first:]) for first in range(1 if path.is_absolute() else 0, len(path.parts))]
    for candidate in (path, *(base / tail for tail in tails)):
        try:
            if candidate.is_file():
                return candidate
        except (OSError, ValueError):
            continue
    return None


def link_to(target: Path, out: Path) -> str:
    """A relative URL from the page to a file; never one with a scheme."""
    return "./" + quote(Path(os.path.relpath(target.absolute(), out.absolute().parent)).as_posix())


def _coverage(report: Report) -> str:
    lines = []
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
    head = ("camera", "windows scored", "coverage", "watched", "holes", "alarms", "highest score", "threshold")
    return table(head, lines)


def _degraded(report: Report) -> str:
    lines: list[tuple[object, ...]] = []
    for camera in report.cameras:
        for first_s, last_s, causes in camera.spans:
            longest = max(last_s, 120.0)
            span = f"{clock_label(round(first_s, 1), longest)} – {clock_label(round(last_s, 1), longest)}"
            lines.append((camera.name, span, f"{last_s - first_s:.1f} s", ", ".join(causes)))
    if not lines:
        return '<p class="soft">None.</p>'
    more = f'<p class="soft">{len(lines) - MAX_SPANS} more not shown.</p>' if len(lines) > MAX_SPANS else ""
    return table(("camera", "from – to", "length", "causes"), lines[:MAX_SPANS]) + more


def _latency(report: Report) -> str:
    if not report.latency:
        return '<p class="soft">No event tells a latency.</p>'
    lines = [
        (stage, *(f"{values[name]:.2f}" for name in ("p50", "p95", "max")), f"{values['count']:.0f}")
        for stage, values in report.latency.items()
    ]
    told = (
        '<p class="soft">Milliseconds from the capture of the deciding window’s last frame, told by alarm events.</p>'
    )
    return told + table(("stage", "p50", "p95", "max", "events"), lines)


def table(head: tuple[str, ...], lines: Sequence[tuple[object, ...]]) -> str:
    """A table with escaped cells that scrolls by itself where the page is narrow."""
    cells = "".join(f"<th>{esc(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{esc(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def share_text(share: float) -> str:
    """A share in per cent that says 100 only when it is whole."""
    return "100 %" if share >= 1 else f"{min(99.9, math.floor(share * 1000) / 10):.1f} %"


def duration_text(seconds: float) -> str:
    """'57.6 s', '12 min 5 s', '3 h 20 min'."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"
