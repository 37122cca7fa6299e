"""fanout: how many events per second reach 1, 8 and 64 subscribers without a loss, journalled as in use?

    python -m benchmarks fanout --subscribers 1 8 64

The publisher is the detector's own (XPUB, journal on disk, no event file). Subscribers are plain SUB sockets, up to
eight per process, in separate processes; each counts its messages and checks `seq`. Rates are raised until a subscriber
misses an event or the publisher cannot keep the rate. The result is the highest clean rate, for alarm events
(journalled) and for scores (not journalled), with the time from `emitted_utc` to arrival.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from rich.console import Console
from rich.table import Table

from benchmarks.results import load_before, write_results
from stream_detector.config import PublishConfig
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.types import AlarmEvent, Decision, EventWindow, Score, SystemClock, Timing, WindowRef

A_PROCESS = 8
RATES = (250, 500, 1000, 2000, 4000, 8000, 16000)
LAST = "v1/score/last/"  # told when a step is over
HEARTBEAT = "v1/heartbeat/"


def subscribe(endpoint: str, sockets: int) -> None:
    """A process of subscribers: one line of JSON for every step, in answer to the publisher's camera "last"."""
    context = zmq.Context()
    poller = zmq.Poller()
    counts: dict[Any, int] = {}
    for _ in range(sockets):
        sub = context.socket(zmq.SUB)
        sub.rcvhwm = 100_000
        for topic in ("v1/alarm/bench/", "v1/score/bench/", LAST, HEARTBEAT):
            sub.subscribe(topic)
        sub.connect(endpoint)
        poller.register(sub, zmq.POLLIN)
        counts[sub] = 0
    late: list[float] = []
    ended = 0
    for sub in counts:  # subscriptions arrive in order: with the heartbeat of the last one, all have
        while sub.recv_multipart()[0] != HEARTBEAT.encode():
            pass
        sub.unsubscribe(HEARTBEAT)
    print("ready", flush=True)
    while True:
        for sub, _ in poller.poll():
            while True:
                try:
                    topic, body = sub.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if topic == HEARTBEAT.encode():
                    continue
                if topic == LAST.encode():
                    ended += 1
                    continue
                counts[sub] += 1
                if counts[sub] % 50 == 1:
                    at = body.index(b'"emitted_utc":"') + 15
                    seconds = float(body[at + 17 : at + 23])  # of RFC 3339, "ss.mmm"
                    spent_s = (time.time() - seconds + 30.0) % 60.0 - 30.0  # the stamp is rounded: a little below 0
                    late.append(max(0.0, spent_s * 1e3))
        if ended >= sockets:
            print(json.dumps({"counts": list(counts.values()), "late_ms": late}), flush=True)
            counts, late, ended = dict.fromkeys(counts, 0), [], 0


def alarm(number: int) -> AlarmEvent:
    """An event as long as real ones: an update with eight windows."""
    windows = tuple(EventWindow(16 * k, 16 * k + 15, 0.512345, 0.487654) for k in range(8))
    timing = Timing(0.4, 5.2, 0.0, 31.4, 0.3, 0.1)
    return AlarmEvent(
        f"{number:032x}",
        "bench",
        "update",
        None,
        1.0,
        None,
        1.8e9,
        0.7,
        0.6,
        0.5,
        "f00d" * 4,
        windows,
        (),
        timing=timing,
    )


def decision(camera: str, number: int) -> Decision:
    """A score."""
    ref = WindowRef(camera, "bench", number, 0, 15, 0.0, 0.6, 0.0, 1.8e9, 0.0)
    return Decision(Score(ref, 0.5, 0.0, Timing(0.4, 5.2, 0.0, 31.4, 0.3, 0.1)), 0.5, False)


class Crowd:
    """Subscriber processes."""

    def __init__(self, endpoint: str, subscribers: int) -> None:
        self.processes = []
        for first in range(0, subscribers, A_PROCESS):
            count = min(A_PROCESS, subscribers - first)
            command = [sys.executable, "-m", "benchmarks.fanout", endpoint, str(count)]
            self.processes.append(
                subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
            )

    def lines(self, publisher: Publisher) -> list[str]:
        """One line of each, while the publisher is kept alive."""
        found = []
        for process in self.processes:
            assert process.stdout is not None
            poller = zmq.Poller()
            poller.register(process.stdout, zmq.POLLIN)
            until_s = time.monotonic() + 60
            while not poller.poll(5):
                publisher.service()
                if time.monotonic() > until_s:
                    raise RuntimeError("a subscriber does not answer")
            found.append(process.stdout.readline())
        return found

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(10)
            if process.stdout:
                process.stdout.close()


