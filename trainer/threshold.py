"""Where an alarm starts: threshold and smoothing, from footage in which nothing happens and scenes in which it does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.measure import Stream, judge_scenes

TIME_CONSTANTS_S = (0.5, 0.75, 1.0)  # of the smoothing, to choose from
TIMELY_S = 3.0  # an incident should be clear so soon after its start
ALLOWED_CLIPS = 0.05  # of the normal clips, rendered streets among them, may reach what the threshold lies above
ALLOWED_PER_HOUR = 0.2  # alarms of a quiet camera
EQUAL = 0.03  # shares served that differ by no more are the same: about one scene and one clip
MARGIN = 0.03  # above what was seen in quiet, where real incidents are known: they are fainter than rendered ones


def peaks(streams: Sequence[Stream], time_constant_s: float, within_s: float | None = None) -> list[float]:
    """The highest smoothed score of each stream. within_s: only so long after the start of its incident, if any."""
    found = []
    for stream in streams:
        values = stream.smoothed(time_constant_s)
        if within_s is not None and stream.incident_s is not None:
            begin = stream.incident_s[0]
            values = values[(stream.ends_s >= begin) & (stream.ends_s <= begin + within_s)]
        found.append(float(values.max(initial=0.0)))
    return found


def find_threshold(
    quiet: Sequence[Stream],
    incidents: Sequence[Stream],
    normal_clips: Sequence[Stream],
    time_constant_s: float = 1.0,
    hours: Sequence[Stream] = (),
    *,
    margin: float | None = None,
    allowed: float = ALLOWED_CLIPS,
) -> tuple[float, str]:
    """A threshold on the smoothed score, and how it was found.

    Above everything seen in quiet pieces, above whole quiet recordings but for `ALLOWED_PER_HOUR`, and above all but
    `allowed` of the normal clips; by half the way up to the weakest tenth of the rendered incidents in their first
    `TIMELY_S`, but by no more than `margin`.  hours: whole recordings, at most one alarm counted in each.
    """
    calm, clips = peaks(quiet, time_constant_s), peaks(normal_clips, time_constant_s)
    timely = peaks(incidents, time_constant_s, TIMELY_S)
    nights = sorted(peaks(hours, time_constant_s), reverse=True)
    length_h = sum(float(stream.ends_s[-1]) for stream in hours) / 3600
    night = nights[min(len(nights) - 1, int(ALLOWED_PER_HOUR * length_h))] if nights else 0.0
    usual = float(np.quantile(clips, 1 - allowed)) if clips else 0.0
    floor = max([*calm, night, usual, 0.2])
    ceiling = float(np.quantile(timely, 0.1)) if timely else floor
    way = (ceiling - floor) / 2 if ceiling > floor else 0.02
    value = floor + (way if margin is None else min(margin, way))
    how = (
        f"highest smoothed score in {len(quiet)} pieces of a quiet camera {max(calm, default=0.0):.3f}; "
        + (
            f"in {length_h:.1f} h of quiet recordings all but {ALLOWED_PER_HOUR:g} an hour {night:.3f}; "
            if nights
            else ""
        )
        + f"{100 * (1 - allowed):.0f} % of {len(clips)} normal clips and streets below {usual:.3f}; weakest tenth of "
        f"{len(timely)} rendered incidents {ceiling:.3f} in their first {TIMELY_S} s"
    )
    return round(min(0.98, value), 3), how


def choose_smoothing(
    quiet: Sequence[Stream],
    scenes: Sequence[Stream],
    normal_clips: Sequence[Stream],
    abnormal_clips: Sequence[Stream] = (),
    hours: Sequence[Stream] = (),
) -> tuple[float, float, str]:
    """(time constant, threshold, how): the one that serves scenes and real incidents best, and of equals the steadiest.

    Served are scenes with one timely alarm or rightly none, and abnormal clips that reach the threshold; as shares.
    Equal are those within `EQUAL` of the best: a longer one costs nothing then and is less easily startled.
    """
    incidents = [stream for stream in scenes if stream.incident_s is not None]
    margin = MARGIN if abnormal_clips else None
    tried = []
    for time_constant_s in TIME_CONSTANTS_S:
        threshold, how = find_threshold(quiet, incidents, normal_clips, time_constant_s, hours, margin=margin)
        found = judge_scenes(scenes, threshold, time_constant_s)
        bad = found["incident_scenes"] - found["seen"] + found["scenes_with_other_alarms"]
        good = 1 - (bad + found["quiet_scenes_with_alarm"]) / max(1, len(scenes))
        if abnormal_clips:
            reached = float(np.mean([peak >= threshold for peak in peaks(abnormal_clips, time_constant_s)]))
            how += f"; {100 * reached:.0f} % of {len(abnormal_clips)} abnormal val clips reach it"
            good += reached
        tried.append((good, time_constant_s, threshold, how))
    best = max(good for good, *_ in tried)
    return max((entry for entry in tried if entry[0] >= best - EQUAL), key=lambda entry: entry[1])[1:]
