"""The result of one step of a reader: a frame, no frame this time, or the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stream_detector.types import DegradedCause

GrabStatus = Literal["frame", "skipped", "bad", "lost", "end"]


@dataclass(frozen=True, slots=True)
class GrabResult:
    """The result of one `grab`.

    status: "frame" (call `retrieve`), "skipped" (a packet that there is no time to score, and that was not decoded),
    "bad" (no frame this time, continue), "lost" (a live source is gone: reopen it) or "end" (the source has ended).
    media_s: media time by the source's time stamps, in seconds; None for a live
    source without them.  cause: why this frame does not continue the previous one, or None.  missed: failed reads
    before it. key: whether it is a key frame of a codec that also has other frames; None if that is unknown.
    stamp_s: its stamp as the source gives it.  wall_utc: UTC at which the camera says that it took the picture.
    """

    status: GrabStatus
    media_s: float | None = None
    cause: DegradedCause | None = None
    missed: int = 0
    key: bool | None = None
    stamp_s: float | None = None
    wall_utc: float | None = None
