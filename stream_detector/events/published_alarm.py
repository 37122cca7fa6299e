"""An alarm event as it was published: the JSON object of schema `stream-detector.alarm/1` as one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from stream_detector.errors import ProtocolError

_TYPES = ("start", "update", "end")


@dataclass(frozen=True, slots=True)
class PublishedAlarm:
    """One change of an alarm: `start`, `update` or `end`.

    id: 32 hexadecimal digits, the same in all events of one alarm.  camera: name.  type: "start", "update" or "end".
    reason: of an end, "normal", "source_lost", "shutdown" or "restart"; otherwise None. epoch, seq: the position of the
    event in its topic. start_s, end_s: media time in seconds; end_s is None until the end, and in an end with reason
    "restart". start_utc, emitted_utc: RFC 3339.  score: smoothed score of the newest window.  peak_score: the highest
    so far. threshold: the threshold in use.  degraded: causes that impair the newest windows.  bundle: fingerprint.
    clip, snapshot: paths of the evidence, or None.  body: the whole JSON object, with keys of later versions.
    """

    id: str
    camera: str
    type: str
    reason: str | None
    epoch: str
    seq: int
    start_s: float
    end_s: float | None
    start_utc: str
    emitted_utc: str
    score: float
    peak_score: float
    threshold: float
    degraded: tuple[str, ...]
    bundle: str
    clip: str | None
    snapshot: str | None
    body: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> PublishedAlarm:
        """Build from a JSON object and check every field. Raises ProtocolError that names the first invalid one."""
        evidence = body.get("evidence")
        if evidence is not None and not isinstance(evidence, dict):
            raise _wrong("evidence", evidence, "an object or null")
        kind = _text(body, "type")
        if kind not in _TYPES:
            raise _wrong("type", kind, "start, update or end")
        return cls(
            id=_text(body, "id"),
            camera=_text(body, "camera"),
            type=kind,
            reason=_optional_text(body, "reason"),
            epoch=_text(body, "epoch"),
            seq=_whole(body, "seq"),
            start_s=_number(body, "start_s"),
            end_s=None if body.get("end_s") is None else _number(body, "end_s"),
            start_utc=_text(body, "start_utc"),
            emitted_utc=_text(body, "emitted_utc"),
            score=_number(body, "score"),
            peak_score=_number(body, "peak_score"),
            threshold=_number(body, "threshold"),
            degraded=_texts(body, "degraded"),
            bundle=_text(body, "bundle"),
            clip=_optional_text(evidence or {}, "clip"),
            snapshot=_optional_text(evidence or {}, "snapshot"),
            body=body,
        )


def _wrong(key: str, value: object, wanted: str) -> ProtocolError:
    return ProtocolError(f"alarm event: {key} is {str(value)[:40]!r}, expected {wanted}; check the publisher's version")


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise _wrong(key, value, "a text")
    return value


def _optional_text(body: dict[str, Any], key: str) -> str | None:
    return None if body.get(key) is None else _text(body, key)


def _texts(body: dict[str, Any], key: str) -> tuple[str, ...]:
    value = body.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(key, value, "a list of texts")
    return tuple(value)


def _number(body: dict[str, Any], key: str) -> float:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(key, value, "a finite number")
    return float(value)


def _whole(body: dict[str, Any], key: str) -> int:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(key, value, "a whole number")
    return value
