"""The wire: how events look as JSON, how topics are named, and strict parsers for whatever a peer sends.

    topic    v1/alarm/<camera>/   v1/score/<camera>/   v1/status/<camera>/   v1/ack/<camera>/   v1/heartbeat/
    body     one JSON object, UTF-8; `schema` names its kind, `epoch` and `seq` its place in the topic

The trailing slash matters: ZeroMQ matches topics by prefix, and `v1/alarm/cam1` would also match cam10.
Everything read from outside goes through `decode_*`: sizes are bounded before parsing, and whatever is wrong becomes
a ProtocolError. Nothing is ever unpickled. `docs/protocol.md` describes the same for people.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from stream_detector.config import CAMERA_NAME
from stream_detector.config import DETECTOR as DETECTOR
from stream_detector.errors import ProtocolError
from stream_detector.types import AlarmEvent, CameraStatus, Decision

Kind = Literal["alarm", "score", "status", "ack", "heartbeat"]

ALARM_SCHEMA = "stream-detector.alarm/1"
SCORE_SCHEMA = "stream-detector.score/1"
STATUS_SCHEMA = "stream-detector.status/1"
ACK_SCHEMA = "stream-detector.ack/1"
HEARTBEAT_SCHEMA = "stream-detector.heartbeat/1"
RECOVERY_SCHEMA = "stream-detector.recovery/1"

HEARTBEAT_TOPIC = "v1/heartbeat/"
FIRST_EPOCH = "first"  # in a request: from the oldest event that the journal still holds

MAX_TOPIC_BYTES = 128
MAX_EVENT_BYTES = 1 << 20
MAX_REQUEST_BYTES = 64 << 10
MAX_REPLY_BYTES = 8 << 20
MAX_REQUEST_TOPICS = 256
MAX_SEQ = 2**53  # what every JSON reader holds exactly

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_EPOCH = re.compile(r"[0-9a-f]{16}")
_TOPIC = re.compile(r"v1/(?:(alarm|score|status|ack)/([a-z0-9_-]{1,64})/|heartbeat/)")


@dataclass(frozen=True, slots=True)
class Message:
    """One parsed message. camera: "" for a heartbeat. body: the JSON object, `epoch` and `seq` checked."""

    topic: str
    kind: Kind
    camera: str
    epoch: str
    seq: int
    replayed: bool
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed recovery request. Exactly one of `positions` (topic → last seq had) and `snapshot` (prefixes) is set."""

    request: str
    positions: dict[str, int]
    epoch: str | None
    snapshot: tuple[str, ...] | None
    limit: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """A parsed recovery reply. last: topic → (epoch, seq), only in a snapshot. error: "" normally."""

    request: str
    epoch: str
    events: tuple[Message, ...]
    more: bool
    unknown_epoch: bool
    last: dict[str, tuple[str, int]]
    error: str
    retry_after_s: float


def topic_of(kind: Literal["alarm", "score", "status", "ack"], camera: str) -> str:
    """The topic of a camera. Raises ProtocolError for a name that is no topic."""
    if not CAMERA_NAME.fullmatch(camera):
        raise ProtocolError(f"camera name {camera[:80]!r} cannot be a topic; use 1 to 64 of a-z, 0-9, '_' and '-'")
    return f"v1/{kind}/{camera}/"


def parse_topic(topic: str) -> tuple[Kind, str]:
    """(kind, camera) of a topic; camera is "" for the heartbeat. Raises ProtocolError."""
    match = _TOPIC.fullmatch(topic)
    if match is None:
        raise ProtocolError(f"unknown topic {topic[:80]!r}; expected for instance 'v1/alarm/<camera>/'")
    kind: Kind = match.group(1) or "heartbeat"  # type: ignore[assignment]
    return kind, match.group(2) or ""


