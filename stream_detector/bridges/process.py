"""One bridge process: reads the detector's events into the outbox, watches its heartbeat, and delivers to every target.

The order of the steps makes a kill harmless at any moment: an event is stored in the outbox before the cursor passes
it, and a delivery is marked after the receiver accepted it. The detector never waits: while the outbox is full, the
bridge stops reading, and later fetches the missed events from the detector's journal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_detector.bridges.delivery import DeadLetters, Delivery
from stream_detector.bridges.evidence import EvidenceFolder
from stream_detector.bridges.kinds import BRIDGES, Memory, Target, TargetContext, TargetSettings
from stream_detector.bridges.notice import DETECTOR_SCHEMA, DETECTOR_TOPIC, Notice, notice_of
from stream_detector.bridges.outbox import Outbox
from stream_detector.bridges.settings import BridgesConfig
from stream_detector.client.recovery_client import ClientKeys
from stream_detector.client.subscriber import Subscriber
from stream_detector.client.writer import Writer
from stream_detector.errors import ConfigError, StreamDetectorError
from stream_detector.events.curve import load_pair, load_public
from stream_detector.events.protocol import Message
from stream_detector.system.lock_file import claim, lock_of
from stream_detector.system.own_files import OUTBOX, check_own
from stream_detector.types import Clock, SystemClock

log = logging.getLogger(__name__)

_BATCH = 64
_STEP_S = 0.25
_TICK_S = 1.0
_PRUNE_S = 10.0
DRAIN_S = 5.0  # time that a stop waits for pending deliveries


@dataclass(slots=True)
class _Watch:
    """The last known state of the detector: "" (never received), "running", "silent" or "stopped"."""

    state: str = ""
    since_s: float = 0.0
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class BridgePaths:
    """Where a bridge of one kind stores its state."""

    folder: Path
    kind: str

    @property
    def outbox(self) -> Path:
        return self.folder / f"{self.kind}.sqlite3"

    @property
    def cursor(self) -> Path:
        return self.folder / f"{self.kind}.cursor.json"

    @property
    def dead(self) -> Path:
        return self.folder / f"{self.kind}.dead.jsonl"


class BridgeProcess:
    """kind: of `BRIDGES`, with targets in `config`. A context manager; `run` until `stop`.

    Raises ConfigError (no target of that kind), UsageError (another process of that kind runs), LedgerError,
    EndpointError.
    """

    def __init__(self, kind: str, config: BridgesConfig, clock: Clock | None = None) -> None:
        if not config.kinds.get(kind):
            raise ConfigError(f"the bridges file has no [{kind}.NAME]; add one, see docs/bridges.md")
        detector = config.detector
        self.kind, self.paths = kind, BridgePaths(detector.state, kind)
        self._clock = clock or SystemClock()
        self._config = config
        self._stop, self._drain = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        what = f"the bridge state {str(self.paths.outbox)!r}"
        check_own(self.paths.outbox, OUTBOX, "set another `state` in [detector]")
        self._lock = claim(lock_of(self.paths.outbox), what, "set another `state` in [detector]")
        try:
            self.outbox = Outbox(self.paths.outbox)
            evidence = EvidenceFolder(detector.evidence)
            dead = DeadLetters(self.paths.dead)
            self.deliveries: dict[str, Delivery] = {}
            for name, settings in config.kinds[kind].items():
                target = self._target(name, settings, evidence)
                self.deliveries[name] = Delivery(name, target, self.outbox, dead, self._clock, self._failed)
            keys = load_pair(detector.key) if detector.key else None
            server_key = load_public(detector.server_key) if detector.server_key else None
            self._keys = ClientKeys(keys, server_key) if keys and server_key else None
            self.subscriber = Subscriber(
                detector.endpoint,
                kinds=("alarm", "status", "ack", "verdict"),
                cursor=self.paths.cursor,
                from_start=detector.from_start,
                keys=keys,
                server_key=server_key,
                clock=self._clock,
            )
        except BaseException:
            self._lock.release()
            raise
        self._watch = _Watch(str(self.outbox.recall("", "detector") or ""), self._clock.monotonic())
        self._cameras: dict[str, dict[str, str]] = self.outbox.recall_all("", "camera:")
        self._stored = 0  # rows up to here are behind the cursor; after a kill it may be some events behind the rows
        self._in_step = False
        self._tick_s = self._prune_s = float("-inf")
        self._full = False

    def _target(self, name: str, settings: TargetSettings, evidence: EvidenceFolder) -> Target:
        outbox = self.outbox
        context = TargetContext(
            name=name,
            evidence=evidence,
            clock=self._clock,
            memory=Memory(lambda key: outbox.recall(name, key), lambda prefix: outbox.recall_all(name, prefix)),
            resend=lambda since_utc: outbox.again(name, since_utc),
            wake=lambda: self.deliveries[name].came_back(),
            write=self._write,
        )
        return BRIDGES.get(self.kind)(settings, context)

    def _write(self, value: dict[str, Any]) -> dict[str, Any]:
        with Writer(self._config.detector.endpoint, self._keys, self._clock) as writer:
            return writer.write(value)

    def __enter__(self) -> BridgeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Deliver the pending notices, for at most DRAIN_S, and end. For any thread."""
        self._drain.set()
        self.outbox.wake()

    def close(self) -> None:
        """Release everything; the next process delivers what is left."""
        for delivery in self.deliveries.values():
            delivery.stop(1.0)
        self.subscriber.close()
        self.outbox.close()
        self._lock.release()

    def run(self) -> None:
        """Deliver events until `stop`. Raises LedgerError when the disk fails."""
        for delivery in self.deliveries.values():
            delivery.start()
        while not self._drain.is_set() and self._failure is None:
            self.step(_STEP_S)
        if self._failure is not None:
            raise self._failure
        end_s = self._clock.monotonic() + DRAIN_S
        quiet = 0
        while self._clock.monotonic() < end_s and self._failure is None:
            heard = self.step(0.1)
            quiet = 0 if heard else quiet + 1
            if quiet >= 3 and not self._due():
                break

    def _due(self) -> bool:
        """Return whether a notice waits that could be delivered now."""
        utc = self._clock.utc()
        heads = (self.outbox.item(n) for name in self.deliveries for n in self.outbox.heads(name))
        return any(item is not None and item.due_utc <= utc for item in heads)

    def step(self, wait_s: float) -> bool:
        """Store up to a batch of events in the outbox, then check the heartbeat. Return whether events came."""
        now_s = self._clock.monotonic()
        self._tend(now_s)
        if self._is_full():
            self._drain.wait(wait_s)
            return False
        batch: list[Message] = []
        message = self.subscriber.receive(wait_s)
        while message is not None:
            batch.append(message)
            if not self.subscriber.waiting or len(batch) >= _BATCH:
                break
            self.subscriber.commit(save=False)  # in memory: the file follows when the outbox has the events
            message = self.subscriber.receive(0.0)
        if batch:
            self.store(batch)
            self.subscriber.commit()
        self._in_step = self._in_step or self.subscriber.caught_up
        if self._in_step:
            self._stored = self.outbox.newest()
        self._hear()
        return bool(batch)

    def store(self, batch: Sequence[Message]) -> None:
        """Put the notices of messages into the outbox, in order, for every target that wants them."""
        rows: list[tuple[str, str, Notice, float]] = []
        facts: dict[str, dict[str, str]] = {}
        utc = self._clock.utc()
        for message in batch:
            notice, memory = notice_of(message, self._cameras.get(message.camera, {}), utc)
            if notice is None:
                continue
            if memory != self._cameras.get(message.camera, {}):
                self._cameras[message.camera] = facts[f"camera:{message.camera}"] = memory
            rows += self._rows(notice, rows)
        self.outbox.add(rows, facts)

    def _rows(
        self, notice: Notice, before: Sequence[tuple[str, str, Notice, float]] = ()
    ) -> Iterator[tuple[str, str, Notice, float]]:
        utc = self._clock.utc()
        for name, delivery in self.deliveries.items():
            target = delivery.target
            if not target.wants(notice):
                continue
            hold_s, (takes_back, alarm) = target.hold_s(notice), target.takes_back(notice)
            if takes_back:
                if before:  # the notice to cancel may not be in the outbox yet
                    self.outbox.add(before)
                if self.outbox.cancel(name, notice.camera, takes_back, utc, utc, alarm):
                    continue
            yield name, target.lane(notice), notice, utc + hold_s if hold_s else 0.0

    def _failed(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._drain.set()

    def _is_full(self) -> bool:
        full = any(self.outbox.waiting(n) >= d.target.settings.max_waiting for n, d in self.deliveries.items())
        if full and not self._full:
            log.error("the outbox is full; the bridge reads no events until a receiver accepts some")
        self._full = full
        return full

    def _tend(self, now_s: float) -> None:
        if now_s - self._tick_s >= _TICK_S:
            self._tick_s = now_s
            for delivery in self.deliveries.values():
                delivery.target.tick()
        if now_s - self._prune_s >= _PRUNE_S:
            self._prune_s = now_s
            keep_s = max(delivery.target.keep_s() for delivery in self.deliveries.values())
            self.outbox.prune(self._stored, self._clock.utc() - keep_s)

    # -- the heartbeat --------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Notify the targets when the heartbeat stops or returns, and when the detector ends in order."""
        now_s, age_s = self._clock.monotonic(), self.subscriber.heartbeat_age_s()
        heartbeat, watch = self.subscriber.heartbeat, self._watch
        dead_s = self._config.detector.dead_s
        if age_s >= dead_s:
            if watch.state not in ("silent", "stopped") and now_s - watch.since_s >= dead_s:
                self._tell("silent", dead_s)
            return
        if heartbeat is None:
            return
        watch.since_s = now_s - age_s
        closing = heartbeat.body.get("closing") is True
        if closing and watch.state != "stopped":
            watch.epoch = heartbeat.epoch
            self._tell("stopped", dead_s)
        elif not closing and watch.state != "running":
            self._tell("running", dead_s)
        watch.epoch = heartbeat.epoch

    @property
    def detector(self) -> tuple[str, str]:
        """Return the last known (state, epoch) of the detector."""
        return self._watch.state, self._watch.epoch

    def _tell(self, state: str, dead_s: float) -> None:
        body = {"schema": DETECTOR_SCHEMA, "state": state, "before": self._watch.state or None, "dead_s": dead_s}
        log.warning("the detector at %s is %s", self._config.detector.endpoint, state)
        self.outbox.own_notice(
            self._rows, DETECTOR_TOPIC, "detector", state, body, self._clock.utc(), {"detector": state}
        )
        self._watch.state = state  # only now: an orphaned bridge ends when the state is known and no notice waits


def check_targets(kind: str, config: BridgesConfig) -> None:
    """Build every target of a kind for a check, so that settings that cannot work are reported before the start.

    Raises ConfigError or MissingExtraError.
    """
    if not config.kinds.get(kind):
        raise ConfigError(f"the bridges file has no [{kind}.NAME]; add one, see docs/bridges.md")
    for name, settings in config.kinds[kind].items():
        memory = Memory(lambda key: None, lambda prefix: {})
        context = TargetContext(name, EvidenceFolder(config.detector.evidence), SystemClock(), memory)
        try:
            BRIDGES.get(kind)(settings, context).close()
        except StreamDetectorError as error:
            raise type(error)(f"[{kind}.{name}]: {error}") if isinstance(error, ConfigError) else error from None
