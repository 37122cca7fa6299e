"""The threshold and the smoothing of a bundle, from footage with incidents and footage without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.recipes.embedded.clip_metrics import Floats, Stream

TIME_CONSTANTS_S = (0.5, 0.75, 1.0)  # of the smoothing; the candidates
ALLOWED_PER_HOUR = 0.2  # acceptable alarms of a quiet camera
LOWEST, HIGHEST, STEP = 0.2, 0.98, 0.005  # range and step of the thresholds
FALSE_COSTS = 3.0  # cost of a false alarm in misses: most footage of a camera is normal
EQUAL = 0.03  # a difference below this does not matter: about one scene and one clip


def peaks(streams: Sequence[Stream], time_constant_s: float) -> list[float]:
    """The highest smoothed score of each stream."""
    return [float(stream.smoothed(time_constant_s).max(initial=0.0)) for stream in streams]


def above_most(clips: Sequence[Stream], time_constant_s: float, share: float = 0.95) -> float:
    """Return a threshold, on the smoothed score, a little above this share of clips; used if there is no longer
    footage.
    """
    return round(min(HIGHEST, max(float(np.quantile(peaks(clips, time_constant_s), share)), LOWEST) + 0.02), 3)


def quiet_floor(quiet: Sequence[Stream], hours: Sequence[Stream], time_constant_s: float) -> tuple[float, str]:
    """Return the lower bound of the threshold, and the reason: quiet pieces, and whole recordings with at most
    `ALLOWED_PER_HOUR`.

    hours: at most one alarm is counted in each.
    """
    calm = max(peaks(quiet, time_constant_s), default=0.0)
    how = f"highest smoothed score in {len(quiet)} pieces of a quiet camera {calm:.3f}"
    if not hours:
        return max(calm, LOWEST), how
    nights = sorted(peaks(hours, time_constant_s), reverse=True)
    length_h = sum(float(stream.ends_s[-1]) for stream in hours) / 3600
    night = nights[min(len(nights) - 1, int(ALLOWED_PER_HOUR * length_h))]
    how += f"; in {length_h:.1f} h of quiet recordings all but {ALLOWED_PER_HOUR:g} an hour {night:.3f}"
    return max(calm, night, LOWEST), how


class Judged:
    """Scenes and clips with one smoothing; it gives the value of a threshold.

    scenes: rendered ones, with and without an incident.  normal, abnormal: clips.
    """

    def __init__(
        self, scenes: Sequence[Stream], normal: Sequence[Stream], abnormal: Sequence[Stream], time_constant_s: float
    ) -> None:
        self._incidents = [(s, s.smoothed(time_constant_s)) for s in scenes if s.incident_s is not None]
        self._quiet = peaks([s for s in scenes if s.incident_s is None], time_constant_s)
        self._normal, self._abnormal = peaks(normal, time_constant_s), peaks(abnormal, time_constant_s)

    def shares(self, threshold: float) -> dict[str, float]:
        """Return shares: incidents with exactly one alarm, while they last; quiet scenes with any alarm; clips that
        reach the threshold.
        """
        return {
            "incidents": _share([_just_one(scene, values, threshold) for scene, values in self._incidents]),
            "quiet": _share([peak >= threshold for peak in self._quiet]),
            "abnormal": _share([peak >= threshold for peak in self._abnormal]),
            "normal": _share([peak >= threshold for peak in self._normal]),
        }

    def served(self, threshold: float) -> float:
        """Return the share of correct results less `FALSE_COSTS` times the share of false ones, over scenes and
        clips.
        """
        share = self.shares(threshold)
        return share["incidents"] + share["abnormal"] - FALSE_COSTS * (share["quiet"] + share["normal"])


def _share(found: Sequence[bool]) -> float:
    return float(np.mean(found)) if found else 0.0


def _just_one(scene: Stream, values: Floats, threshold: float) -> bool:
    assert scene.incident_s is not None
    starts = scene.alarm_starts(values, threshold)
    return len(starts) == 1 and scene.incident_s[0] <= starts[0] <= scene.incident_s[1]


def find_threshold(judged: Judged, floor: float) -> tuple[float, float]:
    """Return (threshold, its value): above the floor, in the middle of the thresholds that are as good as the best.

    The middle, because a single clip moves the best threshold, and new footage will differ a little.
    """
    tried = np.arange(floor + STEP, HIGHEST + STEP / 2, STEP)
    if len(tried) == 0:
        return HIGHEST, judged.served(HIGHEST)
    good = np.array([judged.served(float(threshold)) for threshold in tried])
    best = int(good.argmax())
    worse = np.flatnonzero(good < good[best] - EQUAL)
    first = worse[worse < best].max(initial=-1) + 1
    end = worse[worse > best].min(initial=len(tried))
    return round(float(tried[first:end].mean()), 3), float(good[best])


def choose_smoothing(
    quiet: Sequence[Stream],
    scenes: Sequence[Stream],
    normal_clips: Sequence[Stream],
    abnormal_clips: Sequence[Stream] = (),
    hours: Sequence[Stream] = (),
) -> tuple[float, float, str]:
    """Return (time constant, threshold, how): the best smoothing, and of equals the longest.

    Smoothings within `EQUAL` of the best are equal; a longer one reacts less to short peaks.
    """
    tried = []
    for time_constant_s in TIME_CONSTANTS_S:
        floor, how = quiet_floor(quiet, hours, time_constant_s)
        judged = Judged(scenes, normal_clips, abnormal_clips, time_constant_s)
        threshold, good = find_threshold(judged, floor)
        share = judged.shares(threshold)
        how += (
            f"; above that, the middle of the thresholds that serve best: one alarm in {100 * share['incidents']:.0f} %"
            f" of rendered incidents, any in {100 * share['quiet']:.0f} % of quiet scenes; "
            f"{100 * share['abnormal']:.0f} % of {len(abnormal_clips)} abnormal and {100 * share['normal']:.1f} % of "
            f"{len(normal_clips)} normal val clips reach it"
        )
        tried.append((good, time_constant_s, threshold, how))
    best = max(good for good, *_ in tried)
    return max((entry for entry in tried if entry[0] >= best - EQUAL), key=lambda entry: entry[1])[1:]
