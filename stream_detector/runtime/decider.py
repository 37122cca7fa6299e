"""Scores → decisions → events: the work of the decision thread, without the thread.

For every score, in order: the novelty monitor marks it; evidence gets its previews; a head with a state computes the
raw score from the features; the camera's smoother and alarm rule process it; an event, if there is one, is journalled
and sent; the score is sent and written.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np

from stream_detector.adaptation.overlay import Overlay
from stream_detector.alarms.schedule import Effective
from stream_detector.alarms.severity import USUAL as USUAL_SEVERITY
from stream_detector.alarms.severity import severity
from stream_detector.alarms.smoothing import Smoother, make_smoother, smooth_on
from stream_detector.alarms.state_machine import AdjustableRule, AlarmRule, make_alarm_rule
from stream_detector.capture.picture_quality import CameraQualityMonitor
from stream_detector.config import AlarmConfig, PictureQualityConfig, SmoothingConfig
from stream_detector.config.schedule import SeverityConfig
from stream_detector.config.section import Polygon
from stream_detector.errors import RunError
from stream_detector.events.protocol import alarm_id
from stream_detector.models.kinds import AlarmKind, KindModel
from stream_detector.models.novelty import NoveltyMonitor
from stream_detector.models.recipe import View
from stream_detector.models.streaming_heads import CUTS, StreamingHead
from stream_detector.reports.scores_file import ScoresFile
from stream_detector.runtime.places import WHOLE_PICTURE, CameraPlace
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import (
    AlarmEvent,
    CameraState,
    CameraStatus,
    Clock,
    Decision,
    EndReason,
    EventSink,
    Float32Array,
    Score,
    Timing,
    Where,
    WindowRef,
)

TICK_S = 1.0
LOST_STATES = ("offline", "stalled", "failed")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CameraPlan:
    """One camera with all settings resolved from run, camera and bundle.

    source: the name to show.  live: False for files and the demo.  hidden: polygons that are not scored, in shares of
    the picture.
    """

    name: str
    source: str
    live: bool
    stride_frames: int
    smoothing: SmoothingConfig
    alarm: AlarmConfig
    threshold: float
    evidence: bool
    hidden: tuple[Polygon, ...] = ()


class Evidence(Protocol):
    """The methods of `evidence.EvidenceWriter` that the decider uses; none blocks."""

    def paths(self, camera: str, alarm_id: str) -> tuple[str, str]: ...

    def start(self, camera: str, alarm_id: str, at_media_s: float, score: float, begins_s: float) -> None: ...

    def peak(self, camera: str, alarm_id: str, at_media_s: float, score: float) -> None: ...

    def end(self, camera: str, alarm_id: str, end_media_s: float, where: Where | None = None) -> None: ...

    def flush_camera(self, camera: str) -> None: ...


class DecisionControls(Protocol):
    """What the decider asks of `alarms.schedule.Controls`, for every window."""

    def at(self, camera: str, window: int, end_s: float, captured_utc: float) -> Effective: ...


class DeciderParts(TypedDict):
    """The arguments of a Decider that `stages.make_decider` passes on; see `Decider`."""

    sink: EventSink
    telemetry: Telemetry
    clock: Clock
    epoch: NotRequired[str]
    evidence: NotRequired[Evidence | None]
    scores: NotRequired[ScoresFile | None]
    on_event: NotRequired[Callable[[dict[str, Any]], None] | None]
    on_decision: NotRequired[Callable[[Decision], None] | None]
    controls: NotRequired[DecisionControls | None]
    site: NotRequired[Site | None]


class Site(Protocol):
    """What the decider asks of `site.SiteRun`; none of it blocks."""

    def overlay(self, camera: str) -> Overlay | None: ...

    def window(self, score: Score, base: float, alarmed: bool) -> None: ...

    def event(self, body: dict[str, Any]) -> None: ...

    def tick(self) -> None: ...


def adjusted(overlay: Overlay, features: Float32Array, base: float) -> float:
    """The score of one window with an overlay. features: (D,).  base: the bundle's score."""
    return float(overlay.adjust(features[None], np.array([base]))[0])


