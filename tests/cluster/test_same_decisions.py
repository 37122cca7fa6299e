"""A cluster decides what one machine decides: heads that carry a state, novelty, picture quality, alarms."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipeline_rig import MemorySink

from stream_detector.capture.picture import make_views
from stream_detector.cluster.camera_host import CameraHost
from stream_detector.cluster.messages import CameraEnded, ScoredWindow, ShardItem
from stream_detector.config import BatchConfig, CameraConfig, PictureQualityConfig
from stream_detector.models.heads import TemporalHead
from stream_detector.models.novelty import NoveltyModel
from stream_detector.models.preprocess import Recipe
from stream_detector.models.streaming_heads import TemporalSpec
from stream_detector.reports.scores_file import ScoresFile
from stream_detector.runtime.pipeline import Pipeline
from stream_detector.runtime.stages import DecisionModel, make_decider
from stream_detector.telemetry.collector import Telemetry
from stream_detector.testing import ConstantEngine, FakeSource
from stream_detector.types import CameraStatus, EngineOutput, Float32Array, SystemClock, UInt8Array
from tests.cluster.bench import FakeLink, config, ended, make_shard, plan, scored

DIM = 8
SIZE = (64, 64)
RECIPE = Recipe("tiny", SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, fps=1e6)
STEPS = ("frame",) * 80 + ("flat",) * 80 + ("frame",) * 80
QUALITY = PictureQualityConfig(min_duration_s=1.0)
ASK_S = 20.0


def features_of(batch: UInt8Array) -> Float32Array:
    """Rows that depend on the pictures, and on them only."""
    means = batch[:, :, ::8, ::8, 0].reshape(len(batch), -1).mean(axis=1)
    return np.stack([np.sin(means * (k + 1) / 7) for k in range(DIM)], axis=1).astype(np.float32)


def grids_of(batch: UInt8Array) -> Float32Array:
    """What each of 4×4 cells says: the grey of one of its pixels."""
    return batch[:, 0, 4::16, 4::16, 0].astype(np.float32)


def model(kind: str) -> DecisionModel:
    """A head of random weights that carries a state, and a novelty model that finds some windows new."""
    spec = TemporalSpec(
        DIM, kind, (6,), kernel=3, dilations=(1, 2) if kind == "causal" else (), views=("rows", "change:4"), members=2
    )
    head, dice = TemporalHead(spec), torch.Generator().manual_seed(3)
    for name, buffer in head.named_buffers():
        if name.startswith("network"):
            buffer.copy_(0.4 * torch.randn(buffer.shape, generator=dice))
    novelty = NoveltyModel(DIM, 1, limit=1.0)
    novelty.spread.fill_(3.0)
    return DecisionModel("f00d", head, novelty)


KINDS = ("mlp", "causal", "gru")


class FeatureEngine(ConstantEngine):
    """Scores by the pictures, with features."""

    def infer(self, frames: UInt8Array) -> EngineOutput:
        scores = np.full(len(frames), 0.5, np.float32)
        return EngineOutput(features_of(frames), scores, 0.0, 0.0, grids_of(frames))


class Sink(MemorySink):
    """Keeps the statuses whole."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[CameraStatus] = []

    def status(self, status: CameraStatus) -> None:
        self.statuses.append(status)


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def details(statuses: list[Any]) -> list[str]:
    """What the statuses said of the pictures, without repetitions."""
    found = [str(status.detail) for status in statuses if status.detail]
    return [text for place, text in enumerate(found) if place == 0 or text != found[place - 1]]


