"""Applies a reply of the recovery socket to a subscriber's cursor: which events are new, and how many are lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stream_detector.client.cursor import Cursor
from stream_detector.events.protocol import FIRST_EPOCH, Message, Reply


@dataclass(slots=True)
class ReplyResult:
    """The effect of one reply.

    taken: number of positions that advanced; 0 means that nothing more is available.  unknown_epoch: whether the
    detector does not know the epoch of the request.  ask_again: topics that need another request.
    """

    taken: int = 0
    lost: int = 0
    recovered: int = 0
    duplicates: int = 0
    unknown_epoch: bool = False
    ask_again: set[str] = field(default_factory=set)


def apply_reply(
    seen: Cursor,
    reply: Reply,
    group: tuple[str, ...],
    heard: Mapping[str, Message],
    accept: Callable[[Message], bool],
) -> ReplyResult:
    """Advance `seen` by a reply about the topics of `group`, whose positions all lie in one epoch.

    heard: epoch → its last heartbeat.  accept: called with every new event, in order; it advances `seen` and returns
    whether the event goes to the caller.
    """
    result = ReplyResult()
    asked = seen.place(group[0])[0]
    counted = asked != FIRST_EPOCH  # a reader from the first event has lost nothing
    result.unknown_epoch = reply.unknown_epoch and counted
    least = _missing(seen, asked, group, heard.get(asked)) if result.unknown_epoch else 0
    for topic in group:
        anchor = seen.anchors.get(topic)
        if result.unknown_epoch and anchor and anchor.place[0] != asked:
            seen.places[topic] = anchor.place  # that epoch was never journalled: ask from the last journalled event
            result.ask_again.add(topic)
    wanted = set(group) - result.ask_again
    for topic, (count, epoch, seq) in reply.lost.items():  # before the events of this reply
        if topic in wanted:
            result.lost += count if counted else 0
            if epoch:
                seen.places[topic] = (epoch, seq)
                result.taken += 1
    for message in reply.events:
        if message.topic in wanted:
            _take(seen, message, result, accept)
    for topic, (epoch, seq) in reply.reached.items():  # numbered, but no longer available
        had_epoch, had = seen.place(topic)
        missing = seq - had if epoch == had_epoch else seq
        if topic in wanted and missing > 0:
            result.lost += missing if had_epoch != FIRST_EPOCH else 0
            seen.places[topic] = (epoch, seq)
            result.taken += 1
    if result.unknown_epoch:
        result.lost = max(result.lost, least)
    return result


def _take(seen: Cursor, message: Message, result: ReplyResult, accept: Callable[[Message], bool]) -> None:
    if seen.had(message):
        result.duplicates += 1
        return
    epoch, seq = seen.place(message.topic)
    anchor = seen.anchors.get(message.topic)
    had = anchor.had.get(message.epoch, 0) if anchor else 0
    if epoch != FIRST_EPOCH:
        result.lost += message.seq - max(seq if message.epoch == epoch else 0, had) - 1
    result.recovered += accept(message)
    result.taken += 1


def _missing(seen: Cursor, epoch: str, group: tuple[str, ...], heard: Message | None) -> int:
    """Return the least number of events that were missed in an epoch that the detector does not know.

    Its last heartbeat gives the number; one more event may have followed unless that heartbeat says `closing`.
    """
    if heard is None:
        return 1
    last, missing = heard.body["last"], 0
    for topic in group:
        anchor, place = seen.anchors.get(topic), seen.place(topic)
        had = anchor.had.get(epoch, 0) if anchor else 0
        missing += max(0, last.get(topic, 0) - max(had, place[1] if place[0] == epoch else 0))
    return missing if heard.body.get("closing") is True else max(1, missing)
