"""A full disk, a read-only one, flipped bytes, a stepped clock: no crash, no doubled event, and it is told."""

from __future__ import annotations

import json
import logging
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.faultlib.detector import Plan, free_endpoint, kill, run_pipeline, run_server, start
from benchmarks.faultlib.judge import Event, Heard, heard, journalled, judge, judge_lives, passed, slim
from stream_detector.client.subscriber import Subscriber
from stream_detector.config import PublishConfig
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.types import AlarmEvent, CameraStatus, SystemClock


@contextmanager
def small_disk(folder: Path, size: str, options: str = "") -> Iterator[Path]:
    """A tmpfs of `size` at `folder`. Raises OSError where this process may not mount one."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "none", folder], capture_output=True)
    if done.returncode:
        raise OSError(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _listen(subscriber: Subscriber, events: list[Event], seconds: float, until: str = "") -> bool:
    """Take events for so long, or until a status of the detector itself holds `until`."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        message = subscriber.receive(0.1)
        if message is None:
            continue
        events.append(slim(message.body))
        if until and message.camera == "_detector" and until in message.body["detail"]:
            return True
    return not until


def full_disk(folder: Path) -> dict[str, Any]:
    """The disk fills up while alarms come, and is freed again."""
    with small_disk(folder / "disk", "24m") as disk:  # room for the journal of the whole test: it fills up once
        plan = Plan(free_endpoint(), disk / "ledger.sqlite3")
        events: list[Event] = []
        process = start(run_pipeline, plan)
        with Subscriber(plan.endpoint, from_start=True) as subscriber:
            _until_alarm(subscriber, events)
            _listen(subscriber, events, 2.0)
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file:
                while _takes(file.write, bytes(65536)) or _takes(file.write, bytes(512)):
                    pass
            told = _listen(subscriber, events, 30.0, "memory only")
            during = len(events)
            _listen(subscriber, events, 3.0)
            went_on = len(events) - during
            filler.unlink()
            back = _listen(subscriber, events, 60.0, "in use again")
            _listen(subscriber, events, 1.0)
            alive = process.exitcode is None
            code = kill(process, signal.SIGTERM)
            written = journalled(plan.ledger)
            server = start(run_server, plan)
            _catch_up(subscriber, events, len(written))
            kill(server, signal.SIGTERM)
            counts = judge(events, written)
    good = passed(counts) and told and back and alive and went_on > 0 and code == 0 and subscriber.lost == 0
    return {**counts, "told": told, "events_while_full": went_on, "came_back": back, "exit_code": code, "passed": good}


def _until_alarm(subscriber: Subscriber, events: list[Event]) -> None:
    """Take events until one is the start of an alarm. Raises TimeoutError."""
    end_s = time.monotonic() + 60.0
    while not any(event.type == "start" for event in events):
        if time.monotonic() > end_s:
            raise TimeoutError("no alarm came from a new detector")
        _listen(subscriber, events, 0.2)


def _takes(write: Any, data: bytes) -> bool:
    try:
        return bool(write(data) == len(data))
    except OSError:
        return False


def _catch_up(subscriber: Subscriber, events: list[Event], count: int) -> None:
    end_s = time.monotonic() + 30.0
    while len(events) < count and time.monotonic() < end_s:
        message = subscriber.receive(0.1)
        if message is not None:
            events.append(slim(message.body))


def read_only_disk(folder: Path) -> dict[str, Any]:
    """A detector is killed in an alarm; its journal's disk is read-only in the next life, and writable in the third."""
    image = folder / "image"
    image.mkdir()
    first = Plan(free_endpoint(), image / "ledger.sqlite3")
    told: list[Heard] = []
    process = start(run_pipeline, first)
    with Subscriber(first.endpoint, from_start=True) as subscriber:
        if not _hear(subscriber, told, lambda: any(h.event.type == "start" for h in told), 60.0):
            raise TimeoutError("no alarm came from a new detector")
        kill(process)
        _hear(subscriber, told, lambda: False, 0.5)
        with small_disk(folder / "disk", "8m") as disk:
            for path in image.iterdir():
                shutil.copy2(path, disk)
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            plan = Plan(first.endpoint, disk / "ledger.sqlite3")
            process = start(run_pipeline, plan)
            heard_of_it = _hear(subscriber, told, lambda: any(h.unjournalled for h in told), 30.0)
            _hear(subscriber, told, lambda: False, 2.0)
            codes = [kill(process, signal.SIGTERM)]
            _hear(subscriber, told, lambda: False, 1.0)
            lost, subscriber.lost = subscriber.lost, 0  # in memory only when that life ended: told, and counted
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            process = start(run_pipeline, plan)
            epochs = {h.event.epoch for h in told}
            _hear(subscriber, told, lambda: any(h.event.type == "start" and h.event.epoch not in epochs for h in told))
            codes.append(kill(process, signal.SIGTERM))
            written = journalled(plan.ledger)
            server = start(run_server, plan)
            wanted = {event[:3] for event in written}
            _hear(subscriber, told, lambda: wanted <= {h.event[:3] for h in told}, 30.0)
            kill(server, signal.SIGTERM)
            lost_later = subscriber.lost
    counts = {key: n for key, n in judge_lives(told, written, []).items() if not key.startswith("file_")}
    good = passed(counts) and heard_of_it and not any(codes) and lost_later == 0 and counts["restart_ends"] > 0
    return {**counts, "exit_codes": codes, "unjournalled_lost": lost, "passed": good}