def alarm_id(camera: str, source: str, fingerprint: str, first_window_index: int, run: str = "") -> str:
    """A stable name of an alarm: the same camera, source, bundle and first window give the same id in every replay.

    run: for live sources, whose window numbers begin anew at every start, anything that tells the runs apart (the
    epoch, say); leave it empty for files. 16 bytes of SHA-256 as hex.
    """
    text = json.dumps([camera, source, fingerprint, first_window_index, run], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def rfc3339(utc: float) -> str:
    """Seconds since the epoch as RFC 3339 UTC with milliseconds; a time out of range is held at the range's end."""
    held = min(max(utc, 0.0), 253402300799.0) if math.isfinite(utc) else 0.0
    moment = datetime.fromtimestamp(round(held, 3), tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def alarm_to_dict(event: AlarmEvent, epoch: str, seq: int, emitted_utc: float) -> dict[str, Any]:
    """The event as the contract has it (schema `stream-detector.alarm/1`), keys in the contract's order."""
    return {
        "schema": ALARM_SCHEMA,
        "id": event.id,
        "camera": event.camera,
        "type": event.type,
        "reason": event.reason,
        "epoch": epoch,
        "seq": seq,
        "start_s": round(event.start_s, 6),
        "end_s": None if event.end_s is None else round(event.end_s, 6),
        "start_utc": rfc3339(event.start_utc),
        "emitted_utc": rfc3339(emitted_utc),
        "peak_score": round(event.peak_score, 6),
        "score": round(event.score, 6),
        "threshold": round(event.threshold, 6),
        "windows": [
            {"start_frame": w.start_frame, "end_frame": w.end_frame, "raw": w.raw, "smoothed": w.smoothed}
            for w in event.windows
        ],
        "degraded": list(event.degraded),
        "bundle": event.bundle,
        "evidence": None
        if event.clip is None and event.snapshot is None
        else {"clip": event.clip, "snapshot": event.snapshot},
        "timing": event.timing.to_dict() if event.timing else None,
    }


def restart_end(last: dict[str, Any], emitted_utc: float) -> dict[str, Any]:
    """The `end` (reason `restart`) of an alarm whose process died; `end_s` stays null, for nobody saw the end."""
    return {
        **last,
        "type": "end",
        "reason": "restart",
        "end_s": None,
        "emitted_utc": rfc3339(emitted_utc),
        "windows": [],
        "timing": None,
    }


def score_to_dict(decision: Decision, epoch: str, seq: int, emitted_utc: float) -> dict[str, Any]:
    """One score (schema `stream-detector.score/1`)."""
    ref = decision.score.ref
    return {
        "schema": SCORE_SCHEMA,
        "camera": ref.camera,
        "epoch": epoch,
        "seq": seq,
        "window": ref.index,
        "start_frame": ref.start_frame,
        "end_frame": ref.end_frame,
        "start_s": round(ref.start_s, 6),
        "end_s": round(ref.end_s, 6),
        "raw": round(decision.score.raw, 6),
        "smoothed": round(decision.smoothed, 6),
        "alarmed": decision.alarmed,
        "degraded": list(ref.degraded),
        "captured_utc": rfc3339(ref.captured_utc),
        "emitted_utc": rfc3339(emitted_utc),
        "timing": decision.score.timing.to_dict(),
    }


def status_to_dict(status: CameraStatus, epoch: str, seq: int, emitted_utc: float) -> dict[str, Any]:
    """One camera status (schema `stream-detector.status/1`)."""
    return {
        "schema": STATUS_SCHEMA,
        "camera": status.camera,
        "state": status.state,
        "detail": status.detail,
        "source": status.source,
        "epoch": epoch,
        "seq": seq,
        "media_s": None if status.media_s is None else round(status.media_s, 6),
        "emitted_utc": rfc3339(emitted_utc),
    }


def ack_to_dict(
    camera: str, alarm: str, note: str, by: str, epoch: str, seq: int, emitted_utc: float, alarm_epoch: str = ""
) -> dict[str, Any]:
    """Somebody has seen an alarm (schema `stream-detector.ack/1`). alarm: its id. note, by: free text, maybe empty.

    alarm_epoch: of the alarm's `start`, for a file that is played again repeats its ids; "" where it is not known.
    """
    return {
        "schema": ACK_SCHEMA,
        "id": alarm,
        "alarm_epoch": alarm_epoch or None,
        "camera": camera,
        "note": note,
        "by": by,
        "epoch": epoch,
        "seq": seq,
        "emitted_utc": rfc3339(emitted_utc),
    }


def trouble_to_dict(detail: str, epoch: str, seq: int, emitted_utc: float) -> dict[str, Any]:
    """A status of the detector itself: `camera` is "_detector", `state` is "trouble"."""
    return {
        "schema": STATUS_SCHEMA,
        "camera": DETECTOR,
        "state": "trouble",
        "detail": detail,
        "source": "",
        "epoch": epoch,
        "seq": seq,
        "media_s": None,
        "emitted_utc": rfc3339(emitted_utc),
    }


def encode(body: dict[str, Any]) -> bytes:
    """Compact UTF-8 JSON on one line. Raises ProtocolError for NaN, infinity and lone surrogates."""
    try:
        return _ENCODER.encode(body).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"an event cannot be written as JSON ({error}); give finite numbers and text") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def decode_object(data: bytes, limit: int, what: str = "message") -> dict[str, Any]:
    """A JSON object of at most `limit` bytes. Raises ProtocolError."""
    if len(data) > limit:
        raise ProtocolError(f"a {what} of {len(data)} bytes was refused; at most {limit} are allowed")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant)
        if "\\u" in text:  # an escaped lone surrogate would pass, and break whoever prints it
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a {what} is not valid JSON ({str(error)[:120]}); send one UTF-8 JSON object") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"a {what} is a JSON {type(value).__name__}; send one JSON object")
    return value


def _short(value: Any) -> str:
    """A value for an error message: never long, never deep."""
    if isinstance(value, str):
        return repr(value[:80])
    return repr(value) if value is None or isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"


def _text(value: Any) -> str:
    return value[:500] if isinstance(value, str) else ""


def _integer(value: Any, what: str, low: int = 0, high: int = MAX_SEQ) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{what} is {_short(value)}; give an integer from {low} to {high}")
    return value


