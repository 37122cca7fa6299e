"""Notify: short messages with a picture to people, over any channel that Apprise supports (ntfy, Telegram, mail, …).

A target is one channel with its own cameras, severities, quiet hours and cooldown. Notices in quiet hours that are not
severe enough are summarised in one message at the end of the quiet hours; alarms within the cooldown of a camera are
counted in its next message. A camera that is online again before `offline_s` causes no message.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from stream_detector.bridges.kinds import (
    DELIVER,
    Admission,
    DeliveryError,
    SecretText,
    Target,
    TargetContext,
    TargetSettings,
)
from stream_detector.bridges.notice import SEVERITIES, Notice
from stream_detector.config.section import Seconds
from stream_detector.errors import ConfigError, MissingExtraError
from stream_detector.system.wall_clock import WeeklySpan, zone

log = logging.getLogger(__name__)

SeverityName = Literal["low", "medium", "high"]
_TOLD_MOST = 200
_WORDS = {
    "offline": "is offline",
    "online": "is online again",
    "covered": "shows no usable picture",
    "clear": "shows a usable picture again",
    "silent": "sends no heartbeat",
    "running": "is running again",
    "stopped": "was stopped",
}


def _zone_name(name: str) -> str:
    if name:
        zone(name)
    return name


class NotifySettings(TargetSettings):
    """`[notify.NAME]`."""

    secrets: ClassVar[tuple[str, ...]] = ("url",)

    url: SecretText  # of Apprise, for instance "ntfy://topic"
    severities: Annotated[tuple[SeverityName, ...], Field(min_length=1)] = SEVERITIES
    snapshot: bool = True
    max_age_s: Seconds = 900.0
    over: bool = True  # a second message at the end of an alarm that was sent
    cooldown_s: Seconds = 60.0  # of one camera
    quiet: str = ""  # "22:00-07:00"
    quiet_below: SeverityName = "high"  # less severe notices wait for the end of the quiet hours
    time_zone: Annotated[str, AfterValidator(_zone_name)] = ""  # IANA name; "": that of the system
    hold_s: Seconds = 0.0  # an alarm waits this long for a verdict; "false" and "benign" cancel the message
    offline_s: Seconds = 30.0  # a camera must be offline for this long

    @model_validator(mode="after")
    def _quiet_is_a_span(self) -> NotifySettings:
        if self.quiet:
            WeeklySpan.daily(self.quiet, zone(self.time_zone or "UTC"))
        return self


class Notify(Target):
    """One channel."""

    Settings = NotifySettings

    def __init__(self, settings: NotifySettings, context: TargetContext) -> None:
        super().__init__(settings, context)
        self._given = settings
        try:
            import apprise
        except ModuleNotFoundError as error:
            raise MissingExtraError("bridge notify", error.name or "apprise", "notify") from None
        address = settings.url.get_secret_value()
        for name in ("apprise", "urllib3"):  # their log lines may hold addresses with secrets
            logger = logging.getLogger(name)
            logger.handlers[:], logger.propagate = [logging.NullHandler()], False
        self._types = apprise.NotifyType
        self._channel = apprise.Apprise(asset=apprise.AppriseAsset(app_id="stream-detector", async_mode=False))
        # it imports all its channels here, some of which use deprecated parts of Python
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            known = self._channel.add(address)
        if not known:
            raise ConfigError("url is no address that Apprise knows; see https://github.com/caronc/apprise/wiki")
        self._where = zone(settings.time_zone) if settings.time_zone else None
        local = self._where or datetime.now().astimezone().tzinfo or zone("UTC")
        self._quiet = WeeklySpan.daily(settings.quiet, local) if settings.quiet else None

    # -- what is told -------------------------------------------------------------------------------------------

    def wants(self, notice: Notice) -> bool:
        """Changes only, of the wanted severities; the end of an alarm is decided when it is due."""
        if notice.kind == "verdict" and self._given.hold_s and self.takes_back(notice)[0]:
            return not self._given.cameras or notice.camera in self._given.cameras
        if not super().wants(notice) or (notice.kind == "alarm" and notice.what == "update"):
            return False
        if notice.kind == "camera" and not notice.what:
            return False
        if notice.kind == "detector" and notice.what == "running" and notice.body.get("before") != "silent":
            return False
        if not notice.for_people and notice.what != "end":
            return False
        over = notice.what in ("end", "online", "clear", "running", "stopped")
        return over or notice.severity in self._given.severities

    def lane(self, notice: Notice) -> str:
        """Notices that wait (camera states, alarms that wait for a verdict) have their own lane, so that they delay no
        others.
        """
        if notice.kind == "alarm" and self._given.hold_s:
            return f"{notice.camera}/{notice.body.get('id')}"
        return f"{notice.camera}/state" if notice.kind == "camera" else super().lane(notice)

    def hold_s(self, notice: Notice) -> float:
        """A camera may come back in time, an alarm may get a verdict in time."""
        if notice.kind == "alarm" and notice.what == "start":
            return self._given.hold_s
        return self._given.offline_s if notice.kind == "camera" and notice.what == "offline" else 0.0

    def takes_back(self, notice: Notice) -> tuple[str, str]:
        """A camera's return cancels its `offline`, a verdict "false" or "benign" cancels the start of its alarm."""
        if notice.kind == "verdict" and notice.what in ("false", "benign"):
            return "start", str(notice.body.get("id"))
        return ("offline", "") if notice.kind == "camera" and notice.what == "online" else ("", "")

    def admit(self, notice: Notice) -> Admission:
        """Apply quiet hours and cooldown, and drop ends of alarms whose start was not sent."""
        memory, utc = self.context.memory, self.context.clock.utc()
        if notice.kind == "verdict" and "verdict" not in self._given.notices:
            return Admission("drop")  # too late to cancel anything
        if notice.what == "end":
            told = notice.body.get("id") in (memory.get("told") or [])
            return DELIVER if told and self._given.over else Admission("drop")
        if notice.kind not in ("alarm", "camera"):
            return DELIVER
        until = self._quiet.until(utc) if self._quiet else None
        if until is not None and SEVERITIES.index(notice.severity) < SEVERITIES.index(self._given.quiet_below):
            return Admission("fold", until, "quiet")
        if notice.kind == "alarm" and self._given.cooldown_s:
            last = memory.get(f"last:{notice.camera}") or {}
            if 0 <= notice.utc - last.get("utc", float("-inf")) < self._given.cooldown_s:
                count = {**last, "more": last.get("more", 0) + 1}
                return Admission("drop", memory={f"last:{notice.camera}": count})
        return DELIVER

    def deliver(self, notice: Notice) -> Mapping[str, Any]:
        """Send one message; if it fails with a picture, send it again without."""
        title, text = self.message(notice)
        picture = self.context.evidence.there(notice) if self._given.snapshot and notice.what == "start" else None
        kind = {"high": self._types.FAILURE, "medium": self._types.WARNING}.get(notice.severity, self._types.INFO)
        kind = self._types.SUCCESS if notice.what in ("end", "online", "clear", "running") else kind
        if not self._send(title, text, kind, picture) and not (picture and self._send(title, text, kind, None)):
            raise DeliveryError("unknown", "the channel did not take the message")
        return self._facts(notice)

    def _send(self, title: str, text: str, kind: Any, picture: Path | None) -> bool:
        attach = str(picture) if picture is not None else None
        return bool(self._channel.notify(body=text, title=title, notify_type=kind, attach=attach))

    def _facts(self, notice: Notice) -> dict[str, Any]:
        if notice.kind != "alarm":
            return {}
        told = [name for name in self.context.memory.get("told") or [] if name != notice.body.get("id")]
        if notice.what == "end":
            return {"told": told}
        told.append(str(notice.body.get("id")))
        return {"told": told[-_TOLD_MOST:], f"last:{notice.camera}": {"utc": notice.utc, "more": 0}}

    # -- words --------------------------------------------------------------------------------------------------

    def message(self, notice: Notice) -> tuple[str, str]:
        """(title, text) for people."""
        body, when = notice.body, self._clock_text(notice.utc)
        if notice.kind == "summary":
            cameras = ", ".join(f"{name} {count}" for name, count in body["cameras"].items())
            why = "in quiet hours" if body["reason"] == "quiet" else "while messages could not be delivered"
            parts = [f"{body['count']} alarms ({cameras})"] if body["count"] else []
            parts += [f"{body['camera_changes']} changes of cameras"] if body["camera_changes"] else []
            return f"Summary: {body['count']} alarms", f"{' and '.join(parts)} {why}."
        if notice.kind == "detector":
            return (
                f"Detector {_WORDS.get(notice.what, notice.what)}",
                f"{when}: the detector {_WORDS.get(notice.what, notice.what)}.",
            )
        if notice.kind == "camera" and notice.what == "problem":
            return "Detector: problem", f"{when}: {body.get('detail')}"
        if notice.kind == "camera":
            words = _WORDS.get(notice.what, notice.what)
            detail = f" ({body.get('detail')})" if body.get("detail") and notice.what in ("offline", "covered") else ""
            return f"{notice.camera} {words}", f"{when}: camera {notice.camera} {words}{detail}."
        if notice.kind == "ack":
            return (
                f"{notice.camera}: alarm seen",
                f"{when}: by {body.get('by') or 'somebody'}. {body.get('note') or ''}".strip(),
            )
        if notice.kind == "verdict":
            said = f"{when}: {body.get('by') or 'somebody'} says {notice.what}. {body.get('note') or ''}".strip()
            return f"{notice.camera}: verdict", f"{said} {_name(body)}"
        if notice.what == "end":
            text = f"{when}: the alarm is over. Highest score {body['peak_score']:.2f}. {_name(body)}"
            return f"{notice.camera}: alarm over", text
        last = self.context.memory.get(f"last:{notice.camera}") or {}
        more = f"{last['more']} more since the last message. " if last.get("more") else ""
        score = f"score {body['score']:.2f}, threshold {body['threshold']:.2f}, severity {notice.severity}"
        like = f", looks most like a {body['kind']}" if isinstance(body.get("kind"), str) else ""
        return f"{notice.camera}: alarm", f"{when}: {score}{like}. {more}{_name(body)}"

    def _clock_text(self, utc: float) -> str:
        return datetime.fromtimestamp(utc, self._where).astimezone(self._where).strftime("%Y-%m-%d %H:%M:%S")


def _name(body: Mapping[str, Any]) -> str:
    """Return the text that identifies the alarm on the page and in other messages."""
    return f"Alarm {str(body.get('id'))[:8]}."
