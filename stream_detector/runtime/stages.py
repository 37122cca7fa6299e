"""The stages of one camera and of one decision side, wired in one place for every kind of run.

    CameraStage    frames → windows, with their picture checks       (a capture thread, or whoever pushes frames)
    make_decider   scores → decisions and events                     (the one decision thread)

`run`, `score`, the cluster and `Session` all take both from here, so that they cannot decide differently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stream_detector.capture.picture_quality import PictureWatch, marked
from stream_detector.capture.scene_cuts import CutFinder
from stream_detector.capture.windower import Windower
from stream_detector.config import CameraConfig, Config
from stream_detector.models.bundle import Bundle
from stream_detector.models.heads import TemporalHead
from stream_detector.models.novelty import watches
from stream_detector.runtime.decider import CameraPlan, Decider, Evidence, ScoresFile
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import Clock, Decision, EventSink, Frame, Window


def plan_camera(camera: CameraConfig, config: Config, bundle: Bundle) -> CameraPlan:
    """Resolve one camera: its own settings win over the run's, the run's over the bundle's.

    What the command line says was put into the camera's own settings when the configuration was read.
    """
    smooth = camera.smoothing or config.smooth or bundle.smoothing
    own = camera.threshold if camera.threshold is not None else config.alarm.threshold
    return CameraPlan(
        name=camera.name,
        source=camera.source.shown,
        live=camera.source.live,
        stride_frames=camera.stride or config.window.stride,
        smooth=smooth,
        alarm=config.alarm,
        threshold=bundle.threshold if own is None else own,
        evidence=config.evidence.enabled if camera.evidence is None else camera.evidence,
    )


class CameraStage:
    """Frames of one camera → windows, marked with what is wrong with their pictures. For one thread."""

    def __init__(self, plan: CameraPlan, config: Config, clock: Clock) -> None:
        cuts = CutFinder() if config.window.find_cuts else None
        self._windower = Windower(plan.name, plan.source, plan.stride_frames, config.window.max_gap_s, clock, cuts)
        self._watch = PictureWatch(config.trouble) if config.trouble.enabled else None

    def push(self, frame: Frame) -> Window | None:
        """Take one frame; returns the window that it completes, if it completes one."""
        return self._checked(self._windower.push(frame))

    def finish(self) -> Window | None:
        """The source ended; returns the one window of a source that is too short for a whole one (see `Windower`)."""
        return self._checked(self._windower.finish())

    def _checked(self, window: Window | None) -> Window | None:
        if window is None or self._watch is None:
            return window
        return marked(window, self._watch.check(window))


def make_decider(
    config: Config,
    bundle: Bundle,
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
    """The decision side of a run with this bundle.

    coverage: tell of cameras whose pictures or coverage are bad; a run that only makes a table does not.
    novelty: mark windows that the bundle does not know; False where another engine's features are of another kind.
    """
    head = bundle.build_head()
    return Decider(
        plans,
        bundle.fingerprint,
        sink=sink,
        telemetry=telemetry,
        clock=clock,
        epoch=epoch,
        evidence=evidence,
        scores=scores,
        trouble=config.trouble if coverage and config.trouble.enabled else None,
        on_event=on_event,
        on_decision=on_decision,
        make_head=head.stream if isinstance(head, TemporalHead) else None,
        make_watch=watches(bundle.build_familiar() if novelty else None, config.trouble),
    )
