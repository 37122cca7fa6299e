"""The stages of one camera and of one decision side, wired in one place for every kind of run.

    plan_camera    what holds for one camera
    scored         windows and what the engine says → scores         (the thread that asks the engine)
    make_decider   scores → decisions and events                     (the one decision thread)

Source → windows is `capture.host.CaptureHost`; frames → windows is `capture.stage.CameraStage`.
`run`, `score`, the cluster and `Session` all take them from here, so that they cannot decide differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from stream_detector.config import CameraConfig, Config
from stream_detector.events.protocol import alarm_to_dict
from stream_detector.models.bundle import Bundle
from stream_detector.models.heads import TemporalHead
from stream_detector.models.kinds import KindModel
from stream_detector.models.novelty import NoveltyModel, novelty_monitor_factory
from stream_detector.models.recipe import View
from stream_detector.runtime.decider import CameraPlan, Decider, DeciderParts
from stream_detector.runtime.places import WHOLE_PICTURE
from stream_detector.types import (
    AlarmEvent,
    CameraStatus,
    Clock,
    Decision,
    EngineOutput,
    Score,
    Timing,
    Window,
    WindowRef,
)


def keeps_evidence(camera: CameraConfig, config: Config) -> bool:
    """Whether alarms of a camera get a clip and a snapshot."""
    if camera.record == "off" or camera.evidence is False:
        return False
    return config.evidence.enabled or camera.evidence is True


def is_recorded(camera: CameraConfig) -> bool:
    """Whether everything that a camera sends is kept; a file is there already."""
    return camera.record == "always" and camera.source.live


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
        evidence=keeps_evidence(camera, config),
        hidden=((camera.mask,) if camera.mask else ()) + camera.ignore,
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
            grid=None if output.grids is None else output.grids[row],
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
    """The part of a bundle that decisions need. It is small, because it is sent to the processes that decide.

    fingerprint: of the bundle.  head: a head with a state; None: the engine's score is used.  novelty: the novelty
    model, if the bundle has one.  view: what the network sees of a picture.  kind: the
    model of kinds, if the bundle has one.
    """

    fingerprint: str
    head: TemporalHead | None = None
    novelty: NoveltyModel | None = None
    view: View = WHOLE_PICTURE
    kind: KindModel | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> DecisionModel:
        """Make it from a bundle."""
        head = bundle.build_head()
        return cls(
            bundle.fingerprint,
            head if isinstance(head, TemporalHead) else None,
            bundle.build_novelty_model(),
            bundle.recipe.input_views[0],
            bundle.build_kind_model(),
        )

    def needs_features(self, config: Config) -> bool:
        """Return whether decisions need the features of every window besides its score."""
        known = self.head is not None or self.kind is not None
        return known or novelty_monitor_factory(self.novelty, config.picture_quality) is not None


def make_decider(
    config: Config,
    model: DecisionModel,
    plans: tuple[CameraPlan, ...],
    *,
    coverage: bool = True,
    novelty: bool = True,
    **parts: Unpack[DeciderParts],
) -> Decider:
    """Make the decider of a run from its configuration and model.

    coverage: report cameras with bad pictures or low coverage; a run that only writes a table does not.
    novelty: mark windows that the bundle does not know, and name the kind of alarms; False if another engine's features
    are of another sort.
    parts: passed on to the Decider.
    """
    return Decider(
        plans,
        model.fingerprint,
        picture_quality=config.picture_quality if coverage and config.picture_quality.enabled else None,
        make_head=model.head.stream if model.head else None,
        view=model.view,
        severity_rule=config.severity,
        kind_model=model.kind if novelty else None,
        make_novelty_monitor=novelty_monitor_factory(model.novelty if novelty else None, config.picture_quality),
        **parts,
    )


class UnpublishedEvents:
    """Takes events that are neither journalled nor sent. Implements `types.EventSink`; a subclass overrides `keep`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seq = 0

    def keep(self, event: AlarmEvent, body: dict[str, Any]) -> None:
        """Called with every alarm event and its JSON object."""

    def alarm(self, event: AlarmEvent) -> dict[str, Any]:
        """Return the event in its published form; its epoch is zero, because there is nothing to recover."""
        self._seq += 1
        body = alarm_to_dict(event, "0" * 16, self._seq, self._clock.utc())
        self.keep(event, body)
        return body

    def score(self, decision: Decision) -> None:
        """Do nothing: there are no subscribers."""

    def status(self, status: CameraStatus) -> None:
        """Do nothing: there are no subscribers."""

    def service(self) -> None:
        """Do nothing: there are no sockets."""

    def close(self) -> None:
        """Do nothing."""
