"""The gate: a candidate is replayed on days that it was not fitted on, beside the model in service. It must win.

The rules, in this order; the first that fails refuses the candidate:

    enough      at least one judged true alarm or miss, and MIN_HOURS of footage, on the gate's days
    anchors     the weighted AUC of the anchors falls by at most AUC_LOSS
    recall      judged true alarms and misses that only the model in service finds: no more than those that only the
                candidate finds, plus what wrong verdicts explain (`allowed_losses`), and no more than LOSS_SHARE of all
    time        seconds of alarm in calm do not rise
    delay       the median delay on incidents that both find rises by at most DELAY_S
    win         fewer false alarms: of the alarms that only one of the two raises, an exact sign test at LEVEL (McNemar
                1947) finds fewer from the candidate; or more found by the same test, and no more false alarms

Alarms without a verdict count as true in one bound and as false in the other; the report shows both, and the candidate
must not lose in either: as true they are incidents that it must keep finding, as false they are among the false alarms.
Alarms that only the candidate raises count as false until they get a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from stream_detector.adaptation.anchors import Anchors
from stream_detector.adaptation.overlay import Overlay
from stream_detector.adaptation.site_data import FALSE, TRUE, USUAL, Incident, Raised, Rules, Stretch, replay
from stream_detector.alarms.calibration import poisson_lower, poisson_upper

MIN_HOURS = 0.5
AUC_LOSS = 0.01
LOSS_SHARE = 0.1
DELAY_S = 1.0
LEVEL = 0.05
MISTAKES = 0.05  # share of verdicts that may be wrong
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Change:
    """An alarm that appears or disappears with the candidate. verdict: "" if there is none."""

    change: Literal["appears", "disappears"]
    camera: str
    day: str
    start_s: float
    key: str
    verdict: str
    snapshot: str


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models on the gate's days. Rates: false alarms per hour, with bounds at CONFIDENCE each.

    found, of: judged true alarms and misses.  false_low: unjudged alarms counted as true.  false_high: as false.
    """

    found: int
    of: int
    unjudged_found: int
    false_low: int
    false_high: int
    hours: float
    alarmed_s: float
    delay_s: float | None
    anchors_auc: float

    @property
    def rate_low(self) -> float:
        """Lower bound of the rate, unjudged alarms being true."""
        return poisson_lower(self.false_low, CONFIDENCE) / self.hours if self.hours else 0.0

    @property
    def rate_high(self) -> float:
        """Upper bound of the rate, unjudged alarms being false."""
        return poisson_upper(self.false_high, CONFIDENCE) / self.hours if self.hours else math.inf

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        rates = {"false_per_hour_low": round(self.rate_low, 4), "false_per_hour_high": round(self.rate_high, 4)}
        return {**asdict(self), **(rates if self.hours else {})}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the gate. rule: the one that refused the candidate, or "win".  sentence: for people."""

    accepted: bool
    rule: str
    sentence: str
    service: Side
    candidate: Side
    changes: tuple[Change, ...]
    checks: tuple[tuple[str, bool, str], ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "schema": "stream-detector.gate/1",
            "accepted": self.accepted,
            "rule": self.rule,
            "sentence": self.sentence,
            "service": self.service.to_dict(),
            "candidate": self.candidate.to_dict(),
            "checks": [{"name": name, "passed": passed, "detail": detail} for name, passed, detail in self.checks],
            "changes": [asdict(change) for change in self.changes],
        }


@dataclass(slots=True)
class _Counts:
    """Of one stretch or all, pair by pair."""

    found: int = 0
    of: int = 0
    unjudged: int = 0
    false_low: int = 0
    false_high: int = 0
    alarmed_s: float = 0.0
    delays: dict[str, float] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)  # of incidents that it finds, with any verdict
    new: list[tuple[Stretch, Raised]] = field(default_factory=list)  # alarms of no incident


def allowed_losses(false_verdicts: int, mistakes: float = MISTAKES) -> int:
    """Return how many judged true alarms may be lost because their verdicts are wrong.

    Each of `false_verdicts` false alarms has the verdict true with probability `mistakes`: the 95 % quantile of their
    number.
    """
    total, term = 0.0, (1.0 - mistakes) ** false_verdicts
    for count in range(false_verdicts + 1):
        total += term
        if total >= 0.95:
            return count
        term *= (false_verdicts - count) / (count + 1) * mistakes / (1.0 - mistakes)
    return false_verdicts


def sign_test(fewer: int, more: int) -> float:
    """Return the probability of at most `fewer` heads in `fewer + more` throws of a fair coin."""
    number = fewer + more
    return sum(math.comb(number, k) for k in range(fewer + 1)) / 2**number if number else 1.0


def _counts(stretches: Sequence[Stretch], model: Overlay, rules: Rules) -> _Counts:
    counts = _Counts()
    for stretch in stretches:
        raised = replay(stretch, model, rules)
        claimed: dict[int, list[Incident]] = {n: [] for n in range(len(raised))}
        for incident in stretch.incidents:
            hits = [n for n, alarm in enumerate(raised) if incident.near(alarm.start_s)]
            for n in hits:
                claimed[n].append(incident)
            if incident.verdict in TRUE:
                counts.of += 1
                counts.found += bool(hits)
            elif incident.verdict == "" and hits:
                counts.unjudged += 1
            if hits:
                counts.keys.add(incident.key)
                counts.delays[incident.key] = min(raised[n].start_s for n in hits) - incident.start_s
        for n, alarm in enumerate(raised):
            verdicts = {incident.verdict for incident in claimed[n]}
            if verdicts & set(TRUE):
                continue
            if not verdicts:
                counts.new.append((stretch, alarm))
            if not verdicts or verdicts & set(FALSE):
                counts.false_low += 1
                counts.alarmed_s += alarm.end_s - alarm.start_s
            if not verdicts or verdicts & {*FALSE, ""}:
                counts.false_high += 1
    return counts


def run_gate(
    stretches: Sequence[Stretch],
    service: Overlay,
    candidate: Overlay,
    anchors: Anchors,
    rules: Rules = USUAL,
) -> Verdict:
    """Replay both models on the gate's days and compare them by the rules of this module."""
    now, then = _counts(stretches, service, rules), _counts(stretches, candidate, rules)
    hours = sum(s.hours for s in stretches)
    auc_now, auc_then = anchors.auc(service), anchors.auc(candidate)
    base = max(auc_now, anchors.auc(Overlay(service.bundle, "", service.threshold, service.time_constant_s)))
    both = [key for key in now.keys & then.keys if _verdict(stretches, key) in TRUE]
    delays = [_median([c.delays[key] for key in both]) for c in (now, then)]
    sides = [
        Side(c.found, c.of, c.unjudged, c.false_low, c.false_high, hours, round(c.alarmed_s, 3), delay, round(auc, 4))
        for c, delay, auc in ((now, delays[0], auc_now), (then, delays[1], auc_then))
    ]
    changes = _changes(stretches, now, then)
    checks = _checks(stretches, sides[0], sides[1], now, then, base)
    failed = next(((name, detail) for name, passed, detail in checks if not passed), None)
    seen = f"{sides[1].false_high} false alarms instead of {sides[0].false_high} in {hours:.1f} h"
    found = f"{sides[1].found} of {sides[1].of} found instead of {sides[0].found}"
    if failed:
        return Verdict(
            False, failed[0], f"refused: {failed[1]} ({seen}, {found})", sides[0], sides[1], changes, tuple(checks)
        )
    return Verdict(True, "win", f"accepted: {seen}, {found}", sides[0], sides[1], changes, tuple(checks))


