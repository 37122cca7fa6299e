"""SIGSTOP of a subscriber while thousands of events a second go out: it recovers, and nobody else notices."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from rich.progress import track

from benchmarks.faultlib.detector import Plan, free_endpoint, kill, run_decider, run_server, start
from benchmarks.faultlib.judge import journalled, judge, passed, read_lines
from benchmarks.faultlib.kills import subscribe
from stream_detector.client.cursor import load_cursor

CAMERAS = 4
SETTLE_S = 2.0  # at the beginning
CATCH_UP_S = 30.0  # at most so long after SIGCONT; this time is judged apart


@dataclass(slots=True)
class Witness:
    """Another subscriber, in a thread of this process: the delay of every event, from due time to receipt, by phase."""

    endpoint: str
    phase: str = "settling"
    delays_ms: dict[str, list[float]] = field(default_factory=lambda: {"stopped": [], "running": [], "settling": []})
    seqs: dict[str, int] = field(default_factory=dict)
    gaps: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Listen until `stop` is set."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.SUB)
        socket.rcvhwm = 100_000
        socket.connect(self.endpoint)
        socket.subscribe("v1/alarm/")
        while not self.stop.is_set():
            if not socket.poll(100):
                continue
            topic, data = socket.recv_multipart()
            now_ms = time.monotonic() * 1e3
            body = json.loads(data)
            if body["type"] != "update" or body.get("replayed"):
                continue
            name = topic.decode()
            self.gaps += name in self.seqs and not 0 < body["seq"] - self.seqs[name] <= 3  # end, start
            self.seqs[name] = body["seq"]
            self.delays_ms[self.phase].append(now_ms - body["timing"]["capture_to_window"])
        socket.close(0)
        context.term()


def _catch_up(cursor: Path, witness: Witness) -> float:
    """Wait until the stopped subscriber is where the other one is, or CATCH_UP_S; returns the seconds."""
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < CATCH_UP_S:
        time.sleep(0.1)
        had = load_cursor(cursor)
        if had and all(had.place(topic)[1] >= seq - 100 for topic, seq in dict(witness.seqs).items()):
            break
    return time.monotonic() - begun_s


def stop_subscriber(folder: Path, times: int, seed: int, events_per_s: int, longest_s: float = 10.0) -> dict[str, Any]:
    """`times` stops of 1 to `longest_s` seconds, each followed by as long a time of normal running.

    events_per_s: one alarm event and one score for every window, so half as many windows.
    """
    dice = random.Random(seed)
    windows_per_s = events_per_s / 2
    plan = Plan(free_endpoint(), folder / "ledger.sqlite3", cameras=CAMERAS, fps=windows_per_s / CAMERAS)
    output = folder / "received.jsonl"
    command = [plan.endpoint, "--from-start", "--output", str(output), "--cursor", str(folder / "cursor.json")]
    detector, victim = start(run_decider, plan), start(subscribe, command)
    assert victim.pid is not None
    witness = Witness(plan.endpoint)
    thread = threading.Thread(target=witness.run)
    thread.start()
    rates: dict[str, list[float]] = {"stopped": [], "running": []}

    def spend(phase: str, seconds: float) -> None:
        before, begun_s = len(witness.delays_ms[phase]), time.monotonic()
        witness.phase = phase
        time.sleep(seconds)
        witness.phase = "settling"
        rates[phase].append((len(witness.delays_ms[phase]) - before) / (time.monotonic() - begun_s))

    stopped_s, catching_up_s = 0.0, list[float]()
    try:
        while not witness.delays_ms["settling"]:
            time.sleep(0.05)
        time.sleep(SETTLE_S)
        for _ in track(range(times), description="SIGSTOP of a subscriber", transient=True):
            length_s = dice.uniform(1.0, longest_s)
            stopped_s += length_s
            os.kill(victim.pid, signal.SIGSTOP)
            spend("stopped", length_s)
            os.kill(victim.pid, signal.SIGCONT)
            catching_up_s.append(_catch_up(folder / "cursor.json", witness))
            spend("running", length_s)
    finally:
        witness.stop.set()
        thread.join()
    code = kill(detector, signal.SIGTERM, 60.0)
    kill(victim)
    written = journalled(plan.ledger)
    server, last = start(run_server, plan), start(subscribe, [*command, "--timeout", "5"])
    last.join(300)
    kill(server, signal.SIGTERM)
    counts = judge(read_lines(output), written)
    p99 = {phase: float(np.percentile(values, 99)) for phase, values in witness.delays_ms.items() if values}
    rate = {phase: float(np.sum(values) / max(1, len(values))) for phase, values in rates.items()}
    delay_change, rate_change = p99["stopped"] / p99["running"] - 1, rate["stopped"] / rate["running"] - 1
    reached = rate["running"] >= 0.95 * windows_per_s  # else the machine was too busy for the delays to mean anything
    return {
        **counts,
        "stops": times,
        "stopped_s": round(stopped_s, 1),
        "events_per_s_wanted": events_per_s,
        "windows_per_s": {phase: round(value, 1) for phase, value in rate.items()},
        "caught_up_after_s": round(float(np.median(catching_up_s)), 2),
        "window_rate_change": round(rate_change, 4),
        "other_subscriber_p50_ms": {p: round(float(np.median(v)), 2) for p, v in witness.delays_ms.items() if v},
        "other_subscriber_p99_ms": {phase: round(value, 2) for phase, value in p99.items()},
        "p99_change": round(delay_change, 4),
        "other_subscriber_gaps": witness.gaps,
        "exit_code": code,
        "rate_reached": reached,
        "passed": passed(counts) and code == 0 and reached and abs(rate_change) <= 0.1 and delay_change <= 0.1,
    }
