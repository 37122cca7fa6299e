"""A notice: an event of the detector, or a change that the bridge noticed itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from stream_detector.events.protocol import DETECTOR, Message, encode

NoticeKind = Literal["alarm", "camera", "ack", "verdict", "detector", "summary"]
Severity = Literal["low", "medium", "high"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high")

DETECTOR_SCHEMA = "stream-detector.bridge-detector/1"
SUMMARY_SCHEMA = "stream-detector.bridge-summary/1"
DETECTOR_TOPIC = "bridge/detector/"
SUMMARY_TOPIC = "bridge/summary/"
SUMMARY_LANE = "_summary"
OUT_OF_REACH = ("offline", "failed", "stalled")

_THIRD, _TWO_THIRDS = 1 / 3, 2 / 3


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to deliver. (epoch, topic, seq) identifies it permanently.

    kind: "camera" is a status, "detector" was noticed by the bridge itself, "summary" is of several others. what: of an
    alarm "start", "update", "end"; of a camera "offline", "online", "covered", "clear", or "" for a status that changes
    none of these; of the detector "silent", "running", "stopped", "problem"; of a verdict its word; of a summary its
    reason. utc: when it was emitted, seconds since the epoch.  body: the event as it was published. attempts: number of
    earlier tries; more than 0 means that the receiver may have it already. resent: it was delivered before, and is sent
    again because the receiver may have lost it.
    """

    topic: str
    epoch: str
    seq: int
    kind: NoticeKind
    camera: str
    what: str
    utc: float
    body: dict[str, Any]
    attempts: int = 0
    resent: bool = False

    @property
    def key(self) -> str:
        """One text for (epoch, topic, seq); at most 120 ASCII characters."""
        return f"{self.epoch}-{self.topic.strip('/').replace('/', '.')}-{self.seq}"

    @property
    def severity(self) -> Severity:
        """The severity of an alarm, or the importance of other notices: a silent detector is high, an unreachable
        camera medium.
        """
        if self.kind == "alarm":
            return severity_of(self.body)
        if self.kind == "summary":
            return severity_of(self.body)
        if self.what in ("silent", "problem"):
            return "high"
        return "medium" if self.what in ("offline", "covered") else "low"

    @property
    def for_people(self) -> bool:
        """Whether people should get it: a schedule or an operator may mute alarms, or ask for severe alarms only."""
        least = self.body.get("notify", "low")
        if self.kind != "alarm":
            return True
        if self.body.get("muted") is True or least not in SEVERITIES:
            return False
        return SEVERITIES.index(self.severity) >= SEVERITIES.index(least)

    def text(self) -> str:
        """The body as JSON, for the outbox."""
        return encode(self.body).decode()


def severity_of(body: Mapping[str, Any]) -> Severity:
    """Return the event's own `severity`; else by the position of the peak between the threshold and 1, in thirds."""
    for name in SEVERITIES:
        if body.get("severity") == name:
            return name
    peak, threshold = _number(body.get("peak_score")), _number(body.get("threshold"))
    if not threshold < 1.0:  # also where one is missing
        return "medium"
    share = (peak - threshold) / (1.0 - threshold)
    return "low" if share < _THIRD else "medium" if not share >= _TWO_THIRDS else "high"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def utc_of(body: Mapping[str, Any], otherwise: float) -> float:
    """`emitted_utc` in seconds since the epoch; `otherwise` where it is missing or malformed."""
    try:
        return datetime.fromisoformat(str(body.get("emitted_utc"))).timestamp()
    except (ValueError, OverflowError):
        return otherwise


def notice_of(message: Message, before: Mapping[str, Any], now_utc: float) -> tuple[Notice | None, dict[str, Any]]:
    """Return the notice of a message, and the new memory of its camera in place of `before`; None for a kind that is
    not delivered.
    """
    body = {name: value for name, value in message.body.items() if name != "replayed"}
    memory = dict(before)
    kind: NoticeKind
    if message.kind == "alarm":
        kind, what = "alarm", str(body.get("type"))
    elif message.kind == "ack":
        kind, what = "ack", "ack"
    elif message.kind == "verdict":
        kind, what = "verdict", str(body.get("verdict"))
    elif message.kind == "status":
        kind = "camera"
        what, memory = _change(body, memory)
    else:
        return None, memory
    utc = utc_of(body, now_utc)
    return Notice(message.topic, message.epoch, message.seq, kind, message.camera, what, utc, body), memory


def _change(body: Mapping[str, Any], before: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the change that a status makes; `before` holds `link` ("up" or "down") and `picture` ("bad" or "good")."""
    state, detail = body.get("state"), str(body.get("detail") or "")
    if str(body.get("camera", "")).startswith(DETECTOR):
        return "problem", before
    link, picture = before.get("link"), before.get("picture")
    if state in OUT_OF_REACH:
        return ("" if link == "down" else "offline"), {**before, "link": "down"}
    if state == "online" and link == "down":
        return "online", {**before, "link": "up"}
    if "picture_quality:" in detail or "low_coverage" in detail:
        return ("" if picture == "bad" else "covered"), {**before, "link": "up", "picture": "bad"}
    if state == "online" and detail and picture == "bad":
        return "clear", {**before, "link": "up", "picture": "good"}
    return "", {**before, "link": "up"} if state == "online" else before


def load_notice(row: Mapping[str, Any]) -> Notice:
    """Return a notice from its row in the outbox."""
    return Notice(
        topic=row["topic"],
        epoch=row["epoch"],
        seq=row["seq"],
        kind=row["kind"],
        camera=row["camera"],
        what=row["what"],
        utc=row["utc"],
        body=json.loads(row["body"]),
        attempts=row["attempts"],
        resent=bool(row["resent"]),
    )
