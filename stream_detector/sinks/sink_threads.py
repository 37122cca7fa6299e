"""More places for alarm events, beside the journal, the socket and the event file: `[sinks.NAME]` in cameras.toml.

A sink is a class with `alarm` and `close`, registered under the kind's name (see `registry`). Each has a thread and a
bounded queue of its own, so that a slow or broken one never delays the run. What is lost in one is counted and logged:
a sink sees events at most once. What must not miss an event is a subscriber with a cursor (`client`).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from stream_detector.config import SinkConfig
from stream_detector.errors import ConfigError, StreamDetectorError
from stream_detector.events.protocol import encode
from stream_detector.events.published_alarm import PublishedAlarm
from stream_detector.system.registry import Registry

log = logging.getLogger(__name__)

QUEUE_EVENTS = 1000
CLOSE_S = 2.0  # seconds; at the end of a run, the time to empty the queues


class Sink(Protocol):
    """A place for alarm events. Used by one thread."""

    def alarm(self, event: PublishedAlarm) -> None:
        """Take the next event; an exception is logged, and the event is lost for this sink only."""
        ...

    def close(self) -> None:
        """Flush and release resources."""
        ...


SinkFactory = Callable[[Mapping[str, Any]], Sink]
SINKS = Registry[SinkFactory](
    "sink", "stream_detector.sinks", {"jsonl": "stream_detector.sinks.sink_threads:JsonlSink"}
)


class JsonlSink:
    """kind "jsonl": appends the start and the end of every alarm to a file, one JSON object a line.

    options: `path`. Raises KeyError without it, OSError when it cannot be written.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        path = Path(str(options["path"]))
        self._file = path.open("ab", buffering=0)

    def alarm(self, event: PublishedAlarm) -> None:
        """Write one line; updates are left out."""
        if event.type != "update":
            self._file.write(encode(event.body) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class SinkThread:
    """Feeds one sink from a bounded queue."""

    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        self.lost = 0
        self._sink = sink
        self._reported = 0
        self._queue: queue.Queue[PublishedAlarm | None] = queue.Queue(QUEUE_EVENTS)
        self._thread = threading.Thread(target=self._work, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def put(self, event: PublishedAlarm) -> None:
        """Queue an event; never blocks. An event that does not fit is lost and counted."""
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._count_lost("its queue is full")

    def close(self) -> None:
        """Wait for the queued events, for at most CLOSE_S seconds."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("sink %s: %d events were still waiting at the end and are lost", self.name, self._queue.qsize())

    def _count_lost(self, why: str) -> None:
        self.lost += 1
        if self.lost >= 2 * self._reported:  # logged at 1, 2, 4, 8 …, so that a broken sink does not fill the log
            self._reported = self.lost
            log.warning("sink %s: %d events lost so far; the last one because %s", self.name, self.lost, why)

    def _work(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._sink.alarm(event)
            except Exception as error:  # code of another author may raise anything
                self._count_lost(f"of {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        with contextlib.suppress(Exception):
            self._sink.close()


class Sinks:
    """All sinks of a run. Raises ConfigError for an unknown kind, or a sink that cannot be made."""

    def __init__(self, configured: Mapping[str, SinkConfig]) -> None:
        self._threads: list[SinkThread] = []
        try:
            for name, config in configured.items():
                self._threads.append(SinkThread(name, _make(name, config)))
        except BaseException:
            self.close()
            raise

    def put(self, body: dict[str, Any]) -> None:
        """Hand the body of an alarm event to every sink. Never blocks."""
        if self._threads:
            event = PublishedAlarm.from_dict(body)
            for thread in self._threads:
                thread.put(event)

    def close(self) -> None:
        """Close every sink."""
        for thread in self._threads:
            thread.close()


def _make(name: str, config: SinkConfig) -> Sink:
    try:
        return SINKS.get(config.kind)(config.options)
    except StreamDetectorError:
        raise
    except KeyError as error:
        raise ConfigError(f"sinks.{name}: the option {error} is missing; add it to [sinks.{name}.options]") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"sinks.{name}: cannot be set up ({reason}); correct its options") from None
