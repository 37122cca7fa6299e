"""The rendered demo as a source: `demo`, `demo:seed=3,duration=60,incident=0`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from stream_detector.capture.decoder import DEFAULT_FPS
from stream_detector.capture.grabs import GrabResult
from stream_detector.capture.sources import demo_options
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.config.source import Source
from stream_detector.demo.scene import DemoScene
from stream_detector.types import UInt8Array


class _Scene(Protocol):
    fps: float
    frame_count: int

    def frame(self, index: int) -> UInt8Array: ...


class DemoReader:
    """The rendered demo, drawn frame by frame as it is read. scene: a scene for tests; None: `demo.DemoScene`."""

    def __init__(self, source: Source, scene: Callable[[], _Scene] | None = None) -> None:
        self.fps = DEFAULT_FPS
        self.duration_s: float | None = None
        self.detail = ""
        self._options = demo_options(source)
        self._make = scene
        self._scene: _Scene | None = None
        self._index = -1

    def open(self) -> None:
        """Create the scene."""
        self._scene = self._make() if self._make else self._demo_scene()
        self.fps = float(self._scene.fps)
        self.duration_s = self._scene.frame_count / self.fps
        self._index = -1

    @property
    def scene(self) -> _Scene | None:
        """The scene after `open`."""
        return self._scene

    def _demo_scene(self) -> _Scene:
        options = self._options
        chosen: dict[str, int | float | bool] = {}
        if "duration" in options:
            chosen["duration_s"] = float(options["duration"])
        if "incident" in options:
            chosen["incident"] = bool(options["incident"])
        make: Callable[..., _Scene] = DemoScene
        return make(seed=int(options.get("seed", 0)), **chosen)

    def grab(self) -> GrabResult:
        """Step to the next frame without drawing it."""
        if self._scene is None or self._index + 1 >= self._scene.frame_count:
            return GrabResult("end")
        self._index += 1
        return GrabResult("frame", self._index / self.fps)

    def retrieve(self) -> UInt8Array | None:
        """Draw the frame: uint8 (h, w, 3) BGR."""
        return None if self._scene is None else self._scene.frame(self._index)

    def close(self) -> None:
        """Release the scene."""
        self._scene = None


def make_demo_reader(camera: CameraConfig, config: CaptureConfig) -> DemoReader:
    """Make the reader of the rendered scene."""
    return DemoReader(camera.source)
