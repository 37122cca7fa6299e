"""latency: how long does it take from the light on the sensor to the score or event at a subscriber in another process?

    python -m benchmarks latency --clips DIR --cameras 1 4 8 16 32 --seconds 30

"rtsp": a real RTSP server (H.264, 320×240, 25 fps) whose pictures show the time at which they were made; its encoding
and sending run on the same cores and are part of "capture". "file": an H.264 file played in real time, each camera with
its own phase. Every score message is a sample, and so is every event of camera 0, whose threshold is 0 here.

Stages, in milliseconds: capture (picture made or due → grabbed), window, queue (waiting for the batch), preprocess,
forward, decide, publish, delivery (message closed → received; for events this includes their journalling). Unavoidable
delays are listed separately: a window is full 16 frames after it began, and smoothing and hysteresis need more than
one. `account` checks, for every message, that its parts add up to `emitted_utc` minus the capture, within 2 ms.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.footage import SYSTEM_PYTHON, find_clips, make_h264, make_raw, missing_encoder
from benchmarks.options import fail, parse
from benchmarks.results import load_before, write_results
from benchmarks.rig import WINDOW_S, Spec, run
from benchmarks.rtsp_faults import missing_server
from stream_detector.alarms.smoothing import make_smoother
from stream_detector.alarms.state_machine import make_alarm_rule
from stream_detector.config import AlarmConfig
from stream_detector.models.bundle import Bundle
from stream_detector.types import Score, Timing, WindowRef

SCORE = "stream-detector.score/1"
SIZE = (320, 240)
FPS = 25
STAGES = ("capture_to_window", "queue", "preprocess", "forward", "decide", "publish")
GOALS = {8: {"p50": 50.0, "p99": 150.0}, 32: {"p95": 150.0}}


@contextmanager
def clock_server(raw: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The RTSP clock on a free port: its URL and process. Raises RuntimeError when it does not come up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    script = str(Path(__file__).with_name("clock_server.py"))
    command = [SYSTEM_PYTHON, script, str(port), str(FPS), str(SIZE[0]), str(SIZE[1]), str(raw)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the RTSP clock did not come up on port {port}")
        yield f"rtsp://127.0.0.1:{port}/clock", psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def utc_s(text: str) -> float:
    """RFC 3339 as seconds."""
    return datetime.fromisoformat(text).timestamp()


def quantiles(values: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the number of samples."""
    if not values:
        return {"count": 0}
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2), "p99": round(float(p99), 2), "count": len(values)}


def answered(messages: list[tuple[float, dict[str, Any]]]) -> Iterator[tuple[float, float, dict[str, Any]]]:
    """(UTC received, UTC at which the window's last frame was captured, body) of every live score and event."""
    scores = (body for _, body in messages if body["schema"] == SCORE)
    captured = {(body["camera"], body["end_frame"]): utc_s(body["captured_utc"]) for body in scores}
    for received, body in messages:
        if body.get("replayed") or not body.get("timing"):
            continue
        at = captured.get((body["camera"], last_frame(body)))
        if at is not None:
            yield received, at, body


def last_frame(body: dict[str, Any]) -> int:
    """Of the window that a score is of, or that caused an event."""
    frame: int = body["end_frame"] if body["schema"] == SCORE else body["windows"][-1]["end_frame"]
    return frame


def waits_ms(messages: list[tuple[float, dict[str, Any]]]) -> tuple[list[float], list[float]]:
    """From the capture of a window's last frame to the subscriber: of every score, and of every event."""
    scores, events = list[float](), list[float]()
    for received, captured, body in answered(messages):
        (scores if body["schema"] == SCORE else events).append((received - captured) * 1e3)
    return scores, events