def with_overlay(plan: CameraPlan, overlay: Overlay | None) -> CameraPlan:
    """The plan of a camera whose overlay decides: its threshold and smoothing win over the configuration's."""
    if overlay is None:
        return plan
    smoothing = SmoothingConfig(kind="ema", time_constant_s=overlay.time_constant_s)
    return dataclasses.replace(plan, threshold=overlay.threshold, smoothing=smoothing)


class Decider:
    """All cameras' smoothers and alarm rules, and the order in which the results of a score are handled."""

    def __init__(
        self,
        plans: tuple[CameraPlan, ...],
        fingerprint: str,
        *,
        sink: EventSink,
        telemetry: Telemetry,
        clock: Clock,
        epoch: str = "",
        evidence: Evidence | None = None,
        scores: ScoresFile | None = None,
        picture_quality: PictureQualityConfig | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        on_decision: Callable[[Decision], None] | None = None,
        controls: DecisionControls | None = None,
        make_head: Callable[[], StreamingHead] | None = None,
        make_novelty_monitor: Callable[[], NoveltyMonitor] | None = None,
        site: Site | None = None,
        view: View = WHOLE_PICTURE,
        severity_rule: SeverityConfig = USUAL_SEVERITY,
        kind_model: KindModel | None = None,
    ) -> None:
        """Create a decider.

        make_head: makes a scorer for one camera, for bundles whose head has a state.  make_novelty_monitor: makes a
        monitor for one camera, for bundles with a novelty model.  controls: schedules, modes, and what operators set;
        None: each camera's own threshold holds all the time.  site: overlays in service, and the site's memory.
        view: what the network sees of a picture.  severity_rule: how severe alarms are.  kind_model:
        says what kind of incident an alarm is; None: nobody says.
        """
        self._controls = controls
        self._effective: dict[str, Effective] = {}
        self._sink = sink
        self._telemetry = telemetry
        self._clock = clock
        self._evidence = evidence
        self._scores = scores
        self._on_event = on_event
        self._on_decision = on_decision
        self._epoch = epoch
        self._site, self._fingerprint, self._severity = site, fingerprint, severity_rule
        self._make_head, self._make_novelty_monitor = make_head, make_novelty_monitor
        self._picture_quality, self._view, self._kind_model = picture_quality, view, kind_model
        self._planned: dict[str, CameraPlan] = {}  # without overlays
        self._overlays: dict[str, Overlay | None] = {}
        self._plans: dict[str, CameraPlan] = {}
        self._smoothers: dict[str, Smoother] = {}
        self._heads: dict[str, StreamingHead] = {}
        self._novelty_monitors: dict[str, NoveltyMonitor] = {}
        self._rules: dict[str, AlarmRule] = {}
        self._places: dict[str, CameraPlace] = {}
        self._kinds: dict[str, AlarmKind] = {}
        self._states: dict[str, CameraState] = {}
        self._quality_monitors: dict[str, CameraQualityMonitor] = {}
        self._lives: dict[str, int] = {}  # how often a recording of this name was removed
        self._tick_s = clock.monotonic()
        for plan in plans:
            self.add(plan)

    def add(self, plan: CameraPlan) -> None:
        """Decide on one more camera, from its first window on."""
        name = plan.name
        self._planned[name] = plan
        if self._site:
            self._overlays[name] = self._site.overlay(name)
        plan = self._plans[name] = with_overlay(plan, self._overlays.get(name))
        self._smoothers[name] = make_smoother(plan.smoothing)
        if self._make_head:
            self._heads[name] = self._make_head()
        if self._make_novelty_monitor:
            self._novelty_monitors[name] = self._make_novelty_monitor()
        self._rules[name] = self._rule(plan)
        self._places[name] = CameraPlace(self._view, plan.hidden)
        if self._kind_model is not None:
            self._kinds[name] = AlarmKind(self._kind_model)
        self._states[name] = "connecting"
        if self._picture_quality:
            now_s = self._clock.monotonic()
            monitor = CameraQualityMonitor(self._picture_quality, plan.live, plan.stride_frames, now_s)
            self._quality_monitors[name] = monitor

    def knows(self, camera: str) -> bool:
        """Whether it decides on a camera."""
        return camera in self._plans

    def remove(self, camera: str, detail: str) -> None:
        """A camera is watched no more: its alarm ends (`shutdown`), and its last status, with `detail`, is `ended`."""
        plan = self._plans[camera]
        self._finish(plan, "shutdown")
        if self._evidence and plan.evidence:
            self._evidence.flush_camera(camera)
        self.status(CameraStatus(camera, plan.source, "ended", detail, None, self._clock.monotonic()))
        if not plan.live:
            self._lives[camera] = self._lives.get(camera, 0) + 1
        parts: tuple[dict[str, Any], ...] = (
            *(self._planned, self._plans, self._overlays, self._effective, self._states, self._rules),
            *(self._places, self._kinds),
            *(self._smoothers, self._heads, self._novelty_monitors, self._quality_monitors),
        )
        for part in parts:
            part.pop(camera, None)

    def score(self, score: Score) -> None:
        """Process the next score of its camera."""
        if self._novelty_monitors:
            score = self._novelty_monitors[score.ref.camera].mark_score(score)
        ref = score.ref
        plan = self._plans[ref.camera]
        recorder = self._evidence if plan.evidence else None
        seen, base = score, self._raw(score)
        overlay = self._overlays.get(ref.camera)
        raw = adjusted(overlay, score.features, base) if overlay and score.features is not None else base
        score = dataclasses.replace(score, raw=raw, features=None, grid=None)
        smoothed = smooth_on(self._smoothers[ref.camera], ref.start_s, ref.end_s, score.raw, ref.degraded)
        threshold = self._adjust(plan, ref)
        decision, event = self._rules[ref.camera].step(score, smoothed)
        if decision.alarmed:
            self._places[ref.camera].see(raw, seen)
            if self._kinds:
                self._kinds[ref.camera].see(seen.features)
        decided_s = self._clock.monotonic()
        score = dataclasses.replace(
            score,
            features=None,
            grid=None,
            timing=dataclasses.replace(score.timing, decide=(decided_s - score.scored_s) * 1e3),
        )
        if event is not None:
            self._send(event, plan, score, decided_s)
        elif recorder and decision.alarmed:
            recorder.peak(ref.camera, self._rules[ref.camera].open_id or "", ref.end_s, smoothed)
        timing, utc = self._closed(score.timing, decided_s)
        decision = dataclasses.replace(decision, score=dataclasses.replace(score, timing=timing), emitted_utc=utc)
        self._sink.score(decision)
        self._telemetry.decision(decision, threshold)
        if self._quality_monitors:
            self._send_detail(plan, self._quality_monitors[plan.name].scored(ref, decided_s), ref.end_s)
        self._to_table(lambda table: table.write(decision))
        if self._site:
            self._site.window(seen, base, decision.alarmed)
        if self._on_decision:
            self._on_decision(decision)

    def _adjust(self, plan: CameraPlan, ref: WindowRef) -> float:
        """Give the camera's rule the threshold that holds for a window, and return it."""
        if self._controls is None:
            return plan.threshold
        effective = self._controls.at(plan.name, ref.index, ref.end_s, ref.captured_utc)
        self._effective[plan.name] = effective
        rule = self._rules[plan.name]
        threshold = plan.threshold if effective.threshold is None else effective.threshold
        if isinstance(rule, AdjustableRule) and rule.threshold != threshold:
            rule.set_threshold(threshold)
        return threshold

    def set_threshold(self, camera: str, threshold: float) -> None:
        """Use another threshold as the camera's own from the next window on; that of an overlay in service stays."""
        self._planned[camera] = dataclasses.replace(self._planned[camera], threshold=threshold)
        if self._overlays.get(camera) is not None:
            return
        self._plans[camera] = dataclasses.replace(self._plans[camera], threshold=threshold)
        rule = self._rules[camera]
        if self._controls is None and isinstance(rule, AdjustableRule):
            rule.set_threshold(threshold)

    def set_overlay(self, camera: str, overlay: Overlay | None) -> None:
        """Decide with another overlay from the next window on; None: with the bundle alone.

        An open alarm ends (`normal`): it was the former model's. The smoothed score goes on.
        """
        before = self._plans[camera]
        self._finish(before, "normal")
        self._overlays[camera] = overlay
        plan = self._plans[camera] = with_overlay(self._planned[camera], overlay)
        smoother = make_smoother(plan.smoothing)
        if plan.smoothing.kind == before.smoothing.kind:
            smoother.restore(self._smoothers[camera].state())
        self._smoothers[camera] = smoother
        self._rules[camera] = self._rule(plan)

    def status(self, status: CameraStatus) -> None:
        """Process a state change of a camera; the alarm of a lost live camera ends."""
        plan = self._plans[status.camera]
        if plan.live and status.state in LOST_STATES:
            self._finish(plan, "source_lost")
        self._states[plan.name] = status.state
        if plan.name in self._quality_monitors:
            self._quality_monitors[plan.name].reset()
        self._sink.status(status)
        self._telemetry.status(status)

    def tick(self) -> None:
        """Send a heartbeat, and report cameras with low coverage. Call it often."""
        now_s = self._clock.monotonic()
        if now_s - self._tick_s < TICK_S:
            return
        self._tick_s = now_s
        self._telemetry.decision_loop_passed()
        for name, monitor in self._quality_monitors.items():
            self._send_detail(self._plans[name], monitor.tick(now_s), None)
        if self._site:
            self._site.tick()

    def ended(self, camera: str, failed: bool) -> None:
        """End a camera that gives no more windows: a file at its end (`normal`), or a source that is lost for good."""
        plan = self._plans[camera]
        self._finish(plan, "source_lost" if failed else "normal")
        if self._evidence and plan.evidence:
            self._evidence.flush_camera(camera)

    def finish(self, reason: EndReason) -> None:
        """End every open alarm, because the run is over."""
        for plan in self._plans.values():
            self._finish(plan, reason)
        self._to_table(lambda table: table.flush())
        self._telemetry.run_ended()

    def _to_table(self, write: Callable[[ScoresFile], object]) -> None:
        """Write to the table of scores. It is the result of a run of recordings, which a failure ends; a live camera is
        watched without it.
        """
        if self._scores is None:
            return
        try:
            write(self._scores)
        except RunError as error:
            if not any(plan.live for plan in self._plans.values()):
                raise
            log.error("%s; the cameras are watched without it", error)
            self._scores = None

    def open_id(self, camera: str) -> str | None:
        """The id of the camera's open alarm, or None."""
        return self._rules[camera].open_id

    def state(self, camera: str) -> dict[str, Any]:
        """Return the state that decides the camera's next window, as JSON; another process can `restore` it."""
        return {kind: part[camera].state() for kind, part in self._memories().items() if camera in part}

    def restore(self, camera: str, state: dict[str, Any]) -> None:
        """Continue from a `state` of the same plan."""
        for kind, part in self._memories().items():
            if camera in part and kind in state:
                part[camera].restore(state[kind])

    def _memories(self) -> dict[str, Mapping[str, Any]]:
        """Return all objects with a state, camera by camera."""
        return {
            "smoother": self._smoothers,
            "machine": self._rules,
            "head": self._heads,
            "novelty": self._novelty_monitors,
            "place": self._places,
            "kind": self._kinds,
        }

    def _raw(self, score: Score) -> float:
        """Return the engine's score, or that of the camera's own head, whose state is reset at a discontinuity."""
        head = self._heads.get(score.ref.camera)
        if head is None or score.features is None:
            return score.raw
        if CUTS.intersection(score.ref.degraded):
            head.reset()
        return head.step(score.features)

    def _rule(self, plan: CameraPlan) -> AlarmRule:
        overlay = self._overlays.get(plan.name)
        fingerprint = f"{self._fingerprint}+{overlay.fingerprint}" if overlay else self._fingerprint
        # A replay of a file repeats its ids; window 7 of a live camera today is another window than yesterday.
        run = self._epoch if plan.live else ""
        if plan.name in self._lives:  # a recording that is watched anew in the same run: other alarms than before
            run = f"{self._epoch}+{self._lives[plan.name]}"
        return make_alarm_rule(
            plan.name,
            fingerprint,
            lambda first: alarm_id(plan.name, plan.source, fingerprint, first, run),
            plan.threshold,
            plan.alarm,
        )

    def _send_detail(self, plan: CameraPlan, detail: str | None, media_s: float | None) -> None:
        """Send a status with a new detail: a quality problem of the camera began, changed or ended."""
        if detail is not None:
            state = self._states[plan.name]
            status = CameraStatus(plan.name, plan.source, state, detail, media_s, self._clock.monotonic())
            self._sink.status(status)
            self._telemetry.status(status)

    def _closed(self, timing: Timing, decided_s: float) -> tuple[Timing, float]:
        # rounded together, so that the parts add up to the total
        now_s, utc = self._clock.monotonic(), self._clock.utc()
        return dataclasses.replace(timing, publish=(now_s - decided_s) * 1e3), utc

    def _finish(self, plan: CameraPlan, reason: EndReason) -> None:
        event = self._rules[plan.name].finish(reason)
        if event is not None:
            self._send(event, plan, None, self._clock.monotonic())

    def _send(self, event: AlarmEvent, plan: CameraPlan, score: Score | None, decided_s: float) -> None:
        if self._evidence and plan.evidence:
            clip, snapshot = self._evidence.paths(event.camera, event.id)
            event = dataclasses.replace(event, clip=clip, snapshot=snapshot)
        event = self._described(self._in_its_time(event, score))
        if score is not None:
            timing, utc = self._closed(score.timing, decided_s)
            event = dataclasses.replace(event, timing=timing, emitted_utc=utc)
        body = self._sink.alarm(event)
        self._telemetry.stage("publish", (self._clock.monotonic() - decided_s) * 1e3)  # includes the journalling
        self._telemetry.event(body)
        if self._site:
            self._site.event(body)
        if self._evidence and plan.evidence:
            self._record(self._evidence, event, score)
        if self._on_event:
            self._on_event(body)

    def _described(self, event: AlarmEvent) -> AlarmEvent:
        """The event with what its windows so far say of its place and kind; after the end they are forgotten."""
        place, kind = self._places[event.camera], self._kinds.get(event.camera)
        event = dataclasses.replace(event, where=place.where)
        if event.type == "end":
            place.forget()
            if kind is not None:
                kind.forget()
        return event

    def _in_its_time(self, event: AlarmEvent, score: Score | None) -> AlarmEvent:
        """The event with its kind and severity, and with what schedules and operators say of its time."""
        at_s = event.end_s if event.end_s is not None else score.ref.end_s if score else event.start_s
        found = self._effective.get(event.camera)
        least = "low" if found is None else found.severity
        kind, probability = self._kinds[event.camera].told() if self._kinds else ("", 0.0)
        lasting_s = at_s - event.start_s
        level = severity(event.peak_score, event.threshold, lasting_s, kind, least, self._severity)
        event = dataclasses.replace(event, kind=kind, kind_probability=probability)
        if found is None:
            return dataclasses.replace(event, severity=level)
        return dataclasses.replace(event, severity=level, mode=found.mode, muted=found.muted, notify=found.notify)

    @staticmethod
    def _record(evidence: Evidence, event: AlarmEvent, score: Score | None) -> None:
        at_s = score.ref.end_s if score else event.end_s or event.start_s
        if event.type == "start":
            evidence.start(event.camera, event.id, at_s, event.score, event.start_s)
        elif event.type == "update":
            evidence.peak(event.camera, event.id, at_s, event.score)
        else:
            evidence.end(event.camera, event.id, event.end_s if event.end_s is not None else at_s, event.where)