def _checks(
    stretches: Sequence[Stretch], now: Side, then: Side, a: _Counts, b: _Counts, base_auc: float
) -> list[tuple[str, bool, str]]:
    """(name, passed, detail) of every rule, in order."""
    incidents = [incident for stretch in stretches for incident in stretch.incidents]
    wanted = {i.key for i in incidents if i.verdict in TRUE}
    lost, won = len((a.keys - b.keys) & wanted), len((b.keys - a.keys) & wanted)
    judged_false = sum(i.verdict in FALSE for i in incidents)
    allowed = min(allowed_losses(judged_false), math.floor(LOSS_SHARE * len(wanted)))
    open_keys = {i.key for i in incidents if i.verdict == ""}
    open_lost, open_won = len((a.keys - b.keys) & open_keys), len((b.keys - a.keys) & open_keys)
    open_allowed = math.floor(LOSS_SHARE * len(open_keys | wanted)) if open_keys else 0
    false_keys = {i.key for i in incidents if i.verdict in FALSE}
    only_now = len((a.keys - b.keys) & false_keys) + _unmatched(a, b)
    only_then = len((b.keys - a.keys) & false_keys) + _unmatched(b, a)
    fewer_false = only_then < only_now and sign_test(only_then, only_now) <= LEVEL
    more_found = won > lost and sign_test(lost, won) <= LEVEL and then.false_high <= now.false_high
    delay_s = (then.delay_s or 0.0) - (now.delay_s or 0.0)
    enough = bool(wanted) and now.hours >= MIN_HOURS
    return [
        ("enough", enough, f"{len(wanted)} judged true alarms and misses in {now.hours:.1f} h of the gate's days"),
        (
            "anchors",
            then.anchors_auc >= base_auc - AUC_LOSS,
            f"the anchors' AUC is {then.anchors_auc:.4f}, it was {base_auc:.4f} (at most {AUC_LOSS} less)",
        ),
        (
            "recall",
            lost - won <= allowed,
            f"{lost} judged true alarms would be lost and {won} found, at most {allowed} may be lost",
        ),
        (
            "unjudged",
            open_lost - open_won <= max(open_allowed, allowed) or (fewer_false and lost <= won),
            f"{open_lost} alarms without a verdict would disappear, at most {open_allowed} may: judge them",
        ),
        (
            "time",
            then.alarmed_s <= now.alarmed_s + 1.0,
            f"calm footage would be in alarm for {then.alarmed_s:.0f} s instead of {now.alarmed_s:.0f} s",
        ),
        ("delay", delay_s <= DELAY_S, f"alarms would come {delay_s:.1f} s later (at most {DELAY_S:g})"),
        (
            "win",
            fewer_false or more_found,
            f"{only_now} false alarms would disappear and {only_then} appear, which is no win at the level {LEVEL}",
        ),
    ]


