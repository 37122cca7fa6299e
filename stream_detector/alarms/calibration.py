"""A threshold from normal footage: the lowest one whose false alarms an hour stay below what was asked, and how sure.

False alarms are counted by the real alarm machine, not by windows above a line: hysteresis and cooldown decide how many
a bad minute makes. They are taken as Poisson events (the cooldown keeps them apart). For `n` alarms in `H` hours the
exact one-sided bound on the rate (Garwood, Biometrika 28, 1936) is the μ/H at which n or fewer have the probability
1 - confidence; for n = 0 that is -ln(0.05)/H ≈ 3/H: no footage of H hours, however quiet, shows less than that.

The search goes from the highest threshold down and stops at the first that fails, so the bound holds although the same
footage chose the threshold: choosing too low a one means that the count at the right one was also low, which happens
with probability 1 - confidence at most (fixed-sequence testing; Angelopoulos et al., "Learn then Test", 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stream_detector.errors import DataError, UsageError

DIGITS = 4  # thresholds are rounded up to so many
STEP_SHARE = 25  # the search goes down by 1/25 of the peaks passed; each step takes a pass over the footage
MERGED = 3  # so many alarms fewer at a lower threshold: alarms begin to flow together, which is not what was asked for


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was chosen and what is known of it. Rates are false alarms an hour of one camera.

    alarms: counted at `threshold` in `hours` of footage.  lower, upper: exact bounds on the rate, each one-sided at
    `confidence`.  hours_needed: the least footage, without any alarm in it, that can show the asked rate.
    shown: whether `upper` is at most `asked`; if not, the threshold is the highest useful one, and `upper` all that is
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
        """The rate seen."""
        return self.alarms / self.hours

    def sentence(self) -> str:
        """What the figures mean, for people."""
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
        """All figures, for JSON."""
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
    """'14.0 h', or '31 s' and '25 min' for little."""
    return f"{hours:.1f} h" if hours >= 2 else f"{hours * 60:.0f} min" if hours >= 1 / 30 else f"{hours * 3600:.0f} s"


def rate_text(per_hour: float) -> str:
    """A rate with two digits that matter: '0.21', '3.5', '349'."""
    return f"{per_hour:.0f}" if per_hour >= 10 else f"{per_hour:.2g}"


def poisson_at_most(count: int, mean: float) -> float:
    """The probability that a Poisson variable with this mean is at most `count`."""
    if count < 0:
        return 0.0
    if mean <= 0.0:
        return 1.0
    # Sum the side on which terms only fall, from its largest on: about √mean terms, all of them positive.
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
    """The exact one-sided upper bound on the mean when `count` was seen: for 0 and 0.95 it is 2.9957."""
    low, high = float(count), count + 10.0 * math.sqrt(count + 1.0) + 40.0
    return _solve(lambda mean: poisson_at_most(count, mean) > 1.0 - confidence, low, high)


def poisson_lower(count: int, confidence: float) -> float:
    """The exact one-sided lower bound on the mean when `count` was seen; 0 for 0."""
    if count == 0:
        return 0.0
    return _solve(lambda mean: 1.0 - poisson_at_most(count - 1, mean) < 1.0 - confidence, 0.0, float(count))


def _solve(below: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def allowed_alarms(hours: float, asked: float, confidence: float, most: float = math.inf) -> int:
    """How many alarms `hours` of footage may hold with the upper bound still at most `asked`; -1: not even none.

    most: no larger count is of interest. However high a rate is asked, the work grows with √most only.
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
    """Thresholds at which the number of alarms can change: just above each peak of each smoothed series, highest first.

    An alarm starts where the smoothed score rises to the threshold, so every alarm has a peak of its own at or above
    it, and at most `k` alarms can come at the threshold with index `k`. Equal ones are kept, so that this stays true.
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
    """Raises UsageError for a rate or a confidence that no footage can show."""
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
    """The lowest of `candidates` (highest first) at which the rate is shown to be at most `asked` an hour.

    count_alarms: false alarms in all the footage at a threshold.  hours: of footage, all cameras together.  When the
    footage is too short to show the rate, the lowest threshold without any alarm is taken.  Raises UsageError for an
    impossible rate or confidence, DataError without footage.
    """
    check_rate(asked, confidence)
    if hours <= 0.0 or not candidates:
        raise DataError("no window was scored, so nothing can be calibrated; give footage of at least one window")
    allowed = max(0, allowed_alarms(hours, asked, confidence, most=len(candidates)))
    usable = [min(1.0, threshold) for threshold in candidates]
    # Above this peak there cannot be more alarms than allowed (see candidates_of), nor have many flowed together.
    at = min(allowed, len(usable) // 20)
    while at + 1 < len(usable) and usable[at + 1] == usable[at]:
        at += 1
    chosen, seen = usable[at], count_alarms(usable[at])
    if seen > allowed and chosen < 1.0:  # impossible where alarms start as candidates_of says; begin at the top then
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
