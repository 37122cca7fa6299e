"""The journal is the truth: kills between two writes, lives without a disk, deleted files, wrong clocks, rotation.

Every part ends in a healthy life, and then counts: for every alarm whose start reached the journal one start and one
end, at a recovering subscriber and in the event file.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.faultlib.detector import Plan, ended, kill, run_server, start
from benchmarks.faultlib.disks import small_disk
from benchmarks.faultlib.judge import Event, heard, lives_passed
from benchmarks.faultlib.lives import CAMERAS, DEADLINE_S, PLACES, World, campaign, run_life
from stream_detector.client.subscriber import Subscriber
from stream_detector.events.ledger import Ledger
from stream_detector.testing import FakeClock

DAY_S = 86400.0


def between(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` kills before, between and after the journal's commit and the event file; a third at an epoch's first."""

    def one(world: World) -> None:
        place = world.dice.choice(("committed", "committed", *PLACES))
        after = 0 if world.dice.random() < 1 / 3 else world.dice.randint(1, 30)
        process = start(run_life, world.script(die=(place, after)))
        if ended(process, DEADLINE_S) != -signal.SIGKILL:
            world.count("ended_by_itself")
            kill(process)
        world.kills += 1
        world.count(place)

    counts = campaign(folder, times, seed, one)
    return {**counts, "passed": lives_passed(counts)}


# -- disks --------------------------------------------------------------------------------------------------------


