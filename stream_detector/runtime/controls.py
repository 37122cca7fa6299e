"""Schedules and controls of a run: made from its configuration, gone on from its journal."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from stream_detector.alarms.schedule import CameraSchedule, Controls, camera_schedule
from stream_detector.alarms.state_machine import AdjustableRule, make_alarm_rule
from stream_detector.config import Config
from stream_detector.errors import ConfigError
from stream_detector.runtime.decider import CameraPlan

log = logging.getLogger(__name__)

_TOPIC = "v1/control/"


class Journal(Protocol):
    """What of `events.ledger.Ledger` is read here."""

    def places(self) -> dict[str, tuple[str, int]]: ...

    def since(self, topic: str, epoch: str | None, seq: int, limit: int) -> tuple[Sequence[str], bool]: ...


def make_controls(config: Config, plans: Sequence[CameraPlan]) -> Controls:
    """The controls of a run. Raises ConfigError for a schedule that cannot work."""
    return Controls(config.schedule, checked_schedules(config, plans))


def checked_schedules(config: Config, plans: Sequence[CameraPlan]) -> dict[str, CameraSchedule]:
    """The schedule of every camera.

    Raises ConfigError for a mode that is not declared, and for thresholds that the camera's alarm rule cannot take.
    """
    rules = {camera.name: camera.schedule for camera in config.cameras}
    modes = set(config.schedule.modes)
    for plan in plans:
        own = rules.get(plan.name, ())
        unknown = sorted({mode for rule in own for mode in rule.modes} - modes)
        if unknown:
            raise ConfigError(
                f"camera {plan.name}: schedule names the mode {unknown[0]!r}, which is none of schedule.modes "
                f"({', '.join(config.schedule.modes)}); add it there"
            )
        if any(rule.threshold is not None for rule in own):
            made = make_alarm_rule(plan.name, "", str, plan.threshold, plan.alarm)
            if not isinstance(made, AdjustableRule):
                raise ConfigError(
                    f"camera {plan.name}: the alarm rule {plan.alarm.rule!r} has one threshold only; leave thresholds "
                    "out of its schedule"
                )
        if own and not plan.live and not config.schedule.starts_at:
            log.warning("%s: a file has no time of the day; its schedule waits for schedule.starts_at", plan.name)
    return {plan.name: camera_schedule(rules.get(plan.name, ()), plan.live, config.schedule) for plan in plans}


def restore_controls(controls: Controls, journal: Journal) -> dict[str, dict[str, Any]]:
    """Go on with what operators had set when the last run ended; returns the newest event of each camera."""
    found: dict[str, dict[str, Any]] = {}
    for topic, (epoch, seq) in journal.places().items():
        if not topic.startswith(_TOPIC):
            continue
        texts, _ = journal.since(topic, epoch, seq - 1, 1)
        if texts:
            body = json.loads(texts[-1])
            controls.restore(body)
            found[str(body["camera"])] = body
    return found
