"""Which alarms a viewer wants to see: the filter of lists, exports and the review."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from stream_detector.errors import DataError
from stream_detector.events.protocol import rfc3339
from stream_detector.events.writes import VERDICTS

STATES = ("open", "ended", "new", "seen", "judged", "unjudged")
VERDICT_WORDS = (*VERDICTS, "none", "any")  # none: not judged yet
WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")  # a kind or a severity


class Filtered(Protocol):
    """What of an alarm a filter looks at."""

    camera: str
    start_utc: str
    ack: dict[str, Any] | None
    verdict: dict[str, Any] | None
    kind: str
    severity: str

    @property
    def ended(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects alarms: an empty text means all.

    state: one of STATES.  verdict: one of VERDICT_WORDS.  since, until: RFC 3339 as in the events.
    """

    camera: str = ""
    state: str = ""
    since: str = ""
    until: str = ""
    verdict: str = ""
    kind: str = ""
    severity: str = ""

    def takes(self, alarm: Filtered) -> bool:
        """Return whether it selects `alarm`."""
        if self.camera and alarm.camera != self.camera:
            return False
        if self.state and not _in_state(alarm, self.state):
            return False
        if self.verdict and not _judged_as(alarm, self.verdict):
            return False
        if (self.kind and alarm.kind != self.kind) or (self.severity and alarm.severity != self.severity):
            return False
        return not (self.since and alarm.start_utc < self.since) and not (self.until and alarm.start_utc > self.until)


def _in_state(alarm: Filtered, state: str) -> bool:
    wanted = {"open": not alarm.ended, "ended": alarm.ended, "new": alarm.ack is None, "seen": bool(alarm.ack)}
    wanted |= {"judged": alarm.verdict is not None, "unjudged": alarm.verdict is None}
    return wanted.get(state, True)


def _judged_as(alarm: Filtered, word: str) -> bool:
    if alarm.verdict is None:
        return word == "none"
    return word in ("any", alarm.verdict["verdict"])


def make_filter(values: Mapping[str, str]) -> Filter:
    """Make a Filter from a viewer's input. Raises DataError."""
    return Filter(
        values.get("camera", "")[:64],
        _one_of(values, "state", STATES),
        _moment(values, "since"),
        _moment(values, "until"),
        _one_of(values, "verdict", VERDICT_WORDS),
        _word(values, "kind"),
        _word(values, "severity"),
    )


def _one_of(values: Mapping[str, str], name: str, words: tuple[str, ...]) -> str:
    word = values.get(name, "")
    if word and word not in words:
        raise DataError(f"{name} must be one of {', '.join(words)}")
    return word


def _word(values: Mapping[str, str], name: str) -> str:
    word = values.get(name, "")
    if word and not WORD.fullmatch(word):
        raise DataError(f"{name} must be one word of at most 32 letters, digits, '-' and '_'")
    return word


def _moment(values: Mapping[str, str], name: str) -> str:
    text = values.get(name, "")
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text[:40])
        return rfc3339((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise DataError(f"{name} must be a time like 2026-01-31T12:00:00Z") from None
