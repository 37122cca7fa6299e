"""Where in the picture the strongest window of a camera's open alarm looks at. The decision thread uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from stream_detector.alarms.where import Polygons, where_of
from stream_detector.capture.picture import shown_box
from stream_detector.models.recipe import View
from stream_detector.types import Box, Score, Where

WHOLE_PICTURE = View("whole", (112, 112))


class CameraPlace:
    """One camera. view: what the network sees of its pictures.  hidden: polygons, in shares of the picture."""

    def __init__(self, view: View, hidden: Polygons = ()) -> None:
        self._view, self._hidden = view, hidden
        self._size: tuple[int, int] | None = None  # width, height of any picture of the camera, for its proportions
        self._best = float("-inf")
        self.where: Where | None = None

    def see(self, raw: float, score: Score) -> None:
        """Take a window of an alarm; the one with the highest raw score counts. score: what the engine said of it."""
        if raw <= self._best:
            return
        self._best, self.where = raw, None
        region = self._region(score)
        if score.grid is not None and region is not None:
            self.where = where_of(score.grid, score.ref.start_s, score.ref.end_s, region, self._hidden)

    def forget(self) -> None:
        """The alarm is over."""
        self._best, self.where = float("-inf"), None

    def state(self) -> dict[str, Any]:
        """What decides the next event, as JSON."""
        return {"best": self._best, "where": self.where and asdict(self.where)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`."""
        self._best, where = state["best"], state["where"]
        self.where = where and Where.of_dict(where)

    def _region(self, score: Score) -> Box | None:
        """The part of the picture that the network sees; None if that depends on its proportions, which none told."""
        if score.previews:
            height, width = score.previews[-1].image.shape[:2]
            self._size = (width, height)
        if self._view.fit == "stretch":
            return self._view.box
        if self._size is None:
            return None
        left, top, right, bottom = shown_box(self._view, *self._size)
        return (round(left, 3), round(top, 3), round(right, 3), round(bottom, 3))
