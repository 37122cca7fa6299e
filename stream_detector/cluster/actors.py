"""The hosts as Ray actors: thin wrappers, so that everything worth testing can be tested without Ray.

An engine on a GPU is an actor. An engine on a node's CPUs lives in the process of its cameras, because transfer between
processes caused a fifth of the windows' p95 latency (`python -m benchmarks cluster overhead`); other hosts may use it
too.

Camera hosts and engines are threaded actors (a blocked call holds a thread). Shards are asynchronous actors: calls
begin in the order of their sender, and the shard's own thread does all the work. No actor restarts itself, because only
the supervisor knows the state that a successor needs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from stream_detector.cluster.camera_host import CameraHost, PeerGone
from stream_detector.cluster.engine_host import EngineHost
from stream_detector.cluster.messages import ResumePoint, ShardItem
from stream_detector.cluster.shard import Shard
from stream_detector.config import CameraConfig, Config
from stream_detector.errors import EngineError
from stream_detector.models.preprocess import Recipe
from stream_detector.runtime.decider import CameraPlan
from stream_detector.runtime.stages import DecisionModel
from stream_detector.system.logging_setup import set_up_logging
from stream_detector.types import CameraStatus, Decision, EndReason, EngineOutput, UInt8Array

ENGINE_S = 30.0  # seconds; an engine that does not answer in this time is skipped
DELIVER_S = 5.0
ASK_AGAIN_S = 0.25
ENGINE_CALLS = 64
HOST_CALLS = 8
OWN = "own"  # the engine of this process
REMOTE = 2  # batches; another node's engine is used if the own one has so many more waiting


class RayLink:
    """`camera_host.Link` over actor handles. Another thread may replace engines and shards at any time.

    own: the engine of this process, if it has one.
    """

    def __init__(self, own: EngineHost | None = None) -> None:
        self._own = own
        self.engines: dict[str, tuple[Any, bool]] = {}
        self.shards: dict[int, Any] = {}
        self.good_batch, self.good_wait_s = 8, 0.01  # until an engine has reported its own
        self._waiting: dict[str, int] = {}

    def submit(self, frames: UInt8Array) -> Any:
        """See `Link.submit`; the object store holds the windows until the engine has read them."""
        engines = dict(self.engines)
        if self._own:
            engines[OWN] = self._own, True
        if not engines:
            raise PeerGone("no engine")
        key = min(engines, key=lambda k: (self._waiting.get(k, 0) + (0 if engines[k][1] else REMOTE), k))
        self._waiting[key] = self._waiting.get(key, 0) + 1
        handle = engines[key][0]
        return key, handle, handle.submit(frames) if key == OWN else handle.infer.remote(frames)

    def result(self, ticket: Any) -> EngineOutput:
        """See `Link.result`."""
        import ray

        key, handle, ref = ticket
        try:
            if key == OWN:
                own: EngineOutput = ref.result()
                return own
            _await(ref, ENGINE_S, lambda: self.engines.get(key, (None,))[0] is handle)
            answer: EngineOutput = ray.get(ref)
            return answer
        except _peer_gone_errors() as error:
            if self.engines.get(key, (None,))[0] is handle:
                del self.engines[key]  # excluded until the supervisor names it again
            raise PeerGone(str(error)) from None
        finally:
            self._waiting[key] -= 1

    def deliver(self, shard: int, items: list[ShardItem]) -> None:
        """See `Link.deliver`."""
        import ray

        handle = self.shards.get(shard)
        if handle is None:
            raise PeerGone("no shard")
        try:
            ref = handle.submit.remote(items)
            _await(ref, DELIVER_S, lambda: self.shards.get(shard) is handle)
            ray.get(ref)
        except _peer_gone_errors() as error:
            raise PeerGone(str(error)) from None


def _await(ref: Any, limit_s: float, there: Callable[[], bool]) -> None:
    """Wait for an answer as long as its sender is `there`. Raises PeerGone.

    The supervisor learns of a death some ten seconds before Ray gives up a call.
    """
    import ray

    until_s = time.monotonic() + limit_s
    while not ray.wait([ref], timeout=ASK_AGAIN_S)[0]:
        if not there() or time.monotonic() > until_s:
            raise PeerGone("no answer")


def _peer_gone_errors() -> tuple[type[Exception], ...]:
    from ray import exceptions

    return (
        PeerGone,
        exceptions.RayActorError,
        exceptions.ActorUnavailableError,
        exceptions.ObjectLostError,
        exceptions.WorkerCrashedError,
        exceptions.GetTimeoutError,
        exceptions.NodeDiedError,
        exceptions.OwnerDiedError,
    )


def _load(config: Config, max_wait_s: float = 0.0) -> EngineHost:
    """Load the engine of a host."""
    from stream_detector.engines import load_engine
    from stream_detector.models.bundle import Bundle

    return EngineHost(load_engine(Bundle.load(config.bundle), config.engine), max_wait_s)


class CameraActor:
    """A CameraHost on a node; with `engine` it also runs the node's engine, which other hosts may use."""

    def __init__(self, config: Config, recipe: Recipe, features: bool, shards: int, engine: bool) -> None:
        set_up_logging("text", level=logging.WARNING)
        self._engine = _load(config) if engine else None
        self._link = RayLink(self._engine)
        self._drops = _counter("stream_detector_dropped_windows", "Windows dropped by cause", "cause")
        self._host = CameraHost(
            config,
            recipe,
            self._link,
            shards,
            features=features,
            on_drop=lambda _camera, cause: self._drops(cause),
        )
        self._link_lock, self._assign_lock = (
            threading.Lock(),
            threading.Lock(),
        )  # placing may wait; `set_links` ends such waits
        self._link_version = -1

    def set_links(
        self, number: int, engines: dict[str, tuple[Any, bool]], shards: dict[int, Any], good: tuple[int, float]
    ) -> None:
        """Set the engines by name (handle, whether it is on this node), the shards by number, and the engines'
        preferred batch.

        number: sequence number; only the newest call counts.
        """
        with self._link_lock:
            if number > self._link_version:
                self._link.good_batch, self._link.good_wait_s = good
                self._link_version, self._link.engines, self._link.shards = number, engines, shards

    def assign(self, cameras: Sequence[tuple[CameraConfig, CameraPlan, ResumePoint]]) -> None:
        """Run these cameras from their resume points."""
        with self._assign_lock:
            for camera in cameras:
                self._host.assign(*camera)

    def release(self, cameras: Sequence[str]) -> None:
        """Release these cameras: they run elsewhere."""
        for name in cameras:
            self._host.release(name)

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """See `EngineHost.infer`: hosts of other nodes call it when their own engines are busy."""
        if self._engine is None:
            raise EngineError("this node's engines are actors of their own; ask them")
        return self._engine.infer(frames)

    def heartbeat(self) -> dict[str, Any]:
        """See `CameraHost.heartbeat`; includes the engine's part of `EngineActor.heartbeat`."""
        return {**self._host.heartbeat(), **(self._engine.about if self._engine else {})}

    def close(self) -> None:
        """Stop every camera and deliver what is scored."""
        self._host.close()


