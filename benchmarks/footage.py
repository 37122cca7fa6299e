"""Real footage for benchmarks: clips, one after another, as one H.264 file (x264) or as raw frames.

OpenCV's wheels encode no H.264, so GStreamer does it, driven by the system's Python (`.ci/install-rtsp.sh`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

FPS = 25
BITRATE_KBIT = {240: 600, 720: 2500}


SYSTEM_PYTHON = "/usr/bin/python3"
_PLAY = """
import sys, gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
if len(sys.argv) == 1:
    raise SystemExit(", ".join(n for n in ("x264enc", "h264parse", "mp4mux") if not Gst.ElementFactory.find(n)) or 0)
pipeline = Gst.parse_launch(sys.argv[1])
pipeline.set_state(Gst.State.PLAYING)
message = pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, Gst.MessageType.EOS | Gst.MessageType.ERROR)
pipeline.set_state(Gst.State.NULL)
raise SystemExit(0 if message.type == Gst.MessageType.EOS else str(message.parse_error()))
"""


def missing_encoder() -> str:
    """Why no H.264 can be made here; empty when it can."""
    if not Path(SYSTEM_PYTHON).exists():
        return f"{SYSTEM_PYTHON} does not exist"
    done = subprocess.run([SYSTEM_PYTHON, "-c", _PLAY], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else f"GStreamer: {(done.stderr.strip().splitlines() or ['absent'])[-1]}"


def find_clips(folder: Path, limit: int = 40) -> list[Path]:
    """Clips below a folder, evenly chosen. Raises FileNotFoundError when there is none."""
    clips = sorted(folder.rglob("*.mp4"))
    if not clips:
        raise FileNotFoundError(f"no .mp4 below {folder}")
    step = max(1, len(clips) // limit)
    return clips[::step][:limit]


def pictures(clips: list[Path], size: tuple[int, int]) -> Iterator[np.ndarray[Any, Any]]:
    """Frames of the clips, BGR uint8 at `size` (width, height), for ever."""
    while True:
        for clip in clips:
            capture = cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
            while True:
                got, picture = capture.read()
                if not got:
                    break
                yield cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            capture.release()


def make_h264(clips: list[Path], out: Path, seconds: float, size: tuple[int, int]) -> Path:
    """`seconds` of the clips as an MP4 with H.264 at FPS, a key frame every two seconds, as cameras send it."""
    width, height = size
    bitrate = BITRATE_KBIT.get(height, 600)
    pipeline = (
        f"fdsrc fd=0 ! rawvideoparse width={width} height={height} format=bgr framerate={FPS}/1 ! videoconvert "
        f"! video/x-raw,format=I420 ! x264enc speed-preset=veryfast bframes=0 key-int-max={2 * FPS} bitrate={bitrate} "
        f"! h264parse ! mp4mux ! filesink location={out}"
    )
    process = subprocess.Popen([SYSTEM_PYTHON, "-c", _PLAY, pipeline], stdin=subprocess.PIPE)
    assert process.stdin is not None
    source = pictures(clips, size)
    for _ in range(round(seconds * FPS)):
        process.stdin.write(np.ascontiguousarray(next(source)).tobytes())
    process.stdin.close()
    if process.wait(120) != 0 or not out.is_file():
        raise RuntimeError(f"GStreamer could not write {out}")
    return out


def make_raw(clips: list[Path], out: Path, frames: int, size: tuple[int, int]) -> Path:
    """`frames` frames as raw I420, one after another."""
    source = pictures(clips, size)
    with out.open("wb") as file:
        for _ in range(frames):
            file.write(cv2.cvtColor(next(source), cv2.COLOR_BGR2YUV_I420).tobytes())
    return out
