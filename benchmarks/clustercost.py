"""The cost of Ray: the shipped commands are compared by a subscriber and by their run times."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clusterlib import choose_clips, compare, make_film
from benchmarks.faultlib.detector import free_endpoint
from stream_detector.client.subscriber import Subscriber

CAMERAS = 8
START_S = 90.0
SETTLE_S = 4.0
ROUNDS = 3
PACES = {"max": None, "realtime": 45.0}  # pace → seconds that are watched


def overhead(clips: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """CAMERAS recordings: as fast as it goes (windows/s), and in real time (latency from capture to subscriber).

    ROUNDS runs of each, taking turns; medians, and the ratios of the medians.
    """
    film = make_film(choose_clips(clips, 24), folder / "film.mp4", seconds)
    sources = [f"cam{number}={film}" for number in range(CAMERAS)]
    found: dict[str, Any] = {"cameras": CAMERAS, "cores": os.cpu_count()}
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {pace: {"single": [], "cluster": []} for pace in PACES}
    for turn in range(ROUNDS):
        for pace, limit_s in PACES.items():
            for name, extra in (("single", ["run", "--no-dashboard"]), ("cluster", ["cluster"])):
                place = folder / f"{name}-{pace}-{turn}"
                place.mkdir()
                runs[pace][name].append(_watched([*extra, *sources, "--pace", pace], place, limit_s))
                print(turn, name, pace, json.dumps(runs[pace][name][-1]), flush=True)
    for pace, both in runs.items():
        found[pace] = {name: {**_medians(of_one), "runs": of_one} for name, of_one in both.items()}
    for pace, key in (("max", "windows_per_s"), ("realtime", "p50_ms"), ("realtime", "p95_ms")):
        found[f"{key}_ratio"] = round(found[pace]["cluster"][key] / found[pace]["single"][key], 3)
    found["passed"] = found["windows_per_s_ratio"] >= 0.85 and found["p95_ms_ratio"] <= 1.15
    return found


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {key: round(float(np.median([run[key] for run in runs])), 2) for key in runs[0]}


def _watched(command: list[str], place: Path, seconds: float | None) -> dict[str, Any]:
    endpoint = free_endpoint()
    options = ["--bind", endpoint, "--ledger", str(place / "ledger.sqlite3"), "--no-evidence"]
    begun_s = time.monotonic()
    with Subscriber(endpoint, kinds=("score",), recover=False) as subscriber:
        process = subprocess.Popen(
            [sys.executable, "-m", "stream_detector", *command, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        arrivals: list[float] = []
        latencies: list[float] = []
        try:
            while process.poll() is None and time.monotonic() - begun_s < 170.0:
                message = subscriber.receive(0.1)
                if message is None:
                    continue
                now_s = time.monotonic()
                arrivals.append(now_s)
                if now_s - arrivals[0] > SETTLE_S:
                    captured = datetime.fromisoformat(message.body["captured_utc"]).timestamp()
                    latencies.append((time.time() - captured) * 1e3)
                if seconds is not None and now_s - arrivals[0] > seconds:
                    break
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=30.0)
    if not latencies:
        raise RuntimeError(f"nothing was scored: {err[-500:]}")
    # The first and the last tenth are starting up and running dry.
    low, high = len(arrivals) // 10, len(arrivals) * 9 // 10
    return {
        "windows": len(arrivals),
        "windows_per_s": round((high - low) / (arrivals[high] - arrivals[low]), 2),
        "first_score_after_s": round(arrivals[0] - begun_s, 2),
        "p50_ms": round(float(np.percentile(latencies, 50)), 1),
        "p95_ms": round(float(np.percentile(latencies, 95)), 1),
    }


def archive(clips: Path, folder: Path, count: int) -> dict[str, Any]:
    """`count` recordings of 20 s: `score`, and `score --ray --workers 2`; the tables must agree."""
    films = folder / "films"
    films.mkdir()
    chosen = choose_clips(clips, count)
    for number in range(count):
        make_film(chosen[number:] + chosen[:number], films / f"film{number:03d}.mp4", 20.0)
    found: dict[str, Any] = {"recordings": count, "seconds_each": 20.0}
    for name, extra in (("single", []), ("ray", ["--ray", "--workers", "2"])):
        place = folder / name
        place.mkdir()
        begun_s = time.monotonic()
        options = ["--out", str(place / "scores.csv"), "--events", str(place / "events.jsonl"), *extra]
        subprocess.run(
            [sys.executable, "-m", "stream_detector", "score", str(films), *options],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        took_s = time.monotonic() - begun_s
        found[name] = {"seconds": round(took_s, 2), "times_real_time": round(count * 20.0 / took_s, 1)}
        print(name, found[name], flush=True)
    found["agreement"] = compare(folder / "single", folder / "ray")
    found["ratio"] = round(found["single"]["seconds"] / found["ray"]["seconds"], 3)
    return found
