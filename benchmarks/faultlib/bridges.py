"""`kill -9` of every kind of bridge, and of the MQTT broker, while alarms go on: what reached the receivers."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.faultlib.detector import Plan, Process, free_endpoint, kill, run_pipeline, run_server, start
from benchmarks.faultlib.judge import Event, journalled, slim
from benchmarks.faultlib.receivers import Broker, HttpReceiver, MqttSubscriber, certificate
from stream_detector.bridges.outbox import Outbox
from stream_detector.cli.main import main as command_line
from stream_detector.system.lock_file import lock_of

_DEADLINE_S = 120.0
_RESEND_S = 4
KINDS = ("webhook", "mqtt", "notify", "command")


def bridge(kind: str, config: str) -> None:
    """The shipped command, in a process of its own."""
    raise SystemExit(command_line(["bridge", kind, "--config", config]))


class Site:
    """One detector, its bridges' configuration, and the receivers."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.plan = Plan(free_endpoint(), folder / "ledger.sqlite3")
        cert = certificate(folder)
        self.hook, self.phone = HttpReceiver(cert), HttpReceiver()
        self.broker = Broker(folder)
        stack.callback(self.broker.kill)
        self.judge = MqttSubscriber(self.broker.port)
        for receiver in (self.hook, self.phone, self.judge):
            stack.callback(receiver.close)
        self.output = folder / "command.jsonl"
        self.config = folder / "bridges.toml"
        common = "updates = true\nbackoff_min_s = 0.05\nbackoff_max_s = 1.0\n"
        self.config.write_text(
            f"""
[detector]
endpoint = "{self.plan.endpoint}"
state = "{folder / "state"}"
from_start = true
dead_s = 3600

[webhook.judge]
url = "https://localhost:{self.hook.port}/"
ca_file = "{cert[0]}"
allow = ["127.0.0.0/8", "::1/128"]
secret = "s"
{common}
[mqtt.judge]
host = "127.0.0.1"
port = {self.broker.port}
resend_s = {_RESEND_S}
{common}
[notify.judge]
url = "json://127.0.0.1:{self.phone.port}/"
cooldown_s = 0
max_age_s = 0
notices = ["alarm"]
snapshot = false
backoff_min_s = 0.05
backoff_max_s = 1.0

[command.judge]
argv = ["/bin/sh", "-c", "cat >> '{self.output}'"]
max_per_minute = 6000
{common}
""",
            encoding="utf-8",
        )

    def count(self, kind: str) -> int:
        """Messages that came so far."""
        if kind == "webhook":
            return len(self.hook.took)
        if kind == "mqtt":
            return len(self.judge.took)
        if kind == "notify":
            return len(self.phone.took)
        return self.output.stat().st_size if self.output.exists() else 0

    def received(self, kind: str) -> list[Any]:
        """What came, in order: events, or for notify what a message says of one."""
        if kind == "webhook":
            return [slim(body["event"]) for _, body in self.hook.took if body["kind"] in ("alarm", "camera")]
        if kind == "mqtt":
            return [slim(body) for _, body in self.judge.events() if "camera" in body]
        if kind == "command":
            bodies = [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]
            return [slim(body) for body in bodies if "camera" in body]
        return [said(body) for _, body in self.phone.took]

    def runs(self, kind: str, process: Process) -> bool:
        """Whether a bridge process has its place: it is past its start."""
        lock = lock_of(self.folder / "state" / f"{kind}.sqlite3")
        return lock.holder() == f"process {process.pid}"

    def waiting(self, kind: str) -> int:
        """Notices that were not delivered yet, from the bridge's file."""
        box = Outbox(self.folder / "state" / f"{kind}.sqlite3")
        try:
            return box.waiting()
        finally:
            box.close()


def said(body: dict[str, Any]) -> tuple[str, str]:
    """(first digits of the alarm's id, "start" or "end") of a message to people."""
    name = str(body["message"]).rpartition("Alarm ")[2].strip(" .")
    return name, "end" if str(body["title"]).endswith("over") else "start"


