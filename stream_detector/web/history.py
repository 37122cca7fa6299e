"""All known alarms: those of the journal on disk (read-only) and those of this run.

Only the server's thread uses a `History`. The journal is read once at the start; `apply` adds later events. Details
(windows, timings) of older alarms are read from the file on request.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sqlite3
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_detector.events.protocol import ACK_SCHEMA, ALARM_SCHEMA, VERDICT_SCHEMA
from stream_detector.web.filters import WORD, Filter

log = logging.getLogger(__name__)

MAX_ALARMS = 20_000
FIRST_EVENTS = 30_000  # events of the journal read at the start
DETAILED = 200  # newest alarms of this process with complete events
EVENTS_AN_ALARM = 200
MOST_WORDS = 20  # different kinds, or severities, that are told apart
QUERY_S = 1.0  # seconds; limit of a query of the journal
_EVIDENCE_NAME = re.compile(r"[0-9a-f]{32}(?:-[0-9a-f]{16})?")
OF_ALARMS = (ACK_SCHEMA, VERDICT_SCHEMA)  # they name an alarm and its epoch

Body = dict[str, Any]


@dataclass(slots=True)
class Alarm:
    """One alarm as of its newest event; times as in the event. ack, verdict: the newest, or None.

    epoch: of its `start`. A file that is played again repeats its ids; `key` distinguishes such alarms.
    """

    id: str
    epoch: str
    camera: str
    number: int
    start_s: float
    start_utc: str
    threshold: float
    bundle: str
    reported_utc: str
    end_s: float | None = None
    ended_utc: str | None = None
    reason: str | None = None
    peak_score: float = 0.0
    degraded: tuple[str, ...] = ()
    evidence: bool = False
    evidence_name: str = ""  # name of its files, without folder and suffix; empty until an event names one
    events: int = 0
    ack: Body | None = None
    verdict: Body | None = None
    begun: bool = True  # its `start` was read; else `epoch` is that of the first event that was
    kind: str = ""  # of its newest event, where events carry one
    severity: str = ""

    @property
    def key(self) -> str:
        """The key for requests: "<id>-<epoch>"."""
        return f"{self.id}-{self.epoch}"

    @property
    def ended(self) -> bool:
        """Whether its end is known."""
        return self.ended_utc is not None

    def summary(self) -> Body:
        """Return the fields of a list entry."""
        return {
            "id": self.id,
            "epoch": self.epoch,
            "key": self.key,
            "camera": self.camera,
            "number": self.number,
            "state": "ended" if self.ended else "open",
            "reason": self.reason,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "start_utc": self.start_utc,
            "reported_utc": self.reported_utc,
            "ended_utc": self.ended_utc,
            "peak_score": self.peak_score,
            "threshold": self.threshold,
            "degraded": list(self.degraded),
            "bundle": self.bundle,
            "evidence": self.evidence,
            "ack": self.ack,
            "verdict": self.verdict,
            **({"kind": self.kind} if self.kind else {}),
            **({"severity": self.severity} if self.severity else {}),
        }


@dataclass(frozen=True, slots=True)
class Around:
    """What a filter selects before and after one alarm: the nearest of each side, and how many there are."""

    newer: Alarm | None
    older: Alarm | None
    newer_count: int
    older_count: int


def _place(body: Body) -> tuple[str, ...]:
    return str(body.get("schema")), str(body.get("camera")), str(body.get("epoch")), str(body.get("seq"))


class History:
    """The index of alarms, newest last. path: the journal's file, or None if it is in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._alarms: OrderedDict[str, Alarm] = OrderedDict()  # by key
        self._newest: dict[str, str] = {}  # id → key of the newest alarm of that id
        self._bodies: OrderedDict[str, deque[Body]] = OrderedDict()  # by key
        self._number = 0
        self._kinds: dict[str, None] = {}
        self._severities: dict[str, None] = {}
        self._seen: set[tuple[str, ...]] = set()  # the newest epoch whose events `load` read

    def load(self) -> None:
        """Read the journal. An unreadable journal is logged; then only present events are shown."""
        if self._path is None or not self._path.exists():
            return
        query = (
            "SELECT body FROM (SELECT n, body FROM events WHERE (topic >= 'v1/ack/' AND topic < 'v1/alarm0')"
            " OR (topic >= 'v1/verdict/' AND topic < 'v1/verdict0') ORDER BY n DESC LIMIT ?) ORDER BY n"
        )
        try:
            for body in self._read(query, (FIRST_EVENTS,), 20.0):
                self._seen.add(_place(body))
                self._enter(body)
            self._seen = {place for place in self._seen if place[2] == str(body.get("epoch"))} if self._seen else set()
        except sqlite3.Error as error:
            log.warning("the event journal cannot be read for the page (%s)", error)

    def apply(self, body: Body) -> Alarm | None:
        """Process a new event; return the alarm that it changed."""
        known = _place(body) in self._seen
        alarm = self._of(body) if known else self._enter(body)
        if alarm is not None and body.get("schema") == ALARM_SCHEMA:
            bodies = self._bodies.setdefault(alarm.key, deque(maxlen=EVENTS_AN_ALARM))
            if body["type"] == "start":
                bodies.clear()
            bodies.append(body)
            while len(self._bodies) > DETAILED:
                self._bodies.popitem(last=False)
        return None if known else alarm

    def _of(self, body: Body) -> Alarm | None:
        """The alarm of an event: that of its epoch, or else (a later life ends it) the newest of its id."""
        epoch = body.get("alarm_epoch") if body.get("schema") in OF_ALARMS else body.get("epoch")
        found = self._alarms.get(f"{body.get('id')}-{epoch}")
        if found is not None:
            return found
        newest = self.get(str(body.get("id")))
        if newest is not None and body.get("schema") in OF_ALARMS and epoch is not None and newest.begun:
            return None  # it was of an alarm that is forgotten; this one is another
        return newest

    def _enter(self, body: Body) -> Alarm | None:
        with contextlib.suppress(KeyError, TypeError, ValueError):  # a row that is not as it should be is passed over
            if body["schema"] in OF_ALARMS:
                alarm = self._of(body)
                if alarm is not None:
                    told = {"note": str(body["note"]), "by": str(body["by"]), "utc": str(body["emitted_utc"])}
                    if body["schema"] == ACK_SCHEMA:
                        alarm.ack = told
                    else:
                        alarm.verdict = {**told, "verdict": str(body["verdict"]), "author": str(body["author"])}
                return alarm
            if body["schema"] != ALARM_SCHEMA:
                return None
            return self._alarm(body)
        return None

    def _alarm(self, body: Body) -> Alarm:
        begins = body["type"] == "start"
        known = self._of(body)
        if known is None or (begins and (known.epoch, known.start_utc) != (str(body["epoch"]), str(body["start_utc"]))):
            known = self._add(body, begins)
        known.events += 1
        known.peak_score = max(known.peak_score, float(body["peak_score"]))
        known.degraded = tuple(sorted({*known.degraded, *map(str, body.get("degraded") or ())}))
        known.evidence = known.evidence or bool(body.get("evidence"))
        known.evidence_name = _evidence_name(body) or known.evidence_name
        known.kind = _word(body, "kind", self._kinds) or known.kind
        known.severity = _word(body, "severity", self._severities) or known.severity
        if body["type"] == "end":
            known.reason, known.ended_utc = str(body["reason"]), str(body["emitted_utc"])
            known.end_s = None if body.get("end_s") is None else float(body["end_s"])
        return known

    def _add(self, body: Body, begins: bool) -> Alarm:
        self._number += 1
        added = Alarm(
            id=str(body["id"]),
            epoch=str(body["epoch"]),
            camera=str(body["camera"]),
            number=self._number,
            start_s=float(body["start_s"]),
            start_utc=str(body["start_utc"]),
            threshold=float(body["threshold"]),
            bundle=str(body.get("bundle") or ""),
            reported_utc=str(body["emitted_utc"]),
            begun=begins,
        )
        self._alarms[added.key] = added
        self._alarms.move_to_end(added.key)
        self._newest[added.id] = added.key
        while len(self._alarms) > MAX_ALARMS:
            key, oldest = self._alarms.popitem(last=False)
            if self._newest.get(oldest.id) == key:
                del self._newest[oldest.id]
        return added

    def get(self, name: str) -> Alarm | None:
        """Return the alarm with this key, or the newest with this id."""
        return self._alarms.get(name) or self._alarms.get(self._newest.get(name, ""))

    def page(self, wanted: Filter, before: int | None, limit: int) -> tuple[list[Alarm], bool]:
        """Return (at most `limit` alarms numbered below `before`, newest first; whether there are more)."""
        found: list[Alarm] = []
        for alarm in reversed(self._alarms.values()):
            if (before is None or alarm.number < before) and wanted.takes(alarm):
                if len(found) == limit:
                    return found, True
                found.append(alarm)
        return found, False

    def around(self, alarm: Alarm, wanted: Filter) -> Around:
        """Return the selected alarms next to `alarm`, which need not be selected itself."""
        newer = older = None
        newer_count = older_count = 0
        for other in self._alarms.values():  # from the oldest on
            if other.number == alarm.number or not wanted.takes(other):
                continue
            if other.number < alarm.number:
                older, older_count = other, older_count + 1
            else:
                newer, newer_count = newer or other, newer_count + 1
        return Around(newer, older, newer_count, older_count)

    def words(self) -> dict[str, list[str]]:
        """Return the kinds and severities that alarms carry: {"kinds": […], "severities": […]}."""
        return {"kinds": sorted(self._kinds), "severities": sorted(self._severities)}

    def unseen(self) -> int:
        """Return the number of alarms that nobody has acknowledged."""
        return sum(alarm.ack is None for alarm in self._alarms.values())

    def bodies(self, alarm: Alarm) -> list[Body]:
        """Return its complete events of this process, oldest first; empty if they are only on disk."""
        kept = self._bodies.get(alarm.key)
        return list(kept) if kept else []

    def read_bodies(self, alarm: Alarm) -> list[Body]:
        """Read its events from the journal. Blocks; for a worker thread."""
        query = "SELECT body FROM events WHERE topic = ? AND instr(body, ?) ORDER BY ordinal DESC, seq DESC LIMIT ?"
        try:
            found = list(self._read(query, (f"v1/alarm/{alarm.camera}/", alarm.id, EVENTS_AN_ALARM), QUERY_S))
        except sqlite3.Error as error:
            log.warning("the event journal cannot be read for the page (%s)", error)
            return []
        mine = [body for body in reversed(found) if body.get("id") == alarm.id]
        starts = [place for place, body in enumerate(mine) if body.get("type") == "start"]
        for place, until in zip(reversed(starts), [None, *reversed(starts)], strict=False):
            if mine[place].get("epoch") == alarm.epoch:
                return mine[place:until]
        return mine[: starts[0]] if starts else mine

    def _read(self, query: str, values: tuple[Any, ...], limit_s: float) -> Iterator[Body]:
        if self._path is None:
            return
        with closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            until_s = time.monotonic() + limit_s
            db.set_progress_handler(lambda: time.monotonic() > until_s, 10_000)
            for (text,) in db.execute(query, values):
                with contextlib.suppress(ValueError):
                    body = json.loads(text)
                    if isinstance(body, dict):
                        yield body


def _evidence_name(body: Body) -> str:
    """Return `<id>-<epoch>`, or `<id>` as in earlier versions; empty if the event names no file of its alarm."""
    evidence = body.get("evidence")
    path = evidence.get("clip") if isinstance(evidence, dict) else None
    name = re.split(r"[/\\]", path)[-1].removesuffix(".mp4").removesuffix(".webm") if isinstance(path, str) else ""
    return name if _EVIDENCE_NAME.fullmatch(name) and name.startswith(str(body["id"])) else ""


def _word(body: Body, name: str, known: dict[str, None]) -> str:
    """Return the word of an optional field, and note it in `known`; "" if the event has none that can be shown."""
    word = body.get(name)
    if not isinstance(word, str) or not WORD.fullmatch(word) or (word not in known and len(known) >= MOST_WORDS):
        return ""
    known[word] = None
    return word
