"""A shard: decision, journal and publisher for some of the cameras, in one thread, as in a single process.

    submit(items) ─▶ inbox ─▶ [write ahead] ─▶ Decider ─▶ Ledger ─▶ Publisher (loopback; the forwarder reads it)

Events occur exactly once, whichever process dies. An item is taken once (by generation and number). A batch is written
to the `ShardLog` before it is decided, and the next shard decides the newest batch again from the states before it. It
compares the resulting events with the journal after the position of these states and does not journal them twice.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector.cluster.messages import (
    CameraEnded,
    ResumePoint,
    ScoredWindow,
    ShardItem,
    ref_from_list,
    ref_to_list,
)
from stream_detector.cluster.shard_log import ShardLog
from stream_detector.config import Config
from stream_detector.errors import LedgerError, StageError
from stream_detector.events.ledger import Ledger
from stream_detector.events.protocol import DETECTOR, topic_of
from stream_detector.events.publisher import Publisher
from stream_detector.reports.scores_file import ScoresFile
from stream_detector.runtime.decider import CameraPlan
from stream_detector.runtime.stages import DecisionModel, make_decider
from stream_detector.system.lock_file import lock_of
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import AlarmEvent, CameraStatus, Clock, Decision, EndReason, Score, SystemClock

log = logging.getLogger(__name__)

POLL_S = 0.02
LOCK_WAIT_S = 5.0
LIVE_RESUME_S = 60.0  # seconds; a live camera's alarm continues if its shard was away for at most this long
BATCHES_AT_ONCE = 64  # submissions in one commit of the log


@dataclasses.dataclass(slots=True)
class _Camera:
    """generation, n: of the newest item taken.  last: the newest decided window.  failure: why the camera ended, or
    "".
    """

    plan: CameraPlan
    generation: int = 0
    n: int = -1
    last: list[Any] | None = None
    done: bool = False
    failure: str = ""


class _Sink:
    """The `types.EventSink` before the publisher; it skips events that the journal already has."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.expected: dict[str, deque[dict[str, Any]]] = {}  # topic → events that the repeated decision must give

    def _known(self, topic: str, **wanted: Any) -> dict[str, Any] | None:
        bodies = self.expected.get(topic)
        if not bodies:
            return None
        body = bodies.popleft()
        if all(body.get(key) == value for key, value in wanted.items()):
            return body
        log.error("a repeated decision gave %s on %s, but the journal has %s", wanted, topic, body.get("type"))
        bodies.clear()
        return None

    def alarm(self, event: AlarmEvent) -> dict[str, Any]:
        known = self._known(topic_of("alarm", event.camera), id=event.id, type=event.type)
        return known or self._publisher.alarm(event)

    def score(self, decision: Decision) -> None:
        self._publisher.score(decision)

    def status(self, status: CameraStatus) -> None:
        if not self._known(topic_of("status", status.camera), state=status.state):
            self._publisher.status(status)

    def service(self) -> None:
        self._publisher.service()

    def close(self) -> None:
        self._publisher.close()


