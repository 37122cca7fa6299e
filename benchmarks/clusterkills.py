"""Kills nodes (or shards) of a running cluster while alarms are open, and checks the events of a recovering
subscriber.
"""

from __future__ import annotations

import csv
import logging
import random
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.clusterlib import Run, compare, config_for, nodes, scores_of, single
from benchmarks.faultlib.detector import free_endpoint
from benchmarks.faultlib.judge import journalled, judge, slim
from stream_detector.client.subscriber import Subscriber

CAMERAS = 4
SETTLE_S = 3.0  # between a recovery and the next kill, at least
GIVE_UP_S = 40.0
LAST_KILL_S = 12.0  # before the end of the film
SETTINGS: dict[str, Any] = {
    "alarm": {"threshold": 0.4, "cooldown_s": 1.0, "min_length_s": 1.0},
    "smoothing": {"kind": "ema", "time_constant_s": 0.5},
    "picture_quality": {"enabled": False},  # learns again after a move: `degraded` may differ
    "engine": {"precision": "fp32"},
}


class Watch:
    """What a subscriber sees: events, alarms open now, and the newest score of every camera with its arrival."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self.events: list[Any] = []
        self.open: dict[str, str] = {}  # camera → alarm
        self.media_s: dict[str, float] = {}
        self.back_s: dict[str, float] = {}  # camera → arrival of its first score of a picture grabbed after `after_utc`
        self.after_utc = float("inf")
        self.windows: Counter[tuple[str, int]] = Counter()

    def take(self, wait_s: float) -> None:
        message = self._subscriber.receive(wait_s)
        while message is not None:
            if message.kind == "score":
                self.media_s[message.camera] = message.body["end_s"]
                if datetime.fromisoformat(message.body["captured_utc"]).timestamp() > self.after_utc:
                    self.back_s.setdefault(message.camera, time.monotonic())
                self.windows[message.camera, message.body["window"]] += 1
            else:
                event = slim(message.body)
                self.events.append(event)
                if event.type == "start":
                    self.open[message.camera] = event.id
                elif event.type == "end":
                    self.open.pop(message.camera, None)
            message = self._subscriber.receive(0) if self._subscriber.waiting else None


def kill_nodes(folder: Path, film: Path, kills: int, seed: int, target: str) -> dict[str, Any]:
    """One run of the film by CAMERAS cameras in real time on 3 nodes; up to `kills` kills while an alarm is open."""
    dice = random.Random(seed)
    sources = [(f"cam{number}", film) for number in range(CAMERAS)]
    (folder / "single").mkdir()
    (folder / "cluster").mkdir()
    single(config_for(folder / "single", sources, **SETTINGS))
    length_s = _length(folder)
    endpoint = free_endpoint()
    publish = {"bind": endpoint, "ledger": folder / "cluster" / "ledger.sqlite3", "heartbeat_s": 0.25}
    config = config_for(folder / "cluster", sources, **SETTINGS, pace="realtime", publish=publish)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recovery_s: list[float] = []
    with nodes(3) as held, Subscriber(endpoint, kinds=("alarm", "status", "score"), from_start=True) as subscriber:
        watch = Watch(subscriber)
        run = Run(held.ray, config)
        run.ready.wait(120.0)
        calm_s = time.monotonic() + 5.0
        while not run.over:
            watch.take(0.05)
            where = run.supervisor.where()
            here = _victims(held, where, set(watch.open)) if target == "node" else {0: sorted(where)}
            late = max(watch.media_s.values(), default=0.0) > length_s - LAST_KILL_S
            if len(recovery_s) >= kills or time.monotonic() < calm_s or not watch.open or not here or late:
                continue
            wait_s = time.monotonic() + dice.uniform(0.0, 0.5)
            while time.monotonic() < wait_s:
                watch.take(0.01)
            number = dice.choice(sorted(here))
            killed_s = time.monotonic()
            if target == "node":
                held.kill(number)
            else:
                held.ray.kill(run.supervisor._actors["shard-0"].handle)
            cameras, watch.after_utc = here[number], time.time()
            watch.back_s.clear()
            while not run.over and time.monotonic() - killed_s < GIVE_UP_S:
                watch.take(0.02)
                if all(name in watch.back_s for name in cameras):
                    break
            recovery_s.append(round(max(watch.back_s.get(n, killed_s + GIVE_UP_S) for n in cameras) - killed_s, 2))
            print(f"kill {len(recovery_s)}: {len(cameras)} cameras, {recovery_s[-1]} s", flush=True)
            if target == "node":
                held.add()
            calm_s = time.monotonic() + SETTLE_S
        result = run.join(10.0)
        written = journalled(folder / "cluster" / "ledger.sqlite3")
        for _ in range(20):
            watch.take(0.05)
    alarms = [event for event in watch.events if event.topic.startswith("v1/alarm/")]
    counts = judge(watch.events, written)
    told = compare(folder / "single", folder / "cluster")
    expected = set(scores_of(folder / "single" / "scores.csv"))
    return {
        "cameras": CAMERAS,
        "footage_s": round(length_s, 1),
        "runs": [
            {
                "kills": len(recovery_s),
                "recovery_s": recovery_s,
                "deaths_seen": len(result.deaths),
                "alarm_events": len(alarms),
                "lost": counts["missing"],
                "doubled": counts["twice"] + counts["started_twice"] + counts["ended_twice"],
                "unended": counts["unended"],
                "restart_ends": counts["restart_ends"],
                "scores_seen_twice": sum(count > 1 for count in watch.windows.values()),
                "scores_not_seen": len(expected - set(watch.windows)),
                "windows_wrong": told["windows_missing_or_extra"],
                "largest_score_difference": told["largest_score_difference"],
                "cameras_whose_events_differ": told["cameras_whose_events_differ"],
            }
        ],
    }


def _victims(held: Any, where: dict[str, str], alarmed: set[str]) -> dict[int, list[str]]:
    """Nodes beside the driver's that run a camera whose alarm is open: number → all their cameras."""
    found = {}
    for number, node in enumerate(held.others):
        cameras = sorted(name for name, at in where.items() if at == str(node.node_id))
        if alarmed & set(cameras):
            found[number] = cameras
    return found


