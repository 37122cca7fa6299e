"""Where an alarm starts: threshold and smoothing, from footage in which nothing happens and scenes in which it does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.measure import Stream, judge_scenes

TIME_CONSTANTS_S = (0.5, 0.75, 1.0)  # of the smoothing, to choose from
TIMELY_S = 3.0  # an incident should be clear so soon after its start


def find_threshold(
    quiet: Sequence[Stream],
    incidents: Sequence[Stream],
    normal_clips: Sequence[Stream],
    time_constant_s: float = 1.0,
    allowed: float = 0.05,
) -> tuple[float, str]:
    """A threshold on the smoothed score, and how it was found.

    Above everything seen in quiet footage, and above all but `allowed` of the normal clips; if the incidents of the
    rendered scenes peak higher in their first `TIMELY_S`, half the way up to the weakest tenth of them.
    """

    def highest(streams: Sequence[Stream], within_s: float | None = None) -> list[float]:
        peaks = []
        for stream in streams:
            values = stream.smoothed(time_constant_s)
            if within_s is not None and stream.incident_s is not None:
                begin = stream.incident_s[0]
                values = values[(stream.ends_s >= begin) & (stream.ends_s <= begin + within_s)]
            peaks.append(float(values.max(initial=0.0)))
        return peaks

    calm, clips, timely = highest(quiet), highest(normal_clips), highest(incidents, TIMELY_S)
    usual = float(np.quantile(clips, 1 - allowed)) if clips else 0.0
    floor = max([*calm, usual, 0.2])
    ceiling = float(np.quantile(timely, 0.1)) if timely else floor
    value = floor + (ceiling - floor) / 2 if ceiling > floor else floor + 0.02
    how = (
        f"highest smoothed score in {len(quiet)} pieces of quiet footage {max(calm, default=0.0):.3f}; "
        f"{100 * (1 - allowed):.0f} % of {len(clips)} normal val clips below {usual:.3f}; weakest tenth of "
        f"{len(timely)} rendered incidents {ceiling:.3f} in their first {TIMELY_S} s"
    )
    return round(min(0.98, value), 3), how


def choose_smoothing(
    quiet: Sequence[Stream], scenes: Sequence[Stream], normal_clips: Sequence[Stream]
) -> tuple[float, float, str]:
    """(time constant, threshold, how): the one that serves the scenes best, and among equals the fastest."""
    incidents = [stream for stream in scenes if stream.incident_s is not None]
    tried = []
    for time_constant_s in TIME_CONSTANTS_S:
        threshold, how = find_threshold(quiet, incidents, normal_clips, time_constant_s)
        found = judge_scenes(scenes, threshold, time_constant_s)
        good = found["seen"] - found["scenes_with_other_alarms"] - found["quiet_scenes_with_alarm"]
        tried.append((good, -(found["median_delay_s"] or 99.0), time_constant_s, threshold, how))
    return max(tried)[2:]
