"""Exports alarms in small parts: a client that never reads its export holds no more than one part."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator

from stream_detector.web.filters import Filter
from stream_detector.web.history import Alarm, History
from stream_detector.web.inputs import cell

MOST, PART = 20_000, 200
COLUMNS: tuple[str, ...] = (
    *("id", "epoch", "camera", "state", "reason", "start_utc", "reported_utc", "ended_utc", "start_s", "end_s"),
    *("peak_score", "threshold", "degraded", "bundle", "ack_utc", "ack_by", "ack_note"),
    *("verdict", "verdict_utc", "verdict_by", "verdict_note", "kind", "severity"),
)


async def export_json(history: History, wanted: Filter) -> AsyncIterator[str]:
    """Yield one JSON object with the key `alarms`, one alarm per line, newest first, at most MOST."""
    between = '{"alarms": [\n'
    async for alarms in _parts(history, wanted):
        yield between + ",\n".join(json.dumps(alarm.summary(), ensure_ascii=False) for alarm in alarms)
        between = ",\n"
    yield ("" if between == ",\n" else between) + "\n]}\n"


async def export_csv(history: History, wanted: Filter) -> AsyncIterator[str]:
    """Yield the same as CSV with the columns COLUMNS."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    async for alarms in _parts(history, wanted):
        for alarm in alarms:
            row = alarm.summary()
            ack = row["ack"] or {}
            row |= {"degraded": "+".join(row["degraded"]), "ack_utc": ack.get("utc")}
            row |= {"ack_by": ack.get("by"), "ack_note": ack.get("note")}
            judged = row["verdict"] or {}
            row |= {"verdict": judged.get("verdict"), "verdict_utc": judged.get("utc")}
            row |= {"verdict_by": judged.get("by"), "verdict_note": judged.get("note")}
            writer.writerow([cell(row.get(name)) for name in COLUMNS])
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    yield out.getvalue()


async def _parts(history: History, wanted: Filter) -> AsyncIterator[list[Alarm]]:
    before, more, left = None, True, MOST
    while more and left > 0:
        alarms, more = history.page(wanted, before, min(PART, left))
        if not alarms:
            return
        before, left = alarms[-1].number, left - len(alarms)
        yield alarms
        await asyncio.sleep(0)  # lets other requests run
