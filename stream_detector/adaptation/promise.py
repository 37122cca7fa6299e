"""The promised rate of false alarms, and an anytime-valid bound that shows when it is broken.

Two figures, both valid at any time, however often they are read (Ville 1939):

    broken   An e-process by betting: with N false alarms in a day and the promise m a day, a bet γ multiplies its
             capital by 1 + γ (N/m - 1); the mean over some γ is compared with 1/α = 20. While the promise holds, it
             exceeds 20 with probability 0.05 at most (Waudby-Smith and Ramdas, "Estimating means of bounded random
             variables by betting", JRSS B 2024; Shafer 2021).
             Assumption: given the past, the expected number of false alarms in a day is at most m. No other: alarms
             may come in bursts and at any time of the day.
    bounds   The confidence sequence of a Poisson rate from a gamma mixture (Robbins 1970; Howard, Ramdas, McAuliffe and
             Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021).
             Assumption: given the past, the number in a day is Poisson with the same mean; the rate may differ within a
             day, bursts violate it.

A day is 24 hours of scored time of one camera; an unfinished day does not count yet. Alarms without a verdict count as
true in the lower bound and in `broken`, and as false in the upper bound, so the statements hold for any verdict.
Verdicts are assumed to be right; `benign` and `unsure` are not false.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stream_detector.errors import UsageError

ALPHA = 0.05
BETS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
PRIOR_SHAPE, PRIOR_DAYS = 0.5, 0.5  # of the gamma mixture; any choice is valid, this one is wide
DAY_HOURS = 24.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Day:
    """One day of scored time. false: alarms with that verdict.  unjudged: alarms without a verdict."""

    false: int
    unjudged: int = 0


@dataclass(frozen=True, slots=True)
class RateState:
    """What is known of a camera's rate. All rates are false alarms per day.

    wanted: None without a promise.  days: finished days of scored time.  lower, upper: the confidence sequence at 95 %,
    each side 2.5 %; upper is infinite before the first day.  evidence: the e-value against the promise.  broken:
    whether it was ever at least 20.
    """

    wanted: float | None
    days: int
    scored_hours: float
    false: int
    unjudged: int
    lower: float
    upper: float
    evidence: float
    broken: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON: an infinite bound is null."""
        return {
            "wanted_per_day": self.wanted,
            "days": self.days,
            "scored_hours": round(self.scored_hours, 2),
            "false": self.false,
            "unjudged": self.unjudged,
            "lower_per_day": round(self.lower, 4),
            "upper_per_day": None if math.isinf(self.upper) else round(self.upper, 4),
            "evidence": round(min(self.evidence, 1e12), 4),
            "broken": self.broken,
        }

    def sentence(self) -> str:
        """For people."""
        upper = "unknown" if math.isinf(self.upper) else f"{self.upper:.2g}"
        bound = f"false alarms a day between {self.lower:.2g} and {upper} (95 %, {self.days} days of scored time)"
        if self.wanted is None:
            return bound
        kept = "broken" if self.broken else "kept so far"
        return f"at most {self.wanted:g} a day wanted: {kept}; {bound}"


def evidence(counts: ArrayLike, wanted: float) -> Floats:
    """The e-process: counts (..., days) → (..., days + 1), before the first and after every day. Raises UsageError."""
    if not (math.isfinite(wanted) and wanted > 0):
        raise UsageError(f"a rate of {wanted:g} false alarms a day cannot be promised; give a number above 0")
    days = np.asarray(counts, np.float64)
    bets = np.array(BETS).reshape(-1, *([1] * days.ndim))
    logs = np.log1p(bets * (days / wanted - 1.0))
    start = np.zeros((*logs.shape[:-1], 1))
    capital = np.concatenate([start, np.cumsum(logs, axis=-1)], axis=-1)
    top = capital.max(axis=0)
    result: Floats = np.exp(np.minimum(top, 700.0)) * np.exp(capital - top).mean(axis=0)
    return result


def log_mixture(count: float, days: float, rate: float) -> float:
    """Logarithm of the gamma mixture's likelihood ratio against a Poisson rate a day."""
    a, b = PRIOR_SHAPE, PRIOR_DAYS
    mixture = a * math.log(b) - math.lgamma(a) + math.lgamma(a + count) - (a + count) * math.log(b + days)
    return mixture - (count * math.log(rate) if count else 0.0) + rate * days


def confidence_sequence(count: int, days: float, alpha: float = ALPHA) -> tuple[float, float]:
    """(lower, upper) of a Poisson rate a day after `days`; holds at all times together with probability 1 - alpha."""
    if days <= 0:
        return 0.0, math.inf
    limit = math.log(1.0 / alpha)
    middle = max(count, 1e-9) / days
    lower = 0.0
    if count and log_mixture(count, days, 1e-12) > limit:
        lower = _solve(lambda rate: log_mixture(count, days, rate) > limit, 1e-12, middle)
    high = middle + 1.0
    while log_mixture(count, days, high) < limit:
        high *= 2.0
    upper = _solve(lambda rate: log_mixture(count, days, rate) < limit, middle, high)
    return lower, upper


def _solve(below: Any, low: float, high: float) -> float:
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def rate_state(days: Sequence[Day], wanted: float | None, scored_hours: float = 0.0) -> RateState:
    """Return what the finished days say. wanted: the promise per day, or None."""
    false, unjudged = sum(d.false for d in days), sum(d.unjudged for d in days)
    lower, _ = confidence_sequence(false, len(days))
    _, upper = confidence_sequence(false + unjudged, len(days))
    values = evidence([d.false for d in days], wanted) if wanted is not None else np.ones(1)
    broken = bool((values >= 1.0 / ALPHA).any()) and wanted is not None
    return RateState(wanted, len(days), scored_hours, false, unjudged, lower, upper, float(values[-1]), broken)


def scored_days(hours: Sequence[tuple[int, float]], alarms: Sequence[tuple[float, str]]) -> tuple[list[Day], float]:
    """Return (finished days, scored hours) of one camera.

    hours: (hour since the epoch, scored seconds), in order.  alarms: (seconds since the epoch, verdict or "").
    """
    ends: list[tuple[int, int]] = []  # (first hour, last hour) of every day that is over
    total = used = 0.0
    first: int | None = None
    for hour, seconds in hours:
        first = hour if first is None else first
        used += min(seconds, 3600.0) / 3600.0
        total += min(seconds, 3600.0) / 3600.0
        if used >= DAY_HOURS - 0.25:  # a camera loses some windows at its edges
            ends.append((first, hour))
            used, first = 0.0, None
    days = []
    for begin, end in ends:
        mine = [verdict for utc, verdict in alarms if begin <= utc // 3600 <= end]
        days.append(Day(mine.count("false"), mine.count("")))
    return days, total