def account(capture_ms: list[dict[str, float]], messages: list[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """Stages of scores, the events' way, and whether the parts add up. capture_ms: by camera, by frame number."""
    stages: dict[str, list[float]] = {name: [] for name in ("capture", *STAGES, "delivery")}
    light: list[float] = []
    errors: list[float] = []
    event_delivery: list[float] = []
    whole, events = waits_ms(messages)
    for received, captured, body in answered(messages):
        emitted = utc_s(body["emitted_utc"])
        parts = sum(body["timing"][name] for name in STAGES)
        errors.append(abs(parts - (emitted - captured) * 1e3))
        if body["schema"] != SCORE:
            event_delivery.append((received - emitted) * 1e3)
            continue
        before = capture_ms[int(body["camera"].removeprefix("cam"))].get(str(last_frame(body)))
        for name in STAGES:
            stages[name].append(body["timing"][name])
        stages["delivery"].append((received - emitted) * 1e3)
        if before is not None:
            stages["capture"].append(before)
            light.append(before + (received - captured) * 1e3)
    return {
        "captured_to_score": quantiles(whole),
        "light_to_score": quantiles(light),
        "captured_to_event": quantiles(events),
        "event_delivery": quantiles(event_delivery),
        "stages": {name: quantiles(values) for name, values in stages.items()},
        "account": {
            "checked": len(errors),
            "worst_ms": round(max(errors), 2) if errors else None,
            "within_2_ms": round(sum(error <= 2.0 for error in errors) / len(errors), 5) if errors else None,
        },
    }


def unavoidable(stride: int) -> dict[str, Any]:
    """Seconds that the method itself takes with the embedded bundle, whatever the machine.

    fill: first frame of a window → its last.  wait: a thing that happens at any moment waits for the next window to
    begin, on average half a stride.  smoothing and hysteresis: from the first window that scores 1 to the alarm, after
    a long time of 0, at the bundle's threshold.
    """
    bundle = Bundle.load("embedded")
    smooth, alarm = bundle.smoothing, AlarmConfig()
    smoother = make_smoother(smooth)
    machine = make_alarm_rule("cam", "", str, bundle.threshold, alarm)
    step_s, quiet = stride / FPS, 20
    needed = None
    for index in range(quiet + 50):
        start_s = index * step_s
        raw = 1.0 if index >= quiet else 0.0
        ref = WindowRef("cam", "", index, 0, 15, start_s, start_s + 15 / FPS, 0.0, 0.0, 0.0)
        smoothed = smoother.update(ref.start_s, ref.end_s, raw)
        _, event = machine.step(Score(ref, raw, 0.0, Timing(0, 0, 0, 0)), smoothed)
        if event is not None:
            needed = index - quiet
            break
    return {
        "window_fill_s": WINDOW_S,
        "wait_for_a_window_mean_s": round(step_s / 2, 3),
        "smoothing_and_hysteresis_s": None if needed is None else round(needed * step_s, 3),
        "windows_needed": None if needed is None else needed + 1,
        "threshold": bundle.threshold,
    }


def main(argv: list[str]) -> int:
    """Command line; 2 when neither source can be had."""
    args = parse("latency", argv)
    missing = missing_encoder() or ("rtsp" in args.sources and missing_server())
    if missing:
        fail("latency", f"{missing}; run .ci/install-rtsp.sh")
    rows: list[dict[str, Any]] = []
    load = load_before()
    with tempfile.TemporaryDirectory() as name:
        clips = find_clips(args.clips)
        for source in args.sources:
            for cameras in args.cameras:
                print(f"{source}, {cameras} cameras …", flush=True) if not args.json else None
                rows.append(measure(source, cameras, clips, Path(name), args))
    settings = {
        "load_before": load,
        "fps": FPS,
        "size": list(SIZE),
        "stride": args.stride,
        "seconds": args.seconds,
        "in_step": args.in_step,
    }
    results = {"unavoidable": unavoidable(args.stride), "goals_ms": GOALS, "runs": rows}
    if not args.no_save:
        path = write_results("latency", results, settings)
    if args.json:
        print(path.read_text(encoding="utf-8") if not args.no_save else rows)
    else:
        show(results)
    return 0


def measure(source: str, cameras: int, clips: list[Path], folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One run."""
    common = {"cameras": cameras, "seconds": args.seconds, "settle_s": args.settle, "stride": args.stride}
    if source == "file":
        video = folder / "footage.mp4"
        if not video.is_file():
            make_h264(clips, video, 60.0, SIZE)
        figures, messages = run(Spec(mode="file", source=str(video), in_step=args.in_step, **common))
    else:
        raw = folder / "footage.i420"
        if not raw.is_file():
            make_raw(clips, raw, 250, SIZE)
        with clock_server(raw) as (url, server):
            figures, messages = run(Spec(mode="rtsp", source=url, **common))
            figures["server_cpu_s"] = round(sum(server.cpu_times()[:2]), 2)
    told = account(figures.pop("capture_ms"), messages)
    return {"source": source, **told, **{key: value for key, value in figures.items() if not key.endswith("_utc")}}


def show(results: dict[str, Any]) -> None:
    """Two tables: the way as a whole, and its stages."""
    console = Console()
    whole = Table(title="last frame captured → received elsewhere, ms (light: picture made → received)")
    for column in ("source", "cameras", "p50", "p95", "p99", "light p50", "light p95", "event p95", "drops", "cores"):
        whole.add_column(column, justify="right")
    stages = Table(title="where it goes: p50 / p95, ms")
    for column in ("source", "cameras", "capture", *STAGES, "delivery"):
        stages.add_column(column, justify="right")
    for row in results["runs"]:
        score, light, event = row["captured_to_score"], row["light_to_score"], row["captured_to_event"]
        cells = [score.get("p50"), score.get("p95"), score.get("p99"), light.get("p50"), light.get("p95")]
        whole.add_row(
            row["source"],
            str(row["cameras"]),
            *(str(cell) for cell in (*cells, event.get("p95"), row["dropped"], row["cores_busy"])),
        )
        parts = (row["stages"][name] for name in ("capture", *STAGES, "delivery"))
        stages.add_row(row["source"], str(row["cameras"]), *(f"{p.get('p50')} / {p.get('p95')}" for p in parts))
    console.print(whole)
    console.print(stages)
    console.print("unavoidable", results["unavoidable"])
    console.print("account", [row["account"] for row in results["runs"]])
