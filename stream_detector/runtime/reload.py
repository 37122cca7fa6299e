"""Reads the configuration again while a run goes on: what only decisions need takes effect, the rest is named.

Takes effect at the next window: the thresholds of cameras and `[alarm] threshold`, the schedules of cameras, and
`[schedule]`. Everything else (a camera that is new, gone or reads another source, any other section) needs a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stream_detector.alarms.schedule import Controls
from stream_detector.config import CameraConfig, Config
from stream_detector.errors import ProtocolError, UsageError
from stream_detector.models.bundle import Bundle
from stream_detector.runtime.controls import checked_schedules
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.runtime.stages import plan_camera

LIVE_CAMERA_KEYS = ("threshold", "schedule")
_LIVE_SECTIONS = ("cameras", "schedule")


class Reloader:
    """For the decision thread. load: reads the configuration anew.  plans: of the run, in its order."""

    def __init__(
        self,
        config: Config,
        bundle: Bundle,
        plans: Sequence[CameraPlan],
        controls: Controls,
        decider: Decider,
        load: Callable[[], Config],
    ) -> None:
        self._config, self._bundle, self._plans = config, bundle, {plan.name: plan for plan in plans}
        self._controls, self._decider, self._load = controls, decider, load

    def __call__(self) -> dict[str, Any]:
        """Apply what can be applied: {"reloaded": {camera: [key]}, "restart": [what needs one]}.

        Raises ProtocolError in one sentence, and changes nothing, where the configuration is wrong.
        """
        try:
            new = self._load()
            cameras = {camera.name: camera for camera in new.cameras}
            wanted = {name: plan_camera(cameras[name], new, self._bundle) for name in self._plans if name in cameras}
            kept = [wanted.get(name, plan) for name, plan in self._plans.items()]
            schedules = checked_schedules(new, kept)
        except UsageError as error:
            raise ProtocolError(str(error)) from None
        restart = self._needs_restart(new, cameras)
        reloaded: dict[str, list[str]] = {}
        old = {camera.name: camera for camera in self._config.cameras}
        for name, plan in wanted.items():
            keys = []
            if plan.threshold != self._plans[name].threshold:
                self._decider.set_threshold(name, plan.threshold)
                keys.append("threshold")
            if cameras[name].schedule != old[name].schedule or new.schedule != self._config.schedule:
                keys.append("schedule")
            if keys:
                reloaded[name] = keys
            self._plans[name] = plan
        self._controls.reconfigure(new.schedule, schedules)
        self._config = self._config.model_copy(
            update={
                "schedule": new.schedule,
                "cameras": tuple(
                    old[name].model_copy(update={key: getattr(cameras[name], key) for key in LIVE_CAMERA_KEYS})
                    if name in cameras
                    else old[name]
                    for name in old
                ),
            }
        )
        return {"reloaded": reloaded, "restart": restart}

    def _needs_restart(self, new: Config, cameras: dict[str, CameraConfig]) -> list[str]:
        old = {camera.name: camera for camera in self._config.cameras}
        found = [f"camera {name} was added" for name in cameras if name not in old]
        found += [f"camera {name} was removed" for name in old if name not in cameras]
        for name in old.keys() & cameras.keys():
            fields = [key for key in CameraConfig.model_fields if key not in LIVE_CAMERA_KEYS]
            changed = [key for key in fields if getattr(old[name], key) != getattr(cameras[name], key)]
            found += [f"camera {name}: {key} changed" for key in changed]
        for section in Config.model_fields:
            before, after = getattr(self._config, section), getattr(new, section)
            if section == "alarm":  # its threshold takes effect through the plans of cameras
                before, after = (part.model_copy(update={"threshold": None}) for part in (before, after))
            if section not in _LIVE_SECTIONS and before != after:
                found.append(f"[{section}] changed")
        return sorted(found)
