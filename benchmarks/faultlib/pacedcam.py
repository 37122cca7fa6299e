"""A kind of source that capture hosts import, too: `pacedcam:FPS`, pictures for ever, each with the number of its time.

The number is that of the clock, not of the connection, so a camera that is opened anew goes on with the same alarms.
"""

from __future__ import annotations

import time

import numpy as np

from stream_detector.capture.grabs import GrabResult
from stream_detector.capture.readers import READERS
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.types import UInt8Array

KIND = "pacedcam"
SIZE = (32, 48)


class PacedCamera:
    """Implements `readers.Reader`."""

    live = True
    detail = ""

    def __init__(self, camera: CameraConfig, config: CaptureConfig) -> None:
        self.fps = float(camera.source.rest)
        self._number = 0

    def open(self) -> None:
        """Begin with the picture that is due next."""
        self._number = int(time.monotonic() * self.fps)

    def grab(self) -> GrabResult:
        """Wait for the next picture's time."""
        self._number += 1
        time.sleep(max(0.0, self._number / self.fps - time.monotonic()))
        return GrabResult("frame")

    def retrieve(self) -> UInt8Array:
        """The number modulo 256 in its left half, a gradient in the other."""
        image: UInt8Array = np.empty((*SIZE, 3), np.uint8)
        image[:] = np.linspace(0, 255, SIZE[1]).astype(np.uint8)[None, :, None]
        image[:, : SIZE[1] // 2] = self._number % 256
        return image

    def close(self) -> None:
        """Nothing to close."""


if KIND not in READERS.names():
    READERS.register(KIND)(PacedCamera)
