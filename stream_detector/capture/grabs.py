"""What a reader says of one step: there is a frame, there is none this time, or none any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stream_detector.types import DegradedCause

GrabStatus = Literal["frame", "bad", "lost", "end"]


@dataclass(frozen=True, slots=True)
class GrabResult:
    """What one `grab` brought.

    status: "frame" (retrieve may be called), "bad" (no frame this time, go on), "lost" (live source gone: reopen),
    "end" (nothing more will come).  media_s: seconds of media time by the source's stamps; None for a live source
    without them.  cause: why this frame does not follow on from the one before it, or None.  missed: reads that failed
    before it.  key: whether it is a key frame of a codec that has others, too; None where that says nothing.
    """

    status: GrabStatus
    media_s: float | None = None
    cause: DegradedCause | None = None
    missed: int = 0
    key: bool | None = None
