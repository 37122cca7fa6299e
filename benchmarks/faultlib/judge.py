"""What must hold of a stream of events, whatever was done to those who carried it."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple


class Event(NamedTuple):
    """What is judged of an event."""

    topic: str
    epoch: str
    seq: int
    id: str
    type: str
    reason: str


def slim(body: dict[str, Any]) -> Event:
    """What is judged, of a whole body."""
    kind = body["schema"].removeprefix("stream-detector.").removesuffix("/1")
    topic = sys.intern(f"v1/{kind}/{body['camera']}/")
    name, what, why = body.get("id") or "", body.get("type") or "", body.get("reason") or ""
    return Event(topic, sys.intern(body["epoch"]), body["seq"], sys.intern(name), sys.intern(what), sys.intern(why))


def journalled(ledger: Path) -> list[Event]:
    """Every event in a ledger file, in the order of writing."""
    with closing(sqlite3.connect(ledger)) as db:
        return [slim(json.loads(text)) for (text,) in db.execute("SELECT body FROM events ORDER BY n")]


def read_lines(path: Path) -> list[Event]:
    """Every event in a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [slim(json.loads(line)) for line in file]


def judge(received: Iterable[Event], written: Iterable[Event]) -> dict[str, int]:
    """Counts of everything that must be nought, and of what there was.

    missing, twice, invented: against what was written.  disordered: events of a topic that came before an earlier one.
    unended, ended_twice, unstarted: alarms by id.
    """
    got, want = list(received), [event[:3] for event in written]
    keys = [event[:3] for event in got]
    counts = Counter(keys)
    order = {key: number for number, key in enumerate(want)}
    last: dict[str, int] = defaultdict(lambda: -1)
    disordered = 0
    for key in keys:
        place = order.get(key, -1)
        disordered += place < last[key[0]]
        last[key[0]] = max(last[key[0]], place)
    starts = Counter(event.id for event in got if event.type == "start")
    ends = Counter(event.id for event in got if event.type == "end")
    return {
        "events": len(got),
        "alarms": len(starts),
        "epochs": len({key[1] for key in want}),
        "restart_ends": sum(event.reason == "restart" for event in got),
        "missing": len(set(want) - set(keys)),
        "twice": sum(count - 1 for count in counts.values()),
        "invented": len(set(keys) - set(want)),
        "disordered": disordered,
        "unended": sum(ends[name] == 0 for name in starts),
        "ended_twice": sum(count > 1 for count in ends.values()),
        "started_twice": sum(count > 1 for count in starts.values()),
        "unstarted": sum(starts[name] == 0 for name in ends),
    }


FAULTS = ("missing", "twice", "invented", "disordered", "unended", "ended_twice", "started_twice", "unstarted")


def passed(counts: dict[str, int]) -> bool:
    """Whether nothing was lost, doubled, invented, out of order, or left open."""
    return counts["events"] > 0 and not any(counts[name] for name in FAULTS)


# -- several lives, some of them without a journal ----------------------------------------------------------------


class Heard(NamedTuple):
    """What a subscriber was told. unjournalled: the event said so."""

    event: Event
    unjournalled: bool


class Line(NamedTuple):
    """A line of an event file: an event, or (event None) the place that the file follows."""

    event: Event | None
    follows: tuple[str, str, int]
    unjournalled: bool


def heard(body: dict[str, Any]) -> Heard:
    """What is judged, of a whole body."""
    return Heard(slim(body), bool(body.get("unjournalled")))


def lines_of(path: Path) -> list[Line]:
    """The whole lines of one event file; the last may be torn. Raises ValueError where another one is."""
    found = []
    with path.open(encoding="utf-8") as file:
        for text in file:
            if not text.endswith("\n"):  # torn by a crash: whoever goes on behind it has the event again
                break
            body = json.loads(text)
            if body["schema"] == "stream-detector.follows/1":
                found.append(Line(None, (body["topic"], body["epoch"], body["seq"]), False))
            else:
                found.append(Line(slim(body), ("", "", 0), bool(body.get("unjournalled"))))
    return found


