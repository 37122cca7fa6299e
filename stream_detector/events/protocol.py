"""The event protocol: events as JSON, names of topics, and strict parsers for everything that a peer sends.

    topic    v1/alarm/<camera>/   v1/score/<camera>/   v1/status/<camera>/   v1/ack/<camera>/   v1/heartbeat/
             v1/verdict/<camera>/   v1/control/<camera>/   v1/site/<camera>/   v1/shadow/<camera>/
    body     one JSON object, UTF-8; `schema` names its kind, `epoch` and `seq` its place in the topic

The trailing slash matters: ZeroMQ matches topics by prefix, and `v1/alarm/cam1` would also match cam10.
All input from outside goes through `decode_*`: they limit sizes before parsing and raise ProtocolError for every fault.
Nothing is unpickled. `docs/protocol.md` describes the protocol for people.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from stream_detector.config import CAMERA_NAME
from stream_detector.config import DETECTOR as DETECTOR
from stream_detector.errors import ProtocolError
from stream_detector.events.protocol_checks import MAX_EVENT_BYTES as MAX_EVENT_BYTES
from stream_detector.events.protocol_checks import MAX_REPLY_BYTES as MAX_REPLY_BYTES
from stream_detector.events.protocol_checks import MAX_REQUEST_BYTES as MAX_REQUEST_BYTES
from stream_detector.events.protocol_checks import MAX_REQUEST_TOPICS as MAX_REQUEST_TOPICS
from stream_detector.events.protocol_checks import MAX_SEQ as MAX_SEQ
from stream_detector.events.protocol_checks import MAX_TOPIC_BYTES as MAX_TOPIC_BYTES
from stream_detector.events.protocol_checks import MAX_TOPICS as MAX_TOPICS
from stream_detector.events.protocol_checks import Kind as Kind
from stream_detector.events.protocol_checks import decode_object as decode_object
from stream_detector.events.protocol_checks import encode as encode
from stream_detector.events.protocol_checks import epoch_of, integer, object_of, places, positions, short, text_of
from stream_detector.events.protocol_checks import parse_topic as parse_topic
from stream_detector.types import ALARM_SCHEMA as ALARM_SCHEMA
from stream_detector.types import AlarmEvent, CameraStatus, Decision, EventWindow, Where

EventPosition = tuple[str, str, int]  # topic, epoch, seq: identifies an event for ever

SCORE_SCHEMA = "stream-detector.score/1"
STATUS_SCHEMA = "stream-detector.status/1"
ACK_SCHEMA = "stream-detector.ack/1"
VERDICT_SCHEMA = "stream-detector.verdict/1"
CONTROL_SCHEMA = "stream-detector.control/1"
SITE_SCHEMA = "stream-detector.site/1"
SHADOW_SCHEMA = "stream-detector.shadow/1"
HEARTBEAT_SCHEMA = "stream-detector.heartbeat/1"
RECOVERY_SCHEMA = "stream-detector.recovery/1"
FOLLOWS_SCHEMA = "stream-detector.follows/1"  # the first line of an event file that replaces another one

HEARTBEAT_TOPIC = "v1/heartbeat/"
FIRST_EPOCH = "first"  # in a request: from the oldest event that the journal still holds


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
    """A parsed recovery request. Exactly one of `positions` (topic → last seq had), `snapshot` (prefixes) and `write`
    (an object that `writes.parse_write` reads) is set."""

    request: str
    positions: dict[str, int]
    epoch: str | None
    snapshot: tuple[str, ...] | None
    limit: int | None
    write: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A parsed recovery reply. last: topic → (epoch, seq), only in a snapshot. error: "" normally.

    lost: topic → (count, epoch, seq): so many events, up to this position, are no longer available; epoch "" if the
    position is not known.  reached: topic → (epoch, seq): no further event comes up to this position.
    """

    request: str
    epoch: str
    events: tuple[Message, ...]
    more: bool
    unknown_epoch: bool
    last: dict[str, tuple[str, int]]
    error: str
    retry_after_s: float
    lost: dict[str, tuple[int, str, int]] = field(default_factory=dict)
    reached: dict[str, tuple[str, int]] = field(default_factory=dict)


def topic_of(
    kind: Literal["alarm", "score", "status", "ack", "verdict", "control", "site", "shadow"], camera: str
) -> str:
    """The topic of a camera. Raises ProtocolError for an invalid camera name."""
    if not CAMERA_NAME.fullmatch(camera):
        raise ProtocolError(f"camera name {camera[:80]!r} cannot be a topic; use 1 to 64 of a-z, 0-9, '_' and '-'")
    return f"v1/{kind}/{camera}/"


