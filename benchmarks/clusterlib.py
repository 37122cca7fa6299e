"""Parts of the `cluster` benchmark: footage, the run on a single machine, logical nodes, and the comparison."""

from __future__ import annotations

import contextlib
import csv
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

from benchmarks.footage import pictures
from stream_detector.config import CameraConfig, Config, build_config
from stream_detector.models.bundle import Bundle
from stream_detector.runtime.build import build_run
from stream_detector.runtime.stages import plan_camera
from stream_detector.system.actor_pool import import_ray

VOLATILE = ("epoch", "seq", "timing", "start_utc", "emitted_utc")
FPS = 25


def choose_clips(folder: Path, count: int) -> list[Path]:
    """`count` clips of `index.csv`, evenly over its sets and labels."""
    groups: dict[tuple[str, str], list[Path]] = {}
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if int(row["frames"]) >= 32:
                groups.setdefault((row["set"], row["label"]), []).append(folder / row["path"])
    rounds = -(-count // len(groups))
    picked = [
        clips[turn * len(clips) // rounds] for turn in range(rounds) for clips in groups.values() if turn < len(clips)
    ]
    spare = [clip for clips in groups.values() for clip in clips]  # for sets that have too few
    return sorted(list(dict.fromkeys([*picked, *spare]))[:count])


def make_film(clips: list[Path], path: Path, seconds: float) -> Path:
    """The clips one after another, 320×240 at 25 a second, as MPEG-4."""
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (320, 240))
    source = pictures(clips, (320, 240))
    for _ in range(round(seconds * FPS)):
        out.write(next(source))
    out.release()
    return path


def config_for(folder: Path, sources: Sequence[tuple[str, Path]], **more: Any) -> Config:
    """A configuration whose files all lie in `folder`."""
    values: dict[str, Any] = {
        "cameras": [CameraConfig(name=name, source=str(path)) for name, path in sources],
        "pace": "max",
        "scores": folder / "scores.csv",
        "events": folder / "events.jsonl",
        "evidence": {"enabled": False},
        "publish": {"bind": "none", "ledger": folder / "ledger.sqlite3", "heartbeat_s": 0.25},
        "telemetry": {"dashboard": False},
        **more,
    }
    return build_config(values)


def single(config: Config) -> float:
    """Run it on this machine, as `run` does; returns the seconds that the pipeline took."""
    with build_run(config) as run:
        begun_s = time.monotonic()
        result = run.pipeline.run()
        if result.error is not None:
            raise result.error
        return time.monotonic() - begun_s


class Nodes:
    """Logical nodes on this machine (`ray.cluster_utils.Cluster`), the first with the driver; used by `nodes()`."""

    def __init__(self, count: int, cpus: int) -> None:
        import_ray("this benchmark")
        import ray
        from ray.cluster_utils import Cluster

        self.ray, self._cpus = ray, cpus
        store = 256 << 20
        self._settings = {"num_cpus": cpus, "object_store_memory": store}
        self.cluster = Cluster(initialize_head=True, head_node_args={**self._settings, "include_dashboard": False})
        self.others = [self.cluster.add_node(**self._settings) for _ in range(count - 1)]
        ray.init(address=self.cluster.address, logging_level="error", log_to_driver=False)

    def kill(self, number: int) -> str:
        """End one of the others without warning; returns its id."""
        node = self.others.pop(number)
        name = str(node.node_id)
        self.cluster.remove_node(node, allow_graceful=False)
        return name

    def add(self) -> None:
        """A new one instead."""
        self.others.append(self.cluster.add_node(wait=False, **self._settings))

    def close(self) -> None:
        """End all of them."""
        self.ray.shutdown()
        self.cluster.shutdown()


@contextlib.contextmanager
def nodes(count: int, cpus: int = 1) -> Iterator[Nodes]:
    """`count` nodes of `cpus` CPUs."""
    made = Nodes(count, cpus)
    try:
        yield made
    finally:
        made.close()


class Run:
    """A supervisor in a thread of its own."""

    def __init__(self, ray: Any, config: Config, shards: int = 1) -> None:
        from stream_detector.cluster.supervisor import Supervisor

        bundle = Bundle.load(config.bundle)
        plans = tuple(plan_camera(camera, config, bundle) for camera in config.cameras)
        self.ready = threading.Event()
        self.endpoint = ""
        self.result: Any = None
        self.supervisor = Supervisor(ray, config, plans, bundle, shards, {}, self._begun)
        self._thread = threading.Thread(target=self._work, name="supervisor")
        self._thread.start()

    def _begun(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.ready.set()

    def _work(self) -> None:
        self.result = self.supervisor.run()
        self.ready.set()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def join(self, timeout_s: float) -> Any:
        """The ClusterResult. Raises its error, or TimeoutError."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.supervisor.stop()
            self._thread.join(20.0)
            raise TimeoutError("the cluster did not come to its end")
        if self.result.error is not None:
            raise self.result.error
        return self.result


def scores_of(path: Path) -> dict[tuple[str, int], float]:
    """(camera, window) → raw score; a row that comes twice is an error."""
    found: dict[tuple[str, int], float] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["camera"], int(row["window"]))
            if key in found:
                raise AssertionError(f"window {key} has two rows")
            found[key] = float(row["raw"])
    return found


def events_of(path: Path, ignore: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """camera → its events in order, without what differs between any two runs."""
    found: dict[str, list[dict[str, Any]]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            body = json.loads(line)
            kept = {key: value for key, value in body.items() if key not in (*VOLATILE, *ignore)}
            found.setdefault(body["camera"], []).append(kept)
    return found


def rough(events: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """With scores to 1e-4, as acceptance has it: the last digits depend on who shared a batch."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 4)
        if isinstance(value, list):
            return [rounded(part) for part in value]
        return {key: rounded(part) for key, part in value.items()} if isinstance(value, dict) else value

    return {camera: [rounded(body) for body in bodies] for camera, bodies in events.items()}


def compare(expected: Path, got: Path, ignore: Sequence[str] = ()) -> dict[str, Any]:
    """Two folders of results. Scores: the largest difference; events: cameras whose stories differ."""
    one, two = scores_of(expected / "scores.csv"), scores_of(got / "scores.csv")
    first, second = (rough(events_of(folder / "events.jsonl", ignore)) for folder in (expected, got))
    differing = sorted(name for name in set(first) | set(second) if not alike(first.get(name), second.get(name)))
    return {
        "windows": len(two),
        "windows_missing_or_extra": len(set(one) ^ set(two)),
        "largest_score_difference": max((abs(one[key] - two[key]) for key in set(one) & set(two)), default=0.0),
        "events": sum(len(bodies) for bodies in second.values()),
        "cameras_whose_events_differ": differing,
    }


def alike(one: Any, two: Any, within: float = 2e-4) -> bool:
    """Equal, numbers to `within`."""
    if isinstance(one, float) and isinstance(two, float):
        return abs(one - two) <= within
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(alike(a, b, within) for a, b in zip(one, two, strict=True))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(alike(one[key], two[key], within) for key in one)
    return bool(one == two)