def judge_lives(told: Sequence[Heard], written: Sequence[Event], files: Sequence[Sequence[Line]]) -> dict[str, int]:
    """Counts of everything that must be nought, and of what there was, after lives that did not all have a journal.

    told: to a recovering subscriber.  written: the journal at the end.  files: the event files, oldest first.
    An alarm is promised when its start reached the journal: it is in it, or was sent without the mark `unjournalled`.
    `missing`, `twice`, `invented`, `disordered`: of what was told against what is written. `unended` and so on: of
    promised alarms, at the subscriber. `file_…`: the same in the event files.
    """
    want = [event[:3] for event in written]
    known = set(want)
    ended_early = {h.event.id for h in told if h.unjournalled and h.event.type == "end"}
    owed = {e[:3] for e in written if not (e.type == "end" and e.reason == "restart" and e.id in ended_early)}
    got = [h.event for h in told]
    counts = Counter(event[:3] for event in got)
    loose = {h.event[:3] for h in told if h.unjournalled} - known
    order = {key: number for number, key in enumerate(want)}
    last: dict[str, int] = defaultdict(lambda: -1)
    disordered = 0
    for event in got:
        if (place := order.get(event[:3])) is not None:
            disordered += place < last[event.topic]
            last[event.topic] = max(last[event.topic], place)
    promised = {e.id for e in written if e.type == "start"}
    promised |= {h.event.id for h in told if h.event.type == "start" and not h.unjournalled}
    lines = [line for lines in files for line in lines]
    in_file = [line.event for line in lines if line.event is not None]
    alarms = {e[:3] for e in written if e.topic.startswith("v1/alarm/")}
    file_counts = Counter(event[:3] for event in in_file)
    found = {
        "events": len(got),
        "alarms": len(promised),
        "epochs": len({key[1] for key in want}),
        "restart_ends": sum(event.reason == "restart" for event in got),
        "unjournalled": len(loose),
        "missing": len(owed - set(counts)),
        "twice": sum(count - 1 for count in counts.values()),
        "invented": len(set(counts) - known - loose),
        "disordered": disordered,
        **_of_alarms(got, promised, ""),
        "file_missing": len(alarms - set(file_counts)),
        "file_twice": sum(count - 1 for count in file_counts.values()),
        "file_invented": len({line.event[:3] for line in lines if line.event and not line.unjournalled} - alarms),
        **_of_alarms(in_file, promised, "file_"),
        "file_wrong_begin": _wrong_beginnings(files),
    }
    return found


def _of_alarms(events: Sequence[Event], promised: set[str], prefix: str) -> dict[str, int]:
    starts = Counter(event.id for event in events if event.type == "start")
    ends = Counter(event.id for event in events if event.type == "end")
    return {
        f"{prefix}unstarted": sum(starts[name] == 0 for name in promised),
        f"{prefix}started_twice": sum(count > 1 for count in starts.values()),
        f"{prefix}unended": sum(ends[name] == 0 for name in promised),
        f"{prefix}ended_twice": sum(count > 1 for count in ends.values()),
    }


def _wrong_beginnings(files: Sequence[Sequence[Line]]) -> int:
    """Files after the first whose first line does not name the last line of the one before."""
    wrong = 0
    place: tuple[str, str, int] | None = None
    for lines in files:
        if place is not None and lines:
            wrong += lines[0].event is not None or lines[0].follows != place
        for line in lines:
            place = (line.event.topic, line.event.epoch, line.event.seq) if line.event else line.follows
    return wrong


LIFE_FAULTS = (
    *FAULTS,
    *(f"file_{name}" for name in ("missing", "twice", "invented", *FAULTS[4:], "wrong_begin")),
    *("exit_codes", "lost_by_count", "crashes", "not_caught_up", "ended_by_itself", "refused", "went_on"),
)


def lives_passed(counts: dict[str, Any]) -> bool:
    """Whether there was something to judge, and nothing that must be nought."""
    return counts["alarms"] > 0 and not any(counts.get(name) for name in LIFE_FAULTS)