def _unmatched(mine: _Counts, other: _Counts) -> int:
    """Return the number of alarms of no incident that the other model does not raise at about the same time."""
    places = [(s.camera, s.day, r.start_s, r.end_s) for s, r in other.new]
    return sum(
        not any((s.camera, s.day) == (c, d) and start - 3.0 <= r.start_s <= end + 3.0 for c, d, start, end in places)
        for s, r in mine.new
    )


def _changes(stretches: Sequence[Stretch], now: _Counts, then: _Counts) -> tuple[Change, ...]:
    found: list[Change] = []
    for stretch in stretches:
        for i in stretch.incidents:
            if i.key in now.keys - then.keys:
                found.append(Change("disappears", stretch.camera, stretch.day, i.start_s, i.key, i.verdict, i.snapshot))
            elif i.key in then.keys - now.keys:
                found.append(Change("appears", stretch.camera, stretch.day, i.start_s, i.key, i.verdict, i.snapshot))
    for stretch, alarm in then.new:
        found.append(Change("appears", stretch.camera, stretch.day, alarm.start_s, "", "", ""))
    return tuple(sorted(found, key=lambda change: (change.camera, change.day, change.start_s)))


def _verdict(stretches: Sequence[Stretch], key: str) -> str:
    return next((i.verdict for s in stretches for i in s.incidents if i.key == key), "")


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 3) if values else None
