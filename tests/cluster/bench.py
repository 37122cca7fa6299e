"""Cameras, shards and links without Ray, shared by the tests of the cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector.cluster.camera_host import PeerGone
from stream_detector.cluster.messages import CameraEnded, ScoredWindow, ShardItem
from stream_detector.cluster.shard import Shard
from stream_detector.config import AlarmConfig, Config, PublishConfig, SmoothingConfig
from stream_detector.runtime.decider import CameraPlan
from stream_detector.runtime.stages import DecisionModel
from stream_detector.types import EngineOutput, Float32Array, Timing, UInt8Array, WindowRef

EPOCH = "ab" * 8
MODEL = DecisionModel("f00d")
ALARM = AlarmConfig(threshold=0.5, off_ratio=0.8, min_length_s=0.5, cooldown_s=0.5, update_interval_s=1.0)


def plan(name: str, live: bool = False, stride: int = 16) -> CameraPlan:
    smooth = SmoothingConfig(kind="ema", time_constant_s=0.5)
    return CameraPlan(name, f"{name}.mp4", live, stride, smooth, ALARM, 0.5, evidence=False)


def config(folder: Path, **more: Any) -> Config:
    return Config(publish=PublishConfig(ledger=folder / "ledger.sqlite3", heartbeat_s=0.1), **more)


def scored(camera: str, index: int, raw: float) -> ScoredWindow:
    start_s = index * 0.64
    ref = WindowRef(camera, f"{camera}.mp4", index, index * 16, index * 16 + 15, start_s, start_s + 0.6, 1.0, 2.0, 1.0)
    return ScoredWindow(ref, raw, Timing(0.1, 1.0, 0.0, 5.0))


def raws(count: int, seed: int = 1) -> list[float]:
    """Scores that raise and end alarms: blocks of high and low ones, with noise."""
    dice = np.random.default_rng(seed)
    level = np.repeat(dice.integers(0, 2, count // 6 + 1), 6)[:count]
    return [float(x) for x in np.clip(level * 0.8 + dice.uniform(0, 0.2, count), 0, 1)]


def items(camera: str, generation: int, values: Sequence[float], first: int = 0, n: int = 0) -> list[ShardItem]:
    return [ShardItem(camera, generation, n + i, scored(camera, first + i, raw)) for i, raw in enumerate(values)]


def ended(camera: str, generation: int, n: int) -> ShardItem:
    return ShardItem(camera, generation, n, CameraEnded(camera, ""))


def make_shard(
    folder: Path,
    names: Sequence[str] = ("gate", "yard"),
    epoch: str = EPOCH,
    model: DecisionModel = MODEL,
    **more: Any,
) -> Shard:
    return Shard(0, config(folder, **more), [plan(name) for name in names], model, epoch)


@dataclass
class FakeLink:
    """Scores by a function of the first pixel; engines and shards can be told to be gone."""

    score_of: Callable[[UInt8Array], float] = lambda frames: float(frames[0, 0, 0, 0]) / 255
    features_of: Callable[[UInt8Array], Float32Array] = lambda batch: np.zeros((len(batch), 2), np.float32)
    grids_of: Callable[[UInt8Array], Float32Array] | None = None
    delivered: list[ShardItem] = field(default_factory=list)
    good_batch: int = 4
    good_wait_s: float = 0.001
    engine_deaths: int = 0
    shard_deaths: int = 0
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def submit(self, frames: UInt8Array) -> Any:
        return frames.copy()

    def result(self, ticket: Any) -> EngineOutput:
        if self.engine_deaths:
            self.engine_deaths -= 1
            raise PeerGone
        scores = np.array([self.score_of(frames) for frames in ticket], np.float32)
        grids = self.grids_of(ticket) if self.grids_of else None
        return EngineOutput(self.features_of(ticket), scores, 0.0, 0.001, grids)

    def deliver(self, shard: int, items: list[ShardItem]) -> None:
        if self.shard_deaths:
            self.shard_deaths -= 1
            raise PeerGone
        with self.arrived:
            self.delivered += items
            self.arrived.notify_all()

    def wait_for(self, enough: Callable[[list[ShardItem]], bool], timeout_s: float = 10.0) -> list[ShardItem]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: enough(self.delivered), timeout_s), len(self.delivered)
            return list(self.delivered)
