"""Scores on the time axis: one video's windows, scores and true events, and the pieces that metrics count.

A frame-level metric over an hour of video needs no array of 108,000 scores: between two changes of score or truth all
frames are alike. `pieces_of` splits a video into such runs, so a metric is a weighted one over a few hundred rows and a
bootstrap over the videos takes milliseconds.

Two stampings:
    content   a score applies to the frames of its own window (as in offline papers)
    emission  a score applies from the moment it is known (end of the window + processing) until the next one; before
              the first score the value is `SILENT`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from trainer.data.annotations import Event

Stamping = Literal["content", "emission"]
SILENT = 0.0

Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Timeline:
    """One scored video.

    name: stem.  label: 1 abnormal, 0 normal.  frames: length.  fps: frames a second.
    starts, ends: int64 (T,), half-open windows in frames, starts rising.  scores: float64 (T,) in [0, 1].
    events: half-open true intervals in frames, clipped to the video; empty for a normal video.
    """

    name: str
    label: int
    frames: int
    fps: float
    starts: Ints
    ends: Ints
    scores: Float64
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.starts) == len(self.ends) == len(self.scores):
            raise DataError(
                f"video {self.name}: {len(self.scores)} scores for {len(self.starts)} windows; score it again"
            )
        if len(self.scores) == 0 or self.frames < 1:
            raise DataError(f"video {self.name} has no windows or no frames; leave it out of the list")
        if not np.isfinite(self.scores).all():
            raise DataError(f"video {self.name} has scores that are not finite; look at its features with audit")
        if len(self.starts) > 1 and not (np.diff(self.starts) > 0).all():
            raise DataError(f"video {self.name}: windows are not in rising order; score it again")


@dataclass(frozen=True)
class Pieces:
    """Runs of frames with one score and one truth, of many videos. All arrays (P,).

    video: index of the video.  start, end: half-open, frames.  score.  is_event: True inside a true event.
    """

    video: Ints
    start: Ints
    end: Ints
    score: Float64
    is_event: NDArray[np.bool_]

    @property
    def positive(self) -> Float64:
        """The number of truly abnormal frames of each piece."""
        return np.where(self.is_event, self.end - self.start, 0).astype(np.float64)

    @property
    def negative(self) -> Float64:
        """The number of truly normal frames of each piece."""
        return np.where(self.is_event, 0, self.end - self.start).astype(np.float64)


def segment_windows(frames: int, count: int) -> tuple[Ints, Ints]:
    """Return `count` equal parts of a video as half-open windows; widths differ by at most one frame.

    In a video with fewer frames than parts, parts share frames; none is empty.
    """
    if frames < 1 or count < 1:
        raise DataError(f"cannot cut {frames} frames into {count} segments; both must be at least 1")
    edges = np.arange(count + 1, dtype=np.int64) * frames // count
    return edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)


def pieces_of(timeline: Timeline, index: int, stamping: Stamping, delay_s: float = 0.0) -> Pieces:
    """Return the pieces of one video. delay_s: processing time added to the emission time, seconds."""
    if stamping == "content":
        onsets, scores = timeline.starts.copy(), timeline.scores
        onsets[0] = 0  # the frames before the first window and after the last one take the nearest score
    else:
        delay = round(delay_s * timeline.fps)
        onsets = np.concatenate([[0], timeline.ends + delay])
        scores = np.concatenate([[SILENT], timeline.scores])
    bounds = [b for event in timeline.events for b in event]
    cuts = np.unique(np.concatenate([[0, timeline.frames], onsets, bounds]).astype(np.int64))
    cuts = cuts[(cuts >= 0) & (cuts <= timeline.frames)]
    start, end = cuts[:-1], cuts[1:]
    is_event = np.zeros(len(start), bool)
    for a, b in timeline.events:
        is_event |= (start >= a) & (end <= b)
    held = np.searchsorted(onsets, start, side="right") - 1
    return Pieces(np.full(len(start), index), start, end, scores[held], is_event)


def all_pieces(timelines: Sequence[Timeline], stamping: Stamping, delay_s: float = 0.0) -> Pieces:
    """Return the pieces of all videos. Raises DataError for an empty list or a repeated name."""
    if not timelines:
        raise DataError("there is no video to evaluate; give at least one abnormal and one normal video")
    names = [t.name for t in timelines]
    if len(set(names)) != len(names):
        raise DataError(f"video {next(n for n in names if names.count(n) > 1)} is listed twice; remove one of them")
    parts = [pieces_of(t, i, stamping, delay_s) for i, t in enumerate(timelines)]
    return Pieces(
        np.concatenate([p.video for p in parts]),
        np.concatenate([p.start for p in parts]),
        np.concatenate([p.end for p in parts]),
        np.concatenate([p.score for p in parts]),
        np.concatenate([p.is_event for p in parts]),
    )
