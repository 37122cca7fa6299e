"""Applies the smoothing and the alarm rule of the stream to recorded scores, for tuning, calibration and training.

    smooth_scores      any smoother, window by window
    hysteresis_starts  the windows at which the rule "hysteresis" starts alarms, vectorised: a search over many
                       thresholds would take too long window by window

`tests/alarms/test_replay.py` proves that `hysteresis_starts` equals `make_alarm_rule`.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stream_detector.alarms.smoothing import make_smoother, smooth_on
from stream_detector.alarms.state_machine import MAX_EVENT_WINDOWS
from stream_detector.config import AlarmConfig, SmoothingConfig

Floats = NDArray[np.float64]


def smooth_scores(
    raw: ArrayLike, starts_s: ArrayLike, ends_s: ArrayLike, config: SmoothingConfig, cuts: Collection[int] = ()
) -> Floats:
    """Return the (n,) smoothed scores of one camera's windows, in order.

    raw, starts_s, ends_s: (n,) raw score, start and end of each window, media time in seconds. cuts: indices of the
    windows at which another scene begins.  Raises ConfigError for an unknown smoother.
    """
    smoother = make_smoother(config)
    rows = zip(*(np.asarray(values, np.float64).tolist() for values in (raw, starts_s, ends_s)), strict=True)
    return np.array(
        [
            smooth_on(smoother, start_s, end_s, score, ("cut",) if number in cuts else ())
            for number, (score, start_s, end_s) in enumerate(rows)
        ]
    )


def hysteresis_starts(
    raw: Floats, smoothed: Floats, starts_s: Floats, ends_s: Floats, threshold: float, alarm: AlarmConfig
) -> list[int]:
    """Return the indices of the windows at which the rule "hysteresis" starts an alarm.

    All arrays have the shape (n,); times are media seconds and rise.
    """
    return [start for start, _, _ in hysteresis_spans(raw, smoothed, starts_s, ends_s, threshold, alarm)]


def hysteresis_spans(
    raw: Floats, smoothed: Floats, starts_s: Floats, ends_s: Floats, threshold: float, alarm: AlarmConfig
) -> list[tuple[int, int | None, float]]:
    """Return (index of the window that starts it, of the one that ends it or None, media time of the onset) per alarm.

    All arrays have the shape (n,); times are media seconds and rise.
    """
    above, low = np.flatnonzero(smoothed >= threshold), smoothed < threshold * alarm.off_ratio
    last = np.maximum.accumulate(np.where(low, -1, np.arange(len(low))))  # the last window that was not low
    below = np.flatnonzero(low & (last >= 0))
    below = below[ends_s[below] - ends_s[last[below]] >= alarm.hold_s]
    calm = np.flatnonzero(raw < threshold)
    found: list[tuple[int, int | None, float]] = []
    place, ready_s = 0, -np.inf
    while True:
        later = above[np.searchsorted(above, place) :]
        later = later[np.searchsorted(ends_s[later], ready_s) :]
        if not len(later):
            return found
        start = int(later[0])
        before = int(np.searchsorted(calm, start, side="right"))  # the onset is the time at which the raw score rose
        onset = max(int(calm[before - 1]) + 1 if before else 0, place, start - MAX_EVENT_WINDOWS + 1)
        begun_s = float(starts_s[min(onset, start)])
        ends = below[np.searchsorted(below, start, side="right") :]
        ends = ends[ends_s[ends] - begun_s >= alarm.min_length_s]
        found.append((start, int(ends[0]) if len(ends) else None, begun_s))
        if not len(ends):
            return found
        place, ready_s = int(ends[0]) + 1, float(ends_s[ends[0]]) + alarm.cooldown_s
