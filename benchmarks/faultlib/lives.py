"""Lives of a detector's event path with scripted scores, each in a process of its own, and the world that they share.

Much lighter than the whole pipeline, so that several worlds can be run beside each other: decision stage, journal,
event file, sockets, locks. What a life is to suffer is in its `Script`; a `World` keeps what was heard of all lives.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faultlib import detector
from benchmarks.faultlib.detector import Plan, Process, ended, free_endpoint, kill, run_server, start
from benchmarks.faultlib.judge import Heard, heard, journalled, judge_lives, lines_of
from stream_detector.client.subscriber import Subscriber
from stream_detector.config import PublishConfig
from stream_detector.errors import UsageError
from stream_detector.events import ledger as ledger_module
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.runtime.decider import Decider
from stream_detector.system.lock_file import claimed
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import CameraStatus, Score, SystemClock, Timing, WindowRef

CAMERAS = 2
DEADLINE_S = 60.0
PLACES = ("before", "committed", "torn", "written")
_ALARM_TICKS = (9, 3)  # windows in alarm, and not


@dataclass(frozen=True, slots=True)
class Script:
    """One life. tick_s: between windows.  die: (one of PLACES, after so many alarm events).

    steps_s: what the wall clock is wrong by, a quarter of a second each, the last for good.  retain: look for what is
    too old or too much after so many events, not after 1,000.
    """

    endpoint: str
    journal: Path
    events: Path | None
    tick_s: float = 0.02
    die: tuple[str, int] | None = None
    steps_s: tuple[float, ...] = (0.0,)
    retain: int = 0
    keep_days: float = 30.0
    max_bytes: int = 1_000_000_000


class WrongClock(SystemClock):
    """The system's clocks, but UTC is wrong by each of `steps_s` for a quarter of a second, by the last for good."""

    def __init__(self, steps_s: tuple[float, ...]) -> None:
        self._steps_s, self._begun_s = steps_s, time.monotonic()

    def utc(self) -> float:
        """Seconds since the epoch, as the wrong clock shows them."""
        now = int((time.monotonic() - self._begun_s) / 0.25)
        return time.time() + self._steps_s[min(now, len(self._steps_s) - 1)]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _arm(place: str, after: int, events: Path | None) -> None:
    """Have this process die at `place` of the alarm event that follows `after` others."""
    left = [after]
    append, write = Ledger.append, os.write

    def appending(journal: Ledger, topic: str, body: dict[str, Any], *rest: Any, **more: Any) -> int:
        if not topic.startswith("v1/alarm/"):
            return append(journal, topic, body, *rest, **more)
        left[0] -= 1
        if left[0] < 0 and place == "before":
            _die()
        seq = append(journal, topic, body, *rest, **more)
        if left[0] < 0 and place == "committed":
            _die()
        return seq

    def writing(descriptor: int, data: bytes) -> int:
        if left[0] >= 0 or events is None or os.readlink(f"/proc/self/fd/{descriptor}") != str(events):
            return write(descriptor, data)
        if place == "torn":
            write(descriptor, bytes(data)[: len(data) // 2])
            _die()
        written = write(descriptor, data)
        if place == "written":
            _die()
        return written

    Ledger.append = appending  # type: ignore[method-assign, assignment]
    os.write = writing  # type: ignore[assignment]


def run_life(script: Script) -> None:
    """Alarms start, go on and end in turns, for ever. SIGTERM ends it in order, SIGHUP means rotated files."""
    stopped, rotated = list[int](), list[int]()
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    signal.signal(signal.SIGHUP, lambda *_: rotated.append(1))
    if script.die:
        _arm(*script.die, script.events)
    if script.retain:
        ledger_module._RETENTION_APPENDS = script.retain
    clock = WrongClock(script.steps_s)
    plans = detector.plans_of(Plan(script.endpoint, script.journal, cameras=CAMERAS), update_s=0.1)
    config = PublishConfig(bind=script.endpoint, ledger=script.journal, linger_ms=500, heartbeat_s=0.25)
    try:
        with claimed(script.journal, script.events, None) as claims:
            ledger = Ledger(
                script.journal, clock=clock, keep_days=script.keep_days, max_bytes=script.max_bytes, lock=claims.journal
            )
            publisher = Publisher(
                config,
                ledger,
                clock=clock,
                events_path=script.events,
                events_lock=claims.events,
                camera_names=[plan.name for plan in plans],
            )
            telemetry = Telemetry([plan.name for plan in plans], clock)
            decider = Decider(plans, "f00d", sink=publisher, telemetry=telemetry, clock=clock, epoch=ledger.epoch)
            for plan in plans:
                publisher.status(CameraStatus(plan.name, plan.source, "online"))
            begun_s, tick = time.monotonic(), 0
            while not stopped:
                tick += 1
                due_s = begun_s + tick * script.tick_s
                while not stopped and (left_s := due_s - time.monotonic()) > 0:
                    publisher.service()
                    time.sleep(min(0.005, max(0.0, left_s)))
                if rotated:
                    rotated.clear()
                    publisher.reopen_events()
                for number, plan in enumerate(plans):
                    phase = (tick + 5 * number) % sum(_ALARM_TICKS)
                    ref = WindowRef(
                        plan.name,
                        plan.source,
                        tick,
                        tick * 16,
                        tick * 16 + 15,
                        tick * 0.1,
                        tick * 0.1 + 0.6,
                        due_s,
                        clock.utc(),
                        due_s,
                    )
                    decider.score(Score(ref, 0.9 if phase < _ALARM_TICKS[0] else 0.0, due_s, Timing(0, 0, 0, 0)))
                publisher.service()
            decider.finish("shutdown")
            publisher.close()
            ledger.close()
    except UsageError:
        raise SystemExit(2) from None


@dataclass
class World:
    """One journal, one event file with those it was rotated into, one recovering subscriber that is always there."""

    folder: Path
    dice: random.Random
    endpoint: str = field(default_factory=free_endpoint)
    events_folder: Path | None = None
    kills: int = 0
    heard: list[Heard] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    rotated: int = 0
    notes: dict[str, int] = field(default_factory=dict)  # what else was counted
    lost: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.journal = self.folder / "ledger.sqlite3"
        self.events = (self.events_folder or self.folder) / "events.jsonl"
        self._over = threading.Event()
        self._news = threading.Condition()
        self._open: set[str] = set()
        self._starts = 0
        self.failed = ""
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            with Subscriber(self.endpoint, from_start=True) as subscriber:
                while not self._over.is_set():
                    message = subscriber.receive(0.1)
                    self.lost = subscriber.lost
                    if message is not None:
                        self._take(message.body)
        except Exception as error:  # whatever comes is a finding
            self.failed = f"{type(error).__name__}: {error}"

    def _take(self, body: dict[str, Any]) -> None:
        one = heard(body)
        with self._news:
            self.heard.append(one)
            if one.event.type == "start":
                self._open.add(one.event.id)
                self._starts += 1
            elif one.event.type == "end":
                self._open.discard(one.event.id)
            if body["camera"] == "_detector":
                self.troubles.append(body["detail"])
            self._news.notify_all()

    def until(self, condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait for `condition`, looked at whenever something was heard. Raises TimeoutError."""
        with self._news:
            if not self._news.wait_for(condition, deadline_s):
                raise TimeoutError(f"not within {deadline_s:g} s: {what} {self.failed}")

    def script(self, **changes: Any) -> Script:
        """A healthy life, or one with `changes`."""
        return Script(self.endpoint, self.journal, self.events, **changes)

    def begin(self, **changes: Any) -> Process:
        """Start a life, and wait until an alarm of it has started."""
        before = self._starts
        process = start(run_life, self.script(**changes))
        try:
            self.until(lambda: self._starts > before or ended(process, 0.0) is not None, "an alarm of a new life")
        except TimeoutError:
            kill(process)
            raise
        return process

    def wait(self, longest_s: float) -> None:
        """A random time."""
        time.sleep(self.dice.uniform(0.0, longest_s))

    def kill_in_alarm(self, process: Process, longest_s: float = 0.3) -> None:
        """kill -9 at a random time, while an alarm is open."""
        self.wait(longest_s)
        self.until(lambda: self._open, "an open alarm")
        if kill(process) != -signal.SIGKILL:
            self.count("ended_by_itself")
        self.kills += 1

    def count(self, name: str, number: int = 1) -> None:
        """Note something for the figures."""
        self.notes[name] = self.notes.get(name, 0) + number

    def rotate(self) -> None:
        """As logrotate does: the event file gets another name."""
        if self.events.exists():
            self.rotated += 1
            self.events.rename(self.events.with_name(f"{self.events.name}.{self.rotated}"))

    def event_files(self) -> list[Path]:
        """All of them, the oldest first."""
        paths = [self.events.with_name(f"{self.events.name}.{n + 1}") for n in range(self.rotated)]
        return [path for path in [*paths, self.events] if path.exists()]

    def finish(self) -> dict[str, int]:
        """A healthy life, ended in order; then everything is counted."""
        process = self.begin()
        code = kill(process, signal.SIGTERM)
        written = journalled(self.journal)
        server = start(run_server, Plan(self.endpoint, self.journal))  # what the last one had no time to deliver
        last = {event[:3] for event in written[-20:] if event.reason != "restart"}
        try:
            self.until(lambda: last <= {one.event[:3] for one in self.heard[-400:]}, "the newest events", 20.0)
        except TimeoutError:
            self.count("not_caught_up")
        time.sleep(1.0)  # for events that should not come
        kill(server, signal.SIGTERM)
        self._over.set()
        self._thread.join(20)
        counts = judge_lives(self.heard, written, [lines_of(path) for path in self.event_files()])
        counts["exit_codes"] = int(code != 0)
        counts["lost_by_count"] = self.lost
        counts["crashes"] = int(bool(self.failed))
        for name, number in self.notes.items():
            counts[name] = counts.get(name, 0) + number
        return counts

    def close(self) -> None:
        """End the subscriber. Safe to call twice."""
        self._over.set()
        self._thread.join(20)


def campaign(
    folder: Path,
    times: int,
    seed: int,
    one: Callable[[World], None],
    *,
    worlds: int = 4,
    finish: Callable[[World], dict[str, int]] = World.finish,
    prepare: Callable[[World], None] = lambda world: None,
    make: Callable[[Path, random.Random], World] = World,
) -> dict[str, Any]:
    """Call `one(world)` until `times` kills are done, in a few worlds beside each other; the counts, added up.

    one: makes at least one kill, and leaves no life behind.
    """
    worlds = max(1, min(worlds, times))

    def story(number: int) -> dict[str, int]:
        world = make(folder / f"world{number}", random.Random(f"{seed}-{number}"))
        try:
            prepare(world)
            share = times // worlds + (number < times % worlds)
            while world.kills < share:
                one(world)
            return {**finish(world), "kills": world.kills}
        finally:
            world.close()

    with ThreadPoolExecutor(worlds) as pool:
        found = list(pool.map(story, range(worlds)))
    counts: dict[str, Any] = {}
    for result in found:
        for name, value in result.items():
            counts[name] = counts.get(name, 0) + value
    return counts