def step(publisher: Publisher, crowd: Crowd, kind: str, rate: int, seconds: float, subscribers: int) -> dict[str, Any]:
    """Send at one rate; what came."""
    total = round(rate * seconds)
    overflows = publisher.overflows
    begun_s = time.monotonic()
    for number in range(total):
        due_s = begun_s + number / rate
        while (wait_s := due_s - time.monotonic()) > 0:
            publisher.service()
            time.sleep(min(wait_s, 0.002))
        if kind == "alarm":
            publisher.alarm(alarm(number))
        else:
            publisher.score(decision("bench", number))
        if number % 64 == 0:
            publisher.service()
    took_s = time.monotonic() - begun_s
    time.sleep(0.2)
    publisher.score(decision("last", 0))
    answers = [json.loads(line) for line in crowd.lines(publisher)]
    counts = [count for answer in answers for count in answer["counts"]]
    late = [value for answer in answers for value in answer["late_ms"]]
    return {
        "kind": kind,
        "subscribers": subscribers,
        "rate": rate,
        "sent_per_s": round(total / took_s),
        "delivered_per_s": round(sum(counts) / took_s),
        "lost": sum(total - count for count in counts),
        "overflows": publisher.overflows - overflows,
        "late_p50_ms": round(float(np.percentile(late, 50)), 2) if late else None,
        "late_p99_ms": round(float(np.percentile(late, 99)), 2) if late else None,
        "clean": all(count == total for count in counts) and total / took_s >= 0.97 * rate,
    }


def measure(subscribers: int, seconds: float, rates: tuple[int, ...]) -> list[dict[str, Any]]:
    """Raise the rate until it is no longer clean, for both kinds."""
    rows: list[dict[str, Any]] = []
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite3", clock=clock)
        publisher = Publisher(PublishConfig(bind="tcp://127.0.0.1:*"), ledger, clock=clock)
        crowd = Crowd(publisher.endpoint, subscribers)
        try:
            crowd.lines(publisher)
            for kind in ("alarm", "score"):
                for rate in rates:
                    rows.append(step(publisher, crowd, kind, rate, seconds, subscribers))
                    if not rows[-1]["clean"]:
                        break
        finally:
            crowd.close()
            publisher.close()
            ledger.close()
    return rows


def main(argv: list[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fanout", description=__doc__.splitlines()[0])
    parser.add_argument("--subscribers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=3.0, help="per rate")
    parser.add_argument("--rates", type=int, nargs="+", default=list(RATES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args(argv)
    load = load_before()
    steps = [row for count in args.subscribers for row in measure(count, args.seconds, tuple(args.rates))]
    best = []
    for count in args.subscribers:
        for kind in ("alarm", "score"):
            clean = [row for row in steps if row["clean"] and (row["kind"], row["subscribers"]) == (kind, count)]
            best.append(
                max(clean, key=lambda row: row["rate"], default={"kind": kind, "subscribers": count, "rate": 0})
            )
    results = {"best": best, "steps": steps}
    if not args.no_save:
        path = write_results("fanout", results, {"seconds": args.seconds, "load_before": load})
    if args.json:
        print(path.read_text(encoding="utf-8") if not args.no_save else json.dumps(results))
        return 0
    table = Table(title="highest rate without a lost event")
    for column in ("subscribers", "kind", "events/s", "delivered/s", "late p50 ms", "late p99 ms"):
        table.add_column(column, justify="right")
    for row in best:
        keys = ("subscribers", "kind", "rate", "delivered_per_s", "late_p50_ms", "late_p99_ms")
        table.add_row(*(str(row.get(key)) for key in keys))
    Console().print(table)
    return 0


if __name__ == "__main__":
    subscribe(sys.argv[1], int(sys.argv[2]))
