"""The result of a run on the terminal: its alarms and its files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream_detector.capture.sources import demo_options
from stream_detector.demo import incident_span
from stream_detector.errors import StreamDetectorError
from stream_detector.reports.read_back import read_events
from stream_detector.reports.scores_file import read_scores
from stream_detector.runtime.build import Run
from stream_detector.runtime.pipeline import RunResult
from stream_detector.system import signals
from stream_detector.system.stdio import json_text
from stream_detector.telemetry.snapshot import AlarmView


def incidents(run: Run) -> dict[str, tuple[float, float]]:
    """Return the true incident of every rendered scene, by camera: start and end in media seconds."""
    found = {}
    for camera in run.config.cameras:
        if camera.source.kind == "demo":
            given = demo_options(camera.source)
            if bool(given.get("incident", True)):
                found[camera.name] = incident_span(int(given.get("seed", 0)), float(given.get("duration", 40.0)))
    return found


def outcome(run: Run, result: RunResult, plot: Path | None) -> dict[str, Any]:
    """Return the result as plain values, both for --json and for the table."""
    config = run.config
    snapshot = run.telemetry.snapshot()
    return {
        "exit_code": exit_code_of(result),
        "stopped": result.stopped,
        "windows": result.windows,
        "alarms": result.alarms,
        "drops": snapshot.drops,
        "elapsed_s": round(snapshot.elapsed_s, 3),
        "engine": {
            "name": run.engine.name,
            "device": run.engine.device,
            "precision": run.engine.precision,
        },
        "bundle": run.bundle.fingerprint,
        "failed": dict(result.failed),
        "incidents": {name: list(span) for name, span in incidents(run).items()},
        "newest_alarms": [
            {
                "id": alarm.id,
                "camera": alarm.camera,
                "start_s": alarm.start_s,
                "end_s": alarm.end_s,
                "reason": alarm.reason,
                "peak_score": alarm.peak_score,
                "clip": alarm.clip,
                "snapshot": alarm.snapshot,
            }
            for alarm in snapshot.alarms
        ],
        "files": {
            name: str(path)
            for name, path in (("events", config.events), ("scores", config.scores), ("plot", plot))
            if path is not None and Path(path).exists()
        },
    }


def exit_code_of(result: RunResult) -> int:
    """Return the exit code of the process: 128 + signal number after a stop, unless the run failed."""
    stopped = result.stopped and result.error is None and signals.received()
    return 128 + signals.received() if stopped else result.exit_code


def print_outcome(run: Run, result: RunResult, args: argparse.Namespace) -> int:
    """Print how the run ended and return the exit code. Failures come first, on standard error, one sentence each, so
    that nothing printed or drawn later hides them.
    """
    for name, reason in result.failed.items():
        print(f"stream-detector: {name}: {reason}", file=sys.stderr)
    if result.error is not None and str(result.error) not in result.failed.values():
        print(f"stream-detector: {result.error}", file=sys.stderr)
    plot = _plot(run, args.run_dir) if args.run_dir else None
    values = outcome(run, result, plot)
    if args.json:
        print(json_text(values))
    else:
        _print_table(Console(), run, values)
    return int(values["exit_code"])


def _plot(run: Run, folder: Path) -> Path | None:
    from stream_detector.reports.plots import plot_scores

    config = run.config
    try:
        rows = read_scores(config.scores) if config.scores and config.scores.exists() else []
        if not rows:
            return None  # nothing was scored; the reason was printed already
        found = read_events(config.events) if config.events and config.events.exists() else []
        # the file also holds events of former runs
        events = [event for event in found if event.get("epoch") == run.ledger.epoch]
        return plot_scores(rows, events, folder / "scores.png", incidents(run) or None)
    except StreamDetectorError as error:
        print(f"stream-detector: there is no plot of this run: {error}", file=sys.stderr)
        return None


def _print_table(console: Console, run: Run, values: dict[str, Any]) -> None:
    if values["incidents"]:
        console.print("[bold yellow]The footage was rendered by stream-detector itself; no real people are shown.[/]")
        for name, (start_s, end_s) in values["incidents"].items():
            raised = _raised(run.telemetry.snapshot().alarms, name, start_s, end_s)
            console.print(f"Scripted incident in {name}: {start_s:.1f} s to {end_s:.1f} s; {raised}.")
    cameras = f"{len(run.plans)} camera{'' if len(run.plans) == 1 else 's'}"
    scored = f"{values['windows']} windows of {cameras} scored in {values['elapsed_s']:.1f} s"
    console.print(f"{scored}, {values['drops']} drops.")
    alarms = run.telemetry.snapshot().alarms
    if alarms:
        console.print(_alarm_table(alarms, values["alarms"]))
    else:
        console.print("No alarm.")
    for name, path in values["files"].items():
        console.print(f"  {name:8} {escape(path)}")
    for alarm in alarms[-3:]:
        for name, text in (("clip", alarm.clip), ("snapshot", alarm.snapshot)):
            if text and Path(text).exists():
                console.print(f"  {name:8} {escape(text)}")


def _raised(alarms: tuple[AlarmView, ...], camera: str, start_s: float, end_s: float) -> str:
    """Say when the first alarm of an incident was raised, in media time."""
    delays_s = [alarm.start_s - start_s for alarm in alarms if alarm.camera == camera and alarm.start_s >= start_s]
    if not delays_s or min(delays_s) > end_s - start_s:
        return "no alarm was raised for it"
    return f"the alarm was raised {min(delays_s):.1f} s after it began"


def _alarm_table(alarms: tuple[AlarmView, ...], total: int) -> Table:
    table = Table(title=f"{total} alarm{'s' if total != 1 else ''}", title_justify="left")
    for column in ("camera", "start", "end", "peak", "threshold", "ended because"):
        table.add_column(column)
    for alarm in alarms:
        end = "–" if alarm.end_s is None else f"{alarm.end_s:.2f} s"
        row = (f"{alarm.start_s:.2f} s", end, f"{alarm.peak_score:.3f}", f"{alarm.threshold:.3f}", alarm.reason or "–")
        table.add_row(escape(alarm.camera), *row)
    return table
