"""The live view of a run in a terminal, or plain lines without one.

The view reads frozen snapshots at 5 Hz in its own thread and holds no part of the run, so it can neither slow nor break
it. If the cameras do not fit the height, the view shows pages in turn; cameras in alarm or with a problem stay on every
page. All text from outside (names, sources, details) is shown literally, without markup and control characters.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stream_detector.telemetry.snapshot import AlarmView, CameraView, TelemetrySnapshot

INTERVAL_S = 0.2
PAGE_S = 4.0
WIDE = 120  # from this width in columns the table shows progress, age and causes
VERY_WIDE = 170
BLOCKS = " ▏▎▍▌▋▊▉█"
SPARKS = "▁▂▃▄▅▆▇█"
STATES = {
    "connecting": ("◌", "cyan"),
    "online": ("●", "green"),
    "stalled": ("◐", "yellow"),
    "offline": ("○", "red"),
    "ended": ("■", "bright_black"),
    "failed": ("✗", "bold red"),
}
PROBLEM_STATES = ("stalled", "offline", "failed")


class SnapshotSource(Protocol):
    """The part of `collector.Telemetry` that this module uses."""

    def snapshot(self) -> TelemetrySnapshot:
        """Return the present state of the run."""
        ...


@dataclass(frozen=True, slots=True)
class ViewHeader:
    """The constant part of the view. rendered: the demo draws the footage, and the view must say so."""

    engine: str
    bundle: str
    endpoint: str
    rendered: bool = False


class TerminalView:
    """Shows a run until it ends."""

    def __init__(
        self, telemetry: SnapshotSource, header: ViewHeader, *, console: Console | None = None, plain: bool = False
    ) -> None:
        """Create the view. console: standard output by default.  plain: print lines even in a terminal."""
        self._telemetry, self._header = telemetry, header
        self._console = console or Console()
        self._plain = plain or not drawable(self._console)
        self._printed_seq = 0

    def run(self, stop: threading.Event) -> None:
        """Show the run until `stop` is set; then show its last state once more. Never raises; restores the terminal."""
        failure = ""
        if not self._plain:
            try:
                self._run_live(stop)
                return
            except (Exception, SystemExit) as error:  # a failure of the terminal must not end the run
                failure = f"the live view failed ({type(error).__name__}: {error}); continuing with plain lines"
        try:
            if failure:
                self._say(failure)
            self._run_plain(stop)
        except (Exception, SystemExit):  # a closed pipe, at which rich would exit: the run continues
            stop.wait()

    def _run_live(self, stop: threading.Event) -> None:
        with Live(console=self._console, auto_refresh=False, transient=False, vertical_overflow="crop") as live:
            while not stop.wait(INTERVAL_S):
                live.update(self._view(), refresh=True)
            live.update(self._view(), refresh=True)

    def _view(self) -> RenderableType:
        return render(self._telemetry.snapshot(), self._header, self._console.width, self._console.height)

    def _run_plain(self, stop: threading.Event) -> None:
        header = self._header
        self._say(f"engine {header.engine}; bundle {header.bundle}; events {header.endpoint}")
        if header.rendered:
            self._say("RENDERED FOOTAGE: this scene is drawn by a program, not filmed by a camera")
        while not stop.wait(INTERVAL_S):
            self._print_new_entries()
        self._print_new_entries()
        snapshot = self._telemetry.snapshot()
        self._say(
            f"{clock_text(snapshot.elapsed_s)}  done: {count_text(snapshot.scored, 'window')} scored of "
            f"{snapshot.windows}, {count_text(snapshot.drops, 'drop')}, "
            f"{count_text(sum(camera.alarms for camera in snapshot.cameras), 'alarm')}"
        )

    def _print_new_entries(self) -> None:
        fresh = [entry for entry in self._telemetry.snapshot().log_entries if entry.seq > self._printed_seq]
        if fresh and fresh[0].seq > self._printed_seq + 1:
            self._say(f"({fresh[0].seq - self._printed_seq - 1} lines omitted)")
        for entry in fresh:
            self._say(f"{clock_text(entry.at_s)}  {entry.camera:<12}  {entry.text}")
            self._printed_seq = entry.seq

    def _say(self, line: str) -> None:
        encoding = self._console.encoding
        line = clean(line).encode(encoding, "replace").decode(encoding)
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def drawable(console: Console | None = None) -> bool:
    """Return whether the live view can be shown there (standard output by default); otherwise the run writes log
    lines.
    """
    console = console or Console()
    terminal = console.is_terminal and not console.is_dumb_terminal
    return terminal and console.encoding.lower().startswith("utf")


def render(snapshot: TelemetrySnapshot, header: ViewHeader, width: int, height: int) -> RenderableType:
    """Render the whole view for a terminal of `width` columns and `height` rows."""
    parts: list[RenderableType] = [_header(snapshot, header, width)]
    progress = _progress(snapshot, width)
    stages = _stages(snapshot, width)
    fixed = (5 if header.rendered else 4) + (2 if progress else 0) + 4
    shown_alarms = snapshot.alarms[::-1][: max(1, min(6, (height - fixed) // 4))]
    room = height - fixed - len(shown_alarms) - 4
    columns = 2 if width >= 2 * 78 + 2 and len(snapshot.cameras) > room else 1
    rows, page, pages = page_of(snapshot.cameras, max(1, room) * columns, snapshot.elapsed_s)
    if columns == 1 or len(rows) <= room:
        parts.append(_cameras(rows, width))
    else:
        half = math.ceil(len(rows) / 2)
        both = Table.grid(padding=(0, 2, 0, 0))
        both.add_row(_cameras(rows[:half], (width - 2) // 2), _cameras(rows[half:], (width - 2) // 2))
        parts.append(both)
    hidden = f"page {page} of {pages}, {len(snapshot.cameras)} cameras" if pages > 1 else ""
    parts.append(Text(hidden, style="bright_black"))
    if progress:
        parts += [progress, Text("")]
    parts += [stages, Text(""), _alarms(shown_alarms, snapshot, width)]
    return Group(*parts)


def page_of(
    cameras: Sequence[CameraView], room: int, elapsed_s: float
) -> tuple[list[CameraView], int, int]:  # (cameras to show, page from 1, pages)
    """Choose the cameras to show when `room` fit: all; or those in alarm or with a problem, and a page of the
    others.
    """
    if len(cameras) <= room:
        return list(cameras), 1, 1
    urgent = [camera for camera in cameras if camera.alarmed or camera.state in PROBLEM_STATES]
    urgent.sort(key=lambda camera: not camera.alarmed)
    pinned = urgent[: max(0, room - 1)]
    names = {camera.name for camera in pinned}
    others = [camera for camera in cameras if camera.name not in names]
    size = max(1, room - len(pinned))
    pages = math.ceil(len(others) / size)
    page = int(elapsed_s / PAGE_S) % pages
    return pinned + others[page * size : (page + 1) * size], page + 1, pages


def _header(snapshot: TelemetrySnapshot, header: ViewHeader, width: int) -> RenderableType:
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append("stream-detector", style="bold")
    title.append(f"  {clock_text(snapshot.elapsed_s)}", style="cyan")
    online = sum(camera.state == "online" for camera in snapshot.cameras)
    title.append(f"  {count_text(len(snapshot.cameras), 'camera')}, {online} online")
    rate = snapshot.scored / snapshot.elapsed_s if snapshot.elapsed_s > 0 else 0.0
    title.append(f"  {count_text(snapshot.scored, 'window')}{' scored' if width >= WIDE else ''}")
    title.append(f" {rate:.0f}/s" if rate >= 10 else f" {rate:.1f}/s")
    if width >= WIDE and snapshot.mean_batch is not None:
        title.append(f"  {snapshot.mean_batch:.1f} a batch", style="bright_black")
    title.append(f"  {count_text(snapshot.drops, 'drop')}", style="yellow" if snapshot.drops else "bright_black")
    lines = [title]
    pairs = (("engine", header.engine), ("bundle", header.bundle), ("events", header.endpoint))
    if width >= WIDE:
        line = Text(no_wrap=True, overflow="ellipsis")
        for name, value in pairs:
            line.append(f"{name} ", style="bright_black").append(clean(value) + "   ")
        lines.append(line)
    else:
        for group in (pairs[:1], pairs[1:]):
            line = Text(no_wrap=True, overflow="ellipsis")
            for name, value in group:
                line.append(f"{name} ", style="bright_black").append(clean(value) + "   ")
            lines.append(line)
    if header.rendered:
        notice = " RENDERED FOOTAGE: drawn by a program, not filmed by a camera "
        lines.append(Text(notice, style="black on yellow", no_wrap=True, overflow="ellipsis"))
    return Group(*lines, Text(""))


def _cameras(cameras: Sequence[CameraView], width: int) -> Table:
    wide, very_wide = width >= WIDE, width >= VERY_WIDE
    name_width = max([6, *(min(len(c.name), 24 if very_wide else 16 if wide else 12) for c in cameras)])
    spark = 40 if very_wide else 24 if wide else 9
    bar = 36 if very_wide else 20 if wide else 12
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column("camera", width=name_width, no_wrap=True, overflow="ellipsis")
    table.add_column("state", width=24 if very_wide else 16 if wide else 12, no_wrap=True, overflow="ellipsis")
    table.add_column("fps", width=5, justify="right", no_wrap=True)
    table.add_column("score", width=bar + 5, no_wrap=True)
    table.add_column("trend", width=spark, no_wrap=True)
    table.add_column("alarm", width=5, no_wrap=True)
    table.add_column("drops", width=5, justify="right", no_wrap=True)
    table.add_column("lag", width=7, justify="right", no_wrap=True)
    if wide:
        table.add_column("age", width=7, justify="right", no_wrap=True)
        table.add_column("progress", width=16, no_wrap=True)
    table.add_row(*(Text(str(column.header), style="bright_black") for column in table.columns))
    for camera in cameras:
        cells = [
            Text(middle_cut(clean(camera.name), name_width), style="bold" if camera.alarmed else ""),
            _state(camera, detailed=very_wide),
            Text(f"{camera.fps:.1f}" if camera.fps < 1000 else f"{camera.fps:.0f}"),
            score_bar(camera, bar),
            sparkline(camera.history, camera.threshold, spark),
            Text("ALARM", style="bold white on red") if camera.alarmed else Text("·", style="bright_black"),
            Text(short(camera.drops), style="yellow" if camera.drops else "bright_black"),
            Text(ms_text(camera.lag_ms)),
        ]
        if wide:
            age_s = camera.window_age_s
            late = age_s is not None and age_s > 5.0 and camera.state != "ended"
            cells.append(Text("–" if age_s is None else f"{age_s:.1f} s", style="yellow" if late else ""))
            cells.append(_camera_progress(camera))
        table.add_row(*cells)
    return table


def _state(camera: CameraView, *, detailed: bool) -> Text:
    glyph, colour = STATES.get(camera.state, ("?", "magenta"))
    text = Text(f"{glyph} {camera.state}", style=colour)
    if camera.degraded and camera.state == "online":
        text = Text(f"{glyph} ", style=colour).append("+".join(clean(c) for c in camera.degraded), style="yellow")
    elif detailed and camera.detail and camera.state in PROBLEM_STATES:
        text.append(f" {clean(camera.detail)}", style="bright_black")
    return text


def score_bar(camera: CameraView, width: int) -> Text:
    """Draw the smoothed score as a bar of `width` cells from 0 to 1, with a mark at the threshold, and its value."""
    text = Text()
    if camera.smoothed is None or camera.threshold is None:
        return text.append("·" * width, style="bright_black").append("    –", style="bright_black")
    score, threshold = (min(1.0, max(0.0, value)) for value in (camera.smoothed, camera.threshold))
    colour = "red" if score >= threshold else "yellow" if score >= 0.7 * threshold else "green"
    mark = min(width - 1, int(threshold * width))
    eighths = round(score * width * 8)
    filled = [min(8, max(0, eighths - 8 * cell)) for cell in range(width)]
    for first, last in ((0, mark), (mark + 1, width)):
        part = [cell for cell in filled[first:last] if cell]
        text.append("".join(BLOCKS[cell] for cell in part), style=colour)
        text.append("·" * (last - first - len(part)), style="bright_black")
        if last == mark:
            text.append("┃", style=f"bold white on {colour}" if filled[mark] >= 4 else "bold")
    return text.append(f" {camera.smoothed:.2f}", style=colour)


def sparkline(history: Sequence[float], threshold: float | None, width: int) -> Text:
    """Draw the newest `width` smoothed scores, newest at the right; values at or above the threshold are red."""
    recent = [value if math.isfinite(value) else 0.0 for value in history[-width:]]
    top = max([1e-6, threshold or 0.0, *recent])
    text = Text(" " * (width - len(recent)))
    for reached, run in itertools.groupby(recent, lambda value: threshold is not None and value >= threshold):
        levels = (min(len(SPARKS) - 1, int(max(0.0, value) / top * len(SPARKS))) for value in run)
        text.append("".join(SPARKS[level] for level in levels), style="red" if reached else "blue")
    return text


def _camera_progress(camera: CameraView) -> Text:
    if camera.duration_s is None:
        return Text("live" if camera.state not in ("ended", "failed") else "", style="bright_black")
    share = 1.0 if camera.state == "ended" else min(1.0, (camera.media_s or 0.0) / camera.duration_s)
    return _bar(share, 10).append(f" {share:4.0%}")


def _bar(share: float, width: int) -> Text:
    eighths = round(share * width * 8)
    cells = "".join(BLOCKS[min(8, max(0, eighths - 8 * cell))] for cell in range(width))
    return Text().append(cells, style="cyan on grey23")


def _progress(snapshot: TelemetrySnapshot, width: int) -> RenderableType | None:
    files = [camera for camera in snapshot.cameras if camera.duration_s is not None]
    if not files:
        return None
    whole = sum(camera.duration_s or 0.0 for camera in files)
    share = min(1.0, sum(_played_s(camera) for camera in files) / whole)
    ended = sum(camera.state in ("ended", "failed") for camera in files)
    line = Text("files ", style="bright_black", no_wrap=True).append(f"{ended}/{len(files)} ", style="default")
    line.append(_bar(share, max(10, min(60, width - 40)))).append(f" {share:4.0%}", style="default")
    left_s = eta_s(snapshot)
    return line.append("" if left_s is None else f"  {clock_text(left_s)} left", style="default")


def eta_s(snapshot: TelemetrySnapshot) -> float | None:
    """Estimate the seconds until the last file ends; None before there is an estimate.

    It is the larger of two estimates: the total rest at the rate of all files together (right when files queue), and
    the longest rest of one file at its own pace (right when they play in parallel).
    """
    files = [camera for camera in snapshot.cameras if camera.duration_s is not None]
    played_s = sum(_played_s(camera) for camera in files)
    if not files or played_s <= 0.0 or snapshot.elapsed_s < 1.0:
        return None
    left = {c.name: max(0.0, (c.duration_s or 0.0) - _played_s(c)) for c in files}
    together = sum(left.values()) * snapshot.elapsed_s / played_s
    alone = [left[c.name] * snapshot.elapsed_s / _played_s(c) for c in files if _played_s(c) > 0.0]
    return max([together, *(alone if len(alone) == len(files) else [])])


def _played_s(camera: CameraView) -> float:
    duration_s = camera.duration_s or 0.0
    return duration_s if camera.state in ("ended", "failed") else min(duration_s, max(0.0, camera.media_s or 0.0))


def _stages(snapshot: TelemetrySnapshot, width: int) -> Table:
    table = Table.grid(padding=(0, 2 if width < WIDE else 4, 0, 0))
    columns = {**snapshot.stages, "whole": snapshot.total}
    table.add_column(width=8, no_wrap=True)
    for _ in columns:
        table.add_column(justify="right", min_width=7, no_wrap=True)
    table.add_row(Text("latency", style="bright_black"), *(Text(name[:7], style="bright_black") for name in columns))
    for label, share in (("p50", 0.5), ("p95", 0.95)):
        table.add_row(Text(label, style="bright_black"), *(Text(ms_text(h.quantile(share))) for h in columns.values()))
    return table


def _alarms(alarms: Sequence[AlarmView], snapshot: TelemetrySnapshot, width: int) -> RenderableType:
    total = sum(camera.alarms for camera in snapshot.cameras)
    quiet = "no alarm so far" if snapshot.scored else "nothing scored yet"
    lines: list[Text] = [Text(count_text(total, "alarm") if total else quiet, style="bright_black")]
    for alarm in alarms:
        line = Text(no_wrap=True, overflow="ellipsis")
        running = alarm.type != "end"
        line.append("ALARM " if running else "ended ", style="bold red" if running else "bright_black")
        line.append(f"{clean(alarm.start_utc)[11:19]}Z ", style="bright_black")
        line.append(f"{clean(alarm.camera)} ", style="bold")
        until = "now" if alarm.end_s is None else f"{alarm.end_s:.1f} s"
        line.append(f"{alarm.start_s:.1f} – {until}, peak {alarm.peak_score:.2f} (threshold {alarm.threshold:.2f})")
        if alarm.reason not in (None, "normal"):
            line.append(f", {clean(str(alarm.reason))}", style="yellow")
        if width >= WIDE and alarm.clip:
            line.append(f"  {clean(alarm.clip)}", style="cyan")
        lines.append(line)
    return Group(*lines)


def clean(text: str) -> str:
    """Return `text` without control characters, so that a source's name cannot control the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def middle_cut(text: str, width: int) -> str:
    """Shorten `text` to at most `width` (>= 6) cells; the end stays, because names of a series differ there."""
    return text if len(text) <= width else f"{text[: width - 5]}…{text[-4:]}"


def clock_text(seconds: float) -> str:
    """Format seconds as h:mm:ss."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def ms_text(milliseconds: float | None) -> str:
    """Format a latency in at most seven characters: '–', '0.42 ms', '38.1 ms', '412 ms', '12.3 s', '25 min'."""
    if milliseconds is None:
        return "–"
    for limit, unit, scale, digits in ((1, "ms", 1, 2), (100, "ms", 1, 1), (1e4, "ms", 1, 0), (1e5, "s", 1e3, 1)):
        if milliseconds < limit:
            return f"{milliseconds / scale:.{digits}f} {unit}"
    return f"{milliseconds / 1e3:.0f} s" if milliseconds < 1e6 else f"{milliseconds / 6e4:.0f} min"


def short(number: int) -> str:
    """Format a count in at most five characters."""
    return (
        str(number) if number < 100_000 else f"{number / 1e3:.0f}k" if number < 10_000_000 else f"{number / 1e6:.0f}M"
    )


def count_text(number: int, noun: str) -> str:
    """Format a count with its noun: '1 camera', '2 cameras'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
