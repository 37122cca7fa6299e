"""The cameras of one node (a `capture.host.CaptureHost`), and the way of their windows to engines and shards.

    CaptureHost ─▶ WindowBuffer ─▶ send ─▶ engine … ─▶ collect ─▶ outbox of a shard ─▶ deliver
    a thread a     bounded         thread              thread     stop and wait        a thread a shard
    camera

Everything is bounded: the buffer holds a few windows per camera (a file waits, a live camera drops its oldest window),
and at most `in_flight` windows are with engines or on their way to a shard. A window is deleted when its shard has
acknowledged it, so the death of an engine or a shard loses no window.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from stream_detector.capture.host import CameraTask, CaptureHost
from stream_detector.capture.picture import make_views
from stream_detector.capture.readers import Reader, make_reader
from stream_detector.cluster.messages import CameraEnded, ResumePoint, ScoredWindow, ShardItem, shard_of
from stream_detector.config import CameraConfig, CaptureConfig, Config
from stream_detector.errors import StageError
from stream_detector.models.recipe import Recipe
from stream_detector.runtime.decider import CameraPlan
from stream_detector.runtime.stages import engine_timing
from stream_detector.runtime.window_buffer import WindowBuffer
from stream_detector.types import (
    Batch,
    CameraStatus,
    Clock,
    EngineOutput,
    Preview,
    SystemClock,
    UInt8Array,
    Window,
)

DRAIN_S = 5.0  # seconds; a returning camera waits at most this long for its former windows to leave the buffer
RETRY_S = 0.2


class PeerGone(Exception):
    """The requested engine or shard has died, or there is none at the moment; ask again."""


class Link(Protocol):
    """The connection of a host to engines and shards. Every method may raise PeerGone; other errors end the run.

    good_batch, good_wait_s: see `types.Engine`; of the present engines.
    """

    good_batch: int
    good_wait_s: float

    def submit(self, frames: UInt8Array) -> Any:
        """Hand a batch to an engine; returns a ticket immediately. frames: uint8 (B, 16, H, W, 3)."""
        ...

    def result(self, ticket: Any) -> EngineOutput:
        """Wait for the result of a batch: raw scores, features and seconds."""
        ...

    def deliver(self, shard: int, items: list[ShardItem]) -> None:
        """Deliver items to a shard and wait until it has stored them."""
        ...


@dataclass(slots=True, eq=False)
class _Camera:
    plan: CameraPlan
    resume: ResumePoint
    n: int = 0
    failure: str = ""
    released: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)  # protects the numbering and the order of the outbox


class CameraHost:
    """Runs the cameras of one node.

    config: of the run.  link: see Link.  shards: number of shards.  in_flight: windows.  on_drop: called with (camera,
    cause).  features: whether scores carry features, see `DecisionModel.needs_features`.  Picture checks run here and
    learn again after a camera has moved; all other state is in the shard.
    """

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        link: Link,
        shards: int,
        *,
        in_flight: int = 64,
        features: bool = False,
        clock: Clock | None = None,
        on_drop: Callable[[str, str], None] | None = None,
        open_reader: Callable[[CameraConfig, CaptureConfig], Reader] = make_reader,
    ) -> None:
        self._config, self._link, self._shards = config, link, shards
        self._clock = clock or SystemClock()
        self._limit, self._features = in_flight, features
        self._stop = threading.Event()
        self._buffer = WindowBuffer(config.batch.buffer_windows, self._clock, on_drop)
        self._cameras: dict[str, _Camera] = {}
        self._drained: dict[str, threading.Event] = {}
        self._changed = threading.Condition()  # guards the next two
        self._in_flight = 0
        self._outboxes: list[deque[ShardItem]] = [deque() for _ in range(shards)]
        self._sent: queue.Queue[tuple[Batch | None, Any, tuple[str, ...]]] = queue.Queue()
        self.error: BaseException | None = None
        self.delivered = 0  # windows
        self.latency_ms: deque[float] = deque(maxlen=1000)  # completed → known, of the newest windows
        self._capture = CaptureHost(
            config,
            partial(make_views, recipe=recipe),
            recipe.fps,
            self,
            clock=self._clock,
            open_reader=open_reader,
        )
        stages: list[Callable[[], None]] = [self._send, self._collect]
        stages += [lambda s=shard: self._deliver(s) for shard in range(shards)]  # type: ignore[misc]
        for number, stage in enumerate(stages):
            threading.Thread(target=self._guard, args=(stage,), name=f"host-{number}", daemon=True).start()

    # -- from outside ---------------------------------------------------------------------------------------------

    def assign(self, camera: CameraConfig, plan: CameraPlan, resume: ResumePoint) -> None:
        """Run a camera from its resume point. Returns when it is started, whether or not the source is open."""
        self.release(plan.name)
        drained = self._drained.get(plan.name)
        if drained is not None and not drained.wait(DRAIN_S):
            raise StageError(f"the windows that camera {plan.name!r} left here were not taken in {DRAIN_S:g} s")
        self._drained[plan.name] = threading.Event()
        self._cameras[plan.name] = _Camera(plan, resume)
        self._buffer.add(plan.name, plan.live)
        self._capture.assign(CameraTask(camera, plan.stride_frames, last=resume.last))

    def release(self, name: str) -> None:
        """Stop a camera immediately: it now runs elsewhere, and its pending items are refused."""
        held = self._cameras.pop(name, None)
        if held is None:
            return
        held.released = True
        self._capture.release(name)
        with contextlib.suppress(KeyError):  # it had ended, and its lane is gone
            self._buffer.end(name)

    def heartbeat(self) -> dict[str, Any]:
        """Return a sign of life with the counters. Raises the error that ended this host."""
        if self.error is not None:
            raise self.error
        counters = {name: report.counters for name, report in self._capture.report().items()}
        latencies = sorted(self.latency_ms)
        return {
            "cameras": sorted(counters),
            "frames": sum(counted.frames for counted in counters.values()),
            "windows": self.delivered,
            "in_flight": self._in_flight,
            "p95_ms": latencies[int(0.95 * (len(latencies) - 1))] if latencies else None,
        }

    def close(self, drain_s: float = 1.0) -> None:
        """Stop every camera; deliver what is scored by then."""
        for name in list(self._cameras):
            self.release(name)
        until_s = self._clock.monotonic() + drain_s
        with self._changed:
            while (self._in_flight or any(self._outboxes)) and (left_s := until_s - self._clock.monotonic()) > 0:
                self._changed.wait(min(left_s, 0.1))
        self._stop.set()
        self._capture.stop()
        self._buffer.abort()
        with self._changed:
            self._changed.notify_all()
        self._sent.put((None, None, ()))

    def fail(self, error: BaseException) -> None:
        """Record the failure of a stage: the next heartbeat raises it."""
        if self.error is None:
            self.error = error

    # -- capture threads (`capture.host.HostOutput`) --------------------------------------------------------------

    def window(self, window: Window) -> None:
        """To the buffer."""
        held = self._cameras.get(window.ref.camera)
        if held is not None and not held.released:
            self._buffer.put(window)

    def status(self, status: CameraStatus) -> None:
        """To the camera's shard, in the order of its windows."""
        held = self._cameras.get(status.camera)
        if held is not None:
            self._post(held, status)

    def preview(self, camera: str, preview: Preview) -> None:
        """Nobody asked for any."""

    def ended(self, camera: str, reason: str) -> None:
        """The end goes behind the last window."""
        held = self._cameras.get(camera)
        if held is None or held.released:
            return
        if reason.startswith(("failed: ", "truncated: ")):
            held.failure = reason.removeprefix("failed: ")
        self._buffer.end(camera)

    def failed(self, error: Exception) -> None:
        """The next heartbeat raises it."""
        self.fail(error)

    # -- the way out ----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        while (taken := self._buffer.take(*self._batching())) is not None:
            count = len(taken.batch.windows) if taken.batch else 0
            with self._changed:
                while self._in_flight and self._in_flight + count > self._limit and not self._stop.is_set():
                    self._changed.wait()
                self._in_flight += count
            ticket = self._ask(taken.batch.frames) if taken.batch else None
            self._sent.put((taken.batch, ticket, taken.ended))

    def _batching(self) -> tuple[int, float]:
        """Return the windows per batch and the waiting time: from the configuration, or the engines' preference."""
        asked = self._config.batch
        wait_s = self._link.good_wait_s if asked.max_wait_ms is None else asked.max_wait_ms / 1e3
        return asked.max_size or self._link.good_batch, wait_s

    def _ask(self, frames: UInt8Array) -> Any:
        while not self._stop.is_set():
            with contextlib.suppress(PeerGone):
                return self._link.submit(frames)
            self._stop.wait(RETRY_S)
        return None

    def _collect(self) -> None:
        while not self._stop.is_set():
            batch, ticket, ended = self._sent.get()
            while batch is not None and not self._stop.is_set():
                try:
                    self._scored(batch, self._link.result(ticket))
                    break
                except PeerGone:
                    ticket = self._ask(batch.frames)
            for name in ended:
                self._drained[name].set()  # from here on, a window with that name belongs to the next generation
                held = self._cameras.get(name)
                if held is not None and not held.released:
                    self._post(held, CameraEnded(name, held.failure))

    def _scored(self, batch: Batch, output: EngineOutput) -> None:
        now_s = self._clock.monotonic()
        posted = 0
        spent_s = output.preprocess_s + output.forward_s
        grids = [None] * len(batch.windows) if output.grids is None else output.grids
        for window, raw, features, grid in zip(batch.windows, output.scores, output.features, grids, strict=True):
            ref = window.ref
            total_s = now_s - ref.completed_s
            self.latency_ms.append(total_s * 1e3)
            held = self._cameras.get(ref.camera)
            if held is not None and not held.released and ref.index >= held.resume.next_index:
                timing = engine_timing(ref, max(0.0, total_s - spent_s) * 1e3, output)
                sent = features.astype("<f4").tobytes() if self._features else b""
                cells = (b"", 0) if grid is None else (grid.astype("<f4").tobytes(), grid.shape[1])
                posted += self._post(held, ScoredWindow(ref, float(raw), timing, sent, *cells))
        self._landed(len(batch.windows) - posted)

    def _landed(self, count: int) -> None:
        with self._changed:
            self._in_flight -= count
            self._changed.notify_all()

    def _post(self, held: _Camera, what: ScoredWindow | CameraEnded | CameraStatus) -> bool:
        with held.lock, self._changed:
            if held.released:
                return False
            item = ShardItem(held.plan.name, held.resume.generation, held.n, what)
            held.n += 1
            self._outboxes[shard_of(held.plan.name, self._shards)].append(item)
            self._changed.notify_all()
            return True

    def _deliver(self, shard: int) -> None:
        outbox = self._outboxes[shard]
        while True:
            with self._changed:
                while not outbox and not self._stop.is_set():
                    self._changed.wait()
                if not outbox:
                    return
                items = list(outbox)
            while True:
                try:
                    self._link.deliver(shard, items)
                    break
                except PeerGone:
                    if self._stop.wait(RETRY_S):
                        return
            count = sum(isinstance(item.what, ScoredWindow) for item in items)
            self.delivered += count
            with self._changed:
                for _ in items:
                    outbox.popleft()
            self._landed(count)

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except Exception as error:
            self.fail(error)
