"""quiet: how many false alarms per hour does the bundle raise when nothing happens, and does calibration keep its
bound?

    python -m benchmarks quiet --videos DIR [--asked 1.0] [--learned-too]

Every other recording is left out, because heads learn from it (see `trainer/recipes/embedded/normal_recordings.py`).
The threshold of the shipped bundle had to lie above the rest, so at best alarms in them bound the rate on that camera.
The recordings are played by `stream-detector run --pace max` at the bundle's own threshold. The hours are then split by
day (name up to the first dash): `stream-detector calibrate` chooses a threshold on one half, and the alarms at that
threshold are counted on the other; then the halves change roles. "kept": the rate there lies below the stated bound.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.options import fail, parse
from benchmarks.results import load_before, write_results
from benchmarks.rig import ROOT
from stream_detector.alarms.calibration import poisson_upper
from stream_detector.models.bundle import Bundle

GOAL_PER_HOUR = 0.2


def stream_detector(words: list[str], folder: Path) -> str:
    """Run a command of ours; its output. Raises SystemExit with its error."""
    done = subprocess.run(
        [sys.executable, "-m", "stream_detector", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{words[0]} failed with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def watch(videos: list[Path], bundle: str, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]], float]:
    """Play the recordings: (events, rows of scores.csv, seconds that it took)."""
    events, scores = folder / "events.jsonl", folder / "scores.csv"
    sources = [f"d{video.stem}={video}" for video in videos]
    words = [*sources, "--bundle", bundle, "--pace", "max", "--no-dashboard", "--bind", "none", "--ledger", "none"]
    begun_s = time.monotonic()
    stream_detector(["run", *words, "--no-evidence", "--events", str(events), "--scores", str(scores)], folder)
    took_s = time.monotonic() - begun_s
    with scores.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    told = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()] if events.exists() else []
    return told, rows, took_s


def halves(rows: list[dict[str, str]], folder: Path) -> dict[str, Path]:
    """One table of scores a day."""
    days: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        days.setdefault(row["camera"].partition("-")[0], []).append(row)
    paths = {}
    for day, part in days.items():
        paths[day] = folder / f"{day}.csv"
        with paths[day].open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(part)
    return paths


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("quiet", argv)
    videos = sorted(args.videos.resolve().glob("*.mp4"))  # the detector runs in another folder
    videos = videos if args.learned_too else videos[1::2]
    if not videos:
        fail("quiet", f"too few .mp4 in {args.videos}; give at least two, or --learned-too")
    bundle, load = Bundle.load(args.bundle), load_before()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        events, rows, took_s = watch(videos, args.bundle, folder)
        last: dict[str, float] = {}
        for row in rows:
            last[row["camera"]] = max(last.get(row["camera"], 0.0), float(row["end_s"]))
        hours = sum(last.values()) / 3600
        alarms = sum(event["type"] == "start" for event in events)
        days = halves(rows, folder)
        promises = []
        for asked in args.asked:
            for day, table in days.items():
                others = [str(path) for other, path in days.items() if other != day]
                words = ["calibrate", str(table), "--false-alarms-per-hour", str(asked), "--bundle", args.bundle]
                told = json.loads(stream_detector([*words, "--check", *others, "--json"], folder))
                promises.append({"asked_per_hour": asked, "day": day, **told})
    results = {
        "bundle": bundle.fingerprint,
        "threshold": bundle.threshold,
        "goal_per_hour": GOAL_PER_HOUR,
        "hours": round(hours, 3),
        "windows": len(rows),
        "alarms": alarms,
        "per_hour": round(alarms / hours, 4),
        "upper_95_per_hour": round(poisson_upper(alarms, 0.95) / hours, 4),
        "highest_smoothed": max(float(row["smoothed"]) for row in rows),
        "times_real_time": round(hours * 3600 / took_s, 1),
        "windows_per_s": round(len(rows) / took_s, 1),
        "calibration": promises,
    }
    if not args.no_save:
        write_results("quiet", results, {"load_before": load, "videos": len(videos), "asked": args.asked})
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)
    return 0


def show(results: dict[str, Any]) -> None:
    """The figures, and one line a promise."""
    console = Console()
    table = Table(title=f"{results['hours']:.1f} hours in which nothing happens")
    for column in ("threshold", "alarms", "an hour", "at most (95 %)", "highest score", "× real time"):
        table.add_column(column, justify="right")
    keys = ("threshold", "alarms", "per_hour", "upper_95_per_hour", "highest_smoothed", "times_real_time")
    table.add_row(*(str(results[key]) for key in keys))
    console.print(table)
    for promise in results["calibration"]:
        console.print_json(json.dumps(promise))
