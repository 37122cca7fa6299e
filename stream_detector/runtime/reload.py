"""Reads the configuration again while a run goes on: what can take effect does, the rest is named.

At the next window: the thresholds of cameras and `[alarm] threshold`, the schedules of cameras, and `[schedule]`.
At once: a camera that came is watched; one that is gone is not; one with other settings is opened again. The cameras
that did not change go on as if nothing had happened. Any other section needs a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stream_detector.alarms.schedule import Controls
from stream_detector.config import CameraConfig, Config
from stream_detector.errors import ProtocolError, StreamDetectorError
from stream_detector.models.bundle import Bundle
from stream_detector.runtime.controls import checked_schedules
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.runtime.roster import Member, Roster
from stream_detector.runtime.stages import is_recorded, keeps_evidence, plan_camera

LIVE_CAMERA_KEYS = ("threshold", "schedule")
_LIVE_SECTIONS = ("cameras", "schedule")


class Watching(Protocol):
    """What of `pipeline.Pipeline` is used here."""

    roster: Roster

    def change_cameras(self, gone: Collection[str], come: Sequence[Member]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a new configuration means. come: added and changed cameras."""

    config: Config
    plans: dict[str, CameraPlan]
    added: list[str]
    removed: list[str]
    changed: dict[str, list[str]]
    refused: list[str]

    @property
    def gone(self) -> list[str]:
        return [*self.removed, *self.changed]

    def come(self) -> list[Member]:
        cameras = {camera.name: camera for camera in self.config.cameras}
        return [(cameras[name], self.plans[name]) for name in (*self.added, *self.changed)]


class Reloader:
    """For the decision thread. load: reads the configuration anew.  watching: the run's pipeline.

    evidence, recordings: whether this run keeps any; what it does not keep needs a restart to begin.  check: raises
    UsageError for a configuration whose cameras are outputs of this run.  on_cameras(config, plans): told before other
    cameras begin.
    """

    def __init__(
        self,
        config: Config,
        bundle: Bundle,
        controls: Controls,
        decider: Decider,
        load: Callable[[], Config],
        *,
        watching: Watching,
        evidence: bool = True,
        recordings: bool = True,
        check: Callable[[Config], None] = lambda _config: None,
        on_cameras: Callable[[Config, Mapping[str, CameraPlan]], None] = lambda _config, _plans: None,
    ) -> None:
        self._config, self._bundle, self._controls, self._decider = config, bundle, controls, decider
        self._load, self._watching, self._check, self._on_cameras = load, watching, check, on_cameras
        self._evidence, self._recordings = evidence, recordings
        self._plans = {camera.name: plan_camera(camera, config, bundle) for camera in config.cameras}

    def __call__(self) -> dict[str, Any]:
        """Apply what can be applied.

        Returns {"reloaded": {camera: [key]}, "added": [camera], "removed": [camera], "reopened": {camera: [key]},
        "restart": [what needs one]}. Raises ProtocolError in one sentence, and changes nothing, where the configuration
        is wrong.
        """
        try:
            new = self._load()
            plan = self._plan(new)
            schedules = checked_schedules(plan.config, list(plan.plans.values()))
            self._check(plan.config)
            self._on_cameras(plan.config, plan.plans)
            if plan.gone or plan.added:
                self._watching.change_cameras(plan.gone, plan.come())
        except StreamDetectorError as error:
            raise ProtocolError(str(error)) from None
        reloaded = self._adjust(plan, new)
        self._controls.reconfigure(plan.config.schedule, schedules)
        restart = sorted([*plan.refused, *self._sections(new)])
        self._config, self._plans = plan.config, plan.plans
        self._watching.roster.set_order(list(plan.plans))
        done: dict[str, Any] = {"reloaded": reloaded, "restart": restart}
        told = {"added": plan.added, "removed": plan.removed, "reopened": plan.changed}
        return done | {key: value for key, value in told.items() if value}

    def _plan(self, new: Config) -> _Plan:
        """What of the new configuration takes effect in this run, whose other sections stay as they are."""
        alarm = self._config.alarm.model_copy(update={"threshold": new.alarm.threshold})
        mixed = self._config.model_copy(update={"alarm": alarm, "schedule": new.schedule})
        old = {camera.name: camera for camera in self._config.cameras}
        wanted = {camera.name: camera for camera in new.cameras}
        cameras: list[CameraConfig] = []
        added, changed, refused = [], {}, []
        for name, camera in wanted.items():
            before = old.get(name)
            keys = _changed(before, camera) if before is not None else []
            lacks = self._lacks(camera) if before is None or keys else ""
            if lacks:
                refused.append(f"camera {name}: {lacks}")
                cameras += [before] if before is not None else []
                continue
            cameras.append(camera)
            if before is None:
                added.append(name)
            elif keys:
                changed[name] = [*keys, *(key for key in LIVE_CAMERA_KEYS if _differ(before, camera, key))]
        removed = [name for name in old if name not in wanted]
        config = mixed.model_copy(update={"cameras": tuple(cameras)})
        plans = {camera.name: plan_camera(camera, config, self._bundle) for camera in cameras}
        return _Plan(config, plans, added, removed, changed, refused)

    def _lacks(self, camera: CameraConfig) -> str:
        """What a camera needs that this run does not have."""
        if is_recorded(camera) and not self._recordings:
            return "record needs the folder of recordings, which this run has not opened"
        if keeps_evidence(camera, self._config) and not self._evidence:
            return "evidence needs its folder, which this run has not opened"
        return ""

    def _adjust(self, plan: _Plan, new: Config) -> dict[str, list[str]]:
        """Thresholds and schedules of the cameras that go on: {camera: [key]}."""
        reloaded: dict[str, list[str]] = {}
        old = {camera.name: camera for camera in self._config.cameras}
        for camera in plan.config.cameras:
            name = camera.name
            if name not in old or name in plan.changed:
                continue
            keys = []
            if plan.plans[name].threshold != self._plans[name].threshold:
                self._decider.set_threshold(name, plan.plans[name].threshold)
                keys.append("threshold")
            if camera.schedule != old[name].schedule or new.schedule != self._config.schedule:
                keys.append("schedule")
            if keys:
                reloaded[name] = keys
                self._watching.roster.set_plan(plan.plans[name], camera)
        return reloaded

    def _sections(self, new: Config) -> list[str]:
        found = []
        for section in Config.model_fields:
            before, after = getattr(self._config, section), getattr(new, section)
            if section == "alarm":  # its threshold takes effect through the plans of cameras
                before, after = (part.model_copy(update={"threshold": None}) for part in (before, after))
            if section not in _LIVE_SECTIONS and before != after:
                found.append(f"[{section}] changed")
        return found


def _changed(before: CameraConfig, after: CameraConfig) -> list[str]:
    """The keys for which a camera must be opened again."""
    keys = [key for key in CameraConfig.model_fields if key not in LIVE_CAMERA_KEYS]
    return [key for key in keys if _differ(before, after, key)]


def _differ(before: CameraConfig | None, after: CameraConfig, key: str) -> bool:
    return before is None or getattr(before, key) != getattr(after, key)
