"""A second detector on what one has already, and an event file that is none: one sentence, and nothing is opened."""

from __future__ import annotations

import os
import random
import signal
import stat
import time
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.faultlib.detector import ended, free_endpoint, kill, start
from benchmarks.faultlib.judge import journalled
from benchmarks.faultlib.watched import Watch, run_watched
from stream_detector.cli.main import main as command_line
from stream_detector.client.subscriber import Subscriber

SHARED = ("journal", "events", "evidence", "fifo")


def run_command(arguments: list[str], said: Path) -> None:
    """The shipped command, in a process of its own; what it says goes to a file."""
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    raise SystemExit(command_line(arguments))


def _second(folder: Path, first: Watch, shared: str) -> tuple[dict[str, int], str]:
    """A second detector that shares one thing with the first."""
    folder.mkdir()
    paths = {"journal": folder / "l.sqlite3", "events": folder / "e.jsonl", "evidence": folder / "evidence"}
    if shared == "fifo":
        os.mkfifo(paths["events"])
    else:
        theirs = {"journal": "ledger.sqlite3", "events": "events.jsonl", "evidence": "evidence"}
        paths[shared] = first.folder / theirs[shared]
    options = ("--ledger", "--events", "--evidence")
    given = [str(value) for pair in zip(options, paths.values(), strict=True) for value in pair]
    said = folder.with_suffix(".said")
    process = start(run_command, ["run", "demo", "--no-dashboard", "--bind", "none", *given], said, quiet=False)
    code = ended(process, 60.0)
    if code is None:
        kill(process)
    text = said.read_text(encoding="utf-8", errors="replace").strip()
    left = [path for path in folder.rglob("*") if not path.is_dir() and not stat.S_ISFIFO(path.stat().st_mode)]
    named = str(paths["events" if shared == "fifo" else shared])
    return {
        "not_refused": int(code != 2),
        "not_one_sentence": int("\n" in text or not text or named not in text.replace("\n", "")),
        "opened": len(left),
    }, text


def refusals(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` second detectors of every kind, at random times, beside one that goes on."""
    dice = random.Random(seed)
    home = folder / "first"
    home.mkdir()
    first = Watch(home, free_endpoint(), cameras=2, events=home / "events.jsonl", evidence=True)
    process = start(run_watched, first)
    counts = {"events": 0, "not_refused": 0, "not_one_sentence": 0, "opened": 0}
    texts: dict[str, str] = {}
    with Subscriber(first.endpoint, from_start=True) as subscriber:
        end_s = time.monotonic() + 60.0
        while subscriber.receive(0.1) is None:
            if time.monotonic() > end_s:
                raise TimeoutError("the first detector does not begin")
        for number in track(range(times), description="second detectors", transient=True):
            for shared in SHARED:
                time.sleep(dice.uniform(0.0, 0.2))
                found, texts[shared] = _second(folder / f"{shared}{number}", first, shared)
                for name, value in found.items():
                    counts[name] += value
        heartbeat = subscriber.heartbeat
        before = heartbeat.seq if heartbeat else 0
        end_s = time.monotonic() + 10.0
        while (h := subscriber.heartbeat) is None or h.seq <= before:
            subscriber.receive(0.1)
            if time.monotonic() > end_s:
                break
        newest = subscriber.heartbeat
        troubled = newest is None or newest.seq <= before or newest.body["problem"] is not None
    code = kill(process, signal.SIGTERM)
    counts["events"] = len(journalled(home / "ledger.sqlite3"))
    bad = counts["not_refused"] + counts["not_one_sentence"] + counts["opened"] + troubled
    return {
        **counts,
        "starts": times * len(SHARED),
        "first_troubled": int(troubled),
        "exit_code": code,
        "said": {kind: text.replace(str(folder), "…")[:300] for kind, text in texts.items()},
        "passed": not bad and code == 0,
    }
