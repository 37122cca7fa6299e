"""Reference values for figures: the scores of oracles, which know the truth or nothing, on the same videos.

    random           a random score for every window
    video            a perfect classifier of videos, constant inside each: the frame AUC without any localisation
    segments         the best possible score per window: the fraction of the window that is truly abnormal
    late by d        perfect in every frame, but d seconds late

They belong beside every figure, because the same AUC means different things on different sets of videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trainer.data.timeline import Timeline

DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


def random_scores(timelines: Sequence[Timeline], seed: int = 0) -> list[Timeline]:
    """Return uniform random scores."""
    rng = np.random.default_rng(seed)
    return [replace(t, scores=rng.uniform(0, 1, len(t.scores))) for t in timelines]


def video_scores(timelines: Sequence[Timeline]) -> list[Timeline]:
    """Return 1 for every window of an abnormal video, 0 in a normal one."""
    return [replace(t, scores=np.full(len(t.scores), float(t.label))) for t in timelines]


def segment_scores(timelines: Sequence[Timeline]) -> list[Timeline]:
    """Return the fraction of each window that lies in a true event."""
    out = []
    for t in timelines:
        share = np.zeros(len(t.scores))
        for a, b in t.events:
            share += np.clip(np.minimum(t.ends, b) - np.maximum(t.starts, a), 0, None) / (t.ends - t.starts)
        out.append(replace(t, scores=np.clip(share, 0, 1)))
    return out


def late_scores(timelines: Sequence[Timeline], delay_s: float) -> list[Timeline]:
    """Return 1 inside the true events shifted by `delay_s`, 0 elsewhere; windows follow the shifted events exactly."""
    out = []
    for t in timelines:
        shift = round(delay_s * t.fps)
        moved = [(a + shift, min(b + shift, t.frames)) for a, b in t.events if a + shift < t.frames]
        cuts = np.unique([0, t.frames, *(x for event in moved for x in event)]).astype(np.int64)
        starts, ends = cuts[:-1], cuts[1:]
        inside = np.array([any(a <= s < b for a, b in moved) for s in starts], dtype=float)
        out.append(replace(t, starts=starts, ends=ends, scores=inside))
    return out


def oracle_lines(timelines: Sequence[Timeline]) -> dict[str, list[Timeline]]:
    """Return line name → the same videos with that oracle's scores. All use content time."""
    lines = {
        "random": random_scores(timelines),
        "perfect video classifier": video_scores(timelines),
        "perfect score per window": segment_scores(timelines),
    }
    return lines | {f"perfect but {d:g} s late": late_scores(timelines, d) for d in DELAYS_S}
