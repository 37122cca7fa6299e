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
    "cpu_share",
)


@dataclass(frozen=True, slots=True)
class Capacity:
    """cameras: how many.  size: (width, height).  seconds: measured."""

    cameras: int
    size: tuple[int, int]
    seconds: float

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


def capacity(wanted: Capacity, device: str, folder: Path, timeout_s: float) -> dict[str, Any]:
    """Windows a second, drops, cores and delays of the detector with so many cameras.

    The delay of a score counts from the time at which the last picture of its window was due.
    """
    width, height = wanted.size
    video = folder / f"{width}x{height}.mp4"
    if not video.is_file():
        rendered_footage(video, wanted.size)
    settings = {"engine": {"device": device}}
    row: dict[str, Any] = {"cameras": wanted.cameras, "size": f"{width}x{height}"}
    try:
        figures = run(Spec(wanted.cameras, str(video), "auto", wanted.seconds, 3.0, settings=settings), timeout_s)
    except RuntimeError as error:
        return row | {"kept_up": False, "error": str(error)[-300:]}
    waits = figures["delay_ms"]
    row |= {"kept_up": kept_up(figures)} | {key: figures.get(key) for key in KEYS}
    return row | {f"{name}_ms": waits.get(name) for name in ("p50", "p95", "p99")}
