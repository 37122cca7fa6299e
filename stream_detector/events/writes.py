"""What may be written from outside: verdicts, misses, acknowledgements, commands. Strict parsers, and their bodies.

    {"kind": "verdict", "camera": "gate", "id": "…", "verdict": "false", "note": "a cat", "by": "Ann"}
    {"kind": "miss", "camera": "gate", "at_utc": "2026-01-31T12:00:00Z", "lasting_s": 10, "note": "", "by": "Ann"}
    {"kind": "ack", "camera": "gate", "id": "…", "note": "", "by": "Ann"}
    {"kind": "control", "mode": "away", "by": "Ann"}
    {"kind": "control", "camera": "gate", "mute_s": 3600, "threshold": 0.7, "by": "Ann"}
    {"kind": "reload", "by": "Ann"}
    {"kind": "command", "command": "promote", "camera": "gate", "overlay": "…", "by": "Ann"}

HTTP and ZeroMQ take the same objects. Who may write is decided before, by the token or the key; `author` in a body
names that, `by` is what the writer says of itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from stream_detector.config import CAMERA_NAME
from stream_detector.errors import ProtocolError
from stream_detector.events.protocol import VERDICT_SCHEMA, rfc3339
from stream_detector.events.protocol_checks import short

VerdictWord = Literal["true", "false", "benign", "unsure"]
VERDICTS: tuple[str, ...] = get_args(VerdictWord)
MISSED = "missed"  # the verdict of a miss: something happened and no alarm came
MAX_NOTE, MAX_BY = 500, 64
MAX_LASTING_S = 600.0
MAX_MUTE_S = 31 * 86400.0
ALARM_ID = re.compile(r"[0-9a-f]{32}")
_EPOCH = re.compile(r"[0-9a-f]{16}")
_OVERLAY = re.compile(r"[0-9a-f]{16}")
COMMANDS = ("promote", "rollback", "shadow", "adapt")
KINDS = ("verdict", "miss", "ack", "control", "reload", "command")


@dataclass(frozen=True, slots=True)
class VerdictWrite:
    """What somebody says of an alarm, or of a time without one.

    alarm: its id; of a miss an id made of camera and time, so that a later verdict can withdraw it.  alarm_epoch: of
    the alarm's `start`, "" if it is not known.  verdict: of VERDICTS, or MISSED.  at_s, at_utc: of a miss, media time
    or seconds since the epoch, one of them.  lasting_s: of a miss.
    """

    camera: str
    alarm: str
    alarm_epoch: str
    verdict: str
    note: str = ""
    by: str = ""
    at_s: float | None = None
    at_utc: float | None = None
    lasting_s: float | None = None


@dataclass(frozen=True, slots=True)
class AckWrite:
    """An acknowledgement. alarm, alarm_epoch: as in `VerdictWrite`."""

    camera: str
    alarm: str
    alarm_epoch: str
    note: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class CommandWrite:
    """A command about models. camera: "" for the site.  overlay: its fingerprint, "" where none is needed."""

    command: str
    camera: str
    overlay: str = ""
    by: str = ""
    hours: float = 0.0


@dataclass(frozen=True, slots=True)
class ControlWrite:
    """A change of what holds for one camera, or for all (camera ""). changes: `mode`, `mute_s`, `threshold`."""

    camera: str
    changes: dict[str, Any]
    by: str = ""


@dataclass(frozen=True, slots=True)
class ReloadWrite:
    """Read the configuration again. camera: always "", of all."""

    camera: str = ""
    by: str = ""


Write = VerdictWrite | AckWrite | ControlWrite | ReloadWrite | CommandWrite


def parse_write(value: Any) -> Write:
    """One object as in the module docstring → the write. Raises ProtocolError."""
    if not isinstance(value, dict):
        raise ProtocolError(f"a write is {short(value)}; send an object with 'kind', one of {', '.join(KINDS)}")
    kind = value.get("kind")
    by = _text(value, "by", MAX_BY)
    if kind == "command":
        return _command(value, by)
    if kind == "control":
        return _control(value, by)
    if kind == "reload":
        return ReloadWrite(by=by)
    if kind not in KINDS:
        raise ProtocolError(f"the kind of a write is {short(kind)}; use one of {', '.join(KINDS)}")
    camera, note = _camera(value.get("camera")), _text(value, "note", MAX_NOTE)
    if kind == "miss":
        return _miss(value, camera, note, by)
    alarm = value.get("id")
    if not isinstance(alarm, str) or not ALARM_ID.fullmatch(alarm):
        raise ProtocolError(f"the id of an alarm is {short(alarm)}; give its 32 hexadecimal digits")
    epoch = value.get("alarm_epoch") or ""
    if not isinstance(epoch, str) or (epoch and not _EPOCH.fullmatch(epoch)):
        raise ProtocolError(f"alarm_epoch is {short(epoch)}; give the 16 hexadecimal digits of the alarm's start")
    if kind == "ack":
        return AckWrite(camera, alarm, epoch, note, by)
    verdict = value.get("verdict")
    if verdict not in VERDICTS:
        raise ProtocolError(f"a verdict is {short(verdict)}; use one of {', '.join(VERDICTS)}")
    return VerdictWrite(camera, alarm, epoch, str(verdict), note, by)


def miss_id(camera: str, at_s: float | None, at_utc: float | None) -> str:
    """The id of a miss: 32 hexadecimal digits of the camera and the time, so the same miss told twice is one."""
    text = json.dumps(["miss", camera, at_s, at_utc])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _miss(value: dict[str, Any], camera: str, note: str, by: str) -> VerdictWrite:
    at_s, at_utc = value.get("at_s"), value.get("at_utc")
    if (at_s is None) == (at_utc is None):
        raise ProtocolError("a miss needs either at_utc (2026-01-31T12:00:00Z) or at_s (media time of a recording)")
    seconds = None if at_s is None else _number(at_s, "at_s", 0.0, 1e9)
    moment = None if at_utc is None else utc_of(at_utc)
    lasting_s = _number(value.get("lasting_s", 10.0), "lasting_s", 0.1, MAX_LASTING_S)
    return VerdictWrite(camera, miss_id(camera, seconds, moment), "", MISSED, note, by, seconds, moment, lasting_s)


def _command(value: dict[str, Any], by: str) -> CommandWrite:
    command, camera, overlay = value.get("command"), value.get("camera") or "", value.get("overlay") or ""
    if command not in COMMANDS:
        raise ProtocolError(f"a command is {short(command)}; use one of {', '.join(COMMANDS)}")
    if camera:
        camera = _camera(camera)
    if not isinstance(overlay, str) or (overlay and not _OVERLAY.fullmatch(overlay)):
        raise ProtocolError(f"an overlay is {short(overlay)}; give the 16 hexadecimal digits of its fingerprint")
    if command in ("promote", "shadow") and not overlay:
        raise ProtocolError(f"{command} needs the fingerprint of an overlay; `stream-detector site show` lists them")
    hours = _number(value.get("hours", 0.0), "hours", 0.0, 24.0 * 31)
    return CommandWrite(str(command), camera, overlay, by, hours)


def _control(value: dict[str, Any], by: str) -> ControlWrite:
    camera = _camera(value["camera"]) if value.get("camera") else ""
    changes: dict[str, Any] = {}
    if "mode" in value:
        changes["mode"] = _text(value, "mode", 32)
    if "mute_s" in value:
        changes["mute_s"] = _number(value["mute_s"], "mute_s", 0.0, MAX_MUTE_S)
    if "threshold" in value:
        given = value["threshold"]
        changes["threshold"] = None if given is None else _number(given, "threshold", 0.0, 1.0)
    if not changes:
        raise ProtocolError("a control changes nothing; give mode, mute_s or threshold")
    return ControlWrite(camera, changes, by)


def utc_of(text: Any) -> float:
    """RFC 3339 → seconds since the epoch. Raises ProtocolError."""
    try:
        moment = datetime.fromisoformat(text[:40])
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        raise ProtocolError(f"a time is {short(text)}; write it like 2026-01-31T12:00:00Z") from None
    return _number(seconds, "a time", 0.0, 253402300799.0)


def _camera(value: Any) -> str:
    if not isinstance(value, str) or not CAMERA_NAME.fullmatch(value):
        raise ProtocolError(f"a camera is {short(value)}; give 1 to 64 of a-z, 0-9, '_' and '-'")
    return value


def _number(value: Any, what: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ProtocolError(f"{what} is {short(value)}; give a number from {low:g} to {high:g}")
    if not low <= value <= high:
        raise ProtocolError(f"{what} is {value:g}; give a number from {low:g} to {high:g}")
    return float(value)


def _text(value: dict[str, Any], name: str, most: int) -> str:
    text = value.get(name, "")
    if not isinstance(text, str) or len(text) > most or not all(c.isprintable() or c == "\n" for c in text):
        raise ProtocolError(f"{name} must be text of at most {most} printable characters")
    return text.strip()


def verdict_to_dict(write: VerdictWrite, author: str, epoch: str, seq: int, emitted_utc: float) -> dict[str, Any]:
    """A verdict (schema `stream-detector.verdict/1`). author: who was let in."""
    return {
        "schema": VERDICT_SCHEMA,
        "id": write.alarm,
        "alarm_epoch": write.alarm_epoch or None,
        "camera": write.camera,
        "verdict": write.verdict,
        "note": write.note,
        "by": write.by,
        "author": author,
        "at_s": write.at_s,
        "at_utc": None if write.at_utc is None else rfc3339(write.at_utc),
        "lasting_s": write.lasting_s,
        "epoch": epoch,
        "seq": seq,
        "emitted_utc": rfc3339(emitted_utc),
    }