class EngineActor:
    """An engine on a node's GPU."""

    def __init__(self, config: Config, max_wait_s: float) -> None:
        set_up_logging("text", level=logging.WARNING)
        self._host = _load(config, max_wait_s)

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """See `EngineHost.infer`. frames: if they come from this node, a view of the object store, not a copy."""
        return self._host.infer(frames)

    def heartbeat(self) -> dict[str, Any]:
        """Return a sign of life, the engine's name, and its preferred batch: (windows, seconds to wait for them)."""
        return self._host.about


class ShardActor:
    """A shard, on the driver's machine."""

    def __init__(
        self, number: int, config: Config, plans: Sequence[CameraPlan], model: DecisionModel, epoch: str
    ) -> None:
        set_up_logging("text", level=logging.WARNING)
        scored = _counter("stream_detector_scored_windows", "Windows scored and decided", "shard")
        alarmed = _counter("stream_detector_alarmed_windows", "Windows during an alarm", "shard")

        def count(decision: Decision) -> None:
            scored(str(number))
            if decision.alarmed:
                alarmed(str(number))

        self._shard = Shard(number, config, plans, model, epoch, on_decision=count)

    async def endpoint(self) -> str:
        """Return the endpoint that the forwarder reads."""
        return self._shard.endpoint

    async def submit(self, items: Sequence[ShardItem]) -> None:
        """See `Shard.submit`; returns when it is done."""
        await asyncio.wrap_future(self._shard.submit(items))

    async def adopt(self, cameras: Sequence[str]) -> list[ResumePoint]:
        """See `Shard.adopt`, for several cameras."""
        return [await asyncio.wrap_future(self._shard.adopt(name)) for name in cameras]

    async def publish_status(self, status: CameraStatus) -> None:
        """See `Shard.publish_status`."""
        await asyncio.wrap_future(self._shard.publish_status(status))

    async def heartbeat(self) -> dict[str, Any]:
        """See `Shard.report`. Raises the error that ended the shard's thread."""
        if self._shard.error is not None:
            raise self._shard.error
        return await asyncio.wrap_future(self._shard.report())

    async def finish(self, reason: EndReason) -> dict[str, Any]:
        """End open alarms and close; return the last report."""
        report: dict[str, Any] = await asyncio.wrap_future(self._shard.report())
        await asyncio.wrap_future(self._shard.finish(reason))
        return report


def _counter(name: str, text: str, tag: str) -> Any:
    """Return a function that increments a counter on Ray's dashboard and Prometheus endpoint, by the tag's value."""
    from ray.util.metrics import Counter

    counter = Counter(name, description=text, tag_keys=(tag,))
    return lambda value: counter.inc(1, tags={tag: value})
