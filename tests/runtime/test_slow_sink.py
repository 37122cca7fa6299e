"""A slow or broken sink costs its own events only: handing over never waits."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import cast

import pytest

from stream_detector.events.published_alarm import PublishedAlarm
from stream_detector.sinks import sink_threads
from stream_detector.sinks.sink_threads import SinkThread

EVENT = cast(PublishedAlarm, SimpleNamespace())
WAIT_S = 60.0


class Hanging:
    """Holds the first event until it is let go."""

    def __init__(self) -> None:
        self.taken, self.let_go, self.got = threading.Event(), threading.Event(), 0

    def alarm(self, event: PublishedAlarm) -> None:
        self.got += 1
        self.taken.set()
        assert self.let_go.wait(WAIT_S)

    def close(self) -> None:
        pass


class Broken:
    """Fails for every event."""

    def __init__(self, count: int) -> None:
        self.left, self.done = count, threading.Event()

    def alarm(self, event: PublishedAlarm) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()
        raise ValueError("no place")

    def close(self) -> None:
        pass


def test_a_sink_that_hangs_loses_its_events_and_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_threads, "QUEUE_EVENTS", 3)
    sink = Hanging()
    thread = SinkThread("slow", sink)
    try:
        thread.put(EVENT)
        assert sink.taken.wait(WAIT_S)
        for _ in range(5):  # returns although the sink holds the first: three wait, two are lost
            thread.put(EVENT)
        assert thread.lost == 2 and sink.got == 1
    finally:
        sink.let_go.set()
        thread.close()
    assert sink.got == 4


def test_a_sink_that_fails_gets_every_event_and_each_loss_is_counted() -> None:
    sink = Broken(3)
    thread = SinkThread("broken", sink)
    for _ in range(3):
        thread.put(EVENT)
    assert sink.done.wait(WAIT_S)
    thread.close()
    assert thread.lost == 3
