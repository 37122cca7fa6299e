"""The current state for late subscribers: the open alarms and the last status of every camera.

It is kept as JSON texts, so that sending it needs neither the journal nor a parser.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

_MOST_PREFIXES = 64  # number of waiting prefixes; with more, all topics are repeated
_AGAIN_S = 0.25  # seconds; shortest interval between two look-ups of prefixes, and between two repetitions of a topic
_RATE = 1000.0  # messages per second
_BURST = 500.0
_AT_ONCE = 64  # messages in one slice


class OpenAlarmText(Protocol):
    """An open alarm as JSON: its `start` and its newest event, possibly the same."""

    @property
    def first(self) -> str: ...
    @property
    def last(self) -> str: ...


class OpenAlarmSource(Protocol):
    """The source of open alarms: the journal."""

    def open_texts(self) -> Mapping[str, Sequence[OpenAlarmText]]: ...


def replayed(text: str) -> str:
    """Return the text of an event with `"replayed": true` added."""
    return f'{text[:-1]},"replayed":true}}'


def below(topics: Sequence[str], prefix: str) -> Sequence[str]:
    """Return those of the sorted `topics` (ASCII) that begin with `prefix`."""
    return topics[bisect_left(topics, prefix) : bisect_left(topics, prefix + "\x7f")]


class CurrentState:
    """The open alarms of `journal`, and the newest status of every topic given to `status`."""

    def __init__(self, journal: OpenAlarmSource) -> None:
        self._journal = journal
        self._statuses: dict[str, str] = {}
        self._sorted: list[str] = []
        self._known: tuple[object, int] = (None, 0)

    def status(self, topic: str, text: str) -> None:
        """Set the newest status of a topic."""
        self._statuses[topic] = text

    def topics(self) -> Sequence[str]:
        """Return all topics with an open alarm or a status, sorted."""
        alarms = self._journal.open_texts()
        if self._known[0] is not alarms or self._known[1] != len(self._statuses):
            self._sorted = sorted([*alarms, *self._statuses])
            self._known = (alarms, len(self._statuses))
        return self._sorted

    def texts(self, topic: str) -> Iterator[str]:
        """Return the current events of one topic, oldest first, marked as replayed."""
        for alarm in self._journal.open_texts().get(topic, ()):
            yield replayed(alarm.first)
            if alarm.last != alarm.first:
                yield replayed(alarm.last)
        if topic in self._statuses:
            yield replayed(self._statuses[topic])


class StateReplayer:
    """Repeats the current state for new subscribers, in small slices and at a bounded rate.

    All subscribers of a topic receive it; those that already have the events drop them by seq.
    """

    def __init__(self, present: CurrentState, now_s: float) -> None:
        self._state = present
        self._prefixes: dict[str, None] = {}
        self._waiting: dict[str, None] = {}
        self._sent_s: dict[str, float] = {}
        self._looked_s = float("-inf")
        self._tokens, self._tokens_s = _BURST, now_s

    def wanted(self, prefix: str) -> None:
        """Note a subscription to `prefix` (ASCII)."""
        if len(self._prefixes) >= _MOST_PREFIXES and prefix not in self._prefixes:
            self._prefixes = {"": None}
        elif "" not in self._prefixes:
            self._prefixes[prefix] = None

    def slice(self, now_s: float) -> Iterator[tuple[str, list[str]]]:
        """Return (topic, texts): the next messages to send; few enough for one turn of the thread."""
        if self._prefixes and now_s - self._looked_s >= _AGAIN_S:
            self._looked_s = now_s
            topics = self._state.topics()
            for prefix in self._prefixes:
                self._waiting.update(dict.fromkeys(below(topics, prefix)))
            self._prefixes.clear()
        if not self._waiting:
            return
        self._tokens = min(_BURST, self._tokens + (now_s - self._tokens_s) * _RATE)
        self._tokens_s = now_s
        for topic in list(islice(self._waiting, _AT_ONCE)):
            if self._tokens < 1.0:
                return
            del self._waiting[topic]
            if now_s - self._sent_s.get(topic, float("-inf")) < _AGAIN_S:
                self._waiting[topic] = None  # after the last prefix
                continue
            self._sent_s[topic] = now_s
            texts = list(self._state.texts(topic))
            self._tokens -= len(texts)
            yield topic, texts