def judge_events(received: Sequence[Event], written: Sequence[Event]) -> dict[str, int]:
    """lost, invented, disordered (by first arrival, within a topic), and how many were repeats."""
    want = [event[:3] for event in written]
    counts = Counter(event[:3] for event in received)
    order = {key: number for number, key in enumerate(want)}
    last: dict[str, int] = {}
    disordered = 0
    for key in dict.fromkeys(event[:3] for event in received):
        place = order.get(key, -1)
        disordered += place < last.get(key[0], -1)
        last[key[0]] = max(last.get(key[0], -1), place)
    return {
        "events": len(counts),
        "lost": len(set(want) - set(counts)),
        "invented": len(set(counts) - set(want)),
        "disordered": disordered,
        "repeats": sum(counts.values()) - len(counts),
    }


def judge_messages(received: Sequence[tuple[str, str]], written: Sequence[Event]) -> dict[str, int]:
    """The same of messages to people: one for the start and one for the end of each alarm."""
    want = {(event.id[:8], event.type) for event in written if event.type in ("start", "end")}
    counts = Counter(received)
    return {
        "events": len(counts),
        "lost": len(want - set(counts)),
        "invented": len(set(counts) - want),
        "repeats": sum(counts.values()) - len(counts),
    }


def kill_bridges(folder: Path, times: int, seed: int, kinds: Sequence[str] = (*KINDS, "broker")) -> dict[str, Any]:
    """`times` kills of each kind of bridge and of the broker, each 0–0.5 s after something came through it."""
    dice = random.Random(seed)
    results: dict[str, Any] = {}
    for kind in kinds:
        place = folder / kind
        place.mkdir()
        with ExitStack() as stack:
            results[kind] = _kill_one(kind, Site(place, stack), times, dice)
    return {
        "kills": times * len(results),
        "events": sum(result["events"] for result in results.values()),
        "by_kind": results,
        "lost": sum(result["lost"] for result in results.values()),
        "passed": all(result["passed"] for result in results.values()),
    }


def _kill_one(kind: str, site: Site, times: int, dice: random.Random) -> dict[str, Any]:
    carrier = "mqtt" if kind == "broker" else kind
    detector = start(run_pipeline, site.plan)
    process: Process | None = None
    idle = 0

    def came(before: int) -> Callable[[], bool]:
        return lambda: site.count(carrier) > before

    for _ in track(range(times), description=f"kill -9 of {kind}", transient=True):
        before = site.count(carrier)
        if process is None:
            process = start(bridge, carrier, str(site.config))
        if dice.random() < 0.8:  # the others are killed while they begin
            idle += not _wait(came(before), 30.0)
        time.sleep(dice.uniform(0.0, 0.5))
        if kind == "broker":
            site.broker.kill()
            time.sleep(dice.uniform(0.0, 0.2))
            site.broker.start()
        else:
            kill(process)
            process = None
    kill(detector, signal.SIGTERM)
    server = start(run_server, site.plan)
    process = process or start(bridge, carrier, str(site.config))
    written = journalled(site.plan.ledger)
    judge = judge_messages if kind == "notify" else judge_events
    done = _wait(
        lambda: (
            site.runs(carrier, process)
            and not judge(site.received(carrier), written)["lost"]
            and not site.waiting(carrier)
        ),
        _DEADLINE_S,
    )
    code = kill(process, signal.SIGTERM)
    kill(server, signal.SIGTERM)
    dead = site.folder / "state" / f"{carrier}.dead.jsonl"
    counts = judge(site.received(carrier), written)
    set_aside = len(dead.read_text(encoding="utf-8").splitlines()) if dead.exists() else 0
    faults = counts["lost"], counts["invented"], counts.get("disordered", 0) if kind in ("webhook", "command") else 0
    return {
        **counts,
        "kills": times,
        "journalled": len(written),
        "set_aside": set_aside,
        "nothing_came_before_the_kill": idle,
        "caught_up": done,
        "exit_code_on_sigterm": code,
        "passed": done and not any(faults) and not set_aside and code == 0 and idle < times,
    }


def _wait(condition: Callable[[], bool], deadline_s: float) -> bool:
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True
