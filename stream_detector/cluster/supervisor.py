"""The driver: starts actors on the nodes, watches them, and moves cameras away from dead ones.

    every HEARTBEAT_S  each actor is asked for a heartbeat; Ray reports an actor that died; an actor that is silent
                       for HANG_S hangs and is killed
    every NODES_S      nodes that joined get an engine, a camera host and their share of the cameras

A camera that moves is first adopted (`Shard.adopt` begins a new generation, so items of its former host are refused
even if that host still runs behind a broken network) and then assigned. The supervisor neither holds windows nor
decides.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stream_detector.cluster.actors import ENGINE_CALLS, HOST_CALLS, CameraActor, EngineActor, ShardActor
from stream_detector.cluster.forwarder import Forwarder
from stream_detector.cluster.messages import shard_of
from stream_detector.cluster.placement import Node, place
from stream_detector.cluster.ray_nodes import living_nodes
from stream_detector.config import Config
from stream_detector.errors import RunError, StageError, StreamDetectorError
from stream_detector.models.bundle import Bundle
from stream_detector.runtime.decider import CameraPlan
from stream_detector.runtime.stages import DecisionModel
from stream_detector.types import CameraStatus, EndReason

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.5
NODES_S = 0.5
LINK_S = 5.0  # seconds; links are sent again in case a host dropped a silent engine
HANG_S = 5.0
START_S = 120.0  # seconds; time until the first heartbeat: the actor imports libraries and loads a model
ASK_S = 10.0
MAX_DEATHS = 20  # deaths of actors of one kind within DEATHS_S; more have a cause other than a machine
DEATHS_S = 60.0


@dataclass(slots=True, eq=False)
class _Actor:
    """kind: "shard", "engine" or "host".  report: its last report, None until the first."""

    kind: str
    key: str
    node: str
    handle: Any
    born_s: float
    ping: Any = None
    asked_s: float = 0.0
    report: dict[str, Any] | None = None

    @property
    def good(self) -> tuple[int, float] | None:
        """The preferred batch, if the actor is or has an engine that is ready."""
        return self.report.get("good") if self.report else None


@dataclass(frozen=True, slots=True)
class ClusterResult:
    """The result of a run. failed: sentence by camera.  deaths: (kind, seconds since the start) of actors that died."""

    windows: int
    alarms: int
    stopped: bool
    failed: dict[str, str]
    deaths: tuple[tuple[str, float], ...]
    error: BaseException | None = None

    @property
    def exit_code(self) -> int:
        """0 done, 1 ran and failed, 2 bad input."""
        if self.error is not None:
            return self.error.exit_code if isinstance(self.error, StreamDetectorError) else 1
        return 2 if self.failed else 0


@dataclass(eq=False)
class Supervisor:
    """Runs a cluster. ray: connected.  shards: number of shards.  near: camera → tag of the nodes that may run it.
    on_ready(endpoint): called once.
    """

    ray: Any
    config: Config
    plans: tuple[CameraPlan, ...]
    bundle: Bundle
    shards: int = 1
    near: Mapping[str, str] = field(default_factory=dict)
    on_ready: Callable[[str], None] | None = None
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _actors: dict[str, _Actor] = field(default_factory=dict, init=False)
    _nodes: dict[str, Node] = field(default_factory=dict, init=False)
    _node_of: dict[str, str] = field(default_factory=dict, init=False)  # camera → node
    _done: set[str] = field(default_factory=set, init=False)
    _failed: dict[str, str] = field(default_factory=dict, init=False)
    _unplaced: set[str] = field(default_factory=set, init=False)
    _assignments: list[tuple[Any, _Actor, tuple[str, ...]]] = field(default_factory=list, init=False)
    _deaths: list[tuple[str, float]] = field(default_factory=list, init=False)
    _link_version: int = field(default=0, init=False)
    _linked_s: float = field(default=float("-inf"), init=False)
    _looked_s: float = field(default=float("-inf"), init=False)
    _began_s: float = field(default=0.0, init=False)
    _ready: bool = field(default=False, init=False)

    def stop(self) -> None:
        """End the run in order. Any thread and any signal handler may call it."""
        self._stop.set()

    def run(self) -> ClusterResult:
        """Run until every source has ended, `stop` is called, or something fails for good. Blocks; call it once."""
        self._began_s = time.monotonic()
        self._cameras = {camera.name: camera for camera in self.config.cameras}
        self._plans = {plan.name: plan for plan in self.plans}
        self._model = DecisionModel.of(self.bundle)
        self._epoch = secrets.token_hex(8)
        self._home = self.ray.get_runtime_context().get_node_id()
        forwarder = self._forwarder = Forwarder(self.config.publish, self.shards, self._epoch)
        error: BaseException | None = None
        try:
            for number in range(self.shards):
                self._start_shard(number)
            while not self._stop.is_set() and len(self._done) < len(self._cameras):
                self._tick()
        except Exception as failure:
            error = failure if isinstance(failure, StreamDetectorError) else _wrapped(failure)
        try:
            windows, alarms = self._finish("shutdown")
        finally:
            forwarder.close()
        return ClusterResult(
            windows, alarms, self._stop.is_set() and error is None, dict(self._failed), tuple(self._deaths), error
        )

    def where(self) -> dict[str, str]:
        """Return camera → node id, now."""
        return dict(self._node_of)

    # -- one round ------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s >= NODES_S:
            self._looked_s = now_s
            self._look_at_nodes()
        if now_s - self._linked_s >= LINK_S:
            self._update_links()
        for actor in self._actors.values():
            if actor.ping is None and now_s - actor.asked_s >= HEARTBEAT_S:
                actor.ping, actor.asked_s = actor.handle.heartbeat.remote(), now_s
        pings = {actor.ping: actor for actor in self._actors.values() if actor.ping is not None}
        answered: list[Any] = []
        if pings:
            answered, _ = self.ray.wait(list(pings), num_returns=1, timeout=0.1)
            answered, _ = self.ray.wait(list(pings), num_returns=len(pings), timeout=0)
        else:
            time.sleep(0.05)
        for ping in answered:
            self._read_heartbeat(pings[ping], ping)
        for actor in list(self._actors.values()):
            limit_s = HANG_S if actor.report is not None else START_S
            if actor.ping is not None and time.monotonic() - actor.asked_s > limit_s:
                self._actor_died(actor, f"sent no heartbeat for {limit_s:g} s")
        self._check_assignments()
        self._place_cameras()

    def _read_heartbeat(self, actor: _Actor, ping: Any) -> None:
        first = actor.report is None
        try:
            report = self.ray.get(ping, timeout=ASK_S)
            if first and actor.kind == "shard":
                at = self.ray.get(actor.handle.endpoint.remote(), timeout=ASK_S)
                self._forwarder.connect(int(actor.key[6:]), at)
            actor.report, actor.ping = report, None
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if actor.kind == "shard":
                self._actor_died(actor, str(cause))
                return
            raise cause from None
        except self.ray.exceptions.RayError as error:
            if first and "__init__" in str(error):
                raise RunError(f"a {actor.kind} could not start: {_cause(error)}") from None
            self._actor_died(actor, str(error).splitlines()[0])
            return
        if first:
            self._update_links()
        if actor.kind == "shard" and actor.report is not None:
            self._done |= set(actor.report["done"])
            self._failed |= actor.report["failed"]

    def _look_at_nodes(self) -> None:
        nodes = {node.id: node for node in living_nodes(self.ray)}
        for actor in list(self._actors.values()):
            if actor.node not in nodes:
                self._actor_died(actor, "its node is gone")
        self._nodes = nodes
        for node in nodes.values():
            self._start_missing_actors(node)

    def _place_cameras(self) -> None:
        """Assign the cameras, once there is a host to run them and an engine to score them."""
        report = [actor for actor in self._actors.values() if actor.report is not None]
        ready = {actor.key for actor in report}
        shards = {number for number in range(self.shards) if f"shard-{number}" in ready}
        if len(shards) < self.shards or not any(actor.good for actor in report):
            return
        if not self._ready:
            self._ready = True
            if self.on_ready:
                self.on_ready(self._forwarder.endpoint)
        nodes = [node for node in self._nodes.values() if f"host-{node.id}" in ready]
        wanted = [name for name in self._cameras if name not in self._done]
        target = place(wanted, nodes, self._node_of, self.near)
        moves: dict[str, list[str]] = {}
        for name in wanted:
            to = target.get(name)
            if to is None:
                self._report_unplaced(name)
            elif self._node_of.get(name) != to:
                moves.setdefault(to, []).append(name)
        for node, names in moves.items():
            self._move(names, node)

    def _move(self, names: list[str], node: str) -> None:
        host = self._actors[f"host-{node}"]
        try:
            by_shard: dict[int, list[str]] = {}
            for name in names:
                by_shard.setdefault(shard_of(name, self.shards), []).append(name)
            asked = [self._actors[f"shard-{number}"].handle.adopt.remote(part) for number, part in by_shard.items()]
            resumes = [resume for part in self.ray.get(asked, timeout=ASK_S) for resume in part]
        except self.ray.exceptions.RayError:
            return  # the shard has died: its heartbeat reports that, and the next round tries again
        for resume in resumes:
            before = self._actors.get(f"host-{self._node_of.get(resume.camera)}")
            if before is not None and before is not host:
                before.handle.release.remote([resume.camera])
            self._node_of[resume.camera] = node
            self._unplaced.discard(resume.camera)
            self._done |= {resume.camera} if resume.done else set()
        going = [(self._cameras[r.camera], self._plans[r.camera], r) for r in resumes if not r.done]
        if going:
            names_now = [resume.camera for _, _, resume in going]
            log.info("cameras %s go to node %s after %.1f s", names_now, node[:8], time.monotonic() - self._began_s)
            self._assignments.append((host.handle.assign.remote(going), host, tuple(r.camera for _, _, r in going)))

    def _check_assignments(self) -> None:
        """Check the reports of hosts on assigned cameras; a camera that failed is placed again."""
        waiting = []
        for ref, host, names in self._assignments:
            if self._actors.get(host.key) is not host:
                continue  # the host has died, and its cameras are elsewhere
            done, _ = self.ray.wait([ref], timeout=0)
            if not done:
                waiting.append((ref, host, names))
                continue
            try:
                self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                log.warning("cameras %s could not be placed (%s); they are placed again", names, _cause(error))
                for name in names:
                    self._node_of.pop(name, None)
        self._assignments = waiting

    def _report_unplaced(self, name: str) -> None:
        if name in self._unplaced:
            return
        self._unplaced.add(name)
        self._node_of.pop(name, None)
        plan = self._plans[name]
        detail = "no node of the cluster may run this camera at present"
        status = CameraStatus(name, plan.source, "offline", detail)
        self._actors[f"shard-{shard_of(name, self.shards)}"].handle.publish_status.remote(status)

    # -- birth and death ------------------------------------------------------------------------------------------

    def _options(self, node: str, **more: Any) -> dict[str, Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False), "max_restarts": 0, **more}

    def _register(self, kind: str, key: str, node: str, handle: Any) -> None:
        self._actors[key] = _Actor(kind, key, node, handle, time.monotonic())

    def _start_shard(self, number: int) -> None:
        plans = [plan for plan in self.plans if shard_of(plan.name, self.shards) == number]
        actor = self.ray.remote(ShardActor).options(**self._options(self._home, num_cpus=0))
        handle = actor.remote(number, self.config, plans, self._model, self._epoch)
        self._register("shard", f"shard-{number}", self._home, handle)

    def _start_missing_actors(self, node: Node) -> None:
        """Start a camera host, and an engine for every GPU; without a GPU the host has its own engine. Existing actors
        stay.
        """
        for gpu in range(int(node.gpus)):
            if f"engine-{node.id}-{gpu}" not in self._actors:
                self._start_engine(node, gpu)
        if f"host-{node.id}" not in self._actors:
            self._start_host(node)

    def _start_host(self, node: Node) -> None:
        config, share = self.config, {"num_cpus": 0, "max_concurrency": HOST_CALLS}
        engine = int(node.gpus) == 0
        if engine:
            share = {"num_cpus": min(1, int(node.cpus)), "max_concurrency": HOST_CALLS + ENGINE_CALLS}
            threads = config.engine.threads or max(1, int(node.cpus))
            config = config.model_copy(update={"engine": config.engine.model_copy(update={"threads": threads})})
        actor = self.ray.remote(CameraActor).options(**self._options(node.id, **share))
        features = self._model.needs_features(config)
        handle = actor.remote(config, self.bundle.recipe, features, self.shards, engine)
        self._register("host", f"host-{node.id}", node.id, handle)

    def _start_engine(self, node: Node, gpu: int) -> None:
        wait_s = (self.config.batch.max_wait_ms or 5.0) / 1e3 if len(self._nodes) > 1 else 0.0
        share = {"num_gpus": 1, "num_cpus": 0, "max_concurrency": ENGINE_CALLS}
        actor = self.ray.remote(EngineActor).options(**self._options(node.id, **share))
        self._register("engine", f"engine-{node.id}-{gpu}", node.id, actor.remote(self.config, wait_s))

    def _actor_died(self, actor: _Actor, why: str) -> None:
        now_s = time.monotonic() - self._began_s
        log.warning("%s on node %s, after %.1f s: %s", actor.kind, actor.node[:8], now_s, why)
        self._deaths.append((actor.kind, round(now_s, 3)))
        del self._actors[actor.key]
        threading.Thread(target=self._kill, args=(actor.handle,), name="kill", daemon=True).start()
        recent = [at_s for kind, at_s in self._deaths if kind == actor.kind and now_s - at_s < DEATHS_S]
        if len(recent) > MAX_DEATHS:
            raise StageError(f"{actor.kind}s died {len(recent)} times in {DEATHS_S:g} s, the last because: {why}")
        if actor.kind == "host":
            for name in [name for name, node in self._node_of.items() if node == actor.node]:
                del self._node_of[name]
        elif actor.kind == "shard":
            self._start_shard(int(actor.key[6:]))
        self._update_links()
        self._looked_s = float("-inf")  # start missing actors immediately

    def _kill(self, handle: Any) -> None:
        """Kill an actor, in a separate thread: Ray may block this call until it knows that the node is gone."""
        with contextlib.suppress(Exception):  # usually dead already
            self.ray.kill(handle, no_restart=True)

    def _update_links(self) -> None:
        """Send every host the present engines and shards."""
        self._link_version += 1
        self._linked_s = time.monotonic()
        ready = [actor for actor in self._actors.values() if actor.report is not None]
        scoring = [actor for actor in ready if actor.good]
        good = max((actor.good for actor in scoring if actor.good), default=(8, 0.01))
        shards = {int(actor.key[6:]): actor.handle for actor in ready if actor.kind == "shard"}
        for host in ready:
            if host.kind == "host":
                engines = {a.key: (a.handle, a.node == host.node) for a in scoring if a is not host}
                host.handle.set_links.remote(self._link_version, engines, shards, good)

    def _finish(self, reason: EndReason) -> tuple[int, int]:
        """Close the hosts, then the shards; return the windows and alarms of the run."""
        windows = alarms = 0
        hosts = [a.handle.close.remote() for a in self._actors.values() if a.kind == "host" and a.report is not None]
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.wait(hosts, num_returns=len(hosts), timeout=2.0) if hosts else None
        for actor in [a for a in self._actors.values() if a.kind == "shard"]:
            try:
                report = self.ray.get(actor.handle.finish.remote(reason), timeout=ASK_S)
                windows, alarms = windows + report["windows"], alarms + report["alarms"]
                self._failed |= report["failed"]
            except self.ray.exceptions.RayError as error:
                log.error("a shard did not finish (%s); its open alarms end at the next start", _cause(error))
        for actor in self._actors.values():
            with contextlib.suppress(Exception):
                self.ray.kill(actor.handle, no_restart=True)
        return windows, alarms


def _cause(error: BaseException) -> str:
    """Return the last line of Ray's report: the exception itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _wrapped(error: Exception) -> StageError:
    wrapped = StageError(f"the cluster failed: {type(error).__name__}: {_cause(error)}")
    wrapped.__cause__ = error
    return wrapped
