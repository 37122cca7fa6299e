"""faults: how many events are lost, repeated or left open when the event path is broken in many ways? (The goal is 0.)

    python -m benchmarks faults [--json] [--seed N] [--only PART …] [--scale X]

Loopback only. Every fault comes at a random time from a seeded generator; every wait is bounded. The parts, at scale 1:

    detector     200 × kill -9 of the detector (the whole pipeline behind a scripted camera), each during an alarm
    hosts        50 × kill -9 of a capture host during an alarm: cameras back within 3 s, every event and window once
    subscriber   200 × kill -9 of `stream-detector subscribe --output --cursor`
    stalls       50 × SIGSTOP of a subscriber for 1–10 s under 2,000 events/s; delays seen by another one
    disks        full disk, read-only disk (both need the right to mount a tmpfs), 50 flipped bits, stepped clock
    between      200 × kill -9 around the journal's commit and the event file's write, a third at an epoch's first event
    without_a_disk   200 × kill -9 in turns of healthy lives, lives with a read-only journal and lives with a full disk
    deleted      200 × journal files deleted, moved or replaced while in use, then kill -9
    clocks       200 × kill -9 of lives whose wall clock is 31 days ahead, in 1970, …; rows dated wrong
    rotated      200 × kill -9 around a rotation of the event file, with and without SIGHUP, or while nobody runs
    pruned       200 × kill -9 with a short journal and a disconnected subscriber: it must get the count of its gap
    bridges      200 × kill -9 of each kind of bridge (webhook, mqtt, notify, command) and of the MQTT broker
    refusals     40 second detectors on the same journal, event file, evidence folder; a FIFO as event file
    strangers    2 minutes of cancelled acknowledgements, churning prefixes, 200 peers and 60 viewers that never read,
                 300 idle TLS connections, all at once: heartbeats, one normal subscriber and normal viewers
    memory       10 minutes of cameras that flap, drip, or never fill a window: bytes a minute
    hostile      500 messages of ten kinds and 100 wrong keys, with CURVE
    fuzz         100,000 random inputs to every parser, 10,000 mutated valid ones to each

The results of single parts are merged into `benchmarks/results/faults.json`.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.faultlib.bridges import kill_bridges
from benchmarks.faultlib.disks import disks
from benchmarks.faultlib.fuzz import fuzz
from benchmarks.faultlib.hostile import hostile
from benchmarks.faultlib.hosts import kill_hosts
from benchmarks.faultlib.judge import LIFE_FAULTS
from benchmarks.faultlib.kills import kill_detector, kill_subscriber
from benchmarks.faultlib.refusals import refusals
from benchmarks.faultlib.slopes import slopes
from benchmarks.faultlib.stalls import stop_subscriber
from benchmarks.faultlib.strangers import strangers
from benchmarks.faultlib.truth import between, clocks, deleted, pruned, rotated, without
from benchmarks.options import parse
from benchmarks.results import commit, read_results, write_results


def parts(
    scale: float, seed: int, events_per_s: int, kills: int = 200, soak_s: float = 120.0, memory_s: float = 600.0
) -> dict[str, Callable[[Path], dict[str, Any]]]:
    """Name → what runs it in an empty folder."""

    def times(count: int) -> int:
        return max(1, round(count * scale))

    return {
        "detector": lambda folder: kill_detector(folder, times(kills), seed),
        "hosts": lambda folder: kill_hosts(folder, times(50), seed),
        "subscriber": lambda folder: kill_subscriber(folder, times(kills), seed),
        "stalls": lambda folder: stop_subscriber(folder, times(50), seed, events_per_s),
        "disks": lambda folder: disks(folder, times(50), seed),
        "between": lambda folder: between(folder, times(kills), seed),
        "without_a_disk": lambda folder: without(folder, times(kills), seed),
        "deleted": lambda folder: deleted(folder, times(kills), seed),
        "clocks": lambda folder: clocks(folder, times(kills), seed),
        "rotated": lambda folder: rotated(folder, times(kills), seed),
        "pruned": lambda folder: pruned(folder, times(kills), seed),
        "bridges": lambda folder: kill_bridges(folder, times(kills), seed),
        "refusals": lambda folder: refusals(folder, times(10), seed),
        "strangers": lambda folder: strangers(folder, soak_s),
        "memory": lambda folder: slopes(folder, memory_s),
        "hostile": lambda folder: hostile(folder, times(50) * 10, times(100), seed),
        "fuzz": lambda folder: fuzz(times(100_000), times(10_000), seed),
    }


def rows(results: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(fault, times, events, what came of it) for the table."""
    table = []
    for name, result in results.items():
        singles = (
            {f"{name}: {k}": v for k, v in result.items() if isinstance(v, dict)}
            if name in ("disks", "memory")
            else {name: result}
        )
        for label, single in singles.items():
            number = next((str(single[k]) for k in ("kills", "stops", "flips", "steps", "random") if k in single), "1")
            if name == "hostile":
                number = str(sum(single["sent"].values()))
            bad = {
                key: single[key] for key in (*LIFE_FAULTS, "altered", "delivered_to_them", "lost") if single.get(key)
            }
            verdict = {True: "passed", False: "FAILED", None: "not done"}[single["passed"]]
            table.append((label, number, str(single.get("events", "")), f"{verdict} {bad or ''}".strip()))
    return table


def main(argv: list[str]) -> int:
    """Run the campaign, or parts of it; 1 if anything failed."""
    args = parse("faults", argv)
    done: dict[str, Any] = {}
    logging.getLogger("stream_detector").setLevel(logging.CRITICAL)  # what is provoked here is no news
    for name in args.only:
        begun_s = time.monotonic()
        with tempfile.TemporaryDirectory(
            prefix="faults-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
        ) as folder:
            all_parts = parts(
                args.scale, args.seed, args.events_per_s, args.times, 60 * args.soak_minutes, 60 * args.memory_minutes
            )
            result = all_parts[name](Path(folder))
        result["took_s"] = round(time.monotonic() - begun_s, 1)
        result["commit"], result["date"] = commit(), datetime.now(UTC).isoformat(timespec="seconds")
        done[name] = result
        if not args.no_save:
            _save(name, result, args)
    if args.json:
        print(json.dumps(done, indent=2, ensure_ascii=False))
    else:
        table = Table("fault", "times", "events", "result")
        for row in rows(done):
            table.add_row(*row)
        Console().print(table)
    return 0 if all(result["passed"] is not False for result in done.values()) else 1


def _save(name: str, result: dict[str, Any], args: argparse.Namespace) -> None:
    try:
        earlier = read_results("faults")["results"]
    except (FileNotFoundError, ValueError, KeyError):
        earlier = {}
    order = list(parts(1.0, 0, 0))
    merged = {key: value for key, value in {**earlier, name: result}.items() if key in order}
    ordered = dict(sorted(merged.items(), key=lambda item: order.index(item[0])))
    write_results("faults", ordered, {"seed": args.seed, "scale": args.scale})
