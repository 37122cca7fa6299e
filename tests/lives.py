"""Several lives of a detector's event path in one process, killed at chosen points; a subscriber over a fake wire."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from event_bench import an_event

from stream_detector.client.subscriber import Subscriber
from stream_detector.config import PublishConfig
from stream_detector.events import jsonl_file, ledger_file, protocol
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.testing import FakeClock
from stream_detector.types import CameraStatus

CAMERAS = ("gate", "yard")
KILLS = ("before", "committed", "torn", "written", "idle")


class Kill(BaseException):
    """The process is gone."""


class FakeSocket:
    """What a SUB socket receives, without a wire."""

    def __init__(self) -> None:
        self.frames: deque[list[bytes]] = deque()

    def poll(self, _ms: int) -> bool:
        return bool(self.frames)

    def recv_multipart(self, _flags: int) -> list[bytes]:
        if not self.frames:
            raise zmq.Again
        return self.frames.popleft()


class FakeClient:
    """What `recoveryclient.RecoveryClient` does, answered by whoever is alive."""

    endpoint = "fake"

    def __init__(self) -> None:
        self.answer: Callable[[bytes], bytes] | None = None
        self.asked: tuple[bytes, tuple[str, ...]] | None = None

    @property
    def waiting(self) -> bool:
        return self.asked is not None

    def send(self, body: dict[str, Any], topics: tuple[str, ...]) -> None:
        self.asked = (protocol.encode({"request": "r", **body}), topics)

    def receive(self, _wait_s: float) -> tuple[protocol.Reply, tuple[str, ...]] | None:
        if self.asked is None or self.answer is None:
            return None
        (data, topics), self.asked = self.asked, None
        return protocol.decode_reply(self.answer(data)), topics

    def reset(self) -> None:
        self.asked = None


class Listener:
    """A real `Subscriber` whose sockets are fakes; `events` are what its caller got."""

    def __init__(self, clock: FakeClock, **options: Any) -> None:
        self.subscriber = Subscriber("tcp://127.0.0.1:9", clock=clock, **{"from_start": True, **options})
        self.subscriber._context.destroy(0)
        self.socket, self.client = FakeSocket(), FakeClient()
        self.subscriber._socket = self.socket  # type: ignore[assignment]
        self.subscriber._client = self.client  # type: ignore[assignment]
        self.events: list[dict[str, Any]] = []

    def take(self) -> None:
        """Everything that can be had now."""
        quiet = 0
        while quiet < 8 or self.socket.frames:
            message = self.subscriber.receive(0.0)
            quiet = 0 if message else quiet + 1
            if message:
                self.events.append(message.body)


@dataclass
class Life:
    """One life of a detector. Use `open`, then the acts, then `kill` or `stop`."""

    world: World
    ledger: Ledger = field(init=False)
    publisher: Publisher = field(init=False, repr=False)
    going: dict[str, str] = field(default_factory=dict)  # camera → id of its open alarm

    def open(self) -> None:
        world = self.world
        self.ledger = Ledger(world.journal, clock=world.clock, on_problem=world.told.append)
        self.publisher = Publisher(
            PublishConfig(bind="none"), self.ledger, clock=world.clock, events_path=world.events, end_left_open=False
        )
        self.publisher._send = self._send  # type: ignore[method-assign]
        world.listener.client.answer = self.publisher._server.answer
        self.publisher.end_left_open(())

    def _send(self, topic: str, data: bytes) -> None:
        self.world.point("written")
        if self.world.heard:
            self.world.listener.socket.frames.append([topic.encode(), data])

    def alarm(self, camera: str) -> None:
        """The next event of the camera's alarm: start, update, end, in turns."""
        name = self.going.get(camera)
        if name is None:
            self.world.number += 1
            self.going[camera] = f"{self.world.number:032x}"
            self.publisher.alarm(an_event(id=self.going[camera], camera=camera))
        elif self.world.number % 3:
            self.publisher.alarm(an_event(id=self.going.pop(camera), camera=camera, type="end", reason="normal"))
        else:
            self.world.number += 1
            self.publisher.alarm(an_event(id=name, camera=camera, type="update"))

    def tick(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.publisher.service()
        self.publisher._heartbeat()

    def stop(self) -> None:
        """In order: alarms end with reason shutdown."""
        for camera in list(self.going):
            name = self.going.pop(camera)
            self.publisher.alarm(an_event(id=name, camera=camera, type="end", reason="shutdown"))
        self.publisher.service()
        self.publisher._heartbeat(closing=True)
        self.world.listener.client.answer = None
        self.publisher.close()
        self.ledger.close()

    def kill(self) -> None:
        """As if by kill -9: descriptors go, nothing is written any more."""
        self.ledger._db.close()
        if self.ledger._lock is not None:
            self.ledger._lock.release()
        if hasattr(self, "publisher") and self.publisher._file:  # else it died when it began, and closed what it had
            self.publisher._file.close()


class World:
    """One journal, one event file with those it was rotated into, one subscriber, one clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.journal, self.events = folder / "l.sqlite3", folder / "e.jsonl"
        self.told: list[str] = []
        self.number = 0
        self.started: set[str] = set()  # ids of alarms whose start reached the disk
        self.heard = True
        self.read_only = self.full = False
        self.kill_at: tuple[str, int] | None = None
        self.rotated = 0
        self.listener = Listener(self.clock)

    def point(self, name: str) -> None:
        """A place at which the process may die."""
        if self.kill_at and self.kill_at[0] == name:
            self.kill_at = (name, self.kill_at[1] - 1)
            if self.kill_at[1] < 0:
                self.kill_at = None
                raise Kill

    def rotate(self) -> None:
        """As logrotate does: the file gets another name."""
        if self.events.exists():
            self.rotated += 1
            self.events.rename(self.folder / f"e.jsonl.{self.rotated}")

    def delete_journal(self) -> None:
        for path in self.folder.glob("l.sqlite3*"):
            path.unlink()

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """The places at which disks fail and processes die."""
        connect, insert, append = sqlite3.connect, ledger_file.insert, jsonl_file.EventFile._append
        journal_append = Ledger.append
        world = self

        def connecting(target: Any, *args: Any, **options: Any) -> sqlite3.Connection:
            if world.read_only and target == world.journal:
                return connect(f"{target.as_uri()}?mode=ro", *args, uri=True, **options)
            return connect(target, *args, **options)

        def inserting(db: sqlite3.Connection, *args: Any, **options: Any) -> None:
            if world.full and db.execute("PRAGMA database_list").fetchone()[2]:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            insert(db, *args, **options)

        def appending(file: jsonl_file.EventFile, data: bytes) -> bool:
            world.point("committed")
            try:
                world.point("torn")
            except Kill:
                os.write(file._descriptor, data[: len(data) // 2])
                raise
            return append(file, data)

        def journalling(ledger: Ledger, topic: str, body: dict[str, Any], *args: Any) -> int:
            world.point("before")
            seq = journal_append(ledger, topic, body, *args)
            if body.get("type") == "start" and not ledger.degraded:
                world.started.add(body["id"])
            return seq

        sqlite3.connect = connecting  # type: ignore[assignment]
        ledger_file.insert = inserting
        jsonl_file.EventFile._append = appending  # type: ignore[method-assign]
        Ledger.append = journalling  # type: ignore[method-assign]
        try:
            yield
        finally:
            sqlite3.connect = connect
            ledger_file.insert = insert
            jsonl_file.EventFile._append = append  # type: ignore[method-assign]
            Ledger.append = journal_append  # type: ignore[method-assign]

    # -- what came of it ------------------------------------------------------------------------------------------

    def journalled(self) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.journal)) as db:
            return [json.loads(text) for (text,) in db.execute("SELECT body FROM events ORDER BY n")]

    def lines(self) -> list[dict[str, Any]]:
        """Of all event files, the oldest first."""
        paths = [self.folder / f"e.jsonl.{n + 1}" for n in range(self.rotated)] + [self.events]
        return [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]


def counts(bodies: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """id → how many of which type."""
    found: dict[str, Counter[str]] = {}
    for body in bodies:
        if body.get("schema") == protocol.ALARM_SCHEMA:
            found.setdefault(body["id"], Counter())[body["type"]] += 1
    return found


def a_status(camera: str) -> CameraStatus:
    return CameraStatus(camera, "rtsp://h/x", "online")
