"""Frames → windows of 16 frames; each camera has one `Windower` in its capture thread.

A discontinuity (reconnect, seek, cut, corrupt frame, gap in media time) resets the window: no window contains frames
from both sides of it, except when cuts follow each other within less than a window. The first window after a
discontinuity carries its causes in `degraded`. An incomplete window is discarded with its frames and previews.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from stream_detector.capture.scene_cuts import SceneCutDetector
from stream_detector.types import WINDOW_FRAMES, Clock, Frame, Preview, Window, WindowRef

_KEEPS_HAPPENING = {"cut", "corrupt"}  # causes that must not keep a camera from being scored
MAX_PREVIEWS = 48  # previews that wait for a window; with a long stride the oldest are dropped


class Windower:
    """Collects the frames of one camera into windows of 16, a new one every `stride_frames` frames.

    source: the name to show.  max_gap_s: a longer gap in media time is a discontinuity.  cuts: detects cuts in the
    pictures; None: no detection.  index: index of the first window.
    """

    def __init__(
        self,
        camera: str,
        source: str,
        stride_frames: int,
        max_gap_s: float,
        clock: Clock,
        cuts: SceneCutDetector | None = None,
        index: int = 0,
    ) -> None:
        if stride_frames < 1:
            raise ValueError(f"stride_frames must be at least 1, got {stride_frames}")
        self.camera = camera
        self.source = source
        self.stride_frames = stride_frames
        self.max_gap_s = max_gap_s
        self._clock = clock
        self._cuts = cuts
        self._frames: deque[Frame] = deque(maxlen=WINDOW_FRAMES)
        self._previews: deque[Preview] = deque(maxlen=MAX_PREVIEWS)
        self._causes: set[str] = set()
        self._skip = 0  # frames to skip before the next window may begin (stride > 16)
        self._last_media_s: float | None = None
        self._index = index
        self._began_at: set[str] = set()  # a repeated cause: a window that began at it is filled nevertheless
        self.discarded_frames = 0  # frames of windows that were incomplete at a discontinuity or at the end

    def push(self, frame: Frame) -> Window | None:
        """Take one frame; return the window that it completes, or None."""
        causes = set(frame.discontinuity)
        if self._last_media_s is not None:
            step_s = frame.media_s - self._last_media_s
            if step_s > self.max_gap_s or step_s < 0:
                causes.add("gap" if step_s > 0 else "seek")
        self._last_media_s = frame.media_s
        if self._cuts and self._cuts.push(frame.image):
            causes.add("cut")
        # A window that began at a cut is filled nevertheless: pictures that keep jumping must be scored, too.
        new = causes - self._began_at
        self._began_at |= causes & _KEEPS_HAPPENING
        if new:
            self._reset()
        self._causes |= causes
        if frame.preview is not None:
            self._previews.append(frame.preview)
        if self._skip:
            self._skip -= 1
            return None
        self._frames.append(frame)
        if len(self._frames) < WINDOW_FRAMES:
            return None
        window = self._window(list(self._frames))
        for _ in range(min(self.stride_frames, WINDOW_FRAMES)):
            self._frames.popleft()
        self._skip = max(0, self.stride_frames - WINDOW_FRAMES)
        return window

    def finish(self) -> Window | None:
        """Finish the source. If it was too short for one window, its last frame is repeated and the window is marked
        `short`; otherwise the incomplete rest is discarded.
        """
        frames = list(self._frames)
        self._frames.clear()
        too_slow = "gap" in self._causes and len(frames) == 1  # the last picture of a source that fills no window
        if not frames or self._index > 0 or too_slow:
            self.discarded_frames += len(frames) if self.stride_frames >= WINDOW_FRAMES else 0
            return None
        self._causes.add("short")
        return self._window(frames + [frames[-1]] * (WINDOW_FRAMES - len(frames)))

    def _reset(self) -> None:
        self.discarded_frames += len(self._frames)
        self._frames.clear()
        self._previews.clear()
        self._skip = 0

    def _window(self, frames: list[Frame]) -> Window:
        first, last = frames[0], frames[-1]
        ref = WindowRef(
            camera=self.camera,
            source=self.source,
            index=self._index,
            start_frame=first.index,
            end_frame=last.index,
            start_s=first.media_s,
            end_s=last.media_s,
            captured_s=last.captured_s,
            captured_utc=last.captured_utc,
            completed_s=self._clock.monotonic(),
            degraded=tuple(sorted(self._causes)),
            captured_by=last.captured_by,
        )
        previews = tuple(self._previews)
        self._index += 1
        self._began_at.clear()
        self._causes.clear()
        self._previews.clear()
        views = tuple(np.stack(view) for view in zip(*(frame.views for frame in frames), strict=True))
        return Window(ref, np.stack([frame.image for frame in frames]), previews, views)

    @property
    def held_bytes(self) -> int:
        """The bytes of all pictures held at the moment."""
        held = sum(frame.image.nbytes + sum(view.nbytes for view in frame.views) for frame in self._frames)
        return held + sum(preview.image.nbytes for preview in self._previews)
