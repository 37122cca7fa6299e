"""composite: how many incidents does the detector find in long streams of ordinary footage, with how many false alarms?

    python -m benchmarks composite --clips DIR --quiet DIR [--streams 20] [--minutes 10] [--incidents 5] [--seeds 0 1 2]

Each stream is a part of a quiet recording (`--quiet`) into which clips are inserted that the bundle never saw
(`--sets`, `--controls`; train and val are treated alike, because val chose the bundle): incidents (abnormal clips), and
as many normal clips as controls, because a cut alone is a change, too. Clips play once, at their own speed, with at
least `GAP_S` between them; everything is drawn with a seed, and each seed gives as many new streams, because a single
clip matters among a hundred. The streams are files, played by `stream-detector run --pace max` like any recording.

An incident is found if the window that raises an alarm ends between its onset and its end plus `GRACE_S`. Any other
alarm is false; those in controls are counted separately. The delay is from the onset to the moment at which the alarm
is known: the end of that window, plus the measured time from there to its publication, without the wait in the queue:
files that are played as fast as possible keep the queue full, cameras do not (`latency` measures them).
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.options import fail, parse
from benchmarks.results import load_before, write_results
from benchmarks.rig import ROOT
from stream_detector.models.bundle import Bundle

FPS = 25
SIZE = (320, 240)
GAP_S = 20.0  # between the ends and starts of what is cut in
GRACE_S = 2.0  # windows and smoothing run behind
GOALS = {"recall": 0.8, "false_alarms_per_hour": 1.0, "median_delay_s": 2.0}


@dataclass(frozen=True, slots=True)
class Cut:
    """A clip inside a stream. start_s, end_s: its place, media time."""

    clip: str
    set: str
    abnormal: bool
    start_s: float
    end_s: float


def read_clip(path: Path) -> list[np.ndarray[Any, Any]]:
    """Frames of a clip at SIZE and, by its own clock, at FPS."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    fps = capture.get(cv2.CAP_PROP_FPS) or FPS
    frames = []
    while True:
        got, picture = capture.read()
        if not got:
            break
        frames.append(cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA))
    capture.release()
    count = round(len(frames) / fps * FPS)
    return [frames[min(len(frames) - 1, int(k / FPS * fps))] for k in range(count)]


def make_stream(
    out: Path, quiet: Path, chosen: list[dict[str, str]], clips: Path, seconds: float, rng: np.random.Generator
) -> list[Cut]:
    """Write one stream; returns what was cut in, in order."""
    order = [chosen[k] for k in rng.permutation(len(chosen))]
    footage = [read_clip(clips / row["path"]) for row in order]
    free_s = seconds - sum(len(f) for f in footage) / FPS - GAP_S * (len(order) + 1)
    if free_s < 0:
        raise SystemExit(f"{seconds / 60:g} minutes are too short for {len(order)} clips {GAP_S:g} s apart")
    waits_s = GAP_S + np.diff(np.sort(np.concatenate([[0.0], rng.uniform(0, free_s, len(order)), [free_s]])))
    capture = cv2.VideoCapture(str(quiet), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    base_fps = capture.get(cv2.CAP_PROP_FPS) or FPS
    room = int(capture.get(cv2.CAP_PROP_FRAME_COUNT) - seconds * base_fps)
    capture.set(cv2.CAP_PROP_POS_FRAMES, int(rng.integers(0, max(1, room))))
    writer = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE)
    written, base_index, picture = 0, -1, np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    cuts = []
    for number in range(len(order) + 1):
        for _ in range(round(waits_s[number] * FPS)):
            if (index := int(written / FPS * base_fps)) > base_index:
                got, fresh = capture.read()
                picture = cv2.resize(fresh, SIZE) if got else picture
                base_index = index
            writer.write(picture)
            written += 1
        if number < len(order):
            start_s = written / FPS
            for frame in footage[number]:
                writer.write(frame)
            written += len(footage[number])
            row = order[number]
            cuts.append(Cut(row["path"], row["set"], row["label"] == "abnormal", start_s, written / FPS))
            base_index = int((written - 1) / FPS * base_fps)  # the quiet scene does not go on meanwhile
    writer.release()
    capture.release()
    return cuts


