"""The whole product with many cameras, for `gpu`: the measured run of `cameras`, on rendered footage as H.264."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from benchmarks.camerarig import Spec, run
from benchmarks.cameras import kept_up
from stream_detector.demo import DemoScene

FPS = 25
FOOTAGE_S = 12.0
SETTLE_S = 3.0
FIRST_S = 30.0  # at most so long until every camera has been scored: then it does not keep up, and is measured so
START_S = 35.0  # of the detector and its cameras, with the footage that is rendered before
KEYS = (
    "windows_per_s",
    "dropped",
    "drops",
    "cores_busy",
    "hosts",
    "fps_per_camera",
    "private_mb",
    "engine",
    "bundle",
    "bundle_name",
    "cpu_share",
)


@dataclass(frozen=True, slots=True)
class Capacity:
    """cameras: how many.  size: (width, height).  seconds: measured."""

    cameras: int
    size: tuple[int, int]
    seconds: float

    def __str__(self) -> str:
        return f"{self.cameras}:{self.size[0]}x{self.size[1]} cameras"

    @classmethod
    def parse(cls, text: str, seconds: float) -> Capacity:
        """ "192:320x240". Raises SystemExit for anything else."""
        count, _, size = text.partition(":")
        width, _, height = size.partition("x")
        if not (count.isdigit() and width.isdigit() and height.isdigit()):
            raise SystemExit(f"--cameras {text!r} must be N:WIDTHxHEIGHT, for instance 192:320x240")
        return cls(int(count), (int(width), int(height)), seconds)


def rendered_footage(path: Path, size: tuple[int, int], seconds: float = FOOTAGE_S) -> Path:
    """The demo's scene as an MP4 with H.264 (x264 of PyAV's wheel), a key frame every two seconds, as cameras send."""
    scene = DemoScene(seed=3, duration_s=seconds, fps=FPS, size=size)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], "yuv420p"
        stream.time_base = Fraction(1, FPS)
        stream.options = {"preset": "veryfast", "bf": "0", "g": str(2 * FPS)}
        for image in scene:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        file.mux(stream.encode())
    return path


def seconds_needed(wanted: Capacity) -> float:
    """How long `capacity` is expected to take, rather too long than too short."""
    return START_S + SETTLE_S + wanted.seconds


def capacity(wanted: Capacity, bundle: str, device: str, folder: Path, timeout_s: float) -> dict[str, Any]:
    """Windows a second, drops, cores and delays of the detector with so many cameras.

    The delay of a score counts from the time at which the last picture of its window was due.
    """
    width, height = wanted.size
    video = folder / f"{width}x{height}.mp4"
    if not video.is_file():
        rendered_footage(video, wanted.size)
    settings = {"engine": {"device": device}}
    row: dict[str, Any] = {"cameras": wanted.cameras, "size": f"{width}x{height}", "bundle_name": bundle}
    spec = Spec(
        wanted.cameras, str(video), "auto", wanted.seconds, SETTLE_S, settings=settings, bundle=bundle, first_s=FIRST_S
    )
    try:
        figures = run(spec, timeout_s)
    except RuntimeError as error:
        return row | {"kept_up": False, "error": str(error)[-300:]}
    waits = figures["delay_ms"]
    row |= {"kept_up": kept_up(figures)} | {key: figures.get(key) for key in KEYS}
    return row | {f"{name}_ms": waits.get(name) for name in ("p50", "p95", "p99")}