def on_one_machine(folder: Path, kind: str) -> tuple[list[list[str]], Sink]:
    folder.mkdir()
    settings = config(folder, pace="max", batch=BatchConfig(max_wait_ms=1), picture_quality=QUALITY)
    plans, sink, clock = (plan("gate"),), Sink(), SystemClock()
    telemetry, scores = Telemetry(["gate"], clock), ScoresFile(folder / "s.csv")
    result = Pipeline(
        config=settings,
        cameras=((CameraConfig(name="gate", source="gate.mp4"), plans[0]),),
        engine=FeatureEngine(),
        resize=partial(make_views, recipe=RECIPE),
        frame_fps=RECIPE.fps,
        decider=make_decider(settings, model(kind), plans, sink=sink, telemetry=telemetry, clock=clock, scores=scores),
        sink=sink,
        telemetry=telemetry,
        open_reader=lambda *_: FakeSource(STEPS, size=SIZE),
    ).run()
    assert result.error is None
    scores.close()
    return table(folder / "s.csv"), sink


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_and_a_shard_decide_as_one_pipeline(tmp_path: Path, kind: str) -> None:
    expected, sink = on_one_machine(tmp_path / "one", kind)
    causes = {cause for row in expected[1:] for cause in row[-1].split("+")}
    assert {"covered", "unfamiliar"} <= causes
    assert len({row[-3] for row in expected[1:]}) > 10  # the head gives scores of its own
    folder = tmp_path / "cluster"
    shard = make_shard(folder, ("gate",), model=model(kind), scores=folder / "s.csv", picture_quality=QUALITY)
    statuses: list[Any] = []
    seen: list[Any] = []

    def noted(batch: UInt8Array) -> Float32Array:
        grids = grids_of(batch)
        seen.extend(grids.tolist())
        return grids

    real = shard._sink.status
    shard._sink.status = lambda status: (statuses.append(status), real(status))[1]  # type: ignore[method-assign]

    class Link(FakeLink):
        def deliver(self, number: int, items: list[ShardItem]) -> None:
            shard.submit(items).result(ASK_S)
            super().deliver(number, items)

    link = Link(features_of=features_of, grids_of=noted)
    host = CameraHost(
        config(folder, pace="max", batch=BatchConfig(max_wait_ms=1), picture_quality=QUALITY),
        RECIPE,
        link,
        1,
        features=model(kind).needs_features(config(folder)),
        open_reader=lambda *_: FakeSource(STEPS, size=SIZE),
    )
    host.assign(CameraConfig(name="gate", source="gate.mp4"), plan("gate"), shard.adopt("gate").result(ASK_S))
    link.wait_for(lambda items: any(isinstance(item.what, CameraEnded) for item in items), ASK_S)
    host.close()
    shard.finish("shutdown").result(ASK_S)
    assert table(folder / "s.csv") == expected
    assert details(statuses) == details(sink.statuses)
    assert any("covered" in text for text in details(statuses))
    grids = [shard._here(item.what).grid for item in link.delivered if isinstance(item.what, ScoredWindow)]
    assert grids and [grid.tolist() for grid in grids if grid is not None] == seen


class Kill(BaseException):
    """Stands for the death of the shard's thread."""


@pytest.fixture
def rows() -> Iterator[Float32Array]:
    yield np.random.default_rng(5).normal(size=(40, DIM)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", [1, 7, 13])
def test_the_memory_of_heads_and_novelty_survives_a_shards_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Float32Array, kind: str, when: int
) -> None:
    told = [
        ShardItem("gate", 1, n, ScoredWindow(one.ref, one.raw, one.timing, row.astype("<f4").tobytes()))
        for n, row in enumerate(rows)
        for one in [scored("gate", n, 0.1)]
    ]
    told.append(ended("gate", 1, len(rows)))
    whole = make_shard(tmp_path / "whole", ("gate",), model=model(kind), scores=tmp_path / "whole" / "s.csv")
    whole.adopt("gate").result(ASK_S)
    whole.submit(told).result(ASK_S)
    whole.finish("shutdown").result(ASK_S)
    folder = tmp_path / "killed"
    shard = make_shard(folder, ("gate",), model=model(kind), scores=folder / "s.csv")
    shard.adopt("gate").result(ASK_S)
    calls, real = 0, shard._decider.score

    def dies(score: Any) -> None:
        nonlocal calls
        calls += 1
        real(score)
        if calls == when:
            raise Kill

    monkeypatch.setattr(shard._decider, "score", dies)
    at = 0
    while shard.error is None:
        done = shard.submit(told[at : at + 5])
        while not done.done() and shard.error is None:
            shard._thread.join(0.005)
        at += 5 if done.done() else 0
    assert isinstance(shard.error, Kill)
    shard.close()
    successor = make_shard(folder, ("gate",), model=model(kind), scores=folder / "s.csv")
    for start in range(at, len(told), 5):
        successor.submit(told[start : start + 5]).result(ASK_S)
    successor.finish("shutdown").result(ASK_S)
    assert table(folder / "s.csv") == table(tmp_path / "whole" / "s.csv")
