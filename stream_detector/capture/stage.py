"""Frames of one camera → windows, marked with what is wrong with their pictures."""

from __future__ import annotations

from stream_detector.capture.picture_quality import PictureQualityMonitor, with_causes
from stream_detector.capture.scene_cuts import SceneCutDetector
from stream_detector.capture.windower import Windower
from stream_detector.config import Config
from stream_detector.types import Clock, Frame, Window


class CameraStage:
    """The windower of one camera and the checks of its pictures. For one thread."""

    def __init__(
        self, camera: str, source: str, stride_frames: int, config: Config, clock: Clock, first_index: int = 0
    ) -> None:
        """source: the name to show.  first_index: of the first window."""
        self._cuts = SceneCutDetector() if config.window.detect_cuts else None
        self._windower = Windower(
            camera, source, stride_frames, config.window.max_gap_s, clock, self._cuts, first_index
        )
        self._watch = PictureQualityMonitor(config.picture_quality) if config.picture_quality.enabled else None

    def push(self, frame: Frame) -> Window | None:
        """Take one frame; returns the window that it completes, if it completes one."""
        window = self._windower.push(frame)
        return None if window is None else self._checked(window)

    def look_back(self, frame: Frame) -> None:
        """See a frame that lies before the first window, so that a scene cut at that window is known for one."""
        if self._cuts is not None:
            self._cuts.push(frame.image)

    def finish(self) -> Window | None:
        """The source ended; returns the one window of a source that is too short for a whole one (see `Windower`)."""
        window = self._windower.finish()
        return None if window is None else self._checked(window)

    def _checked(self, window: Window) -> Window:
        return window if self._watch is None else with_causes(window, self._watch.check(window))
