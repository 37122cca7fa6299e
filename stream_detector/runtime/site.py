"""The site's part of a run: overlays in service, the memory, shadows, promised rates, and the commands about them.

The decision thread makes every call here except those that say otherwise; none of them waits.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stream_detector.adaptation.keeper import SiteKeeper
from stream_detector.adaptation.memory import Memory
from stream_detector.adaptation.overlay import Overlay
from stream_detector.adaptation.promise import RateState
from stream_detector.adaptation.service import Place, Service
from stream_detector.alarms.smoothing import Smoother, make_smoother, smooth_on
from stream_detector.alarms.state_machine import AlarmRule, make_alarm_rule
from stream_detector.config import DETECTOR, CameraConfig, Config, SmoothingConfig
from stream_detector.errors import DataError, ProtocolError, StreamDetectorError
from stream_detector.events.protocol import alarm_id
from stream_detector.events.writes import CommandWrite
from stream_detector.runtime.decider import adjusted
from stream_detector.types import Clock, Float32Array, Score

log = logging.getLogger(__name__)

MEMORY_FILE = "memory.sqlite3"
HISTORY = 2000  # events about a site, read at the start
SHADOW_HOURS = 24.0  # unless told otherwise


class SiteEvents(Protocol):
    """What of the publisher this needs."""

    def site(self, camera: str, body: dict[str, Any]) -> dict[str, Any]: ...

    def shadow(self, camera: str, body: dict[str, Any]) -> dict[str, Any]: ...


def site_directory(config: Config) -> Path | None:
    """Where the site's files lie: `site.directory`, else beside the journal; None for a run without files."""
    if config.site.directory is not None:
        return config.site.directory
    return None if config.publish.ledger is None else config.publish.ledger.parent / "site"


def kept_cameras(config: Config) -> list[str]:
    """The cameras whose windows are kept: as their own key says, else `site.keep`, else recordings given by path."""
    return [camera.name for camera in config.cameras if _keeps(camera, config)]


def _keeps(camera: CameraConfig, config: Config) -> bool:
    said = config.site.keep if camera.keep is None else camera.keep
    return camera.source.kind == "file" if said is None else said


@dataclass(slots=True)
class _Shadow:
    """A candidate that decides beside the model in service, on one camera."""

    overlay: Overlay
    smoother: Smoother
    rule: AlarmRule
    until_utc: float
    alarms: int = 0


