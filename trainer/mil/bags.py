"""The rows of a video → the bags of a batch: any number of segments; short videos repeat rows, nothing is dropped.

The segments are Sultani's (`Save_C3DFeatures_32Segments.m`): edges at round(linspace(0, rows, segments + 1)), the mean
of the rows of a segment; a segment without a row repeats the row at its edge. A video of 5 windows still gives 32
segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.types import Float32Array
from trainer.data.features import FeatureSet, VideoFeatures
from trainer.data.timeline import Ints, segment_windows

MIN_SEGMENTS = 3  # MILR's loss ranks three


def segment_edges(rows: int, segments: int) -> Ints:
    """Return (segments + 1,) edges, rounded half up; the last edge is `rows`."""
    return np.floor(np.linspace(0, rows, segments + 1) + 0.5).astype(np.int64)


def to_segments(rows: Float32Array, segments: int) -> Float32Array:
    """Map (T, D) to (segments, D); unchanged if T equals `segments`."""
    if len(rows) == segments:
        return rows
    edges = segment_edges(len(rows), segments)
    parts = [rows[a:b].mean(axis=0) if b > a else rows[min(a, len(rows) - 1)] for a, b in pairwise(edges)]
    return np.stack(parts).astype(np.float32)


def segment_bags(features: FeatureSet, segments: int) -> Float32Array:
    """All videos as (V, segments, D). Raises DataError when segments < 3."""
    if segments < MIN_SEGMENTS:
        raise DataError(f"segments must be at least {MIN_SEGMENTS} because the losses rank three, got {segments}")
    return np.stack([to_segments(v.rows, segments) for v in features.videos])


def window_spans(video: VideoFeatures, frames: int) -> tuple[Ints, Ints]:
    """Half-open frame windows of the rows of a video: those of extraction, or equal parts of `frames` frames."""
    if video.starts is not None and video.ends is not None:
        return video.starts, video.ends
    return segment_windows(frames, len(video.rows))


@dataclass(frozen=True)
class Sampler:
    """Endless batches of `pairs` abnormal and `pairs` normal videos, abnormal ones first.

    Every video of a class is used once before any is used again. abnormal, normal: indices of the videos.
    """

    abnormal: NDArray[np.int64]
    normal: NDArray[np.int64]
    pairs: int

    def __post_init__(self) -> None:
        for kind, have in (("abnormal", self.abnormal), ("normal", self.normal)):
            if not len(have):
                raise DataError(f"there is no {kind} video to train on; both classes are needed")
        if self.pairs < 1:
            raise DataError(f"a batch needs at least one pair of videos, got {self.pairs}")

    def batches(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield indices (2 * pairs,)."""
        streams = (_endless(self.abnormal, rng), _endless(self.normal, rng))
        while True:
            yield np.concatenate([np.array([next(s) for _ in range(self.pairs)]) for s in streams])


def _endless(items: Sequence[np.int64] | NDArray[np.int64], rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (int(x) for x in rng.permutation(items))


def validation_split(features: FeatureSet, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the training and of the validation videos.

    About `share` of each category becomes validation, in whole groups, with at least one video of each class on both
    sides; with a share of 0 all are training videos. Videos without a group are groups of one; then the share is exact.
    Raises DataError if a class has fewer than two videos, or if its groups allow no such split.
    """
    if not 0 <= share < 1:
        raise DataError(f"the validation share must lie between 0 and 1, got {share}")
    if share == 0:
        return np.arange(len(features.videos)), np.arange(0)
    rng, labels = np.random.default_rng(seed), features.labels()
    members: dict[str, list[int]] = {}
    for i, video in enumerate(features.videos):
        key = f"group {video.group}" if video.group else f"video {video.name}"
        members.setdefault(key, []).append(i)
    group_of = {i: tuple(group) for group in members.values() for i in group}
    held = set[int]()

    def hold(place: int) -> bool:
        """Put the video's group into validation, unless a class would have nothing left to train on."""
        with_it = held.union(group_of[place])
        left = np.delete(labels, sorted(with_it))
        if set(left) != set(labels):
            return False
        held.update(with_it)
        return True

    for category in sorted({v.category for v in features.videos}):
        mine = np.array([i for i, v in enumerate(features.videos) if v.category == category])
        wanted = round(share * len(mine))
        for place in rng.permutation(mine).tolist():
            missing = wanted - len(held.intersection(mine.tolist()))
            size = len(set(group_of[place]).intersection(mine.tolist()))
            if place not in held and 2 * missing > size:  # closer to the share with the group than without it
                hold(place)
    for label, kind in ((1, "abnormal"), (0, "normal")):
        have = np.flatnonzero(labels == label)
        if len(have) < 2:
            raise DataError(
                f"{len(have)} {kind} videos cannot be split into training and validation; give at least 2, "
                "or train on all of them with --set val_share=0"
            )
        if held.isdisjoint(have.tolist()):
            first = int(rng.choice(have))
            smallest_first = sorted((int(i) for i in have), key=lambda i: (i != first, len(group_of[i])))
            if not any(hold(place) for place in smallest_first):
                raise DataError(
                    f"the groups of the {kind} videos leave no split into training and validation; give videos of "
                    "another group, or train on all of them with --set val_share=0"
                )
    val = np.array(sorted(held))
    return np.setdiff1d(np.arange(len(labels)), val), val
