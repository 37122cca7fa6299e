"""`kill -9` of the detector during alarms, and of the subscriber: every event exactly once, in order."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.faultlib.detector import Plan, free_endpoint, kill, run_pipeline, run_server, start
from benchmarks.faultlib.judge import journalled, judge, passed, read_lines
from benchmarks.faultlib.listening import DEADLINE_S, Listener
from stream_detector.cli.main import main as command_line
from stream_detector.client.subscriber import Subscriber


def kill_detector(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` kills, each while an alarm is open, 0–0.5 s after it was seen; one recovering subscriber watches."""
    dice = random.Random(seed)
    plan = Plan(free_endpoint(), folder / "ledger.sqlite3", events=folder / "events.jsonl")
    waits_s: list[float] = []

    with Subscriber(plan.endpoint, from_start=True) as subscriber:
        listener = Listener(subscriber)
        received, open_now, take = listener.received, listener.open_now, listener.take
        for _ in track(range(times), description="kill -9 of the detector", transient=True):
            before = len(received)
            begun_s = time.monotonic()
            process = start(run_pipeline, plan)
            fresh = False
            while not (open_now and fresh):
                if time.monotonic() - begun_s > DEADLINE_S:
                    raise TimeoutError("no alarm came from a new detector")
                take(0.1)
                fresh = any(event.type == "start" for event in received[before:])
            until_s = time.monotonic() + dice.uniform(0.0, 0.5)
            while (left_s := until_s - time.monotonic()) > 0 or not open_now:
                take(max(0.001, left_s))
            kill(process)
            waits_s.append(time.monotonic() - begun_s)
        before = len(received)
        process = start(run_pipeline, plan)
        while not any(event.type == "start" for event in received[before:]):
            take(0.1)
        code = kill(process, signal.SIGTERM)
        written = listener.complete(plan)
    counts = judge(received, written)
    alarms = [event for event in written if event.topic.startswith("v1/alarm/")]
    differs = read_lines(folder / "events.jsonl") != alarms
    return {
        **counts,
        "kills": times,
        "event_file_differs": int(differs),
        "exit_code_on_sigterm": code,
        "lost_by_count": subscriber.lost,
        "fetched": subscriber.recovered,
        "seconds_a_run": round(sum(waits_s) / len(waits_s), 2),
        "passed": passed(counts) and not differs and code == 0 and subscriber.lost == 0,
    }


def subscribe(arguments: list[str]) -> None:
    """The shipped command, in a process of its own."""
    raise SystemExit(command_line(["subscribe", *arguments]))


def kill_subscriber(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` kills of `stream-detector subscribe --output --cursor`, at random moments, while a detector runs."""
    dice = random.Random(seed)
    plan = Plan(free_endpoint(), folder / "ledger.sqlite3")
    output = folder / "received.jsonl"
    command = [plan.endpoint, "--from-start", "--output", str(output), "--cursor", str(folder / "cursor.json")]
    detector = start(run_pipeline, plan)
    idle = 0

    def size() -> int:
        return output.stat().st_size if output.exists() else 0

    for _ in track(range(times), description="kill -9 of the subscriber", transient=True):
        before, until_s = size(), time.monotonic() + DEADLINE_S
        process = start(subscribe, command)
        if dice.random() < 0.8:  # the others are killed while they begin
            while size() == before and time.monotonic() < until_s:
                process.join(0.001)
        process.join(dice.uniform(0.0, 0.3))
        kill(process)
        idle += size() == before
    kill(detector, signal.SIGTERM)
    written = journalled(plan.ledger)
    server = start(run_server, plan)
    process = start(subscribe, [*command, "--timeout", "5"])
    process.join(120)
    code = process.exitcode
    kill(server, signal.SIGTERM)
    counts = judge(read_lines(output), written)
    return {
        **counts,
        "kills": times,
        "kills_before_anything_came": idle,
        "exit_code": code,
        "passed": passed(counts) and code == 0 and idle < times,
    }