def play(videos: list[Path], folder: Path, options: list[str]) -> list[dict[str, Any]]:
    """The events of all streams, one camera each, named s00, s01, …"""
    events = folder / "events.jsonl"
    events.unlink(missing_ok=True)  # a run goes on in the file that it finds
    sources = [f"s{number:02d}={video}" for number, video in enumerate(videos)]
    command = [sys.executable, str(ROOT / "run_stream.py"), *sources, "--pace", "max", "--no-dashboard", *options]
    command += ["--bind", "none", "--ledger", "none", "--no-evidence", "--events", str(events)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the detector failed with {done.returncode}: {done.stderr[-500:]}")
    return [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True, slots=True)
class ExtractionCounts:
    """What became of some streams. found: each incident with its delay in seconds, None if it was missed."""

    hours: float
    found: list[tuple[Cut, float | None]]
    false_quiet: int
    false_control: int

    def __add__(self, other: ExtractionCounts) -> ExtractionCounts:
        """Both together."""
        return ExtractionCounts(
            self.hours + other.hours,
            self.found + other.found,
            self.false_quiet + other.false_quiet,
            self.false_control + other.false_control,
        )

    def row(self) -> dict[str, Any]:
        """As shares and rates."""
        delays = [delay for _, delay in self.found if delay is not None]
        false = self.false_quiet + self.false_control
        by_set: dict[str, list[bool]] = {}
        for cut, delay in self.found:
            by_set.setdefault(cut.set, []).append(delay is not None)
        return {
            "incidents": len(self.found),
            "found": len(delays),
            "recall": round(len(delays) / len(self.found), 4),
            "recall_by_set": {name: round(float(np.mean(hits)), 3) for name, hits in sorted(by_set.items())},
            "hours": round(self.hours, 3),
            "false_alarms": false,
            "of_these_in_normal_clips": self.false_control,
            "false_alarms_per_hour": round(false / self.hours, 3),
            "delay_s": {
                "median": round(float(np.median(delays)), 3) if delays else None,
                "p90": round(float(np.percentile(delays, 90)), 3) if delays else None,
            },
        }


def judge(cuts: list[list[Cut]], events: list[dict[str, Any]], hours: float) -> ExtractionCounts:
    """What was found, what was false, how late. cuts: of the streams in order; events: of cameras s00, s01, …"""
    starts: dict[str, list[tuple[float, float]]] = {}  # camera: (end of the raising window, known), both media time
    for event in events:
        if event["type"] == "start":
            end_s = (event["windows"][-1]["end_frame"] + 1) / FPS
            spent_ms = sum(value for stage, value in event["timing"].items() if stage != "queue")
            starts.setdefault(event["camera"], []).append((end_s, end_s + spent_ms / 1e3))
    found: list[tuple[Cut, float | None]] = []
    false_quiet = false_control = 0
    for number, inside in enumerate(cuts):
        left = sorted(starts.get(f"s{number:02d}", []))
        for cut in inside:
            hits = [alarm for alarm in left if cut.start_s <= alarm[0] <= cut.end_s + GRACE_S]
            left = [alarm for alarm in left if alarm not in hits]
            if cut.abnormal:
                found.append((cut, hits[0][1] - cut.start_s if hits else None))
            else:
                false_control += len(hits)
        false_quiet += len(left)
    return ExtractionCounts(hours, found, false_quiet, false_control)


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("composite", argv)
    with (args.clips / "index.csv").open(newline="", encoding="utf-8") as file:
        clips = list(csv.DictReader(file))
    loud = [row for row in clips if row["label"] == "abnormal" and row["set"] in args.sets]
    still = [row for row in clips if row["label"] == "normal" and row["set"] in args.controls]
    quiet = sorted(args.quiet.glob("*.mp4"))
    if not loud or not still or not quiet:
        fail(
            "composite",
            "no incidents, no controls or no quiet recordings; check --clips, --sets, --controls and --quiet",
        )
    quiet = quiet[1::2]  # every other one is training's (see trainer/recipes/embedded/extra_footage.py)
    load, bundle, console = load_before(), Bundle.load(args.bundle), Console(stderr=True)
    hours = args.streams * args.minutes / 60
    tallies: dict[tuple[float, int], ExtractionCounts] = {}
    drawn: list[dict[str, Any]] = []
    for seed in args.seeds:
        rng, cuts, videos = np.random.default_rng(seed), [], []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for number in track(range(args.streams), f"streams, seed {seed}", console=console, disable=args.json):
                picked = [loud[k] for k in rng.choice(len(loud), args.incidents, replace=False)]
                picked += [still[k] for k in rng.choice(len(still), args.incidents, replace=False)]
                videos.append(folder / f"{number:02d}.mp4")
                place = quiet[number % len(quiet)]
                cuts.append(make_stream(videos[-1], place, picked, args.clips, args.minutes * 60, rng))
            for threshold in [None, *args.thresholds]:
                options = ["--bundle", args.bundle] + ([] if threshold is None else ["--threshold", str(threshold)])
                value = bundle.threshold if threshold is None else threshold
                tallies[value, seed] = judge(cuts, play(videos, folder, options), hours)
        drawn += [{"seed": seed, **asdict(cut)} for stream in cuts for cut in stream]
    rows = []
    for threshold in sorted({threshold for threshold, _ in tallies}):
        of_seeds = [tallies[threshold, seed] for seed in args.seeds]
        together = [("all", sum(of_seeds[1:], of_seeds[0]))] if len(of_seeds) > 1 else []
        for seed, tally in [*zip(map(str, args.seeds), of_seeds, strict=True), *together]:
            rows.append({"threshold": threshold, "seed": seed, **tally.row()})
    results = {"bundle": bundle.fingerprint, "goals": GOALS, "rows": rows, "cuts": drawn}
    settings = {key: getattr(args, key) for key in ("streams", "minutes", "incidents", "seeds", "sets", "controls")}
    if not args.no_save:
        write_results("composite", results, {"load_before": load, "grace_s": GRACE_S, "gap_s": GAP_S, **settings})
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows)
    return 0


def show(rows: list[dict[str, Any]]) -> None:
    """One table."""
    table = Table(title="incidents cut into quiet streams")
    for column in ("threshold", "seed", "found", "by set", "false/h", "delay s", "p90"):
        table.add_column(column, justify="right", min_width=18 if column == "by set" else None)
    for row in rows:
        by_set = "\n".join(f"{name} {value:.2f}" for name, value in row["recall_by_set"].items())
        found, delay_s = f"{row['found']}/{row['incidents']}", row["delay_s"]
        cells = (row["threshold"], row["seed"], found, by_set, row["false_alarms_per_hour"])
        table.add_row(*(str(cell) for cell in (*cells, delay_s["median"], delay_s["p90"])))
    Console().print(table)
