"""Detects sources that are too slow to fill a window of 16 frames: they would be "online" and never scored."""

from __future__ import annotations

from collections import deque

STEPS = 3  # steps in a row between pictures, each longer than the gap that a window may contain


class SlowSourceDetector:
    """Checks the frame times of one source. max_gap_s: a longer step starts a new window.  fps: frame rate of the
    recipe.
    """

    def __init__(self, max_gap_s: float, fps: float) -> None:
        self._max_gap_s, self._fps = max_gap_s, fps
        self._last_s: float | None = None
        self._steps: deque[float] = deque(maxlen=STEPS)
        self._keys: deque[bool | None] = deque(maxlen=STEPS)
        self.ever_fast = False  # whether any two pictures were close enough

    def see(self, media_s: float, key: bool | None = None) -> None:
        """Process the time of the next picture. media_s: media time.  key: whether it is a key frame; None if
        unknown."""
        if self._last_s is not None:
            self._steps.append(media_s - self._last_s)
            self._keys.append(key)
            self.ever_fast |= media_s - self._last_s <= self._max_gap_s
        self._last_s = media_s

    def ending(self, source: str, otherwise: str) -> str:
        """Describe how a file ended: a failure if it was too slow from beginning to end, otherwise `otherwise`."""
        return f"failed: {source}: {self.slow}" if self.slow and not self.ever_fast else otherwise

    @property
    def slow(self) -> str:
        """A sentence for people if the source is too slow at the moment, otherwise ""."""
        if len(self._steps) < STEPS or min(self._steps) <= self._max_gap_s:
            return ""
        every = sorted(self._steps)[STEPS // 2]
        what = "only key frames, one" if all(self._keys) else "one picture"
        least = 1.0 / self._max_gap_s if self._max_gap_s > 0 else self._fps
        return (
            f"it sends {what} every {every:.1f} s, too slow for this model, which needs {self._fps:g} fps "
            f"(at least {least:.2g} fps to fill a window); raise the camera's frame rate"
        )
