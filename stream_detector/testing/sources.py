"""A source that plays a script, and frames for stages that need no source at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from stream_detector.capture.readers import GrabResult
from stream_detector.errors import SourceError
from stream_detector.testing.clock import FakeClock
from stream_detector.types import Frame, UInt8Array


def numbered_image(index: int, size: tuple[int, int] = (48, 64)) -> UInt8Array:
    """Make a picture, uint8 (h, w, 3): `index` mod 256 in the top left pixel, a gradient elsewhere (so it is not
    flat).
    """
    height, width = size
    image: UInt8Array = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    image[0, 0] = index % 256
    return image


def fake_frames(
    camera: str = "cam", count: int = 32, *, fps: float = 25.0, size: tuple[int, int] = (112, 112), start: int = 0
) -> Iterator[Frame]:
    """Make `count` frames as a capture thread would; media time is index / fps."""
    for index in range(start, start + count):
        media_s = index / fps
        yield Frame(camera, index, media_s, 1000.0 + media_s, 1_700_000_000.0 + media_s, numbered_image(index, size))


class FakeSource:
    """Implements `readers.Reader` with a script of steps, one for each grab:

        "frame"   a frame                     "bad"     nothing this time        "flat"   a frame of one colour
        "broken"  grabbed, not decodable      "lost"    the connection is gone   "stall"  blocks until `release`
        "other"   a frame of another scene    "raise"   raises RuntimeError

    steps: the script continues after a reopen; when it is used up, the source gives "end" (or, if live, blocks until
    `release`).  refuse: the number of opens that fail.  clock: the frames of a live source move it by 1 / fps.
    """

    def __init__(
        self,
        steps: Sequence[str] = ("frame",) * 50,
        *,
        fps: float = 25.0,
        size: tuple[int, int] = (48, 64),
        live: bool = False,
        refuse: int = 0,
        clock: FakeClock | None = None,
    ) -> None:
        self.fps = fps
        self.detail = ""
        self.size = size
        self.opens = 0
        self.closes = 0
        self.retrieved = 0
        self.stalled = threading.Event()
        self._released = threading.Event()
        self._steps = list(steps)
        self._at = 0
        self._frames = 0
        self._step = ""
        self._live = live
        self._refuse = refuse
        self._clock = clock

    def release(self) -> None:
        """End every stall, present and future, immediately."""
        self._released.set()

    def open(self) -> None:
        """Count the attempt. Raises SourceError for the first `refuse` attempts."""
        self.opens += 1
        if self.opens <= self._refuse:
            raise SourceError("the fake source was told to refuse; wait")

    def grab(self) -> GrabResult:
        """Play the next step."""
        if self._at >= len(self._steps):
            if self._live:
                self._block()
                return GrabResult("lost")
            return GrabResult("end")
        self._step = self._steps[self._at]
        self._at += 1
        if self._step == "raise":
            raise RuntimeError("the fake source was told to raise")
        if self._step == "stall":
            self._block()
        if self._step == "bad":
            return GrabResult("bad")
        if self._step == "lost":
            return GrabResult("lost")
        if self._live and self._clock is not None:
            self._clock.advance(1.0 / self.fps)
        self._frames += 1
        return GrabResult("frame", None if self._live else (self._frames - 1) / self.fps)

    def _block(self) -> None:
        self.stalled.set()
        self._released.wait(60.0)  # limited, because a test that forgets to release must not leave a thread behind

    def retrieve(self) -> UInt8Array | None:
        """Return a picture with the frame's number in its first pixel, see `numbered_image`."""
        self.retrieved += 1
        if self._step == "broken":
            return None
        if self._step == "flat":
            return np.full((*self.size, 3), 128, np.uint8)
        image = numbered_image(self._frames - 1, self.size)
        return np.ascontiguousarray(image[:, ::-1]) if self._step == "other" else image

    def close(self) -> None:
        """Count the call."""
        self.closes += 1