def alarm_id(camera: str, source: str, fingerprint: str, first_window_index: int, run: str = "") -> str:
    """The id of an alarm: the same camera, source, bundle and first window give the same id in every replay.

    run: distinguishes the runs of a live source, whose window numbers restart (for example the epoch); empty for
    files. Returns 16 bytes of SHA-256 in hexadecimal.
    """
    text = json.dumps([camera, source, fingerprint, first_window_index, run], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def rfc3339(utc: float) -> str:
    """Seconds since the epoch as RFC 3339 UTC with milliseconds; a time outside the range becomes its nearest end."""
    held = min(max(utc, 0.0), 253402300799.0) if math.isfinite(utc) else 0.0
    moment = datetime.fromtimestamp(round(held, 3), tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def alarm_to_dict(event: AlarmEvent, epoch: str, seq: int, emitted_utc: float) -> dict[str, Any]:
    """The body of an alarm event (schema `stream-detector.alarm/1`), keys in the documented order."""
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
        "windows": [_window(window) for window in event.windows],
        "degraded": list(event.degraded),
        "bundle": event.bundle,
        "evidence": None
        if event.clip is None and event.snapshot is None
        else {"clip": event.clip, "snapshot": event.snapshot},
        "timing": event.timing.to_dict() if event.timing else None,
        **_circumstances(event),
    }


def where_to_dict(where: Where) -> dict[str, Any]:
    """The value of `where`; `region` only if the grid does not cover the whole picture."""
    found = {
        "grid": [list(row) for row in where.grid],
        "boxes": [list(box) for box in where.boxes],
        "start_s": where.start_s,
        "end_s": where.end_s,
    }
    return found if where.region == (0.0, 0.0, 1.0, 1.0) else {**found, "region": list(where.region)}


def _window(window: EventWindow) -> dict[str, Any]:
    found: dict[str, Any] = {"start_frame": window.start_frame, "end_frame": window.end_frame}
    found |= {"raw": window.raw, "smoothed": window.smoothed}
    if window.start_s is not None and window.end_s is not None:
        found |= {"start_s": window.start_s, "end_s": window.end_s}
    return found


def _circumstances(event: AlarmEvent) -> dict[str, Any]:
    """What a schedule or an operator says of the time of the event, and where it is; nothing where nothing is known."""
    found: dict[str, Any] = {"severity": event.severity} if event.severity else {}
    if event.mode:
        found["mode"] = event.mode
    if event.muted:
        found["muted"] = True
    if event.notify not in ("", "low"):
        found["notify"] = event.notify
    if event.kind:
        found["kind"], found["kind_probability"] = event.kind, event.kind_probability
    if event.where is not None:
        found["where"] = where_to_dict(event.where)
    return found


def restart_end(last: dict[str, Any], emitted_utc: float) -> dict[str, Any]:
    """The `end` (reason `restart`) of an alarm whose process died; `end_s` is null, as no process observed the end."""
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
        "captured_by": ref.captured_by,
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
    camera: str,
    alarm: str,
    note: str,
    by: str,
    epoch: str,
    seq: int,
    emitted_utc: float,
    alarm_epoch: str = "",
    author: str = "",
) -> dict[str, Any]:
    """An acknowledgement (schema `stream-detector.ack/1`). alarm: its id.  note, by: free text, possibly empty.

    alarm_epoch: epoch of the alarm's `start`, because a replayed file repeats its ids; "" if it is not known.
    author: who was let in, by which key or token.
    """
    return {
        "schema": ACK_SCHEMA,
        "id": alarm,
        "alarm_epoch": alarm_epoch or None,
        "camera": camera,
        "note": note,
        "by": by,
        "author": author,
        "epoch": epoch,
        "seq": seq,
        "emitted_utc": rfc3339(emitted_utc),
    }


def problem_to_dict(detail: str, epoch: str, seq: int, emitted_utc: float) -> dict[str, Any]:
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


def check_position(topic: Any, epoch: Any, seq: Any) -> EventPosition:
    """The position (topic, epoch, seq), checked. Raises ProtocolError."""
    parse_topic(topic if isinstance(topic, str) else "")
    return topic, epoch_of(epoch), integer(seq, "seq", 1)


