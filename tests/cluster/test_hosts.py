"""Camera hosts and engine hosts without Ray: order, bounds, deaths on the other side, and going on elsewhere."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector.capture.scene_cuts import RUN_UP
from stream_detector.cluster.camera_host import CameraHost
from stream_detector.cluster.engine_host import EngineHost
from stream_detector.cluster.messages import CameraEnded, ResumePoint, ScoredWindow, ShardItem
from stream_detector.config import BatchConfig, CameraConfig, Config
from stream_detector.errors import EngineError
from stream_detector.models.preprocess import Recipe
from stream_detector.testing import ConstantEngine, FakeSource
from stream_detector.types import CameraStatus, WindowRef
from tests.cluster.bench import FakeLink, plan

RECIPE = Recipe("tiny", (16, 24), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, fps=1e6)  # takes every frame
FRAMES = 160  # ten windows


class Rig:
    """A host with fake sources of `FRAMES` frames."""

    def __init__(self, features: bool = False, **settings: Any) -> None:
        self.link = FakeLink()
        self.sources: dict[str, FakeSource] = {}
        self.dropped: list[str] = []
        self.config = Config(pace="max", batch=BatchConfig(max_wait_ms=1, buffer_windows=2), **settings)
        self.host = CameraHost(
            self.config,
            RECIPE,
            self.link,
            1,
            in_flight=4,
            features=features,
            on_drop=lambda camera, _cause: self.dropped.append(camera),
            open_reader=lambda camera, _config: self.sources[camera.name],
        )

    def assign(
        self, name: str, generation: int = 1, last: WindowRef | None = None, source: Any = None, stride: int = 16
    ) -> None:
        self.sources[name] = source or FakeSource(("frame",) * FRAMES, size=(16, 24))
        live = bool(getattr(self.sources[name], "_live", False))
        camera = CameraConfig(name=name, source=f"rtsp://fake/{name}" if live else f"{name}.mp4")
        self.host.assign(camera, plan(name, live, stride), ResumePoint(name, generation, last, False))

    def until_ended(self, *names: str) -> list[ShardItem]:
        return self.link.wait_for(
            lambda items: {i.camera for i in items if isinstance(i.what, CameraEnded)} >= set(names)
        )


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    for source in made.sources.values():
        source.release()
    made.host.close()
    assert made.host.error is None


def windows(items: list[ShardItem], camera: str, generation: int = 1) -> list[ScoredWindow]:
    return [
        i.what for i in items if (i.camera, i.generation) == (camera, generation) and isinstance(i.what, ScoredWindow)
    ]


def test_windows_come_in_order_numbered_without_holes_and_then_the_end(rig: Rig) -> None:
    rig.assign("gate")
    rig.assign("yard")
    items = rig.until_ended("gate", "yard")
    for name in ("gate", "yard"):
        own = [item for item in items if item.camera == name]
        assert [item.n for item in own] == list(range(len(own)))
        assert [scored.ref.index for scored in windows(items, name)] == list(range(10))
        kinds = [type(item.what) for item in own]
        assert kinds.index(CameraEnded) > max(n for n, kind in enumerate(kinds) if kind is ScoredWindow)
    assert not rig.dropped  # files wait


def test_dead_engines_and_shards_cost_nothing_but_time(rig: Rig) -> None:
    rig.link.engine_deaths = rig.link.shard_deaths = 2
    rig.assign("gate")
    items = rig.until_ended("gate")
    assert [scored.ref.index for scored in windows(items, "gate")] == list(range(10))
    assert [item.n for item in items] == list(range(len(items)))


def test_a_file_goes_on_elsewhere_with_the_very_same_windows(rig: Rig) -> None:
    rig.assign("gate")
    whole = windows(rig.until_ended("gate"), "gate")
    rig.link.delivered.clear()
    rig.assign("gate", 2, whole[5].ref)
    rest = windows(rig.until_ended("gate"), "gate", 2)
    assert [scored.ref.index for scored in rest] == [6, 7, 8, 9]
    for before, after in zip(whole[6:], rest, strict=True):
        clocks = {"captured_s": 0.0, "captured_utc": 0.0, "completed_s": 0.0}
        assert dataclasses.replace(before.ref, **clocks) == dataclasses.replace(after.ref, **clocks)
        assert before.raw == after.raw
    assert rig.sources["gate"].retrieved == FRAMES - (80 - RUN_UP)  # the rest was passed over without decoding


@pytest.mark.parametrize("stride", [8, 16, 24])
def test_windows_after_a_cut_are_the_same_on_another_host(rig: Rig, stride: int) -> None:
    steps = ("frame",) * 60 + ("other",) * 21 + ("frame",) * 79
    rig.assign("gate", source=FakeSource(steps, size=(16, 24)), stride=stride)
    whole = [s.ref for s in windows(rig.until_ended("gate"), "gate")]
    assert [ref.start_frame for ref in whole if ref.degraded == ("cut",)] == [60, 81]
    assert not any(ref.start_frame < begin <= ref.end_frame for ref in whole for begin in (60, 81))
    for n, last in enumerate(whole[:-1], start=1):
        rig.link.delivered.clear()
        rig.assign("gate", n + 1, last, FakeSource(steps, size=(16, 24)), stride)
        rest = [s.ref for s in windows(rig.until_ended("gate"), "gate", n + 1)]
        seen = [[(r.index, r.start_frame, r.start_s, r.degraded) for r in refs] for refs in (rest, whole[n:])]
        assert seen[0] == seen[1]


def test_a_live_camera_goes_on_with_its_numbers_and_its_time(rig: Rig) -> None:
    last = WindowRef("gate", "rtsp://fake/gate", 41, 656, 671, 26.2, 26.9, 1.0, 1_700_000_000.0, 1.0)
    rig.assign("gate", 3, last, FakeSource(("frame",) * 40, size=(16, 24), live=True))
    items = rig.link.wait_for(lambda found: len(windows(found, "gate", 3)) >= 2)
    first, second = windows(items, "gate", 3)[:2]
    assert (first.ref.index, second.ref.index) == (42, 43)
    assert first.ref.start_frame == 672
    assert first.ref.start_s > 26.9
    assert "reconnect" in first.ref.degraded and not second.ref.degraded
    states = [item.what for item in items if isinstance(item.what, CameraStatus)]
    assert all(status.media_s is None or status.media_s > 26.9 for status in states)


@pytest.mark.parametrize("asked", [False, True])
def test_features_travel_where_the_shard_decides_by_them(asked: bool) -> None:
    rig = Rig(features=asked)
    rig.link.features_of = lambda batch: np.full((len(batch), 2), 9.0, np.float32)
    rig.assign("gate")
    sent = [np.frombuffer(s.features, "<f4").tolist() for s in windows(rig.until_ended("gate"), "gate")]
    rig.host.close()
    assert sent == [[9.0, 9.0] if asked else []] * 10


def test_a_released_camera_says_nothing_more(rig: Rig) -> None:
    source = FakeSource(("frame",) * 32 + ("stall",) + ("frame",) * 128, size=(16, 24))
    rig.assign("gate", source=source)
    rig.link.wait_for(lambda items: len(windows(items, "gate")) == 2)
    rig.host.release("gate")
    source.release()
    rig.assign("yard")
    items = rig.until_ended("yard")
    assert not any(isinstance(item.what, CameraEnded) for item in items if item.camera == "gate")
    assert rig.host.heartbeat()["cameras"] == ["yard"]


def test_a_source_that_cannot_be_opened_is_told_at_its_end(rig: Rig) -> None:
    rig.assign("gate", source=FakeSource(refuse=9))
    (end,) = [item.what for item in rig.until_ended("gate") if isinstance(item.what, CameraEnded)]
    assert "refuse" in end.failure


def test_an_engines_error_ends_the_host_and_its_beat_says_why() -> None:
    rig = Rig()

    def fail(ticket: Any) -> Any:
        raise EngineError("out of memory")

    rig.link.result = fail  # type: ignore[method-assign]
    rig.assign("gate")
    failed = threading.Event()
    rig.host.fail, fail_before = (lambda e: (fail_before(e), failed.set())), rig.host.fail  # type: ignore[method-assign]
    assert failed.wait(10.0)
    with pytest.raises(EngineError, match="out of memory"):
        rig.host.heartbeat()
    rig.host.close(0.0)


class SlowEngine(ConstantEngine):
    """Holds its first batch until told; remembers the sizes of all."""

    def __init__(self) -> None:
        super().__init__(score_of=lambda frames: float(frames[0, 0, 0, 0]) / 255)
        self.sizes: list[int] = []
        self.go, self.begun = threading.Event(), threading.Event()

    def infer(self, frames: Any) -> Any:
        self.sizes.append(len(frames))
        self.begun.set()
        assert self.go.wait(10.0)
        return super().infer(frames)


def test_calls_that_wait_share_a_batch_and_everybody_gets_his_own() -> None:
    engine = SlowEngine()
    host = EngineHost(engine)
    answers: dict[int, Any] = {}

    def call(number: int) -> None:
        frames = np.full((number, 16, 16, 24, 3), number * 20, np.uint8)
        frames.flags.writeable = False  # as pages of the object store are
        answers[number] = host.infer(frames).scores

    threads = [threading.Thread(target=call, args=(number,)) for number in (1, 2, 3)]
    threads[0].start()
    assert engine.begun.wait(10.0)
    for thread in threads[1:]:
        thread.start()
    with host._changed:
        host._changed.wait_for(lambda: len(host._calls) == 2, 10.0)
    engine.go.set()
    for thread in threads:
        thread.join(10.0)
    host.close()
    assert engine.sizes == [1, 5]
    for number, scores in answers.items():
        assert scores == pytest.approx([number * 20 / 255] * number)


def test_a_batch_is_no_larger_than_is_worth_while() -> None:
    """Where windows run one by one, the first of a large batch would wait for the last."""
    engine = SlowEngine()
    engine.good_batch = 4
    host = EngineHost(engine)
    threads = [threading.Thread(target=host.infer, args=(np.zeros((2, 16, 16, 24, 3), np.uint8),)) for _ in range(4)]
    threads[0].start()
    assert engine.begun.wait(10.0)
    for thread in threads[1:]:
        thread.start()
    with host._changed:
        assert host._changed.wait_for(lambda: len(host._calls) == 3, 10.0)
    engine.go.set()
    for thread in threads:
        thread.join(10.0)
    host.close()
    assert engine.sizes == [2, 4, 2]


def test_an_engine_that_fails_fails_its_callers_and_lives_on(tmp_path: Path) -> None:
    class Fails(ConstantEngine):
        def infer(self, frames: Any) -> Any:
            raise EngineError("the device is lost")

    host = EngineHost(Fails())
    for _ in range(2):
        with pytest.raises(EngineError, match="lost"):
            host.infer(np.zeros((1, 16, 16, 24, 3), np.uint8))
    host.close()
    with pytest.raises(EngineError, match="closed"):
        host.infer(np.zeros((1, 16, 16, 24, 3), np.uint8))
