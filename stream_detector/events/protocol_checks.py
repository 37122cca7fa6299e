"""Strict checks for `protocol`: sizes, topics, numbers, JSON objects. Every fault raises ProtocolError."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from stream_detector.errors import ProtocolError

Kind = Literal["alarm", "score", "status", "ack", "verdict", "control", "site", "shadow", "heartbeat"]

MAX_TOPIC_BYTES = 128
MAX_EVENT_BYTES = 1 << 20
MAX_REQUEST_BYTES = 64 << 10
MAX_REPLY_BYTES = 8 << 20
MAX_REQUEST_TOPICS = 256
MAX_TOPICS = 20_000  # in one heartbeat or snapshot
MAX_SEQ = 2**53  # every JSON reader represents it exactly

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_EPOCH = re.compile(r"[0-9a-f]{16}")
_TOPIC = re.compile(r"v1/(?:(alarm|score|status|ack|verdict|control|site|shadow)/([a-z0-9_-]{1,64})/|heartbeat/)")


def parse_topic(topic: str) -> tuple[Kind, str]:
    """(kind, camera) of a topic; camera is "" for the heartbeat. Raises ProtocolError."""
    match = _TOPIC.fullmatch(topic)
    if match is None:
        raise ProtocolError(f"unknown topic {topic[:80]!r}; expected for example 'v1/alarm/<camera>/'")
    kind: Kind = match.group(1) or "heartbeat"  # type: ignore[assignment]
    return kind, match.group(2) or ""


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
        if "\\u" in text:  # an escaped lone surrogate would pass, and break a reader that prints it
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a {what} is not valid JSON ({str(error)[:120]}); send one UTF-8 JSON object") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"a {what} is a JSON {type(value).__name__}; send one JSON object")
    return value


def short(value: Any) -> str:
    """A short text of a value, for error messages."""
    if isinstance(value, str):
        return repr(value[:80])
    return repr(value) if value is None or isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"


def text_of(value: Any) -> str:
    return value[:500] if isinstance(value, str) else ""


def integer(value: Any, what: str, low: int = 0, high: int = MAX_SEQ) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{what} is {short(value)}; give an integer from {low} to {high}")
    return value


def epoch_of(value: Any) -> str:
    if not isinstance(value, str) or not _EPOCH.fullmatch(value):
        raise ProtocolError(f"epoch is {short(value)}; give 16 hexadecimal digits as an event carries them")
    return value


def positions(value: Any, most: int) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > most:
        raise ProtocolError(f"topics are missing or too many; give an object of at most {most} topics and numbers")
    for topic, seq in value.items():
        parse_topic(topic)
        integer(seq, "seq")
    return value


def object_of(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"a recovery reply is malformed; '{name}' must be an object")
    return value


def places(value: dict[str, Any], name: str) -> dict[str, tuple[str, int]]:
    found = {}
    for topic, place in value.items():
        parse_topic(topic)
        if not isinstance(place, list) or len(place) != 2:
            raise ProtocolError(f"a recovery reply is malformed; each of '{name}' must be [epoch, seq]")
        found[topic] = (epoch_of(place[0]), integer(place[1], "seq"))
    return found