def _epoch(value: Any) -> str:
    if not isinstance(value, str) or not _EPOCH.fullmatch(value):
        raise ProtocolError(f"epoch is {_short(value)}; give 16 hexadecimal digits as an event carries them")
    return value


def check_message(topic: str, body: dict[str, Any]) -> Message:
    """A parsed topic and body as a Message. Raises ProtocolError if `epoch`, `seq` or the camera are wrong."""
    kind, camera = parse_topic(topic)
    if kind != "heartbeat" and body.get("camera") != camera:
        raise ProtocolError(f"an event of {topic!r} names camera {_short(body.get('camera'))}; they must agree")
    if body.get("schema") != f"stream-detector.{kind}/1":
        raise ProtocolError(f"an event of {topic!r} has schema {_short(body.get('schema'))}, which is not known")
    if kind == "heartbeat":
        _positions(body.get("last"), 4096)
    return Message(
        topic=topic,
        kind=kind,
        camera=camera,
        epoch=_epoch(body.get("epoch")),
        seq=_integer(body.get("seq"), "seq", 1),
        replayed=body.get("replayed") is True,
        body=body,
    )


def decode_message(frames: Sequence[bytes]) -> Message:
    """Parse one multipart message `[topic, body]`. Raises ProtocolError."""
    if len(frames) != 2:
        raise ProtocolError(f"a message has {len(frames)} parts; expected [topic, body]")
    if len(frames[0]) > MAX_TOPIC_BYTES or not frames[0].isascii():
        raise ProtocolError(f"a topic of {len(frames[0])} bytes was refused; expected at most {MAX_TOPIC_BYTES}, ASCII")
    return check_message(frames[0].decode("ascii"), decode_object(frames[1], MAX_EVENT_BYTES, "event"))


def _positions(value: Any, most: int) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > most:
        raise ProtocolError(f"topics are missing or too many; give an object of at most {most} topics and numbers")
    for topic, seq in value.items():
        parse_topic(topic)
        _integer(seq, "seq")
    return value


def decode_request(data: bytes) -> Request:
    """Parse a recovery request: `{"from": {topic: seq}, "epoch"?, "limit"?}` or `{"snapshot": [prefix]}`.

    Raises ProtocolError.
    """
    body = decode_object(data, MAX_REQUEST_BYTES, "request")
    name = body.get("request", "")
    if not isinstance(name, str) or len(name) > 64:
        raise ProtocolError("'request' is not a text of at most 64 characters; send a short one, it is echoed")
    limit = body.get("limit")
    if ("from" in body) == ("snapshot" in body):
        raise ProtocolError("a request needs either 'from' or 'snapshot', not both and not neither")
    if "snapshot" in body:
        prefixes = body["snapshot"]
        short = isinstance(prefixes, list) and 0 < len(prefixes) <= MAX_REQUEST_TOPICS
        if not short or not all(isinstance(p, str) and len(p) <= MAX_TOPIC_BYTES for p in prefixes):
            raise ProtocolError(f"'snapshot' must be a list of 1 to {MAX_REQUEST_TOPICS} topic prefixes")
        return Request(name, {}, None, tuple(prefixes), None)
    epoch = body.get("epoch")
    return Request(
        request=name,
        positions=_positions(body["from"], MAX_REQUEST_TOPICS),
        epoch=epoch if epoch in (None, FIRST_EPOCH) else _epoch(epoch),
        snapshot=None,
        limit=None if limit is None else _integer(limit, "limit", 1),
    )


def decode_reply(data: bytes) -> Reply:
    """Parse a recovery reply. Raises ProtocolError."""
    body = decode_object(data, MAX_REPLY_BYTES, "recovery reply")
    if body.get("schema") != RECOVERY_SCHEMA:
        raise ProtocolError(f"a reply has schema {_short(body.get('schema'))}; expected {RECOVERY_SCHEMA!r}")
    events, last = body.get("events", []), body.get("last", {})
    if not isinstance(events, list) or not isinstance(last, dict):
        raise ProtocolError("a recovery reply is malformed; 'events' must be a list and 'last' an object")
    messages = []
    for pair in events:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], dict)):
            raise ProtocolError("a recovery reply is malformed; each of 'events' must be [topic, body]")
        messages.append(check_message(pair[0], pair[1]))
    positions = {}
    for topic, place in last.items():
        parse_topic(topic)
        if not isinstance(place, list) or len(place) != 2:
            raise ProtocolError("a recovery reply is malformed; each of 'last' must be [epoch, seq]")
        positions[topic] = (_epoch(place[0]), _integer(place[1], "seq"))
    retry = body.get("retry_after_s", 0.0)
    return Reply(
        request=_text(body.get("request")),
        epoch=_epoch(body.get("epoch")),
        events=tuple(messages),
        more=body.get("more") is True,
        unknown_epoch=body.get("unknown_epoch") is True,
        last=positions,
        error=_text(body.get("error")),
        retry_after_s=float(retry) if isinstance(retry, (int, float)) and 0 <= retry <= 60 else 0.0,
    )
