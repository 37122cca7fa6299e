"""Recovery over several shards: splits one request into one per shard and joins their replies. No sockets here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stream_detector.cluster.messages import shard_of
from stream_detector.events.protocol import DETECTOR, RECOVERY_SCHEMA, Request, encode, parse_topic

MAX_SHARDS = 6  # bytes; each reply may slightly exceed 1 MiB, and a subscriber accepts 8
_OF_A_SHARD = re.compile(rf"{DETECTOR}(?:-(\d+))?")


def topic_shard(topic: str, shards: int) -> int:
    """Return the shard that numbers a topic. Raises ProtocolError for an invalid topic."""
    _, camera = parse_topic(topic)
    own = _OF_A_SHARD.fullmatch(camera)
    if own is not None:
        number = int(own[1] or 0)
        return number if number < shards else 0
    return shard_of(camera, shards) if camera else 0


def split(request: Request, token: str, shards: int) -> dict[int, bytes]:
    """Split a request: shard → request. token: replaces the peer's own text and comes back in the replies."""
    if request.snapshot is not None:
        return dict.fromkeys(range(shards), encode({"request": token, "snapshot": list(request.snapshot)}))
    positions: dict[int, dict[str, int]] = {}
    for topic, seq in request.positions.items():
        positions.setdefault(topic_shard(topic, shards), {})[topic] = seq
    rest: dict[str, Any] = {"request": token}
    if request.epoch is not None:
        rest["epoch"] = request.epoch
    if request.limit is not None:
        rest["limit"] = max(1, request.limit // len(positions))
    return {shard: encode({**rest, "from": part}) for shard, part in (positions or {0: {}}).items()}


def join(request: Request, epoch: str, replies: Sequence[Mapping[str, Any]]) -> bytes:
    """Join the replies of all shards (parsed JSON objects), in the given order. One refusal refuses the whole
    request.
    """
    head: dict[str, Any] = {"schema": RECOVERY_SCHEMA, "epoch": epoch, "request": request.request}
    for reply in replies:
        if reply.get("error"):
            return refusal(epoch, str(reply["error"]), float(reply.get("retry_after_s") or 0.0))
    events = [event for reply in replies for event in reply.get("events", ())]
    if request.snapshot is not None:
        last = {topic: place for reply in replies for topic, place in reply.get("last", {}).items()}
        return _encode({**head, "last": last, "events": events})
    more = any(reply.get("more") for reply in replies)
    unknown = any(reply.get("unknown_epoch") for reply in replies)
    for name in ("lost", "reached"):
        if merged := {topic: value for reply in replies for topic, value in reply.get(name, {}).items()}:
            head[name] = merged
    return _encode({**head, "more": more, "unknown_epoch": unknown, "events": events})


def refusal(epoch: str, why: str, retry_after_s: float = 0.0) -> bytes:
    """Return a reply that refuses a request."""
    return encode({"schema": RECOVERY_SCHEMA, "epoch": epoch, "error": why, "retry_after_s": retry_after_s})


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
