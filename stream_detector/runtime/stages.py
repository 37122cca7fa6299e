"""The stages of one camera and of one decision side, wired in one place for every kind of run.

    plan_camera    what holds for one camera
    scored         windows and what the engine says → scores         (the thread that asks the engine)
    make_decider   scores → decisions and events                     (the one decision thread)

Source → windows is `capture.host.CaptureHost`; frames → windows is `capture.stage.CameraStage`.
`run`, `score`, the cluster and `Session` all take them from here, so that they cannot decide differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stream_detector.config import CameraConfig, Config
from stream_detector.events.protocol import alarm_to_dict
from stream_detector.models.bundle import Bundle
from stream_detector.models.heads import TemporalHead
from stream_detector.models.novelty import NoveltyModel, novelty_monitor_factory
from stream_detector.reports.scores_file import ScoresFile
from stream_detector.runtime.decider import CameraPlan, Decider, Evidence
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import (
    AlarmEvent,
    CameraStatus,
    Clock,
    Decision,
    EngineOutput,
    EventSink,
    Score,
    Timing,
    Window,
    WindowRef,
)


def plan_camera(camera: CameraConfig, config: Config, bundle: Bundle) -> CameraPlan:
    """Resolve one camera: its own settings win over the run's, the run's over the bundle's.

    What the command line says was put into the camera's own settings when the configuration was read.
    """
    smoothing = camera.smoothing or config.smoothing or bundle.smoothing
    own = camera.threshold if camera.threshold is not None else config.alarm.threshold
    return CameraPlan(
        name=camera.name,
        source=camera.source.shown,
        live=camera.source.live,
        stride_frames=camera.stride or config.window.stride,
        smoothing=smoothing,
        alarm=config.alarm,
        threshold=bundle.threshold if own is None else own,
        evidence=config.evidence.enabled if camera.evidence is None else camera.evidence,
    )


def scored(windows: Sequence[Window], output: EngineOutput, taken_s: float, scored_s: float) -> tuple[Score, ...]:
    """What an engine said of a batch, window by window. taken_s, scored_s: monotonic, before and after it was asked."""
    return tuple(
        Score(
            ref=window.ref,
            raw=float(output.scores[row]),
            scored_s=scored_s,
            timing=engine_timing(window.ref, (taken_s - window.ref.completed_s) * 1e3, output),
            previews=window.previews,
            features=output.features[row],
        )
        for row, window in enumerate(windows)
    )


def engine_timing(ref: WindowRef, queue_ms: float, output: EngineOutput) -> Timing:
    """Where the time of a window went, up to the engine's score."""
    return Timing(
        window=(ref.completed_s - ref.captured_s) * 1e3,
        queue=queue_ms,
        preprocess=output.preprocess_s * 1e3,
        forward=output.forward_s * 1e3,
    )


@dataclass(frozen=True, slots=True, eq=False)
class DecisionModel:
    """What of a bundle takes part in decisions. It is small: it travels to the processes that decide.

    fingerprint: of the bundle.  head: where it carries a state from window to window; else the engine's score counts.
    novelty: where the bundle knows which pictures it was trained on.
    """

    fingerprint: str
    head: TemporalHead | None = None
    novelty: NoveltyModel | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> DecisionModel:
        """Of this bundle."""
        head = bundle.build_head()
        return cls(bundle.fingerprint, head if isinstance(head, TemporalHead) else None, bundle.build_novelty_model())

    def needs_features(self, config: Config) -> bool:
        """Whether decisions need the features of every window beside its score."""
        return self.head is not None or novelty_monitor_factory(self.novelty, config.picture_quality) is not None


def make_decider(
    config: Config,
    model: DecisionModel,
    plans: tuple[CameraPlan, ...],
    *,
    sink: EventSink,
    telemetry: Telemetry,
    clock: Clock,
    epoch: str = "",
    evidence: Evidence | None = None,
    scores: ScoresFile | None = None,
    coverage: bool = True,
    novelty: bool = True,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    on_decision: Callable[[Decision], None] | None = None,
) -> Decider:
    """The decision side of a run.

    coverage: tell of cameras whose pictures or coverage are bad; a run that only makes a table does not.
    novelty: mark windows that the bundle does not know; False where another engine's features are of another kind.
    """
    return Decider(
        plans,
        model.fingerprint,
        sink=sink,
        telemetry=telemetry,
        clock=clock,
        epoch=epoch,
        evidence=evidence,
        scores=scores,
        picture_quality=config.picture_quality if coverage and config.picture_quality.enabled else None,
        on_event=on_event,
        on_decision=on_decision,
        make_head=model.head.stream if model.head else None,
        make_novelty_monitor=novelty_monitor_factory(model.novelty if novelty else None, config.picture_quality),
    )


class UnpublishedEvents:
    """Events that are neither journalled nor sent. Implements `types.EventSink`; a subclass says what to `keep`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seq = 0

    def keep(self, event: AlarmEvent, body: dict[str, Any]) -> None:
        """Called with every alarm event and its JSON object."""

    def alarm(self, event: AlarmEvent) -> dict[str, Any]:
        """The event as a published one looks; there is no process to recover from, so its epoch is zero."""
        self._seq += 1
        body = alarm_to_dict(event, "0" * 16, self._seq, self._clock.utc())
        self.keep(event, body)
        return body

    def score(self, decision: Decision) -> None:
        """Nobody listens."""

    def status(self, status: CameraStatus) -> None:
        """Nobody listens."""

    def service(self) -> None:
        """There are no sockets."""

    def close(self) -> None:
        """There is nothing to close."""
