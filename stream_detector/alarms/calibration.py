"""Chooses a threshold from normal footage and bounds the rate of false alarms that it causes.

The threshold is the lowest one whose false alarm rate is shown to be at most the requested rate. The alarm rule of the
stream counts the false alarms, because hysteresis and cooldown decide how many alarms a bad minute causes. The alarms
are treated as Poisson events (the cooldown separates them). For `n` alarms in `H` hours, the exact one-sided upper
bound on the rate (Garwood, Biometrika 28, 1936) is the μ/H at which `n` or fewer alarms have the probability 1 -
confidence. For n = 0 the bound is -ln(0.05)/H ≈ 3/H: footage of H hours cannot show a lower rate.

The search goes from the highest threshold down and stops at the first one that fails. Therefore the bound holds
although the same footage chose the threshold: the chosen threshold is too low only if the count at the right one was
also too low, and that has at most the probability 1 - confidence (fixed-sequence testing; Angelopoulos et al., "Learn
then Test", 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stream_detector.errors import DataError, UsageError

DIGITS = 4  # decimal places to which thresholds are rounded up
# each step lowers the rank of the peak by 1/25 of the peaks passed; each step needs one pass over the footage
STEP_SHARE = 25
MERGED = 3  # at a lower threshold alarms merge; if the count falls by this much, the search stops


@dataclass(frozen=True, slots=True)
class Calibration:
    """The chosen threshold and its statistics. Rates are false alarms per hour of one camera.

    alarms: the number of alarms at `threshold` in `hours` of footage.  lower, upper: exact bounds on the rate, each
    one-sided at `confidence`.  hours_needed: the least footage without any alarm that can show the requested rate.
    shown: whether `upper` is at most `asked`. If not, `threshold` is the highest useful threshold, and only `upper` is
    known.
    """

    threshold: float
    asked: float
    hours: float
    alarms: int
    lower: float
    upper: float
    confidence: float
    hours_needed: float
    shown: bool

    @property
    def rate(self) -> float:
        """The measured rate, in false alarms per hour."""
        return self.alarms / self.hours

    def sentence(self) -> str:
        """One sentence that says what the figures mean."""
        seen = f"{self.alarms} alarm{'' if self.alarms == 1 else 's'} in {hours_text(self.hours)}"
        chosen = f"threshold {self.threshold:.{DIGITS}f}: {seen}"
        bound, asked = rate_text(self.upper), f"{self.asked:g}"
        if self.shown:
            return f"{chosen}; with {self.confidence:.0%} confidence fewer than {bound} an hour, as asked ({asked})"
        if self.hours < self.hours_needed:
            return (
                f"{chosen}, which only bounds the rate below {bound} an hour; the footage is too short to show "
                f"{asked}: give at least {self.hours_needed:.1f} h"
            )
        return (
            f"{chosen}, and no higher one has fewer; the rate asked ({asked}) cannot be reached with this model on "
            f"this footage, only {bound}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values, for JSON."""
        return {
            "threshold": self.threshold,
            "asked_per_hour": self.asked,
            "hours": round(self.hours, 4),
            "alarms": self.alarms,
            "rate_per_hour": round(self.rate, 6),
            "lower_per_hour": round(self.lower, 6),
            "upper_per_hour": round(self.upper, 6),
            "confidence": self.confidence,
            "hours_needed": round(self.hours_needed, 3),
            "shown": self.shown,
            "sentence": self.sentence(),
        }


def hours_text(hours: float) -> str:
    """Format hours: '14.0 h', or '25 min' and '31 s' for short times."""
    return f"{hours:.1f} h" if hours >= 2 else f"{hours * 60:.0f} min" if hours >= 1 / 30 else f"{hours * 3600:.0f} s"


def rate_text(per_hour: float) -> str:
    """Format a rate with two significant digits: '0.21', '3.5', '349'."""
    return f"{per_hour:.0f}" if per_hour >= 10 else f"{per_hour:.2g}"


def poisson_at_most(count: int, mean: float) -> float:
    """Return the probability that a Poisson variable with this mean is at most `count`."""
    if count < 0:
        return 0.0
    if mean <= 0.0:
        return 1.0
    # Sum the side whose terms only fall, from the largest term on: about √mean terms, all positive.
    down = mean >= count
    k = count if down else count + 1
    term = math.exp(k * math.log(mean) - mean - math.lgamma(k + 1))
    total = 0.0
    while term > total * 1e-17:
        total += term
        if down:
            term *= k / mean
            k -= 1
        else:
            k += 1
            term *= mean / k
    return min(1.0, total) if down else max(0.0, 1.0 - total)


