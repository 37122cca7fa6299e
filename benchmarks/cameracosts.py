"""The cost of one picture and one window, in CPU milliseconds on an idle thread: the budget of `cameras`.

    budget in cameras = cores ÷ (25 × picture + 25/16 × window)

The bare picture is a loop of PyAV and swscale only; the product's picture is a complete capture host on the same file,
with sampling, scene cuts, windows and picture checks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from benchmarks.footage import pictures
from stream_detector.capture.host import CameraTask, CaptureHost
from stream_detector.capture.picture import _FILTERS, make_views
from stream_detector.config import CameraConfig, Config, EngineConfig
from stream_detector.engines import load_engine
from stream_detector.models.bundle import Bundle
from stream_detector.models.recipe import Recipe
from stream_detector.types import CameraStatus, Preview, Window

FPS = 25
BIT_RATE = {240: 600_000, 720: 2_500_000, 1080: 4_500_000}


def make_video(clips: list[Path], out: Path, seconds: float, size: tuple[int, int]) -> Path:
    """The clips one after another as H.264, 25 fps, a key frame every two seconds, no B frames, as cameras send it."""
    width, height = size
    source: Iterator[Any] = pictures(clips, size)
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = BIT_RATE.get(height, 600_000)
        stream.options = {"preset": "veryfast", "bf": "0", "g": str(2 * FPS)}
        for _ in range(round(seconds * FPS)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(next(source), "bgr24")))
        container.mux(stream.encode())
    return out


def bare_picture_ms(video: Path, recipe: Recipe) -> float:
    """Decode and scale every picture of a file once: CPU ms a picture."""
    height, width = recipe.size
    scaler = VideoReformatter()
    count = 0
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        begun_s = time.thread_time()
        for frame in container.decode(stream):
            small = scaler.reformat(frame, width, height, "rgb24", interpolation=_FILTERS[recipe.filter], threads=1)
            small.to_ndarray()
            count += 1
        return (time.thread_time() - begun_s) / count * 1e3


class _Nowhere:
    """Implements `capture.host.HostOutput`: notes the CPU time at which each window comes, and drops it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.seen: list[tuple[int, float]] = []  # (last frame, CPU seconds)
        self.error: Exception | None = None

    def window(self, window: Window) -> None:
        self.seen.append((window.ref.end_frame, time.process_time()))

    def status(self, status: CameraStatus) -> None:
        pass

    def preview(self, camera: str, preview: Preview) -> None:
        pass

    def ended(self, camera: str, reason: str) -> None:
        self.over.set()

    def failed(self, error: Exception) -> None:
        self.error = error
        self.over.set()


def product_picture_ms(video: Path, recipe: Recipe) -> float:
    """The same pictures through a capture host, from the first window on: CPU ms of the whole process a picture."""
    output = _Nowhere()
    host = CaptureHost(Config(pace="max"), partial(make_views, recipe=recipe), recipe.fps, output)
    host.assign(CameraTask(CameraConfig(name="cam", source=str(video)), 16))
    output.over.wait()
    host.stop()
    host.join(1.0)
    if output.error is not None:
        raise output.error
    (first, begun_s), (last, ended_s) = output.seen[0], output.seen[-1]
    return (ended_s - begun_s) / (last - first) * 1e3


def window_costs(bundle: Bundle, precision: str, seconds: float) -> dict[str, Any]:
    """Windows a second of the engine alone, at batch 1 and at larger ones. CPU counts every thread."""
    engine = load_engine(bundle, EngineConfig(precision=precision))  # type: ignore[arg-type]
    height, width = bundle.recipe.size
    noise = np.random.default_rng(1).integers(0, 256, (16, 16, height, width, 3), np.uint8)
    found: dict[str, Any] = {"engine": f"{engine.name} {engine.device} {engine.precision}", "batches": {}}
    for batch in (1, 2, 8, 16):
        engine.infer(noise[:batch])
        begun_s, cpu_s, done = time.monotonic(), time.process_time(), 0
        while time.monotonic() - begun_s < seconds:
            engine.infer(noise[:batch])
            done += batch
        wall_s = time.monotonic() - begun_s
        found["batches"][str(batch)] = {
            "windows_per_s": round(done / wall_s, 2),
            "ms_per_window": round(wall_s / done * 1e3, 2),
            "cpu_ms_per_window": round((time.process_time() - cpu_s) / done * 1e3, 2),
        }
    engine.close()
    found["cpu_ms_per_window"] = min(row["cpu_ms_per_window"] for row in found["batches"].values())
    return found


def budget(cores: float, picture_ms: float, window_ms: float) -> float:
    """Cameras that so many cores could run if nothing else cost anything. A GPU's windows cost no core."""
    return cores * 1e3 / (FPS * picture_ms + FPS / 16 * window_ms)
