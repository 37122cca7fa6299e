"""Schedules and modes: what holds for a camera at which time of the week, and in which mode of the house.

    [schedule]
    time_zone = "Europe/Berlin"

    [cameras.gate]
    schedule = [
        { days = "mon-fri", from = "08:00", to = "18:00", threshold = 0.8 },
        { modes = ["home"], mute = true },
    ]

Of the rules that hold, the last one that says something about a key counts.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from stream_detector.config.section import Seconds, Section, Unit
from stream_detector.system.wall_clock import WeeklySpan, zone

MODE_NAME = re.compile(r"[a-z0-9_-]{1,32}")
NotifyLevel = Literal["low", "medium", "high", "none"]


def _zone_name(name: str) -> str:
    zone(name)
    return name


def _mode(name: str) -> str:
    if not MODE_NAME.fullmatch(name):
        raise ValueError("the name of a mode has 1 to 32 of a-z, 0-9, '_' and '-'")
    return name


def _start(text: str) -> str:
    if text:
        starts_at_utc(text)
    return text


def starts_at_utc(text: str) -> float:
    """RFC 3339 with a time zone → seconds since the epoch. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("starts_at must be written like 2026-01-31T22:00:00+01:00") from None
    if moment.tzinfo is None:
        raise ValueError("starts_at needs a time zone: write 2026-01-31T22:00:00+01:00, or end it with Z")
    return moment.astimezone(UTC).timestamp()


ModeName = Annotated[str, AfterValidator(_mode)]


class ScheduleRule(Section):
    """When it holds (`days`, `from`, `to`, `modes`: all of them), and what it says then."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    days: str = "daily"
    begin: Annotated[str, Field(alias="from")] = ""
    end: Annotated[str, Field(alias="to")] = ""
    modes: tuple[ModeName, ...] = ()  # (): in every mode
    threshold: Unit | None = None
    mute: bool | None = None  # alarms are raised, but marked as muted: nobody is to be told
    notify: NotifyLevel | None = None  # tell people from this severity on
    severity: Literal["low", "medium", "high"] | None = None  # alarms are at least so severe

    @model_validator(mode="after")
    def _is_a_rule(self) -> ScheduleRule:
        WeeklySpan.parse(self.days, self.begin, self.end, zone("UTC"))
        if self.threshold is None and self.mute is None and self.notify is None and self.severity is None:
            raise ValueError("a rule of a schedule says nothing; give it threshold, mute, notify or severity")
        return self


class SeverityConfig(Section):
    """How severe an alarm is, by score, length and kind; see `alarms.severity`."""

    medium_from: Unit = 1 / 3  # share of the way from the threshold to 1 that the peak has gone
    high_from: Unit = 2 / 3  # the same for high
    long_s: Seconds = 20.0  # an alarm that lasts so long is one level more severe
    kinds: dict[str, Annotated[int, Field(ge=-2, le=2)]] = Field(default_factory=dict)  # kind → levels to add

    @model_validator(mode="after")
    def _levels_rise(self) -> SeverityConfig:
        if self.medium_from > self.high_from:
            raise ValueError("medium_from must not lie above high_from; give a smaller share, or a larger one there")
        return self


class ScheduleConfig(Section):
    """What all schedules share. Files have no time of the day unless `starts_at` gives one; cameras have their own."""

    time_zone: Annotated[str, AfterValidator(_zone_name)] = "UTC"  # IANA name
    modes: Annotated[tuple[ModeName, ...], Field(min_length=1)] = ("home", "away")
    mode: ModeName | None = None  # of the first start; None: the first of `modes`
    starts_at: Annotated[str, AfterValidator(_start)] = ""  # when the first picture of every file was taken

    @model_validator(mode="after")
    def _mode_is_known(self) -> ScheduleConfig:
        if self.mode is not None and self.mode not in self.modes:
            raise ValueError(f"mode {self.mode!r} is none of modes ({', '.join(self.modes)})")
        return self

    @property
    def first_mode(self) -> str:
        """The mode of the first start."""
        return self.mode or self.modes[0]
