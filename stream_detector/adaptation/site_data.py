"""The data of `adapt` and the gate: stretches of windows, the verdicts in them, and replays of a model over them.

A stretch is a sequence of windows of one camera without a gap, in media time. Its list of `Incident` holds the alarms
that were raised, with their verdict, and the misses. All other windows are calm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream_detector.adaptation.overlay import Overlay
from stream_detector.alarms.replay import hysteresis_spans, smooth_scores
from stream_detector.config import AlarmConfig, SmoothingConfig
from stream_detector.types import Float32Array

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

GRACE_S = 3.0  # windows and smoothing lag behind; people state times roughly
TRUE, FALSE = ("true", "missed"), ("false", "benign")


@dataclass(frozen=True, slots=True)
class Incident:
    """An alarm or a miss in a stretch; start_s, end_s: its media time.

    verdict: "true", "false", "benign", "unsure", "missed", or "" without a verdict.  key: of the alarm or miss.
    snapshot: path of its picture, or "".
    """

    key: str
    start_s: float
    end_s: float
    verdict: str
    snapshot: str = ""

    def near(self, at_s: float) -> bool:
        """Whether an alarm that is raised at this media time belongs to it."""
        return self.start_s - GRACE_S <= at_s <= self.end_s + GRACE_S


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Consecutive windows of a camera. starts_s, ends_s: (n,) media time.  raw: (n,) scores of the bundle.

    features: (n, D) float32, rounded as the memory stores them.  cuts: numbers of windows at which another scene
    begins. day: of the calendar (UTC), or the name of a recording; it separates fit and gate.  scored: whether it
    counts towards the hours (all of it was stored, not only the surroundings of an alarm).
    """

    camera: str
    day: str
    starts_s: Float64Array
    ends_s: Float64Array
    raw: Float64Array
    features: Float32Array
    incidents: tuple[Incident, ...] = ()
    cuts: frozenset[int] = frozenset()
    scored: bool = True

    @property
    def hours(self) -> float:
        """Hours of footage that count."""
        return float(self.ends_s[-1] - self.starts_s[0]) / 3600 if self.scored and len(self.ends_s) else 0.0

    def within(self, incident: Incident, margin_s: float = 0.0) -> BoolArray:
        """(n,): the windows that touch an incident."""
        inside: BoolArray = (self.ends_s >= incident.start_s - margin_s) & (self.starts_s <= incident.end_s + margin_s)
        return inside

    def calm(self, margin_s: float = 5.0) -> BoolArray:
        """(n,): the windows that touch no incident, whatever its verdict."""
        quiet: BoolArray = np.ones(len(self.raw), bool)
        for incident in self.incidents:
            quiet &= ~self.within(incident, margin_s)
        return quiet


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm of a replay. start_s: media time at the end of the window that raised it.  end_s: its end."""

    start_s: float
    end_s: float
    begun_s: float


@dataclass(frozen=True, slots=True)
class Rules:
    """The other settings of the decision: `alarm` of the run."""

    alarm: AlarmConfig = field(default_factory=AlarmConfig)


USUAL = Rules()


def replay(stretch: Stretch, model: Overlay, rules: Rules = USUAL) -> list[Raised]:
    """The alarms that a model raises in a stretch."""
    return raise_alarms(stretch, model.adjust(stretch.features, stretch.raw), model, rules)


def smooth(stretch: Stretch, raw: Float64Array, time_constant_s: float) -> Float64Array:
    """(n,) scores, smoothed as the stream smooths them."""
    config = SmoothingConfig(kind="ema", time_constant_s=time_constant_s)
    return smooth_scores(raw, stretch.starts_s, stretch.ends_s, config, stretch.cuts)


def raise_alarms(stretch: Stretch, raw: Float64Array, model: Overlay, rules: Rules = USUAL) -> list[Raised]:
    """As `replay`, from scores that the model has adjusted already."""
    smoothed = smooth(stretch, raw, model.time_constant_s)
    return raised_at(stretch, raw, smoothed, model.threshold, rules)


def raised_at(
    stretch: Stretch, raw: Float64Array, smoothed: Float64Array, threshold: float, rules: Rules = USUAL
) -> list[Raised]:
    """The alarms at a threshold."""
    spans = hysteresis_spans(raw, smoothed, stretch.starts_s, stretch.ends_s, threshold, rules.alarm)
    ends = stretch.ends_s
    last = float(ends[-1]) if len(ends) else 0.0
    return [
        Raised(float(ends[start]), last if end is None else float(ends[end]), begun_s) for start, end, begun_s in spans
    ]


def incident_of(raised: Raised, incidents: Sequence[Incident]) -> Incident | None:
    """Return the incident of a replayed alarm: of several, one that was judged true, then the nearest."""
    near = [incident for incident in incidents if incident.near(raised.start_s)]
    near.sort(key=lambda i: (i.verdict not in TRUE, abs(i.start_s - raised.start_s)))
    return near[0] if near else None
