"""soak: do memory, descriptors, threads or latency grow with many cameras over a long time?

    python -m benchmarks soak --cameras 16 --minutes 10 --video long.mp4     (or --clips DIR: made from those clips)

The detector runs as its users run it, in a separate process, on files in real time. Every few seconds this process
records its resident memory, open descriptors and threads, and reads its /metrics. Slopes are least-squares fits over
the second part of the run, when every buffer has been filled once (`settle_s`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.options import fail, parse
from benchmarks.results import write_results

ROOT = Path(__file__).parents[1]
SIZE = (320, 240)
FPS = 25.0
METRIC = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>[-+0-9.eEinfa]+)$", re.MULTILINE)

STOPPED = (0, 128 + signal.SIGTERM)  # how a detector ends that was not wrong


def make_video(clips: list[Path], out: Path, seconds: float) -> Path:
    """One long file of real footage: the clips one after another, again and again, at SIZE and FPS."""
    writer = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE)
    pictures: list[np.ndarray[Any, Any]] = []
    for clip in clips:
        capture = cv2.VideoCapture(str(clip))
        while True:
            got, picture = capture.read()
            if not got:
                break
            pictures.append(cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA))
        capture.release()
    for index in track(range(int(seconds * FPS)), description="making the video", transient=True):
        writer.write(pictures[index % len(pictures)])
    writer.release()
    return out


def read_metrics(port: int) -> dict[str, float]:
    """Sums over labels of every metric; empty while the endpoint does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            text = reply.read().decode()
    except (urllib.error.URLError, OSError):
        return {}
    sums: dict[str, float] = {}
    for found in METRIC.finditer(text):
        key = found["name"]
        if key.endswith("_bucket"):
            continue
        sums[key] = sums.get(key, 0.0) + float(found["value"])
    return sums


def slope_per_hour(times_s: list[float], values: list[float]) -> float:
    """Least-squares slope, per hour."""
    if len(times_s) < 3:
        return float("nan")
    return float(np.polyfit(np.array(times_s) / 3600.0, values, 1)[0])


def run(cameras: int, seconds: float, video: Path, settle_s: float, port: int, every_s: float) -> dict[str, Any]:
    """One soak. Returns samples, slopes and how the detector ended."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"cam{i:02d}={video}" for i in range(cameras)]
        arguments = ["--no-dashboard", "--bind", "tcp://127.0.0.1:*", "--metrics-port", str(port), "--run-dir", folder]
        command = [sys.executable, str(ROOT / "run_stream.py"), *names, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        watched = psutil.Process(process.pid)
        samples: list[dict[str, float]] = []
        begun_s = time.monotonic()
        for _ in track(range(int(seconds / every_s)), description="soaking"):
            due_s = begun_s + (len(samples) + 1) * every_s
            try:
                process.wait(max(0.0, due_s - time.monotonic()))
                break
            except subprocess.TimeoutExpired:
                pass
            metrics = read_metrics(port)
            samples.append(
                {
                    "at_s": round(time.monotonic() - begun_s, 1),
                    "rss_mb": watched.memory_info().rss / 1e6,
                    "descriptors": watched.num_fds(),
                    "threads": watched.num_threads(),
                    "cpu_s": sum(watched.cpu_times()[:2]),
                    "scored": metrics.get("stream_detector_scored_total", 0.0),
                    "dropped": metrics.get("stream_detector_dropped_total", 0.0),
                }
            )
        ended_early = process.poll() is not None
        if not ended_early:
            os.kill(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    late = [sample for sample in samples if sample["at_s"] >= settle_s]
    times = [sample["at_s"] for sample in late]
    slopes = {key: slope_per_hour(times, [s[key] for s in late]) for key in ("rss_mb", "descriptors", "threads")}
    span = (late[-1]["at_s"] - late[0]["at_s"]) if len(late) > 1 else float("nan")
    return {
        "exit_code": process.returncode,
        "ended_early": ended_early,
        "stderr_tail": err[-500:] if process.returncode not in STOPPED else "",
        "peak_rss_mb": round(max(s["rss_mb"] for s in samples), 1),
        "slopes_per_hour": {key: round(value, 3) for key, value in slopes.items()},
        "windows_per_s": round((late[-1]["scored"] - late[0]["scored"]) / span, 3),
        "cpu_share_of_one_core": round((late[-1]["cpu_s"] - late[0]["cpu_s"]) / span, 3),
        "dropped": samples[-1]["dropped"],
        "samples": [{key: round(value, 1) for key, value in sample.items()} for sample in samples],
    }


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("soak", argv)
    seconds = args.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        video = args.video
        if video is None:
            clips = sorted(args.clips.rglob("*.mp4"))[:24] if args.clips else []
            if not clips:
                fail("soak", "give --video FILE or --clips DIR with .mp4 files")
            video = make_video(clips, Path(folder) / "long.mp4", seconds + 60)
        figures = run(args.cameras, seconds, video, min(args.settle, seconds / 3), args.port, args.every)
    settings = {"cameras": args.cameras, "minutes": args.minutes, "fps": FPS, "size": list(SIZE)}
    path = write_results("soak", figures, settings)
    if args.json:
        print(path.read_text(encoding="utf-8"))
    else:
        table = Table(title=f"{args.cameras} cameras, {args.minutes:g} minutes")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for key in ("peak_rss_mb", "windows_per_s", "cpu_share_of_one_core", "dropped", "exit_code"):
            table.add_row(key, f"{figures[key]}")
        for key, value in figures["slopes_per_hour"].items():
            table.add_row(f"{key} per hour", f"{value}")
        Console().print(table)
    return 0 if figures["exit_code"] in STOPPED else 1
