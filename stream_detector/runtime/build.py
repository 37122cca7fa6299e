"""Builds a run from a Config: model, engine, ledger, publisher, evidence, telemetry, pipeline.

Errors in the configuration (bundle, endpoint, paths) are raised here, before any camera is opened.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from stream_detector.alarms.schedule import Controls
from stream_detector.capture.picture import make_views
from stream_detector.config import CameraConfig, Config
from stream_detector.engines import load_engine
from stream_detector.engines.bundle_choice import with_bundle
from stream_detector.errors import SourceError
from stream_detector.events.jsonl_file import check_ordinary
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.evidence.recorder import RECORDER
from stream_detector.evidence.writer import EvidenceWriter
from stream_detector.models.bundle import Bundle
from stream_detector.reports.scores_file import ScoresFile
from stream_detector.runtime.controls import make_controls, restore_controls
from stream_detector.runtime.decider import CameraPlan
from stream_detector.runtime.pipeline import Pipeline
from stream_detector.runtime.reload import Reloader
from stream_detector.runtime.site import HISTORY, SiteRun, kept_cameras, site_directory
from stream_detector.runtime.stages import DecisionModel, is_recorded, keeps_evidence, make_decider, plan_camera
from stream_detector.sinks.sink_threads import Sinks
from stream_detector.system import signals
from stream_detector.system.lock_file import claimed
from stream_detector.system.outputs import check_apart, check_free
from stream_detector.system.own_files import JOURNAL, check_own
from stream_detector.telemetry.collector import Telemetry
from stream_detector.telemetry.prometheus import serve_metrics
from stream_detector.types import Clock, Decision, Engine, Preview, SystemClock

log = logging.getLogger(__name__)

TIDY_S = 1.0  # seconds; at the end, for deleting what is too old
_left_open: list[object] = []  # closing what a thread still uses may end the process without a word


@dataclass(frozen=True, slots=True)
class Run:
    """All parts of one run that its caller may use."""

    config: Config
    bundle: Bundle
    engine: Engine
    telemetry: Telemetry
    publisher: Publisher
    pipeline: Pipeline
    ledger: Ledger
    site: SiteRun | None = None

    @property
    def plans(self) -> tuple[CameraPlan, ...]:
        """The cameras that are watched now, in order; a reload changes them."""
        return self.pipeline.roster.plans

    @property
    def cameras(self) -> tuple[CameraConfig, ...]:
        """Their settings."""
        return tuple(camera for camera, _ in self.pipeline.roster.members)


def _keeps_evidence(config: Config) -> bool:
    return any(keeps_evidence(camera, config) for camera in config.cameras)


def _records(config: Config) -> bool:
    return any(is_recorded(camera) for camera in config.cameras)


def check_outputs(config: Config) -> None:
    """Raise UsageError if an output would overwrite a recording, another output or a foreign file."""
    check_cameras(config)
    if config.scores:
        check_free(config.scores, "scores")


def check_cameras(config: Config) -> None:
    """Raise UsageError if an output would overwrite a recording or another output."""
    journal = config.publish.ledger
    outputs = {"--scores": config.scores, "--events": config.events, "--ledger": journal}
    recordings = [camera.source.path for camera in config.cameras if camera.source.kind == "file"]
    check_apart({**outputs, "--log-file": config.telemetry.log_file}, recordings)


@contextlib.contextmanager
def build_run(
    config: Config,
    *,
    clock: Clock | None = None,
    engine: Engine | None = None,
    open_limit: int = 0,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    on_decision: Callable[[Decision], None] | None = None,
    on_preview: Callable[[str, Preview], None] | None = None,
    on_camera: Callable[[str, bool], None] | None = None,
    reload: Callable[[], Config] | None = None,
) -> Iterator[Run]:
    """Build a run; on exit, close what the pipeline does not close itself. Raises the errors of every stage.

    engine: replaces the one in the configuration (tests, benchmarks).  on_event, on_decision: called by the decision
    thread. on_preview: called by the capture threads.  on_camera(name, came): by the decision thread, when a reload
    brought a camera or took it away.
    """
    if not config.cameras:
        raise SourceError("no source was given; give a video file, a directory, a URL, a USB index or 'demo'")
    check_outputs(config)
    clock = clock or SystemClock()
    config = with_bundle(config)
    with contextlib.ExitStack() as stack:
        publish = config.publish
        if config.events:
            check_ordinary(config.events)
        evidence_folder = config.evidence.directory if _keeps_evidence(config) else None
        recordings = config.recording.directory if _records(config) else None
        if publish.ledger:
            check_own(publish.ledger, JOURNAL, "give another with --ledger")
        claims = stack.enter_context(claimed(publish.ledger, config.events, evidence_folder, recordings))
        bundle = Bundle.load(config.bundle)
        plans = tuple(plan_camera(camera, config, bundle) for camera in config.cameras)
        signals.check()
        telemetry = Telemetry([plan.name for plan in plans], clock)
        ledger = Ledger(
            publish.ledger,
            clock=clock,
            keep_days=publish.keep_days,
            max_bytes=publish.ledger_max_bytes,
            on_problem=log.warning,
            lock=claims.journal,
        )
        stack.callback(ledger.close)
        publisher = Publisher(
            publish,
            ledger,
            clock=clock,
            events_path=config.events,
            camera_names=[plan.name for plan in plans],
            health=lambda: telemetry.snapshot().health(),
            events_lock=claims.events,
            local_writes=config.access.local_writes,
        )
        stack.callback(publisher.close)
        if config.telemetry.metrics_port:
            port = config.telemetry.metrics_port
            stack.callback(serve_metrics(telemetry, port, config=config.telemetry).close)
        scores = ScoresFile(config.scores) if config.scores else None
        if scores:
            if scores.kept:
                log.warning("the scores of a former run are kept in %s", scores.kept)
            stack.callback(scores.close)
        evidence = None
        if _keeps_evidence(config) or _records(config):
            evidence = EvidenceWriter(
                config,
                clock=clock,
                epoch=ledger.epoch,
                on_error=log.warning,
                on_loss=telemetry.evidence_lost,
            )
        sinks = Sinks(config.sinks)
        stack.callback(sinks.close)

        def on_alarm(body: dict[str, Any]) -> None:
            sinks.put(body)
            if on_event is not None:
                on_event(body)

        site = _build_site(config, bundle, plans, ledger, publisher, clock, own_engine=engine is None)
        if site:
            stack.callback(site.close)
            telemetry.rates = site.rates
        novelty = engine is None  # the features of another engine may be of another kind
        signals.check()
        engine = engine or load_engine(bundle, config.engine)
        log.info("engine %s on %s in %s: %s", engine.name, engine.device, engine.precision, engine.reason)
        signals.check()
        controls = make_controls(config, plans)
        publisher.last_controls = restore_controls(controls, ledger)
        publisher.controls = controls
        decider = make_decider(
            config,
            DecisionModel.of(bundle),
            plans,
            sink=publisher,
            telemetry=telemetry,
            clock=clock,
            epoch=ledger.epoch,
            evidence=evidence,
            scores=scores,
            novelty=novelty,
            on_event=on_alarm,
            on_decision=on_decision,
            controls=controls,
            site=site,
        )
        if site:
            site.swap = decider.set_overlay

        pipeline = Pipeline(
            config=config,
            cameras=tuple(zip(config.cameras, plans, strict=True)),
            engine=engine,
            resize=partial(make_views, recipe=bundle.recipe),
            frame_fps=bundle.recipe.fps,
            recipe=bundle.recipe,
            decider=decider,
            sink=publisher,
            telemetry=telemetry,
            open_limit=open_limit,
            taps_name=RECORDER if evidence else "",
            on_kept=evidence.report if evidence else lambda _report: None,
            on_preview=on_preview,
            on_camera=partial(_tell_camera, publisher, controls, on_camera),
            clock=clock,
        )
        if evidence:
            evidence.send_to(pipeline.command)
            stack.callback(evidence.close, TIDY_S)
        if reload is not None:
            publisher.on_reload = Reloader(
                config,
                bundle,
                controls,
                decider,
                reload,
                watching=pipeline,
                evidence=_keeps_evidence(config),
                recordings=_records(config),
                check=check_cameras,
                on_cameras=partial(_tell_site, site),
            )
        try:
            yield Run(config, bundle, engine, telemetry, publisher, pipeline, ledger, site)
        finally:
            if not pipeline.settled:
                log.warning("a thread of the run hangs; what it uses is left open for the end of the process")
                _left_open.append(stack.pop_all())


def _tell_camera(
    publisher: Publisher, controls: Controls, on_camera: Callable[[str, bool], None] | None, name: str, came: bool
) -> None:
    """A reload brought a camera, or took it away."""
    if came:
        publisher.add_camera(name)
    else:
        publisher.remove_camera(name)
        controls.forget(name)
    if on_camera is not None:
        on_camera(name, came)


def _tell_site(site: SiteRun | None, config: Config, plans: Mapping[str, CameraPlan]) -> None:
    """Other cameras are watched from now on."""
    if site is not None:
        site.take_cameras(config)
        if site.keeper is not None:
            site.keeper.remember("plan", {name: _plan_facts(plan) for name, plan in plans.items()})


def _build_site(
    config: Config,
    bundle: Bundle,
    plans: tuple[CameraPlan, ...],
    ledger: Ledger,
    publisher: Publisher,
    clock: Clock,
    *,
    own_engine: bool,
) -> SiteRun | None:
    """What the site decides; None where nothing of it may be kept and nothing is there.

    own_engine: whether the bundle's own engine gives the features; those of another one are kept only if asked for.
    """
    directory = site_directory(config)
    if directory is None:
        return None
    keep = (own_engine or config.site.keep is True) and bool(kept_cameras(config))
    if not keep and not (directory / "service.json").exists():
        return None
    rows = ledger.events_after(0, "v1/site/", HISTORY)
    site = SiteRun(
        config,
        directory,
        bundle=bundle.fingerprint,
        dim=bundle.manifest.backbone.feature_dim,
        epoch=ledger.epoch,
        events=publisher,
        history=[json.loads(row.text) for _, row in rows],
        clock=clock,
        keep=keep,
    )
    if site.keeper is not None:
        site.keeper.remember("plan", {plan.name: _plan_facts(plan) for plan in plans})
    publisher.on_written, publisher.on_command = site.written, site.command
    return site


def _plan_facts(plan: CameraPlan) -> dict[str, Any]:
    """What `adapt` must know of a run: how it decides without an overlay."""
    return {
        "threshold": plan.threshold,
        "smoothing": plan.smoothing.kind,
        "time_constant_s": plan.smoothing.time_constant_s,
        "alarm": plan.alarm.model_dump(mode="json"),
    }
