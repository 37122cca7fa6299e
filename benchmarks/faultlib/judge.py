"""What must hold of a stream of events, whatever was done to those who carried it."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
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
