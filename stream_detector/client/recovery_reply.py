"""What an answer of the recovery socket means to a subscriber: what it gets, and how much it will never get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stream_detector.client.cursor import Cursor
from stream_detector.events.protocol import FIRST_EPOCH, Message, Reply


@dataclass(slots=True)
class Filled:
    """What came of one answer. taken: places that moved; none means that there is no more to be had.

    strange: the detector does not know the epoch that was asked for.  again: topics to be asked for once more.
    """

    taken: int = 0
    lost: int = 0
    recovered: int = 0
    duplicates: int = 0
    strange: bool = False
    again: set[str] = field(default_factory=set)


def fill(
    seen: Cursor,
    reply: Reply,
    group: tuple[str, ...],
    heard: Mapping[str, Message],
    accept: Callable[[Message], bool],
) -> Filled:
    """Bring `seen` forward by an answer about the topics of `group`, which all stood in one epoch.

    heard: epoch → its last heartbeat.  accept: called with every event that was not had before, in order; it takes it
    into `seen`, and says whether it goes to the caller.
    """
    filled = Filled()
    asked = seen.place(group[0])[0]
    counted = asked != FIRST_EPOCH  # who begins at the beginning has lost nothing
    filled.strange = reply.unknown_epoch and counted
    least = _missing(seen, asked, group, heard.get(asked)) if filled.strange else 0
    for topic in group:
        anchor = seen.anchors.get(topic)
        if filled.strange and anchor and anchor.place[0] != asked:
            seen.places[topic] = anchor.place  # that epoch was never journalled: ask from the last event that was
            filled.again.add(topic)
    wanted = set(group) - filled.again
    for topic, (count, epoch, seq) in reply.lost.items():  # before the events of this answer
        if topic in wanted:
            filled.lost += count if counted else 0
            if epoch:
                seen.places[topic] = (epoch, seq)
                filled.taken += 1
    for message in reply.events:
        if message.topic in wanted:
            _take(seen, message, filled, accept)
    for topic, (epoch, seq) in reply.reached.items():  # given out, but nobody has it any more
        had_epoch, had = seen.place(topic)
        missing = seq - had if epoch == had_epoch else seq
        if topic in wanted and missing > 0:
            filled.lost += missing if had_epoch != FIRST_EPOCH else 0
            seen.places[topic] = (epoch, seq)
            filled.taken += 1
    if filled.strange:
        filled.lost = max(filled.lost, least)
    return filled


def _take(seen: Cursor, message: Message, filled: Filled, accept: Callable[[Message], bool]) -> None:
    if seen.had(message):
        filled.duplicates += 1
        return
    epoch, seq = seen.place(message.topic)
    anchor = seen.anchors.get(message.topic)
    had = anchor.had.get(message.epoch, 0) if anchor else 0
    if epoch != FIRST_EPOCH:
        filled.lost += message.seq - max(seq if message.epoch == epoch else 0, had) - 1
    filled.recovered += accept(message)
    filled.taken += 1


def _missing(seen: Cursor, epoch: str, group: tuple[str, ...], heard: Message | None) -> int:
    """How many events of an epoch that the detector does not know were not had, at the least.

    Its last heartbeat tells; unless that was its farewell, there may have been one more.
    """
    if heard is None:
        return 1
    last, missing = heard.body["last"], 0
    for topic in group:
        anchor, place = seen.anchors.get(topic), seen.place(topic)
        had = anchor.had.get(epoch, 0) if anchor else 0
        missing += max(0, last.get(topic, 0) - max(had, place[1] if place[0] == epoch else 0))
    return missing if heard.body.get("closing") is True else max(1, missing)