def check_message(topic: str, body: dict[str, Any]) -> Message:
    """A parsed topic and body as a Message. Raises ProtocolError if `epoch`, `seq` or the camera are wrong."""
    kind, camera = parse_topic(topic)
    if kind != "heartbeat" and body.get("camera") != camera:
        raise ProtocolError(f"an event of {topic!r} names camera {short(body.get('camera'))}; they must agree")
    if body.get("schema") != f"stream-detector.{kind}/1":
        raise ProtocolError(f"an event of {topic!r} has schema {short(body.get('schema'))}, which is not known")
    if kind == "heartbeat":
        positions(body.get("last"), MAX_TOPICS)
    return Message(
        topic=topic,
        kind=kind,
        camera=camera,
        epoch=epoch_of(body.get("epoch")),
        seq=integer(body.get("seq"), "seq", 1),
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


def decode_request(data: bytes) -> Request:
    """Parse a request: `{"from": {topic: seq}, "epoch"?, "limit"?}`, `{"snapshot": [prefix]}` or `{"write": {…}}`.

    Raises ProtocolError.
    """
    body = decode_object(data, MAX_REQUEST_BYTES, "request")
    name = body.get("request", "")
    if not isinstance(name, str) or len(name) > 64:
        raise ProtocolError("'request' is not a text of at most 64 characters; send a short one, it is echoed")
    limit = body.get("limit")
    if ("from" in body) + ("snapshot" in body) + ("write" in body) != 1:
        raise ProtocolError("a request needs either 'from' or 'snapshot' (or 'write'), not both and not neither")
    if "write" in body:
        write = body["write"]
        if not isinstance(write, dict):
            raise ProtocolError("'write' must be an object with 'kind'")
        return Request(name, {}, None, None, None, write)
    if "snapshot" in body:
        prefixes = body["snapshot"]
        short = isinstance(prefixes, list) and 0 < len(prefixes) <= MAX_REQUEST_TOPICS
        if not short or not all(isinstance(p, str) and len(p) <= MAX_TOPIC_BYTES for p in prefixes):
            raise ProtocolError(f"'snapshot' must be a list of 1 to {MAX_REQUEST_TOPICS} topic prefixes")
        return Request(name, {}, None, tuple(prefixes), None)
    epoch = body.get("epoch")
    return Request(
        request=name,
        positions=positions(body["from"], MAX_REQUEST_TOPICS),
        epoch=epoch if epoch in (None, FIRST_EPOCH) else epoch_of(epoch),
        snapshot=None,
        limit=None if limit is None else integer(limit, "limit", 1),
    )


def decode_reply(data: bytes) -> Reply:
    """Parse a recovery reply. Raises ProtocolError."""
    body = decode_object(data, MAX_REPLY_BYTES, "recovery reply")
    if body.get("schema") != RECOVERY_SCHEMA:
        raise ProtocolError(f"a reply has schema {short(body.get('schema'))}; expected {RECOVERY_SCHEMA!r}")
    events, last = body.get("events", []), body.get("last", {})
    if not isinstance(events, list) or not isinstance(last, dict):
        raise ProtocolError("a recovery reply is malformed; 'events' must be a list and 'last' an object")
    messages = []
    for pair in events:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], dict)):
            raise ProtocolError("a recovery reply is malformed; each of 'events' must be [topic, body]")
        messages.append(check_message(pair[0], pair[1]))
    positions = places(last, "last")
    lost = {}
    for topic, value in object_of(body.get("lost", {}), "lost").items():
        if not isinstance(value, list) or len(value) != 3:
            raise ProtocolError("a recovery reply is malformed; each of 'lost' must be [count, epoch, seq]")
        parse_topic(topic)
        epoch = "" if value[1] == "" else epoch_of(value[1])
        lost[topic] = (integer(value[0], "a count", 1), epoch, integer(value[2], "seq"))
    retry = body.get("retry_after_s", 0.0)
    return Reply(
        request=text_of(body.get("request")),
        epoch=epoch_of(body.get("epoch")),
        events=tuple(messages),
        more=body.get("more") is True,
        unknown_epoch=body.get("unknown_epoch") is True,
        last=positions,
        error=text_of(body.get("error")),
        retry_after_s=float(retry) if isinstance(retry, (int, float)) and 0 <= retry <= 60 else 0.0,
        lost=lost,
        reached=places(object_of(body.get("reached", {}), "reached"), "reached"),
    )