def _length(folder: Path) -> float:
    with (folder / "single" / "scores.csv").open(newline="", encoding="utf-8") as file:
        return max(float(row["end_s"]) for row in csv.DictReader(file))


def kill_driver(folder: Path, film: Path, seed: int) -> dict[str, Any]:
    """`stream-detector cluster` killed with -9 while an alarm is open, and started again; the subscriber stays."""
    dice = random.Random(seed)
    sources = [(f"cam{number}", film) for number in range(2)]
    for name in ("single", "cluster"):
        (folder / name).mkdir()
    single(config_for(folder / "single", sources, **SETTINGS))
    place, endpoint = folder / "cluster", free_endpoint()
    command = [sys.executable, "-m", "stream_detector", "cluster", *(f"{name}={path}" for name, path in sources)]
    command += ["--pace", "realtime", "--bind", endpoint, "--ledger", str(place / "ledger.sqlite3"), "--cpus", "2"]
    command += ["--scores", str(place / "scores.csv"), "--events", str(place / "events.jsonl")]
    for key, value in (
        ("alarm.threshold", "0.4"),
        ("alarm.cooldown_s", "1.0"),
        ("alarm.min_length_s", "1.0"),
        ("smoothing.kind", "ema"),
        ("smoothing.time_constant_s", "0.5"),
        ("picture_quality.enabled", "false"),
        ("engine.precision", "fp32"),
    ):
        command += ["--set", f"{key}={value}"]
    away_s = 0.0
    with Subscriber(endpoint, kinds=("alarm", "status", "score"), from_start=True) as subscriber:
        watch = Watch(subscriber)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (watch.open and max(watch.media_s.values(), default=0.0) > 5.0):
            watch.take(0.05)
        until_s = time.monotonic() + dice.uniform(0.0, 0.5)
        while time.monotonic() < until_s:
            watch.take(0.01)
        process.kill()
        process.wait()
        killed_s, watch.after_utc = time.monotonic(), time.time()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and time.monotonic() - killed_s < 120.0:
            watch.take(0.05)
            if len(watch.back_s) == len(sources) and not away_s:
                away_s = time.monotonic() - killed_s
        if process.poll() is None:
            process.terminate()
        code = process.wait(20.0)
        for _ in range(20):
            watch.take(0.05)
    counts = judge(watch.events, journalled(place / "ledger.sqlite3"))
    told = compare(folder / "single", place)
    wrong = counts["missing"] + counts["twice"] + counts["started_twice"] + counts["ended_twice"] + counts["unended"]
    good = not wrong and not told["windows_missing_or_extra"] and not told["cameras_whose_events_differ"]
    return {"exit_code": code, "away_s": round(away_s, 2), "counts": counts, **told, "passed": good and code == 0}