class Shard:
    """Decides for some of the cameras.

    number: of `shards`.  plans: of its own cameras.  model: of the run's bundle.  epoch: of the run, the same for all
    shards and their successors.  config: `publish.ledger` names the journal; the files of further shards get a number.
    `endpoint` is where the forwarder connects.  Raises the errors of Ledger, Publisher and ShardLog.
    """

    def __init__(
        self,
        number: int,
        config: Config,
        plans: Sequence[CameraPlan],
        model: DecisionModel,
        epoch: str,
        clock: Clock | None = None,
        on_decision: Callable[[Decision], None] | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._fingerprint = model.fingerprint
        self._epoch = epoch
        self._cameras = {plan.name: _Camera(plan) for plan in plans}
        publish = config.publish
        journal = numbered(publish.ledger, number)
        if journal:
            _wait_for(journal, self._clock)
        self._log = ShardLog(journal.with_name(journal.name + ".shard") if journal else None)
        self._ledger = Ledger(
            journal,
            clock=self._clock,
            keep_days=publish.keep_days,
            max_bytes=publish.ledger_max_bytes,
            on_problem=log.warning,
            epoch=epoch,
        )
        self.telemetry = Telemetry([plan.name for plan in plans], self._clock)
        same = self._log.epoch == epoch
        states = self._log.states
        self._publisher = Publisher(
            # The socket is on loopback; the forwarder applies the keys and limits for the outside.
            publish.model_copy(
                update={"bind": "tcp://127.0.0.1:*", "curve_secret": None, "curve_clients": None, "insecure": False}
            ),
            self._ledger,
            clock=self._clock,
            events_path=numbered(config.events, number),
            camera_names=[plan.name for plan in plans],
            health=lambda: {"shard": number, **self.telemetry.snapshot().health()},
            name=DETECTOR if number == 0 else f"{DETECTOR}-{number}",
            score_seqs={topic_of("score", name): state["score_seq"] for name, state in states.items()} if same else {},
            end_left_open=False,
        )
        self.endpoint = self._publisher.endpoint
        self._sink = _Sink(self._publisher)
        scores = numbered(config.scores, number)
        keep = self._log.scores_bytes if scores and states and scores.is_file() else 0
        self._scores = ScoresFile(scores, keep) if scores else None
        self._decider = make_decider(
            config,
            model,
            tuple(plans),
            sink=self._sink,
            telemetry=self.telemetry,
            clock=self._clock,
            epoch=epoch,
            scores=self._scores,
            on_decision=on_decision,
        )
        self._score_seqs: dict[str, int] = {}
        self._dirty: set[str] = set()
        self._inbox: queue.Queue[Callable[[], None]] = queue.Queue()
        self._batches: list[tuple[Sequence[ShardItem], Future[None]]] = []
        self.error: BaseException | None = None
        self._over = threading.Event()
        self._take_over(same)
        self._thread = threading.Thread(target=self._work, name=f"shard-{number}", daemon=True)
        self._thread.start()

    # -- from any thread ------------------------------------------------------------------------------------------

    def submit(self, items: Sequence[ShardItem]) -> Future[None]:
        """Decide on these items, in order. Returns a future that is done when they are written and decided; then the
        sender may delete them.
        """
        done: Future[None] = Future()
        self._inbox.put(lambda: self._batches.append((items, done)))
        return done

    def adopt(self, camera: str) -> Future[ResumePoint]:
        """Begin a new generation of a camera and return its resume point; items of older generations are refused from
        now on.
        """
        return self._call(lambda: self._adopt(self._cameras[camera]))

    def publish_status(self, status: CameraStatus) -> Future[None]:
        """Publish the state of a camera that no node runs, so that no host can report it."""
        return self._call(lambda: self._publish_status(status))

    def report(self) -> Future[dict[str, Any]]:
        """Return the report for the supervisor: {"done": [cameras], "failed": {camera: sentence}, "windows",
        "alarms"}.
        """
        return self._call(self._report)

    def finish(self, reason: EndReason) -> Future[None]:
        """End every open alarm and close everything; the next run begins a new state."""
        return self._call(lambda: self._finish(reason))

    def close(self) -> None:
        """Stop as if killed: nothing is sent, no alarm ends. For tests."""
        self._over.set()
        self._thread.join(5.0)
        self._close()

    # -- its thread -----------------------------------------------------------------------------------------------

    def _call(self, act: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(act())
            except BaseException as error:
                future.set_exception(error)
                raise

        self._inbox.put(run)
        return future

    def _work(self) -> None:
        try:
            while not self._over.is_set():
                try:
                    self._inbox.get(timeout=POLL_S)()
                    while len(self._batches) < BATCHES_AT_ONCE:
                        self._inbox.get_nowait()()
                except queue.Empty:
                    pass
                if self._batches:
                    batches, self._batches = self._batches, []
                    self._take([item for items, _ in batches for item in items])
                    for _, done in batches:
                        done.set_result(None)
                if not self._over.is_set():
                    self._decider.tick()
                    self._sink.service()
        except BaseException as error:
            log.exception("the shard's thread failed")
            self.error = error
            self._over.set()

    def _take(self, items: Sequence[ShardItem]) -> None:
        fresh = [item for item in items if self._is_new(item)]
        if not fresh:
            return
        self._write_ahead(fresh)
        for item in fresh:
            self._apply(item)

    def _is_new(self, item: ShardItem) -> bool:
        camera = self._cameras.get(item.camera)
        if camera is None or item.generation != camera.generation or item.n <= camera.n:
            return False
        if item.n != camera.n + 1:
            raise StageError(f"item {item.n} of {item.camera!r} came after {camera.n}; an item was lost between them")
        camera.n = item.n
        self._dirty.add(item.camera)
        return True

    def _write_ahead(self, items: Sequence[ShardItem]) -> None:
        """Write the state before these items; `_is_new` has already counted them."""
        first: dict[str, int] = {}
        for item in items:
            first.setdefault(item.camera, item.n)
        states = {name: self._state(name, first.get(name)) for name in self._dirty}
        self._log.write(states, items, self._epoch, self._scores.flush() if self._scores else 0)
        self._dirty = set(first)

    def _apply(self, item: ShardItem) -> None:
        camera, what = self._cameras[item.camera], item.what
        if isinstance(what, ScoredWindow):
            self._decider.score(self._here(what))
            camera.last = ref_to_list(what.ref)
            self._score_seqs[item.camera] = self._score_seqs.get(item.camera, 0) + 1
        elif isinstance(what, CameraEnded):
            camera.done, camera.failure = True, what.failure
            self._decider.ended(item.camera, failed=bool(what.failure))
        else:
            self._decider.status(what)

    def _here(self, scored: ScoredWindow) -> Score:
        """Convert the clocks: another machine's monotonic clock has no meaning here, so they are set by the window's
        age in UTC.
        """
        ref, timing = scored.ref, scored.timing
        now_s = self._clock.monotonic()
        captured_s = now_s - max(0.0, self._clock.utc() - ref.captured_utc)
        known_s = captured_s + (timing.window + timing.queue + timing.preprocess + timing.forward) / 1e3
        ref = dataclasses.replace(ref, captured_s=captured_s, completed_s=captured_s + timing.window / 1e3)
        features = np.frombuffer(scored.features, "<f4") if scored.features else None
        grid = np.frombuffer(scored.grid, "<f4").reshape(-1, scored.columns) if scored.grid else None
        return Score(ref, scored.raw, min(known_s, now_s), timing, features=features, grid=grid)

    def _publish_status(self, status: CameraStatus) -> None:
        self._decider.status(status)
        self._dirty.add(status.camera)
        self._write_ahead(())

    def _adopt(self, camera: _Camera) -> ResumePoint:
        camera.generation, camera.n = camera.generation + 1, -1
        self._dirty.add(camera.plan.name)
        self._write_ahead(())
        last = ref_from_list(camera.last) if camera.last else None
        return ResumePoint(camera.plan.name, camera.generation, last, camera.done)

    def _report(self) -> dict[str, Any]:
        cameras = self._cameras.values()
        snapshot = self.telemetry.snapshot()
        return {
            "done": [c.plan.name for c in cameras if c.done],
            "failed": {c.plan.name: c.failure for c in cameras if c.failure},
            "windows": snapshot.scored,
            "alarms": sum(view.alarms for view in snapshot.cameras),
            "health": snapshot.health(),
        }

    def _finish(self, reason: EndReason) -> None:
        self._decider.finish(reason)
        self._log.clear()
        self._over.set()
        self._close()

    def _close(self) -> None:
        self._sink.close()
        self._ledger.close()
        self._log.close()
        if self._scores:
            self._scores.close()

    # -- taking over ----------------------------------------------------------------------------------------------

    def _state(self, name: str, first_n: int | None) -> dict[str, Any]:
        """Return the stored state of a camera. first_n: number of its first item in the next batch, if it has one."""
        camera = self._cameras[name]
        seqs = self._ledger.last_seqs()
        return {
            "plan": _facts(camera.plan, self._fingerprint),
            "generation": camera.generation,
            "n": camera.n if first_n is None else first_n - 1,
            "last": camera.last,
            "done": camera.done,
            "failure": camera.failure,
            "utc": self._clock.utc(),
            "places": [seqs.get(topic_of("alarm", name), 0), seqs.get(topic_of("status", name), 0)],
            "score_seq": self._score_seqs.get(name, 0),
            "decider": self._decider.state(name),
        }

    def _take_over(self, same_epoch: bool) -> None:
        """Continue where the previous shard was killed. An alarm that cannot continue ends with reason `restart`."""
        for name, state in self._log.states.items():
            camera = self._cameras.get(name)
            if camera is None or state["plan"] != _facts(camera.plan, self._fingerprint):
                continue
            camera.generation, camera.n, camera.last = state["generation"], state["n"], state["last"]
            camera.done, camera.failure = state["done"], state["failure"]
            if not camera.plan.live or self._clock.utc() - state["utc"] <= LIVE_RESUME_S:
                self._decider.restore(name, state["decider"])
            for kind, seq in zip(("alarm", "status"), state["places"], strict=True):
                topic = topic_of("alarm" if kind == "alarm" else "status", name)
                texts, _ = self._ledger.since(topic, self._log.epoch, seq, 10_000)
                self._sink.expected[topic] = deque(json.loads(text) for text in texts)
            if same_epoch:
                self._score_seqs[name] = state["score_seq"]
        for item in self._log.pending:
            camera = self._cameras.get(item.camera)
            if camera is not None and item.generation == camera.generation and item.n == camera.n + 1:
                camera.n = item.n
                self._apply(item)
        self._sink.expected.clear()
        journalled = {alarm.last["id"] for alarm in self._ledger.open_alarms()}
        for name in self._cameras:
            # a journal that was set aside, or a camera that is gone
            if self._decider.open_id(name) not in (None, *journalled):
                state = self._decider.state(name)
                state["machine"]["open"] = None
                self._decider.restore(name, state)
        self._publisher.end_left_open({self._decider.open_id(name) or "" for name in self._cameras})
        self._log.forget(self._cameras)
        self._dirty.update(self._cameras)
        self._write_ahead(())


def _wait_for(journal: Path, clock: Clock) -> None:
    """Wait while the previous shard is still dying: a journal in memory would not survive."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    lock, until_s = lock_of(journal), clock.monotonic() + LOCK_WAIT_S
    while not lock.acquire():
        if clock.monotonic() > until_s:
            raise LedgerError(f"the event journal {str(journal)!r} is in use by another process; stop it first")
        time.sleep(0.05)
    lock.release()


def numbered(path: Path | None, number: int) -> Path | None:
    """Return the file of a shard: the given name for the first, `name-1.ext` and so on for the others."""
    return path if path is None or number == 0 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _facts(plan: CameraPlan, fingerprint: str) -> list[Any]:
    """Return the facts that must be unchanged for earlier decisions to continue."""
    return [
        plan.source,
        plan.stride_frames,
        plan.threshold,
        plan.smoothing.model_dump(),
        plan.alarm.model_dump(),
        fingerprint,
    ]
