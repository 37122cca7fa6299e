"""The alarm state machine of one camera: hysteresis, hold, minimum length, cooldown. Media time only.

                 smoothed ≥ threshold                    smoothed < threshold × off_ratio for hold_s
                 and not cooling down                    and the alarm is min_length_s old
        idle ───────────── start ─────────────▶ active ────────────── end (normal) ──────────────▶ idle, cooling down
                                                │    ▲
                                                └────┘ update, every update_interval_s

A violent scene has moments of calm: who is pushed away comes back. So an alarm goes on over calm shorter than hold_s.
Its `end_s` is the end of the last window above, so the hold delays the end event, not the end that it tells.

Every alarm that starts also ends: `finish` ends it with a reason when the source is lost or the run is over.

A rule of another kind is a factory in `ALARM_RULES` (see `registry`) that returns an `AlarmRule`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import Any, Protocol, runtime_checkable

from stream_detector.config import AlarmConfig
from stream_detector.config.kinds import ALARM_RULES as ALARM_RULES
from stream_detector.types import (
    AlarmEvent,
    Decision,
    EndReason,
    EventType,
    Score,
    Timing,
    WindowRef,
    event_windows,
)

MAX_EVENT_WINDOWS = 64  # an event lists at most this many windows, the newest ones


class AlarmRule(Protocol):
    """Decides for one camera, window by window, when an alarm starts and ends. One thread uses it."""

    @property
    def open_id(self) -> str | None:
        """The id of the open alarm, or None."""
        ...

    def step(self, score: Score, smoothed: float) -> tuple[Decision, AlarmEvent | None]:
        """Take the next window; returns the decision and the event that it causes, if any."""
        ...

    def finish(self, reason: EndReason) -> AlarmEvent | None:
        """End the open alarm, if there is one."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the state as values that JSON holds exactly; a rule in another process can `restore` it."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        ...


@runtime_checkable
class AdjustableRule(Protocol):
    """An alarm rule whose threshold may change from window to window: by a schedule, by an operator."""

    threshold: float

    def set_threshold(self, threshold: float) -> None:
        """Use another threshold from the next window on."""
        ...


@dataclass(slots=True)
class _Open:
    """An alarm that has started and not ended."""

    id: str
    start_s: float
    start_utc: float
    peak: float
    pending: list[Decision] = field(default_factory=list)  # windows that no event has listed yet
    causes: set[str] = field(default_factory=set)
    last_update_s: float = 0.0
    last_above_s: float = 0.0


