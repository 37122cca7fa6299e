"""Detectors to break: the real pipeline behind a scripted camera and engine, and the decision stage alone, at speed.

Both run in a process of their own, forked from a server that has imported everything, so that 200 starts take seconds.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stream_detector.capture.readers import GrabResult
from stream_detector.config import (
    AlarmConfig,
    BatchConfig,
    CameraConfig,
    CaptureConfig,
    Config,
    PublishConfig,
    SmoothingConfig,
    WindowConfig,
)
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.runtime.pipeline import Pipeline
from stream_detector.system.malloc import configure_malloc
from stream_detector.telemetry.collector import Telemetry
from stream_detector.testing import ConstantEngine, numbered_image
from stream_detector.types import Score, SystemClock, Timing, UInt8Array, WindowRef

_SIZE = (16, 24)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a detector process is to do. fps: frames (pipeline) or windows (decider) a second, per camera."""

    endpoint: str
    ledger: Path
    cameras: int = 3
    fps: float = 200.0
    stride: int = 8
    curve_secret: Path | None = None
    curve_clients: Path | None = None
    clock_steps_s: tuple[float, ...] = ()
    events: Path | None = None

    def publish(self) -> PublishConfig:
        """The publisher's part."""
        return PublishConfig(
            bind=self.endpoint,
            ledger=self.ledger,
            linger_ms=500,
            heartbeat_s=0.25,
            curve_secret=self.curve_secret,
            curve_clients=self.curve_clients,
        )


class SteppingClock(SystemClock):
    """The system's clocks, but UTC jumps by the next of `steps_s` every half second."""

    def __init__(self, steps_s: tuple[float, ...]) -> None:
        self._steps_s = steps_s
        self._begun_s = time.monotonic()

    def utc(self) -> float:
        """Seconds since the epoch, as a clock that is being set shows them."""
        done = int((time.monotonic() - self._begun_s) / 0.5)
        return time.time() + sum(self._steps_s[:done])


class PacedReader:
    """Implements `readers.Reader`: numbered pictures for ever, `fps` of them a second."""

    detail = ""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._index = -1
        self._begun_s = 0.0

    def open(self) -> None:
        """Begin."""
        self._begun_s = time.monotonic() - (self._index + 1) / self.fps

    def grab(self) -> GrabResult:
        """Wait for the next picture's time."""
        self._index += 1
        time.sleep(max(0.0, self._begun_s + self._index / self.fps - time.monotonic()))
        return GrabResult("frame")

    def retrieve(self) -> UInt8Array:
        """Its number in the corner."""
        return numbered_image(self._index, _SIZE)

    def close(self) -> None:
        """Nothing to close."""


def plans_of(plan: Plan, update_s: float) -> tuple[CameraPlan, ...]:
    """Of its cameras; an open alarm gives an update every `update_s` seconds."""
    alarm = AlarmConfig(threshold=0.5, off_ratio=0.8, min_length_s=0.1, cooldown_s=0.05, update_interval_s=update_s)
    smooth = SmoothingConfig(kind="none")
    names = [f"cam{index}" for index in range(plan.cameras)]
    return tuple(
        CameraPlan(n, f"rtsp://fake/{n}", True, plan.stride, smooth, alarm, 0.5, evidence=False) for n in names
    )


def run_pipeline(plan: Plan) -> None:
    """The whole detector; alarms are open three quarters of the time. SIGTERM ends it in order."""
    configure_malloc()  # as the command line does before anything else
    clock = SteppingClock(plan.clock_steps_s)
    plans = plans_of(plan, update_s=0.1)
    cameras = tuple(CameraConfig(name=p.name, source=p.source) for p in plans)
    telemetry = Telemetry([p.name for p in plans], clock)
    ledger = Ledger(plan.ledger, clock=clock)
    publisher = Publisher(
        plan.publish(), ledger, clock=clock, events_path=plan.events, camera_names=[p.name for p in plans]
    )
    pipeline = Pipeline(
        config=Config(
            window=WindowConfig(stride=plan.stride), batch=BatchConfig(max_wait_ms=1), capture=CaptureConfig()
        ),
        cameras=tuple(zip(cameras, plans, strict=True)),
        engine=ConstantEngine(score_of=lambda frames: 1.0 if 32 <= int(frames[0, 0, 0, 0]) < 224 else 0.0),
        resize=lambda picture: (np.ascontiguousarray(picture.bgr()[..., ::-1]),),
        frame_fps=plan.fps,
        decider=Decider(plans, "f00d", sink=publisher, telemetry=telemetry, clock=clock, epoch=ledger.epoch),
        sink=publisher,
        telemetry=telemetry,
        open_reader=lambda camera, _config: PacedReader(plan.fps),
        clock=clock,
    )
    signal.signal(signal.SIGTERM, lambda *_: pipeline.stop())
    pipeline.run()
    ledger.close()


