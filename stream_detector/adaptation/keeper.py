"""Writes the windows and events of a run into the memory of the site, in a thread of its own.

    decision thread ──window(), event(), verdict()──▶ blocks of BLOCK windows ──bounded queue──▶ writer ──▶ Memory

The decision thread needs some microseconds per window and never waits: if the writer is too slow, blocks are dropped
and counted.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from stream_detector.adaptation.memory import BLOCK, Block, KeptAlarm, Memory
from stream_detector.adaptation.promise import RateState, rate_state, scored_days
from stream_detector.config import SiteConfig
from stream_detector.errors import DataError
from stream_detector.events.writes import utc_of
from stream_detector.types import Clock, Float32Array, WindowRef

log = logging.getLogger(__name__)

QUEUE_ITEMS = 512
FLUSH_S = 60.0  # longest time before the windows of a slow camera are written
PRUNE_S = 30.0
PRUNE_BLOCKS = 256  # most blocks in one call: the writer must not fall behind
RATES_S = 60.0
GAP_S = 1.0  # a gap in media time that ends a block
CUT, DEGRADED = 1, 2
CLOSE_S = 10.0

_Row = tuple[float, float, float, float, int, Float32Array]


class SiteKeeper:
    """One per run. cameras: whose windows are stored.  bundle: its fingerprint.  epoch: of the run.

    wanted: promised false alarms per day, by camera.  since: when a camera's model was changed (UTC); its rate counts
    from there.  on_rates: called by the writer's thread with what is known of the rates.
    """

    def __init__(
        self,
        memory: Memory,
        config: SiteConfig,
        *,
        cameras: Collection[str],
        bundle: str,
        epoch: str,
        clock: Clock,
        wanted: dict[str, float | None] | None = None,
        since: dict[str, float] | None = None,
        on_rates: Callable[[dict[str, RateState]], None] | None = None,
    ) -> None:
        self._memory, self._config, self._clock = memory, config, clock
        self._cameras, self._bundle, self._epoch = frozenset(cameras), bundle, epoch
        self._wanted, self._on_rates = wanted or {}, on_rates
        self.since = dict(since or {})
        self.facts: dict[str, Any] = {}  # written into the memory at the end
        self._rows: dict[str, list[_Row]] = {}
        self._since_s: dict[str, float] = {}
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUE_ITEMS)
        self.dropped = 0  # blocks and events that were not stored
        self.rates: dict[str, RateState] = {}
        self._prune_s = clock.monotonic() + PRUNE_S
        self._rates_s = clock.monotonic()
        self._failed = ""
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="site-memory", daemon=True)
        self._thread.start()

    def watch(self, cameras: Collection[str], wanted: dict[str, float | None]) -> None:
        """Keep the windows of these cameras from now on."""
        self._cameras, self._wanted = frozenset(cameras), dict(wanted)

    # -- decision thread ----------------------------------------------------------------------------------------

    def window(self, ref: WindowRef, features: Float32Array | None, raw: float) -> None:
        """Store the next window of a camera. raw: the bundle's score, before any overlay."""
        if features is None or ref.camera not in self._cameras:
            return
        rows = self._rows.setdefault(ref.camera, [])
        if rows and not 0.0 <= ref.end_s - rows[-1][1] <= max(GAP_S, 4 * (ref.end_s - ref.start_s)):
            self._hand_over(ref.camera)
            rows = self._rows.setdefault(ref.camera, [])
        flags = (CUT if "cut" in ref.degraded else 0) | (DEGRADED if ref.degraded else 0)
        if not rows:
            self._since_s[ref.camera] = self._clock.monotonic()
        rows.append((ref.start_s, ref.end_s, ref.captured_utc, raw, flags, features))
        if len(rows) >= BLOCK or self._clock.monotonic() - self._since_s[ref.camera] >= FLUSH_S:
            self._hand_over(ref.camera)

    def event(self, body: dict[str, Any]) -> None:
        """Store an alarm event, as journalled."""
        if body.get("camera") not in self._cameras:
            return
        evidence = body.get("evidence") or {}
        alarm = KeptAlarm(
            id=str(body["id"]),
            epoch=str(body["epoch"]),
            camera=str(body["camera"]),
            start_s=float(body["start_s"]),
            end_s=float(body["end_s"] if body.get("end_s") is not None else body["start_s"]),
            start_utc=utc_of(body["start_utc"]),
            peak=float(body["peak_score"]),
            threshold=float(body["threshold"]),
            model=str(body["bundle"]),
            snapshot=str(evidence.get("snapshot") or ""),
        )
        self._put(lambda: self._memory.alarm(alarm))

    def verdict(self, body: dict[str, Any]) -> None:
        """Store a verdict or a miss, as journalled."""
        at_utc = None if body.get("at_utc") is None else utc_of(body["at_utc"])
        utc = utc_of(body["emitted_utc"])
        self._put(lambda: self._memory.verdict(body, at_utc, utc))
        self._rates_s = 0.0  # computed at the next opportunity

    def remember(self, name: str, value: Any) -> None:
        """Store a value under a name (`Memory.set_fact`)."""
        self._put(lambda: self._memory.set_fact(name, value))

    def call(self, work: Callable[[], None]) -> None:
        """Run `work` in the writer's thread, after everything that was submitted before."""
        self._put(work)

    def _hand_over(self, camera: str) -> None:
        rows = self._rows.pop(camera, [])
        if rows:
            self._put(lambda: self._memory.add([self._block(camera, rows)]))

    def _put(self, work: Callable[[], None]) -> None:
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            self.dropped += 1

    # -- writer -------------------------------------------------------------------------------------------------

    def _block(self, camera: str, rows: list[_Row]) -> Block:
        starts, ends, utc, raw, flags, features = zip(*rows, strict=True)
        held = np.clip(np.stack(features), -65504.0, 65504.0).astype(np.float16)
        return Block(
            camera,
            self._epoch,
            self._bundle,
            np.array(starts),
            np.array(ends),
            np.array(utc),
            np.array(raw, np.float32),
            np.array(flags, np.uint8),
            held,
        )

    def _write(self) -> None:
        while True:
            try:
                work = self._queue.get(timeout=1.0)
            except queue.Empty:
                work = self._tend
            if work is None:
                return
            try:
                work()
                if work != self._tend and self._clock.monotonic() >= self._prune_s:
                    self._tend()
                self._failed = ""
            except (sqlite3.Error, OSError, DataError) as error:
                self.dropped += work != self._tend
                if str(error) != self._failed:
                    self._failed = str(error)
                    log.warning("the site's memory %s cannot be written (%s)", self._memory.path, error)

    def _tend(self) -> None:
        now_s = self._clock.monotonic()
        if now_s >= self._prune_s:
            self._prune_s = now_s + PRUNE_S
            prune(self._memory, self._config, self._clock.utc(), PRUNE_BLOCKS)
        if now_s >= self._rates_s:
            self._rates_s = now_s + RATES_S
            self.rates = {
                camera: rates_of(self._memory, camera, self._wanted.get(camera), self.since.get(camera, 0.0))
                for camera in self._cameras
            }
            if self._on_rates is not None:
                self._on_rates(self.rates)

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Write everything that was submitted; False if that took longer. Not for the decision thread."""
        done = threading.Event()
        for camera in list(self._rows):
            self._hand_over(camera)
        with contextlib.suppress(queue.Full):
            self._queue.put(done.set, timeout=timeout_s)
            return done.wait(timeout_s)
        return False

    def close(self) -> None:
        """Write the rest and close the memory. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self.flush()
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            with contextlib.suppress(sqlite3.Error):
                for name, value in self.facts.items():
                    self._memory.set_fact(name, value)
            self._memory.close()


def prune(memory: Memory, config: SiteConfig, now_utc: float, most: int = 10**9) -> int:
    """Apply the limits of the configuration; see `Memory.prune`."""
    return memory.prune(
        now_utc,
        window_hours=config.window_hours,
        alarm_days=config.alarm_days,
        max_bytes=config.max_bytes,
        coreset=config.coreset,
        most=most,
    )


def rates_of(memory: Memory, camera: str, wanted: float | None, since_utc: float = 0.0) -> RateState:
    """Return what is known of the rate of one camera, since the last change of its model."""
    alarms = [(alarm.start_utc, alarm.verdict) for alarm in memory.alarms(camera) if alarm.start_utc >= since_utc]
    hours = [(hour, seconds) for hour, seconds in memory.hours(camera) if hour * 3600 >= since_utc]
    days, scored_hours = scored_days(hours, alarms)
    return rate_state(days, wanted, scored_hours)
