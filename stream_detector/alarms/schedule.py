"""What holds for a camera at one moment: threshold, mute, and the severity from which people are told.

`Controls` knows what operators set (mode, mutes, thresholds) and the schedules of the configuration. The decider asks
it for every window, by the window's own time, so that a replay at any speed decides alike. What operators set is an
event (`stream-detector.control/1`), journalled before it takes effect; the next run begins with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stream_detector.config import CAMERA_NAME, DETECTOR
from stream_detector.config.schedule import ScheduleConfig, ScheduleRule, starts_at_utc
from stream_detector.errors import ProtocolError
from stream_detector.system.wall_clock import WeeklySpan, zone


@dataclass(frozen=True, slots=True)
class Effective:
    """What holds for one window. threshold: None means the camera's own.  notify: least severity, or "none".

    mode: "" where schedules and modes do not apply.  severity: alarms are at least so severe.
    """

    threshold: float | None = None
    muted: bool = False
    notify: str = "low"
    mode: str = ""
    severity: str = "low"


@dataclass(frozen=True, slots=True)
class Control:
    """What operators set for one camera, or for all (DETECTOR). Of a camera `mode` is None.

    muted_until_utc: seconds since the epoch; None is not muted.  threshold: None is as configured.
    """

    mode: str | None = None
    muted_until_utc: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class CameraSchedule:
    """rules: of one camera.  starts_at_utc: of a file, media time 0; None for a live camera, whose windows know it.

    timed: False for a file without a start time: schedules and modes do not apply to it.
    """

    rules: tuple[ScheduleRule, ...] = ()
    timed: bool = True
    starts_at_utc: float | None = None


class Schedule:
    """Evaluates rules: of those that hold, the last one that says something about a key counts."""

    def __init__(self, rules: Sequence[ScheduleRule], time_zone: str) -> None:
        where = zone(time_zone)
        self._rules = [(WeeklySpan.parse(r.days, r.begin, r.end, where), r) for r in rules]

    def at(self, utc: float, mode: str) -> Effective:
        """What the rules say at a time (UTC seconds) in a mode."""
        found = Effective(mode=mode)
        for span, rule in self._rules:
            if (rule.modes and mode not in rule.modes) or span.until(utc) is None:
                continue
            if rule.threshold is not None:
                found = replace(found, threshold=rule.threshold)
            if rule.mute is not None:
                found = replace(found, muted=rule.mute)
            if rule.notify is not None:
                found = replace(found, notify=rule.notify)
            if rule.severity is not None:
                found = replace(found, severity=rule.severity)
        return found


class Controls:
    """For the decision thread. cameras: name → its schedule."""

    def __init__(self, config: ScheduleConfig, cameras: Mapping[str, CameraSchedule]) -> None:
        self._uses_modes = False
        self._configure(config, cameras)
        self._set: dict[str, Control] = {DETECTOR: Control(mode=config.first_mode)}
        self._windows: dict[str, int] = {}

    def _configure(self, config: ScheduleConfig, cameras: Mapping[str, CameraSchedule]) -> None:
        self._config = config
        self._cameras = dict(cameras)
        self._schedules = {name: Schedule(c.rules, config.time_zone) for name, c in cameras.items()}
        self._minutes: dict[str, tuple[float, str, Effective]] = {}  # camera → (minute, mode, what the rules say)
        # a mode that nobody asked for is not shown in events
        self._uses_modes = self._uses_modes or config.mode is not None or any(c.rules for c in cameras.values())

    def reconfigure(self, config: ScheduleConfig, cameras: Mapping[str, CameraSchedule]) -> None:
        """Other schedules from the next window on. What operators set stays, but for a mode that no longer exists."""
        self._configure(config, cameras)
        everywhere = self._set[DETECTOR]
        if everywhere.mode not in config.modes:
            self._set[DETECTOR] = replace(everywhere, mode=config.first_mode)

    def forget(self, camera: str) -> None:
        """A camera is gone: no window of it counts. What operators set for it stays, should it come back."""
        self._windows.pop(camera, None)

    @property
    def mode(self) -> str:
        """The mode of the house."""
        return self._set[DETECTOR].mode or self._config.first_mode

    def at(self, camera: str, window: int, end_s: float, captured_utc: float) -> Effective:
        """What holds for a window. end_s: media time of its last frame.  captured_utc: of the same, of live cameras."""
        self._windows[camera] = window
        place = self._cameras.get(camera, CameraSchedule())
        utc = captured_utc if place.starts_at_utc is None else place.starts_at_utc + end_s
        found = self._scheduled(camera, utc) if place.timed else Effective()
        for given in (self._set[DETECTOR], self._set.get(camera)):
            if given is None:
                continue
            if given.muted_until_utc is not None and captured_utc < given.muted_until_utc:
                found = replace(found, muted=True)
            if given.threshold is not None:
                found = replace(found, threshold=given.threshold)
        return found

    def _scheduled(self, camera: str, utc: float) -> Effective:
        minute, mode = utc // 60.0, self.mode  # rules change on whole minutes only
        known = self._minutes.get(camera)
        if known is None or known[0] != minute or known[1] != mode:
            schedule = self._schedules.get(camera)
            found = schedule.at(utc, mode) if schedule else Effective()
            found = replace(found, mode=mode if self._uses_modes else "")
            known = self._minutes[camera] = (minute, mode, found)
        return known[2]

    def prepare(self, camera: str, changes: Mapping[str, Any], now_utc: float) -> tuple[Control, dict[str, Any]]:
        """What a change would make of a camera ("" for all), and the fields of its event; nothing takes effect yet.

        changes: `mode`, `mute_s` (0 ends it), `threshold` (None: as configured). Raises ProtocolError.
        """
        if camera and not CAMERA_NAME.fullmatch(camera):
            raise ProtocolError("a control names no camera; give 1 to 64 of a-z, 0-9, '_' and '-'")
        new = self._set.get(camera or DETECTOR, Control())
        if "mode" in changes:
            if camera:
                raise ProtocolError("a mode is of all cameras; leave the camera out")
            if changes["mode"] not in self._config.modes:
                raise ProtocolError(f"this mode is not known; use one of {', '.join(self._config.modes)}")
            new = replace(new, mode=str(changes["mode"]))
        if "mute_s" in changes:
            seconds = float(changes["mute_s"])
            new = replace(new, muted_until_utc=now_utc + seconds if seconds > 0 else None)
        if "threshold" in changes:
            given = changes["threshold"]
            new = replace(new, threshold=None if given is None else float(given))
        after = {name: window for name, window in self._windows.items() if not camera or name == camera}
        return new, {"after": after}

    def take(self, camera: str, control: Control) -> None:
        """Let a change take effect, for the next window of each camera."""
        self._uses_modes = self._uses_modes or control.mode not in (None, self.mode)
        self._set[camera or DETECTOR] = control

    def restore(self, body: Mapping[str, Any]) -> None:
        """Go on from the newest control event of a camera or of all; what is malformed or no longer known is passed
        over.
        """
        camera, mode, threshold = str(body.get("camera")), body.get("mode"), body.get("threshold")
        until = body.get("muted_until_s")
        known = mode in self._config.modes
        self._uses_modes = self._uses_modes or (known and mode != self._config.first_mode)
        self._set[camera] = Control(
            mode=(str(mode) if known else self._config.first_mode) if camera == DETECTOR else None,
            muted_until_utc=float(until) if isinstance(until, int | float) else None,
            threshold=float(threshold) if isinstance(threshold, int | float) and 0 <= threshold <= 1 else None,
        )


def camera_schedule(rules: Sequence[ScheduleRule], live: bool, config: ScheduleConfig) -> CameraSchedule:
    """The schedule of one camera; a file has a time only where the configuration gives one."""
    if live:
        return CameraSchedule(tuple(rules))
    starts = starts_at_utc(config.starts_at) if config.starts_at else None
    return CameraSchedule(tuple(rules), timed=starts is not None, starts_at_utc=starts)