class SiteRun:
    """Everything of one run that the site decides. `swap` is set by `build`: it changes a camera's model at once.

    Raises DataError if the state in the folder is damaged.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        *,
        bundle: str,
        dim: int,
        epoch: str,
        events: SiteEvents,
        history: list[dict[str, Any]],
        clock: Clock,
        keep: bool,
    ) -> None:
        """history: `v1/site/…` events of the journal, oldest first.  keep: whether windows may be kept at all."""
        self._config, self._bundle, self._dim, self._epoch = config, bundle, dim, epoch
        self._events, self._clock = events, clock
        self.directory = directory
        self.swap: Callable[[str, Overlay | None], None] = lambda camera, overlay: None
        self.in_progress: Callable[[str], bool] = lambda camera: False
        self.service = Service.load(directory)
        for sentence in self.service.reconcile(history, DETECTOR):
            log.warning("%s", sentence)
        self._names = [camera.name for camera in config.cameras]
        self._overlays = {name: self._load(name) for name in self._names}
        self._shadows: dict[str, _Shadow] = {}
        self._sources = {camera.name: camera for camera in config.cameras}
        self._rates: dict[str, RateState] = {}
        self._told_broken: set[str] = set()
        self._adapting: subprocess.Popen[bytes] | None = None
        self.keeper: SiteKeeper | None = None
        wanted = {camera.name: camera.false_alarms_per_day for camera in config.cameras}
        cameras = kept_cameras(config) if keep else []
        if cameras:
            try:
                memory = Memory(directory / MEMORY_FILE)
            except DataError as error:
                log.warning("nothing of this run is remembered: %s", error)
            else:
                self._told_broken = set(memory.fact("promise_broken") or ())
                since = {name: self.service.changed_utc(name) for name in self._names}
                self.keeper = SiteKeeper(
                    memory,
                    config.site,
                    cameras=cameras,
                    bundle=bundle,
                    epoch=epoch,
                    clock=clock,
                    wanted=wanted,
                    since=since,
                    on_rates=self._take_rates,
                )
                self.keeper.remember("wanted", wanted)

    def take_cameras(self, config: Config) -> None:
        """Other cameras are watched from now on. For the decision thread."""
        gone = {name for name in self._names if name not in {camera.name for camera in config.cameras}}
        for name in gone:
            self._shadows.pop(name, None)
            self._overlays.pop(name, None)
        self._names = [camera.name for camera in config.cameras]
        self._sources = {camera.name: camera for camera in config.cameras}
        for name in self._names:
            if name not in self._overlays:
                self._overlays[name] = self._load(name)
        if self.keeper is not None:
            wanted = {camera.name: camera.false_alarms_per_day for camera in config.cameras}
            self.keeper.watch(kept_cameras(config), wanted)

    def _load(self, camera: str) -> Overlay | None:
        fingerprint = self.service.of(camera)
        if not fingerprint:
            return None
        try:
            return self.service.load_overlay(fingerprint, self._bundle, self._dim)
        except StreamDetectorError as error:
            log.warning("camera %s runs with the bundle alone: %s", camera, error)
            return None

    # -- the decider ----------------------------------------------------------------------------------------------

    def overlay(self, camera: str) -> Overlay | None:
        """What is in service for a camera; None for the bundle alone."""
        return self._overlays.get(camera)

    def window(self, score: Score, base: float, alarmed: bool) -> None:
        """Every decided window. base: the bundle's score, before any overlay.  alarmed: by the model in service."""
        camera = score.ref.camera
        if self.keeper is not None:
            self.keeper.window(score.ref, score.features, base)
        shadow = self._shadows.get(camera)
        if shadow is not None and score.features is not None:
            self._step(shadow, score, score.features, base, alarmed)

    def event(self, body: dict[str, Any]) -> None:
        """Every alarm event, as journalled."""
        if self.keeper is not None:
            self.keeper.event(body)

    def written(self, body: dict[str, Any]) -> None:
        """Every verdict and miss, as journalled."""
        if self.keeper is not None:
            self.keeper.verdict(body)

    def tick(self) -> None:
        """Start and end shadows, tell broken promises. Call it about once a second."""
        now_utc = self._clock.utc()
        for camera in self._names:
            self._tend_shadow(camera, now_utc)
        for camera, state in list(self._rates.items()):
            if state.broken and camera not in self._told_broken:
                self._told_broken.add(camera)
                sentence = f"{state.sentence()}; run `stream-detector adapt --camera {camera}`"
                self._events.site(camera, {"type": "promise_broken", "detail": sentence, "rate": state.to_dict()})
                log.warning("camera %s: %s", camera, sentence)

    # -- rates ----------------------------------------------------------------------------------------------------

    def _take_rates(self, rates: dict[str, RateState]) -> None:
        """By the writer's thread."""
        self._rates = rates

    def rates(self) -> dict[str, dict[str, Any]]:
        """What is known of the cameras' rates, for heartbeat, metrics and page. For any thread."""
        return {camera: state.to_dict() for camera, state in self._rates.items()}

    # -- shadows --------------------------------------------------------------------------------------------------

    def _tend_shadow(self, camera: str, now_utc: float) -> None:
        wanted = self.service.shadow_of(camera, now_utc)
        running = self._shadows.get(camera)
        if running is not None and running.overlay.fingerprint != wanted:
            self._end_shadow(camera, running)
            running = None
        if wanted and running is None:
            self._start_shadow(camera, wanted)

    def _start_shadow(self, camera: str, fingerprint: str) -> None:
        try:
            overlay = self.service.load_overlay(fingerprint, self._bundle, self._dim)
        except StreamDetectorError as error:
            log.warning("no shadow runs on camera %s: %s", camera, error)
            for name in (camera, ""):
                if self.service.places.get(name, Place()).shadow == fingerprint:
                    self.service.set_shadow(name, "", 0.0, 0.0)
            return
        model, source = f"{self._bundle}+{fingerprint}", self._sources[camera].source.shown
        smoothing = SmoothingConfig(kind="ema", time_constant_s=overlay.time_constant_s)
        rule = make_alarm_rule(
            camera,
            model,
            lambda first: alarm_id(camera, source, model, first, self._epoch),
            overlay.threshold,
            self._config.alarm,
        )
        until_utc = max(self.service.places.get(n, Place()).shadow_until_utc for n in (camera, ""))
        self._shadows[camera] = _Shadow(overlay, make_smoother(smoothing), rule, until_utc)

    def _end_shadow(self, camera: str, shadow: _Shadow) -> None:
        del self._shadows[camera]
        detail = f"the shadow {shadow.overlay.fingerprint} is over; it would have raised {shadow.alarms} alarms"
        self._events.site(camera, {"type": "shadow_ended", "overlay": shadow.overlay.fingerprint, "detail": detail})

    def _step(self, shadow: _Shadow, score: Score, features: Float32Array, base: float, alarmed: bool) -> None:
        raw = adjusted(shadow.overlay, features, base)
        ref = score.ref
        smoothed = smooth_on(shadow.smoother, ref.start_s, ref.end_s, raw, ref.degraded)
        _, event = shadow.rule.step(Score(ref, raw, score.scored_s, score.timing), smoothed)
        if event is None or event.type == "update":
            return
        shadow.alarms += event.type == "start"
        body = {
            "type": event.type,
            "id": event.id,
            "overlay": shadow.overlay.fingerprint,
            "start_s": round(event.start_s, 6),
            "end_s": None if event.end_s is None else round(event.end_s, 6),
            "score": round(event.score, 6),
            "peak_score": round(event.peak_score, 6),
            "threshold": shadow.overlay.threshold,
            "in_service_alarmed": alarmed,
            "detail": f"the shadow would have {'raised' if event.type == 'start' else 'ended'} an alarm"
            + (", as the model in service has" if alarmed else ", the model in service has none"),
        }
        self._events.shadow(ref.camera, body)

    # -- commands -------------------------------------------------------------------------------------------------

    def command(self, write: CommandWrite, author: str) -> dict[str, Any]:
        """Carry out a command; returns the journalled event. Raises ProtocolError with the reason if refused."""
        try:
            if write.command == "promote":
                return self._promote(write, author)
            if write.command == "rollback":
                return self._change(write.camera, self.service.rolled_back(write.camera), write, author)
            if write.command == "shadow":
                return self._shadow(write, author)
            return self._adapt(write, author)
        except StreamDetectorError as error:
            raise ProtocolError(str(error)) from None

    def _promote(self, write: CommandWrite, author: str) -> dict[str, Any]:
        overlay = self.service.load_overlay(write.overlay, self._bundle, self._dim)
        return self._change(overlay.camera, self.service.promoted(overlay, self._clock.utc()), write, author)

    def _change(self, camera: str, change: dict[str, Any], write: CommandWrite, author: str) -> dict[str, Any]:
        """Journal, then the file, then the run: a kill in between is completed at the next start."""
        model = f"{self._bundle}+{change['overlay']}" if change["overlay"] else self._bundle
        whose = f"camera {camera}" if camera else "the site"
        detail = f"{whose}: {change['type'].replace('_', ' ')} to {model}"
        body = {**change, "model": model, "by": write.by, "author": author, "detail": detail}
        body = self._events.site(camera or DETECTOR, body)
        self.service.apply(camera, body, (body["epoch"], body["seq"]), self._clock.utc())
        for name in self._names if not camera else [camera]:
            if name in self._overlays:
                self._overlays[name] = self._load(name)
                self.swap(name, self._overlays[name])
                if self.keeper is not None:
                    self.keeper.since[name] = self._clock.utc()
                self._told_broken.discard(name)
        log.info("%s, by %s", detail, author)
        return body

    def _shadow(self, write: CommandWrite, author: str) -> dict[str, Any]:
        overlay = self.service.load_overlay(write.overlay, self._bundle, self._dim)
        now_utc, hours = self._clock.utc(), write.hours or SHADOW_HOURS
        detail = f"{overlay.fingerprint} runs as a shadow for {hours:g} h"
        body = {"type": "shadow_started", "overlay": overlay.fingerprint, "by": write.by, "author": author}
        told = self._events.site(overlay.camera or DETECTOR, {**body, "hours": hours, "detail": detail})
        self.service.set_shadow(overlay.camera, overlay.fingerprint, now_utc, now_utc + hours * 3600)
        return told

    def _adapt(self, write: CommandWrite, author: str) -> dict[str, Any]:
        """Start `adapt` as a process of its own at low priority; one at a time."""
        if self.keeper is None:
            raise DataError("nothing of this site is remembered, so there is nothing to adapt to; set site.keep = true")
        if self._adapting is not None and self._adapting.poll() is None:
            raise DataError("an adaptation is under way; wait for its report")
        command = [sys.executable, "-m", "stream_detector", "adapt", "--site", str(self.directory)]
        command += [
            "--bundle",
            self._config.bundle,
            "--low-priority",
            *(["--camera", write.camera] if write.camera else []),
        ]
        with (self.directory / "adapt.log").open("ab") as output:
            self._adapting = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        camera = write.camera or DETECTOR
        return self._events.site(
            camera, {"type": "adapt_started", "by": write.by, "author": author, "detail": "a candidate is being fitted"}
        )

    def close(self) -> None:
        """End what was started, and write what is left. Safe to call twice."""
        if self._adapting is not None and self._adapting.poll() is None:
            self._adapting.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._adapting.wait(2.0)
        if self.keeper is not None:
            self.keeper.facts["promise_broken"] = sorted(self._told_broken)
            self.keeper.close()
