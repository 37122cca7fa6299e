"""A pipeline of fake sources and a fake engine, and a sink that keeps what it is given."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from stream_detector.config import AlarmConfig, BatchConfig, CameraConfig, Config, SmoothingConfig
from stream_detector.events.protocol import alarm_to_dict
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.runtime.pipeline import Pipeline, RunResult
from stream_detector.telemetry.collector import Telemetry
from stream_detector.testing import ConstantEngine, FakeSource
from stream_detector.types import AlarmEvent, CameraStatus, Decision, Engine, SystemClock, UInt8Array

DEADLINE_S = 10.0
NO_WAIT = BatchConfig(max_wait_ms=0)
ALARM = AlarmConfig(threshold=0.5, off_ratio=0.8, min_length_s=0.5, cooldown_s=0.5, update_interval_s=60)


class MemorySink:
    """Keeps what it is given; `raise_on` makes it fail as a broken publisher would."""

    def __init__(self, raise_on: str = "") -> None:
        self.events: list[dict[str, Any]] = []
        self.scores: list[Decision] = []
        self.states: list[tuple[str, str]] = []
        self.closed = False
        self.started = threading.Event()
        self.ended = threading.Event()
        self._raise_on = raise_on

    def alarm(self, event: AlarmEvent) -> dict[str, Any]:
        if self._raise_on == event.type:
            raise ValueError("the sink is broken")
        body = alarm_to_dict(event, "epoch", len(self.events) + 1, 0.0)
        self.events.append(body)
        (self.ended if event.type == "end" else self.started).set()
        return body

    def score(self, decision: Decision) -> None:
        if self._raise_on == "score":
            raise ValueError("the sink is broken")
        self.scores.append(decision)

    def status(self, status: CameraStatus) -> None:
        self.states.append((status.camera, status.state))

    def service(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def bright_between(first: int, last: int) -> Callable[[UInt8Array], float]:
    """Scores a window by the number that its first frame carries (see `numbered_image`)."""
    return lambda frames: 1.0 if first <= int(frames[0, 0, 0, 0]) <= last else 0.0


def make(
    sources: dict[str, FakeSource],
    *,
    engine: Engine | None = None,
    sink: MemorySink | None = None,
    live: bool = False,
    config: Config | None = None,
    open_limit: int = 0,
) -> tuple[Pipeline, MemorySink]:
    sink = sink or MemorySink()
    scheme = "rtsp://fake/" if live else ""
    cameras = tuple(CameraConfig(name=name, source=f"{scheme}{name}") for name in sources)
    config = config or Config(pace="max", batch=BatchConfig(max_wait_ms=1))
    plans = tuple(
        CameraPlan(c.name, c.source.shown, live, 16, SmoothingConfig(kind="none"), ALARM, 0.5, evidence=False)
        for c in cameras
    )
    telemetry = Telemetry(list(sources), SystemClock())
    pipeline = Pipeline(
        config=config,
        cameras=tuple(zip(cameras, plans, strict=True)),
        engine=engine or ConstantEngine(score_of=bright_between(64, 127)),
        resize=lambda picture: (np.ascontiguousarray(picture.bgr()[..., ::-1]),),
        frame_fps=25.0,
        decider=Decider(plans, "f00d", sink=sink, telemetry=telemetry, clock=SystemClock()),
        sink=sink,
        telemetry=telemetry,
        open_limit=open_limit,
        open_reader=lambda camera, _config: sources[camera.name],
    )
    return pipeline, sink


class Running:
    """A pipeline in a thread of its own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.result: RunResult | None = None
        self.took_s = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.result = self.pipeline.run()

    def end(self) -> RunResult:
        begun_s = time.monotonic()
        self._thread.join(DEADLINE_S)
        self.took_s = time.monotonic() - begun_s
        assert self.result is not None, "the pipeline hangs"
        return self.result