class HysteresisRule:
    """Turns the smoothed scores of one camera into start, update and end events.

    make_id: index of the first window → id of the alarm.  bundle: fingerprint of the model that scored.
    """

    def __init__(
        self,
        camera: str,
        bundle: str,
        make_id: Callable[[int], str],
        *,
        threshold: float,
        off_ratio: float,
        hold_s: float = 0.0,
        min_length_s: float,
        cooldown_s: float,
        update_interval_s: float,
    ) -> None:
        self.camera = camera
        self.threshold = threshold
        self._bundle = bundle
        self._make_id = make_id
        self._off_ratio = off_ratio
        self._off = threshold * off_ratio
        self._hold_s = hold_s
        self._min_length_s = min_length_s
        self._cooldown_s = cooldown_s
        self._update_interval_s = update_interval_s
        # the current run of windows whose raw score is above the threshold: the onset
        self._rising: list[Decision] = []
        self._open: _Open | None = None
        self._cool_until_s = float("-inf")
        self._last_end_s = 0.0
        self._last_smoothed = 0.0

    @property
    def open_id(self) -> str | None:
        """The id of the open alarm, or None."""
        return self._open.id if self._open else None

    def set_threshold(self, threshold: float) -> None:
        """Use another threshold from the next window on, for an open alarm too."""
        self.threshold, self._off = threshold, threshold * self._off_ratio

    def step(self, score: Score, smoothed: float) -> tuple[Decision, AlarmEvent | None]:
        """Take the next window; returns the decision and the event that it causes, if any."""
        self._last_end_s = score.ref.end_s
        self._last_smoothed = smoothed
        decision = Decision(score, smoothed, alarmed=False)
        self._rising = [*self._rising, decision][-MAX_EVENT_WINDOWS:] if score.raw >= self.threshold else []
        event: AlarmEvent | None = None
        if self._open is not None:
            event = self._go_on(self._open, decision)
        elif smoothed >= self.threshold and score.ref.end_s >= self._cool_until_s:
            event = self._start(decision)
        return Decision(score, smoothed, alarmed=self._open is not None), event

    def finish(self, reason: EndReason) -> AlarmEvent | None:
        """End the open alarm, if there is one, at the end of the newest window."""
        if self._open is None:
            return None
        return self._end(self._open, reason, self._last_end_s)

    def state(self) -> dict[str, Any]:
        """Return the state as values that Python's JSON holds exactly (with -Infinity)."""
        alarm = self._open
        return {
            "rising": [_packed(decision) for decision in self._rising],
            "cool_until_s": self._cool_until_s,
            "last": [self._last_end_s, self._last_smoothed],
            "open": alarm
            and {
                "id": alarm.id,
                "start": [alarm.start_s, alarm.start_utc],
                "peak": alarm.peak,
                "pending": [_packed(decision) for decision in alarm.pending],
                "causes": sorted(alarm.causes),
                "last_s": [alarm.last_update_s, alarm.last_above_s],
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`: the same windows then give the same events with the same id."""
        self._rising = [_unpacked(packed) for packed in state["rising"]]
        self._cool_until_s = state["cool_until_s"]
        self._last_end_s, self._last_smoothed = state["last"]
        opened = state["open"]
        self._open = opened and _Open(
            id=opened["id"],
            start_s=opened["start"][0],
            start_utc=opened["start"][1],
            peak=opened["peak"],
            pending=[_unpacked(packed) for packed in opened["pending"]],
            causes=set(opened["causes"]),
            last_update_s=opened["last_s"][0],
            last_above_s=opened["last_s"][1],
        )

    def _start(self, decision: Decision) -> AlarmEvent:
        # The onset is the time at which the raw score rose, not the later time at which the smoothed score crossed.
        run = self._rising or [decision]
        first = run[0].score.ref
        length_s = decision.score.ref.end_s - first.start_s
        self._open = _Open(
            id=self._make_id(first.index),
            start_s=first.start_s,
            start_utc=decision.score.ref.captured_utc - length_s,
            peak=decision.smoothed,
            pending=list(run),
            last_update_s=decision.score.ref.end_s,
            last_above_s=decision.score.ref.end_s,
        )
        for entry in run:
            self._open.causes.update(entry.score.ref.degraded)
        return self._event(self._open, "start", decision.smoothed)

    def _go_on(self, alarm: _Open, decision: Decision) -> AlarmEvent | None:
        ref = decision.score.ref
        alarm.pending = [*alarm.pending, decision][-MAX_EVENT_WINDOWS:]
        alarm.causes.update(ref.degraded)
        alarm.peak = max(alarm.peak, decision.smoothed)
        if decision.smoothed >= self._off:
            alarm.last_above_s = ref.end_s
        elif ref.end_s - alarm.last_above_s >= self._hold_s and ref.end_s - alarm.start_s >= self._min_length_s:
            return self._end(alarm, "normal", max(alarm.last_above_s, alarm.start_s + self._min_length_s))
        if ref.end_s - alarm.last_update_s >= self._update_interval_s:
            alarm.last_update_s = ref.end_s
            return self._event(alarm, "update", decision.smoothed)
        return None

    def _end(self, alarm: _Open, reason: EndReason, end_s: float) -> AlarmEvent:
        event = self._event(alarm, "end", self._last_smoothed, reason, end_s)
        self._open = None
        self._rising = []
        self._cool_until_s = self._last_end_s + self._cooldown_s
        return event

    def _event(
        self,
        alarm: _Open,
        kind: EventType,
        score: float,
        reason: EndReason | None = None,
        end_s: float | None = None,
    ) -> AlarmEvent:
        windows = event_windows(alarm.pending)
        alarm.pending = []
        return AlarmEvent(
            id=alarm.id,
            camera=self.camera,
            type=kind,
            reason=reason,
            start_s=alarm.start_s,
            end_s=end_s,
            start_utc=alarm.start_utc,
            peak_score=alarm.peak,
            score=score,
            threshold=self.threshold,
            bundle=self._bundle,
            windows=windows,
            degraded=tuple(sorted(alarm.causes)),
        )


def _packed(decision: Decision) -> list[Any]:
    return [list(astuple(decision.score.ref)), decision.score.raw, decision.smoothed]


def _unpacked(packed: list[Any]) -> Decision:
    """Rebuild a score with the fields that events need; the state does not keep its timing."""
    ref = WindowRef.of_fields(packed[0])
    return Decision(Score(ref, packed[1], 0.0, Timing(0.0, 0.0, 0.0, 0.0)), packed[2], alarmed=False)


def make_hysteresis(
    camera: str, bundle: str, make_id: Callable[[int], str], threshold: float, config: AlarmConfig
) -> AlarmRule:
    """Make the rule "hysteresis"."""
    return HysteresisRule(
        camera,
        bundle,
        make_id,
        threshold=threshold,
        off_ratio=config.off_ratio,
        hold_s=config.hold_s,
        min_length_s=config.min_length_s,
        cooldown_s=config.cooldown_s,
        update_interval_s=config.update_interval_s,
    )


RuleFactory = Callable[[str, str, Callable[[int], str], float, AlarmConfig], AlarmRule]


def make_alarm_rule(
    camera: str, bundle: str, make_id: Callable[[int], str], threshold: float, config: AlarmConfig
) -> AlarmRule:
    """Make the rule that `config` names.

    bundle: fingerprint of the model.  make_id: index of the first window → id of an alarm.  threshold: the threshold of
    the camera; it replaces the one in `config`.  Raises ConfigError for a rule that is not registered.
    """
    factory: RuleFactory = ALARM_RULES.get(config.rule)
    return factory(camera, bundle, make_id, threshold, config)
