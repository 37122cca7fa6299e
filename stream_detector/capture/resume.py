"""Continues the windows of one camera where another host stopped.

file, demo   read again from the start: what was decided is grabbed (not decoded further, not scored, not waited for),
             so numbers, media time and every later window are those of an undisturbed run
live         window numbers, frame numbers and media time go on after the last window decided, by the clock of the
             world (UTC); the first window is marked `reconnect` or `gap`
"""

from __future__ import annotations

import dataclasses
import threading

import numpy as np

from stream_detector.capture.picture import AnyPicture
from stream_detector.capture.readers import GrabResult, Reader
from stream_detector.capture.scene_cuts import RUN_UP
from stream_detector.capture.stage import CameraStage
from stream_detector.capture.taps import PacketTap
from stream_detector.config import CameraConfig, Config
from stream_detector.types import CameraStatus, Clock, DegradedCause, Frame, UInt8Array, Window, WindowRef

_BLANK: UInt8Array = np.zeros((8, 8, 3), np.uint8)  # stands for a picture that no wanted window contains


class ResumedCamera:
    """The stage of one camera, and its resume point. Only its capture thread uses it.

    last: the newest window that need not come again; None: begin at the beginning.  cause: marks the first window of a
    live camera that goes on.  stop: set when the camera is released; it ends `wait`.
    """

    def __init__(
        self,
        camera: CameraConfig,
        stride_frames: int,
        last: WindowRef | None,
        config: Config,
        clock: Clock,
        stop: threading.Event,
        cause: DegradedCause = "reconnect",
    ) -> None:
        # A file's last window is made once more, and dropped: from there on everything is as if nothing had happened.
        source = camera.source
        again = last if not source.live else None
        first_index = again.index if again else 0
        self._stage = CameraStage(camera.name, source.shown, stride_frames, config, clock, first_index)
        self._live, self._clock, self._stop = source.live, clock, stop
        self._next_index = last.index + 1 if last else 0
        self._last, self._cause = last, cause
        self._first_frame = again.start_frame if again else 0  # that is windowed
        self._fresh = True
        self._shift_s = 0.0
        self._ahead_s = 0.0
        self._run_up_frame = self._first_frame - RUN_UP  # earlier frames are neither converted nor checked
        self._paced_frame = again.end_frame + 1 if again else 0  # earlier frames are not waited for
        self._skipping = self._paced_frame > 0
        if last is not None and source.live:
            self._shift_s = last.end_s + max(0.0, clock.utc() - last.captured_utc)

    @property
    def shift_s(self) -> float:
        """Added to the media time of the capture thread, in seconds."""
        return self._shift_s

    def reader(self, reader: Reader) -> Reader:
        """Return the reader, wrapped so that it skips quickly."""
        return _Skipping(reader, self._run_up_frame) if self._run_up_frame > 0 else reader

    def push(self, frame: Frame) -> Window | None:
        """As `CameraStage.push`; None for a window that was decided before."""
        if self._last is None:
            return self._stage.push(frame)
        if self._live:
            frame = self._shifted(frame)
        else:
            self._skipping = frame.index < self._paced_frame
            if frame.index < self._first_frame:
                if frame.index >= self._run_up_frame:
                    self._stage.look_back(frame)
                return None
        return self._wanted(self._stage.push(frame))

    def finish(self) -> Window | None:
        """See `CameraStage.finish`."""
        return self._wanted(self._stage.finish())

    def wait(self, seconds: float) -> bool:
        """Wait for a paced file; skipped frames are not waited for, later frames keep their pace. True: stop."""
        if self._skipping:
            self._ahead_s = seconds
            return self._stop.is_set()
        return self._stop.wait(max(0.0, seconds - self._ahead_s))

    def status(self, status: CameraStatus) -> CameraStatus:
        """Return the status with the continued media time."""
        if status.media_s is None or not self._shift_s:
            return status
        return dataclasses.replace(status, media_s=status.media_s + self._shift_s)

    def _shifted(self, frame: Frame) -> Frame:
        assert self._last is not None
        causes = frame.discontinuity
        if self._fresh:
            causes = tuple(sorted({*causes, self._cause}))
            self._fresh = False
        return dataclasses.replace(
            frame,
            index=frame.index + self._last.end_frame + 1,
            media_s=frame.media_s + self._shift_s,
            discontinuity=causes,
        )

    def _wanted(self, window: Window | None) -> Window | None:
        if window is None:
            return None
        if self._live:
            ref: WindowRef = dataclasses.replace(window.ref, index=window.ref.index + self._next_index)
            return dataclasses.replace(window, ref=ref)
        return window if window.ref.index >= self._next_index else None


class _Skipping:
    """A file's reader that does not convert the first pictures. Implements `readers.Reader`."""

    def __init__(self, reader: Reader, first_frame: int) -> None:
        self._reader, self._first_frame = reader, first_frame
        self._index = -1
        self.fps, self.detail = reader.fps, reader.detail

    @property
    def duration_s(self) -> float | None:
        found: float | None = getattr(self._reader, "duration_s", None)
        return found

    def attach(self, tap: PacketTap) -> None:
        attach = getattr(self._reader, "attach", None)
        if attach is not None:
            attach(tap)

    def open(self) -> None:
        self._reader.open()
        self.fps = self._reader.fps

    def grab(self) -> GrabResult:
        grabbed = self._reader.grab()
        self.detail = self._reader.detail  # known at the end
        self._index += grabbed.status == "frame"
        return grabbed

    def retrieve(self) -> AnyPicture | None:
        return self._reader.retrieve() if self._index >= self._first_frame else _BLANK

    def close(self) -> None:
        self._reader.close()
