"""Cameras for tests of capture hosts that are processes: a kind of source that other processes import from here.

numbered:/folder            for ever, `FPS` pictures a second; each carries its number, the host's process id is
                            written to the folder as `NAME.pid`
numbered:/folder?die=40     the process kills itself at picture 40, once (a file in the folder says that it did)
numbered:/folder?hang=40    stops its whole process there, once
numbered:/folder?eat=300    takes so many megabytes when opened, once
numbered:/folder?die=1&always=1   not once, but in every life
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from stream_detector.capture.grabs import GrabResult
from stream_detector.capture.readers import READERS
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.types import UInt8Array

FPS = 100.0
SIZE = (48, 64)


class NumberedCamera:
    """Implements `readers.Reader`."""

    live = True
    detail = ""
    fps = FPS

    def __init__(self, camera: CameraConfig, config: CaptureConfig) -> None:
        path, _, query = camera.source.rest.partition("?")
        self._folder, self._name = Path(path), camera.name
        self._faults = dict(pair.split("=") for pair in query.split("&") if pair)
        self._index = -1
        self._begun_s = 0.0
        self._eaten: list[UInt8Array] = []

    def open(self) -> None:
        (self._folder / f"{self._name}.pid").write_text(str(os.getpid()))
        self._begun_s = time.monotonic()
        if "eat" in self._faults and self._first_time("eat"):
            self._eaten.append(np.ones(int(self._faults["eat"]) << 20, np.uint8))

    def grab(self) -> GrabResult:
        self._index += 1
        time.sleep(max(0.0, self._begun_s + self._index / FPS - time.monotonic()))
        for fault, number in (("die", signal.SIGABRT), ("hang", signal.SIGSTOP)):
            if self._faults.get(fault) == str(self._index) and self._first_time(fault):
                os.kill(os.getpid(), number)
        return GrabResult("frame")

    def _first_time(self, fault: str) -> bool:
        if "always" in self._faults:
            return True
        try:
            (self._folder / f"{self._name}.{fault}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def retrieve(self) -> UInt8Array:
        image: UInt8Array = np.empty((*SIZE, 3), np.uint8)
        image[:] = np.linspace(0, 255, SIZE[1]).astype(np.uint8)[None, :, None]
        image[: SIZE[0] // 2, : SIZE[1] // 2] = self._index % 256
        return image

    def close(self) -> None:
        self._eaten.clear()


if "numbered" not in READERS.names():
    READERS.register("numbered")(NumberedCamera)