def run_decider(plan: Plan) -> None:
    """The decision stage alone: `fps` windows a second and camera, each of which causes an event. SIGTERM ends it.

    `timing.capture_to_window` of each event is the monotonic time, in milliseconds, at which its window was due; so a
    subscriber on the same machine can tell the whole delay. The heartbeat's `health` carries the windows done.
    """
    clock = SystemClock()
    plans = plans_of(plan, update_s=0.0)
    ledger = Ledger(plan.ledger, clock=clock)
    done = 0
    publisher = Publisher(plan.publish(), ledger, clock=clock, health=lambda: {"windows": done})
    telemetry = Telemetry([p.name for p in plans], clock)
    decider = Decider(plans, "f00d", sink=publisher, telemetry=telemetry, clock=clock, epoch=ledger.epoch)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    begun_s = time.monotonic()
    tick = 0
    while not stopped:
        tick += 1
        due_s = begun_s + tick / plan.fps
        while (left_s := due_s - time.monotonic()) > 0:
            publisher.service()
            time.sleep(min(0.002, max(0.0, left_s)))
        for camera in plans:
            start_s = tick / plan.fps
            raw = 0.0 if tick % 512 < 8 else 0.9
            ref = WindowRef(
                camera.name,
                camera.source,
                tick,
                tick * 16,
                tick * 16 + 15,
                start_s,
                start_s + 1 / plan.fps,
                due_s,
                time.time(),
                due_s,
            )
            decider.score(Score(ref, raw, due_s, Timing(due_s * 1e3, 0, 0, 0)))
            done += 1
        publisher.service()
    decider.finish("shutdown")
    publisher.close()
    ledger.close()


def run_server(plan: Plan) -> None:
    """No camera at all: serves what the ledger holds. SIGTERM ends it."""
    clock = SystemClock()
    ledger = Ledger(plan.ledger, clock=clock)
    publisher = Publisher(plan.publish(), ledger, clock=clock)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    while not stopped:
        publisher.service()
        time.sleep(0.002)
    publisher.close()
    ledger.close()


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("benchmarks.faultlib.lives", "benchmarks.faultlib.strangers", "benchmarks.faultlib.bridges"),
        *("stream_detector.cli.subscribe", "stream_detector.cli.bridge"),
    ]
)
Process = multiprocessing.process.BaseProcess
_ONE_AT_A_TIME = threading.Lock()  # a start looks at all processes, and an exit code can be read once only


def _quiet(target: object, args: tuple[object, ...]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    target(*args)  # type: ignore[operator]


def start(target: object, *args: object, quiet: bool = True) -> Process:
    """Run `target(*args)` in a new process that dies with this one's end at the latest."""
    process = _CONTEXT.Process(target=_quiet if quiet else target, args=(target, args) if quiet else args, daemon=True)  # type: ignore[arg-type]
    with _ONE_AT_A_TIME:
        process.start()
    return process


def kill(process: Process, number: int = signal.SIGKILL, timeout_s: float = 20.0) -> int:
    """Send a signal and wait for the end; returns the exit code. Raises TimeoutError if it does not end."""
    assert process.pid is not None
    if ended(process, 0.0) is None:
        os.kill(process.pid, number)
    code = ended(process, timeout_s)
    if code is None:
        os.kill(process.pid, signal.SIGKILL)
        ended(process, timeout_s)
        raise TimeoutError("a process did not end")
    return code


def ended(process: Process, timeout_s: float) -> int | None:
    """Wait up to `timeout_s` for the end; the exit code, or None while it runs. For any thread."""
    multiprocessing.connection.wait([process.sentinel], timeout_s)
    with _ONE_AT_A_TIME:
        return process.exitcode


def free_endpoint() -> str:
    """A loopback endpoint whose port, and the one above it, are free at this moment."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return f"tcp://127.0.0.1:{port}"