def _hear(subscriber: Subscriber, told: list[Heard], until: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Take events until a condition holds, or for so long; returns whether it held."""
    end_s = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end_s:
            return False
        message = subscriber.receive(0.1)
        if message is not None:
            told.append(heard(message.body))
    return True


def _populate(path: Path, clock: SystemClock) -> list[dict[str, Any]]:
    ledger = Ledger(path, clock=clock)
    publisher = Publisher(PublishConfig(bind="none"), ledger, clock=clock)
    bodies = []
    for number in range(150):
        kind = ("start", "update", "end")[number % 3]
        reason = "normal" if kind == "end" else None
        bodies.append(publisher.alarm(_alarm(f"{number // 3:032x}", kind, reason)))
        publisher.status(CameraStatus(f"cam{number % 4}", "x", "online"))
    bodies += [publisher.alarm(_alarm(f"{n:032x}", "start", None)) for n in (900, 901)]
    publisher.close()
    ledger.close()
    return bodies


def _alarm(name: str, kind: Any, reason: Any) -> AlarmEvent:
    return AlarmEvent(name, "cam0", kind, reason, 1.0, None, 1e9, 0.9, 0.9, 0.5, "f00d")


def flipped_bytes(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` journals with one random bit flipped, and one with as many at once; each is then used by a new run."""
    dice, clock = random.Random(seed), SystemClock()
    source = folder / "source.sqlite3"
    written = {(b["epoch"], b["seq"]): b for b in _populate(source, clock)}
    result = dict.fromkeys(
        ("flips", "crashes", "altered", "twice", "told", "set_aside", "events_not_readable", "silent"), 0
    )
    crashes: list[str] = []
    for number in track(range(times + 1), description="flipped bits", transient=True):
        path = folder / f"flip{number}.sqlite3"
        data = bytearray(source.read_bytes())
        for _ in range(times if number == times else 1):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        result["flips"] += 1
        try:
            _use(path, clock, written, result)
        except Exception as error:  # whatever comes is a finding
            result["crashes"] += 1
            crashes.append(f"{type(error).__name__}: {error}")
    good = not any(result[name] for name in ("crashes", "altered", "twice", "silent"))
    return {**result, "first_crash": crashes[:1], "passed": good}


def _use(path: Path, clock: SystemClock, written: dict[tuple[str, int], Any], result: dict[str, int]) -> None:
    told: list[str] = []
    ledger = Ledger(path, clock=clock, on_problem=told.append)
    publisher = Publisher(PublishConfig(bind="none"), ledger, clock=clock)
    for _ in range(3):
        publisher.alarm(_alarm("f" * 32, "start", None))
        publisher.alarm(_alarm("f" * 32, "end", "normal"))
        publisher.service()
    bodies = [json.loads(text) for text in ledger.since("v1/alarm/cam0/", "first", 0, 10_000)[0]]
    ledger.last_positions()
    publisher.close()
    ledger.close()
    keys = [(body["epoch"], body["seq"]) for body in bodies]
    result["altered"] += sum(body != written.get(key, body) for key, body in zip(keys, bodies, strict=True))
    result["twice"] += len(keys) - len(set(keys))
    result["told"] += bool(told)
    result["set_aside"] += any("set aside" in text for text in told)
    missing = len(
        {key for key, body in written.items() if body["schema"].startswith("stream-detector.alarm")} - set(keys)
    )
    result["events_not_readable"] += missing
    result["silent"] += missing if not told else 0
    again = Ledger(path, clock=clock, on_problem=told.append)
    again.close()


def stepped_clock(folder: Path, seconds: float) -> dict[str, Any]:
    """UTC jumps by an hour to and fro, twice a second, while alarms come."""
    steps = (3600.0, -7200.0, 3600.0) * int(seconds)
    plan = Plan(free_endpoint(), folder / "ledger.sqlite3", clock_steps_s=steps)
    events: list[Event] = []
    process = start(run_pipeline, plan)
    with Subscriber(plan.endpoint, from_start=True) as subscriber:
        _until_alarm(subscriber, events)
        _listen(subscriber, events, seconds)
        alive = process.exitcode is None
        code = kill(process, signal.SIGTERM)
        written = journalled(plan.ledger)
        server = start(run_server, Plan(plan.endpoint, plan.ledger))
        _catch_up(subscriber, events, len(written))
        kill(server, signal.SIGTERM)
    counts = judge(events, written)
    good = passed(counts) and alive and code == 0 and subscriber.lost == 0
    return {**counts, "steps": int(seconds * 2), "exit_code": code, "passed": good}


def disks(folder: Path, flips: int, seed: int) -> dict[str, Any]:
    """All of them; a mount that is not allowed here is reported as not done."""
    logging.getLogger("stream_detector").setLevel(logging.CRITICAL)
    results: dict[str, Any] = {}
    for name, action in (("full", full_disk), ("read_only", read_only_disk)):
        place = folder / name
        place.mkdir()
        try:
            results[name] = action(place)
        except OSError as error:
            results[name] = {"passed": None, "not_done": str(error)}
    place = folder / "flips"
    place.mkdir()
    results["flipped"] = flipped_bytes(place, flips, seed)
    results["clock"] = stepped_clock(folder, 8.0)
    results["passed"] = all(part["passed"] for part in results.values())
    return results