def _fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (65536, 4096, 512, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def _cycle(world: World) -> None:
    """Killed in an alarm; read-only; full; and the next cycle begins with a healthy life."""
    disk = world.folder
    world.kill_in_alarm(world.begin())
    if world.events.parent != disk:  # else there would be no event file to write: that is refused
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        _one_life_without(world)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    first = world.dice.random() < 0.5
    if first:
        _fill(disk)
    _one_life_without(world, None if first else disk)
    (disk / "filler").unlink(missing_ok=True)


def _one_life_without(world: World, fill: Path | None = None) -> None:
    """A life that has no disk to write to, or (fill) soon none; killed, or ended in order."""
    told = len(world.troubles)
    process = world.begin()
    if fill:
        world.wait(0.3)
        _fill(fill)
    world.until(lambda: any("memory only" in text for text in world.troubles[told:]), "the trouble being told")
    if world.dice.random() < 0.5:
        world.kill_in_alarm(process)
        return
    world.wait(0.3)
    world.count("exit_codes", int(kill(process, signal.SIGTERM) != 0))
    world.count("ended_in_order")


def without(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` kills, of healthy lives in an alarm and of lives with a read-only or full disk that follow them."""
    with contextlib.ExitStack() as stack:

        def make(place: Path, dice: random.Random) -> World:
            elsewhere = place.with_name(f"{place.name}-events")
            elsewhere.mkdir()
            stack.enter_context(small_disk(place, "24m"))
            return World(place, dice, events_folder=elsewhere if int(place.name[-1]) % 2 == 0 else None)

        try:
            counts = campaign(folder, times, seed, _cycle, make=make)
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            return {"passed": None, "not_done": str(error)}
    counts["unjournalled_lost"] = counts.pop("lost_by_count")  # of events that were in memory only when it was killed
    return {**counts, "passed": lives_passed(counts) and counts["unjournalled"] > 0}


# -- deleted files ------------------------------------------------------------------------------------------------


def _delete(world: World) -> str:
    """Delete, move or replace some of the journal's files; which."""
    how = world.dice.choice(("all", "journal", "wal", "shm", "wal and shm", "moved", "emptied"))
    parts = {"all": ("", "-wal", "-shm"), "journal": ("",), "wal": ("-wal",), "shm": ("-shm",)}
    parts["wal and shm"] = ("-wal", "-shm")
    if how == "moved":
        world.journal.rename(world.journal.with_name(f"moved{len(world.troubles)}"))
    elif how == "emptied":
        world.journal.unlink(missing_ok=True)
        world.journal.touch()
    for part in parts.get(how, ()):
        world.journal.with_name(world.journal.name + part).unlink(missing_ok=True)
    return how


def deleted(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` lives whose journal's files are deleted, moved or replaced; killed as soon as they told so, or later."""

    def one(world: World) -> None:
        process = world.begin()
        world.wait(0.3)
        told = len(world.troubles)
        how = _delete(world)
        try:
            world.until(
                lambda: any("deleted or" in t for t in world.troubles[told:]), f"that it was told ({how})", 15.0
            )
        except TimeoutError:
            world.count("not_told")
        world.kill_in_alarm(process)
        world.count(how)

    counts = campaign(folder, times, seed, one)
    return {**counts, "passed": lives_passed(counts) and not counts.get("not_told")}


# -- clocks -------------------------------------------------------------------------------------------------------


def clocks(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` kills of lives, some with a clock that is wrong for a while or for good; nothing may be deleted.

    Two lives whose clock shows the right time lie between two that are wrong: a majority that is wrong cannot be told
    from one that is right. In half of the worlds further lives begin, or stay, in 1970. Rows are dated wrong, too.
    """
    wrongs = (31 * DAY_S, -1.79e9, 3650 * DAY_S, -40 * DAY_S)

    def one(world: World) -> None:
        unset = int(world.folder.name[-1]) % 2
        turn = world.kills % (6 if unset else 3)
        steps: tuple[float, ...] = (0.0,)
        if turn == 1:
            steps = tuple(world.dice.choice((*wrongs, 0.0)) for _ in range(world.dice.randint(1, 4)))
            world.count("wrong_lives")
        elif unset and turn in (0, 2, 4):
            steps = (-1.79e9, *world.dice.choice(((), (0.0,))))
            world.count("lives_in_1970")
        world.kill_in_alarm(world.begin(steps_s=steps, retain=10), 0.8)
        if world.dice.random() < 0.3:
            with contextlib.closing(sqlite3.connect(world.journal)) as db, db:
                newest = db.execute("SELECT max(n) FROM events").fetchone()[0]
                db.execute(
                    "UPDATE events SET utc = utc + ? WHERE n = ?",
                    (world.dice.choice((400 * DAY_S, -400 * DAY_S)), world.dice.randint(1, newest)),
                )
            world.count("rows_dated_wrong")

    def finish(world: World) -> dict[str, int]:
        counts = world.finish()
        with contextlib.closing(sqlite3.connect(world.journal)) as db:
            had = db.execute("SELECT count(*), max(n) FROM events").fetchone()
        counts["deleted"] = had[1] - had[0]
        clock = FakeClock()
        later = Ledger(world.journal, clock=clock)  # and what is old by order does go, whatever its date
        for _ in range(60):
            clock.advance(DAY_S)
            later.maintain()
        later.close()
        with contextlib.closing(sqlite3.connect(world.journal)) as db:
            counts["kept_too_long"] = db.execute("SELECT count(*) FROM events").fetchone()[0]
        return counts

    counts = campaign(folder, times, seed, one, finish=finish)
    return {**counts, "passed": lives_passed(counts) and not counts["deleted"] and not counts["kept_too_long"]}


# -- rotation -----------------------------------------------------------------------------------------------------


def rotated(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` kills around a rotation of the event file: renamed, half the time with a SIGHUP, then killed anywhere."""

    def one(world: World) -> None:
        die = (
            (world.dice.choice(("committed", "torn")), world.dice.randint(10, 60))
            if world.dice.random() < 0.3
            else None
        )
        process = world.begin(die=die)
        world.wait(0.3)
        world.rotate()
        world.count("rotations")
        if world.dice.random() < 0.5 and process.pid and ended(process, 0.0) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGHUP)
            world.count("hangups")
        if die:
            if ended(process, DEADLINE_S) is None:
                world.count("ended_by_itself")
                kill(process)
            world.kills += 1
        else:
            world.kill_in_alarm(process, 1.5)
        if world.dice.random() < 0.2:  # and while no detector runs
            world.rotate()
            world.count("rotations")

    counts = campaign(folder, times, seed, one)
    return {**counts, "passed": lives_passed(counts) and counts["rotations"] > 0}


# -- retention while a subscriber is away -------------------------------------------------------------------------


class Wanderer:
    """A recovering subscriber with a cursor that is away most of the time."""

    def __init__(self, world: World) -> None:
        self.world, self.cursor = world, world.folder / "cursor.json"
        self.got: list[Event] = []
        self.topics: set[str] = set()  # before it had one event of each, it has no place from which to miss any
        self.lost = 0

    def visit(self, quiet_s: float = 0.0) -> None:
        """Come, take what there is for a moment (or until nothing comes for `quiet_s`), and go."""
        with Subscriber(self.world.endpoint, from_start=True, cursor=self.cursor) as subscriber:
            wanted = self.world.dice.randint(1, 60)
            # It leaves when it has dealt with all that it fetched: else it asks again, and is told again what is lost.
            while quiet_s or wanted > 0 or len(self.topics) < 2 * CAMERAS or subscriber.waiting:
                message = subscriber.receive(quiet_s or 5.0)
                if message is None:
                    break
                wanted -= 1
                self.got.append(heard(message.body).event)
                self.topics.add(message.topic)
            subscriber.commit()
            self.lost += subscriber.lost


def pruned(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` kills of lives whose journal is kept short, while a subscriber is away for several of them."""
    wanderers: dict[Path, Wanderer] = {}
    options: dict[str, Any] = {"retain": 20, "max_bytes": 150_000}

    def one(world: World) -> None:
        process = world.begin(**options)
        if world.folder not in wanderers or world.dice.random() < 0.25:  # it comes before anything is deleted
            wanderers.setdefault(world.folder, Wanderer(world)).visit()
            world.count("visits")
        world.kill_in_alarm(process, 1.0)

    def finish(world: World) -> dict[str, int]:
        wanderer = wanderers.setdefault(world.folder, Wanderer(world))
        process = world.begin(**options)
        wanderer.visit()
        kill(process, signal.SIGTERM)
        counts = world.finish()
        server = start(run_server, Plan(world.endpoint, world.journal))
        wanderer.visit(quiet_s=4.0)
        kill(server, signal.SIGTERM)
        told = {one.event[:3] for one in world.heard}
        had = Counter(event[:3] for event in wanderer.got)
        missing = told - set(had)
        counts["away_got"], counts["away_lost"] = len(had), wanderer.lost
        counts["away_twice"] = sum(count - 1 for count in had.values())
        counts["away_invented"] = len(set(had) - told)
        counts["away_count_wrong"] = abs(len(missing) - wanderer.lost)
        return counts

    counts = campaign(folder, times, seed, one, finish=finish)
    # what retention deleted is in no journal any more: the subscriber that was always there had it all the same
    counts["pruned"], counts["file_pruned"] = counts.pop("invented"), counts.pop("file_invented")
    good = not any(counts[name] for name in ("away_twice", "away_invented", "away_count_wrong"))
    return {**counts, "passed": lives_passed(counts) and good and counts["away_lost"] > 0}
