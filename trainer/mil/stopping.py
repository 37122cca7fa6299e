"""When a curve of figures says that training is over: after it has risen and come down again, and not before.

A head whose rate is small moves little at first, and a figure of a few dozen videos is noisy: `so many looks without a
better figure` then ends training before it begins. Here the curve is cut into three equal parts. It has turned when the
last part lies below the middle one and the middle one above the first, both by more than the noise of a part's mean.
A curve that still rises, that is flat, or that only falls, has not turned; training goes on to its last step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SMOOTH_LOOKS = 5  # looks averaged when the best one is chosen
STANDARD_ERRORS = 2.0  # by which two parts must differ


def trailing_means(figures: Sequence[float], looks: int = SMOOTH_LOOKS) -> list[float]:
    """Mean of each figure and of those before it, `looks` together (fewer at the start)."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(figures, np.float64))])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - looks, 0)
    return [float(mean) for mean in (sums[ends] - sums[starts]) / (ends - starts)]


def has_turned(figures: Sequence[float], least: int) -> bool:
    """Whether the curve rose and came down again. figures: oldest first.  least: looks in each of the three parts."""
    if len(figures) < 3 * max(least, 2):
        return False
    values = np.asarray(figures, np.float64)
    first, middle, last = (values[at].mean() for at in np.array_split(np.arange(len(values)), 3))
    noise = np.diff(values).std() / np.sqrt(2.0)  # of one look; a slow trend does not count as noise
    margin = STANDARD_ERRORS * noise * np.sqrt(2.0 / (len(values) / 3))
    return bool(middle - first > margin and middle - last > margin)