def poisson_upper(count: int, confidence: float) -> float:
    """Return the exact one-sided upper bound on the Poisson mean after `count` events: 2.9957 for 0 events at 0.95."""
    low, high = float(count), count + 10.0 * math.sqrt(count + 1.0) + 40.0
    return _solve(lambda mean: poisson_at_most(count, mean) > 1.0 - confidence, low, high)


def poisson_lower(count: int, confidence: float) -> float:
    """Return the exact one-sided lower bound on the Poisson mean after `count` events; 0 for 0 events."""
    if count == 0:
        return 0.0
    return _solve(lambda mean: 1.0 - poisson_at_most(count - 1, mean) < 1.0 - confidence, 0.0, float(count))


def _solve(below: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def allowed_alarms(hours: float, asked: float, confidence: float, most: float = math.inf) -> int:
    """Return how many alarms `hours` of footage may contain while the upper bound is at most `asked`.

    Returns -1 if even 0 alarms are too many.  most: the search stops at this count. For any requested rate, the work
    grows with √most only.
    """
    low, high = -1, max(1, math.ceil(min(hours * asked, most)) + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if poisson_upper(middle, confidence) <= hours * asked:
            low = middle
        else:
            high = middle
    return low if poisson_upper(high, confidence) > hours * asked else high


def candidates_of(series: Sequence[Sequence[float]]) -> list[float]:
    """Return the thresholds at which the number of alarms can change, highest first.

    series: smoothed scores, one sequence per recording. The thresholds lie just above each peak of each series. An
    alarm starts where the smoothed score rises to the threshold, so every alarm has its own peak at or above the
    threshold, and at most `k` alarms occur at the threshold with index `k`. Equal thresholds are kept, so that this
    bound holds.
    """
    peaks: list[float] = []
    for scores in series:
        before, rising = -math.inf, True
        for score in scores:
            if score < before and rising:
                peaks.append(before)
            if score != before:
                rising = score > before
            before = score
        if rising and scores:
            peaks.append(before)
    unit = 10**DIGITS
    return sorted(((math.floor(peak * unit + 1e-9) + 1) / unit for peak in peaks), reverse=True)


def check_rate(asked: float, confidence: float) -> None:
    """Raise UsageError for a rate or a confidence that no footage can show."""
    if not (math.isfinite(asked) and asked > 0.0):
        raise UsageError(
            f"a rate of {asked:g} false alarms an hour cannot be shown; give a number above 0, such as 0.1"
        )
    if not 0.5 <= confidence < 1.0:
        raise UsageError(f"confidence {confidence:g} is not between 0.5 and 1; give for instance 0.95")


def calibrate(
    count_alarms: Callable[[float], int],
    candidates: Sequence[float],
    *,
    hours: float,
    asked: float,
    confidence: float = 0.95,
) -> Calibration:
    """Find the lowest of `candidates` at which the rate is shown to be at most `asked` false alarms per hour.

    count_alarms: threshold → false alarms in all the footage.  candidates: highest first.  hours: length of the footage
    of all cameras together.  If the footage is too short to show the rate, the result is the lowest threshold without
    any alarm.  Raises UsageError for an impossible rate or confidence, DataError without footage.
    """
    check_rate(asked, confidence)
    if hours <= 0.0 or not candidates:
        raise DataError("no window was scored, so nothing can be calibrated; give footage of at least one window")
    allowed = max(0, allowed_alarms(hours, asked, confidence, most=len(candidates)))
    usable = [min(1.0, threshold) for threshold in candidates]
    # Above this peak the number of alarms cannot exceed the allowed one (see candidates_of), and few can have merged.
    at = min(allowed, len(usable) // 20)
    while at + 1 < len(usable) and usable[at + 1] == usable[at]:
        at += 1
    chosen, seen = usable[at], count_alarms(usable[at])
    # cannot happen where alarms start as `candidates_of` says; then begin at the highest threshold
    if seen > allowed and chosen < 1.0:
        chosen, seen = 1.0, count_alarms(1.0)
    most = seen
    while seen <= allowed and at + 1 < len(usable):
        at = min(len(usable) - 1, at + 1 + at // STEP_SHARE)
        if usable[at] == chosen:
            continue
        number = count_alarms(usable[at])
        if number > allowed or number < most - MERGED:
            break
        chosen, seen, most = usable[at], number, max(most, number)
    upper = poisson_upper(seen, confidence) / hours
    return Calibration(
        threshold=chosen,
        asked=asked,
        hours=hours,
        alarms=seen,
        lower=poisson_lower(seen, confidence) / hours,
        upper=upper,
        confidence=confidence,
        hours_needed=poisson_upper(0, confidence) / asked,
        shown=upper <= asked * (1 + 1e-9),
    )
