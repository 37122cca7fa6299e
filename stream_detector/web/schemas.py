"""JSON Schemas of what the page's routes take and answer; see `openapi`. Objects may carry more keys than are named."""

from __future__ import annotations

from typing import Any

from stream_detector.events.writes import COMMANDS, MAX_BY, MAX_NOTE, VERDICTS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
YES: Schema = {"type": "boolean"}
MOMENT: Schema = {"type": "string", "format": "date-time"}
ANY_OBJECT: Schema = {"type": "object", "additionalProperties": True}
BY: Schema = {"type": "string", "maxLength": MAX_BY, "description": "name of the writer"}
NOTE: Schema = {"type": "string", "maxLength": MAX_NOTE}


def ref(name: str) -> Schema:
    """Refer to a schema of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(item: Schema) -> Schema:
    """An array of one kind of item."""
    return {"type": "array", "items": item}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {"oneOf": [schema, {"type": "null"}]} if "$ref" in schema else {**schema, "type": [schema["type"], "null"]}


def record(required: Schema, optional: Schema | None = None) -> Schema:
    """An object. required, optional: the schemas of its keys."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


_ALARM: Schema = {
    "id": TEXT,
    "epoch": TEXT,
    "key": {"type": "string", "description": "names this alarm in requests"},
    "camera": TEXT,
    "number": {"type": "integer", "minimum": 1, "description": "`before` of the next page"},
    "state": {"type": "string", "enum": ["open", "ended"]},
    "reason": or_null(TEXT),
    "start_s": {"type": "number", "description": "media time in seconds"},
    "end_s": or_null(NUMBER),
    "start_utc": MOMENT,
    "reported_utc": MOMENT,
    "ended_utc": or_null(MOMENT),
    "peak_score": NUMBER,
    "threshold": NUMBER,
    "degraded": array(TEXT),
    "bundle": TEXT,
    "evidence": YES,
    "ack": or_null(ref("Told")),
    "verdict": or_null(ref("Judged")),
}
_ALARM_MAY: Schema = {"kind": TEXT, "severity": TEXT}
_WINDOW = record(
    {"start_frame": COUNT, "end_frame": COUNT, "raw": NUMBER, "smoothed": NUMBER}, {"start_s": NUMBER, "end_s": NUMBER}
)
_SMOOTHING = record({"kind": TEXT}, {"time_constant_s": NUMBER, "span": COUNT})

_POLYGON: Schema = {**array(array(NUMBER)), "description": "[x, y] in shares of width and height, at least three"}
_SETTINGS: Schema = {
    "mask": {**_POLYGON, "description": "polygon; nothing from under it is scored, shown or stored; []: none"},
    "ignore": array(_POLYGON),
    "schedule": {
        **array(ANY_OBJECT),
        "description": "rules as in the configuration: days, from, to, modes, threshold, …",
    },
}

SCHEMAS: dict[str, Schema] = {
    "Error": record({"error": {"type": "string", "description": "one sentence"}}),
    "Ok": record({"ok": YES}),
    "Description": ANY_OBJECT,
    "Told": record({"note": TEXT, "by": TEXT, "utc": MOMENT}),
    "Judged": record({"note": TEXT, "by": TEXT, "utc": MOMENT, "verdict": TEXT, "author": TEXT}),
    "Alarm": record(_ALARM, _ALARM_MAY),
    "AlarmPage": record(
        {"alarms": array(ref("Alarm")), "more": YES, "unseen": COUNT, "kinds": array(TEXT), "severities": array(TEXT)}
    ),
    "AlarmExport": record({"alarms": array(ref("Alarm"))}),
    "AlarmDetail": record(
        {
            **_ALARM,
            "windows": array(_WINDOW),
            "timing": or_null(ANY_OBJECT),
            "events": array(ANY_OBJECT),
            "clip": YES,
            "playable": YES,
            "snapshot": YES,
            "where": or_null(ANY_OBJECT),
        },
        _ALARM_MAY,
    ),
    "Around": record({"newer": or_null(TEXT), "older": or_null(TEXT), "newer_count": COUNT, "older_count": COUNT}),
    "Camera": record(
        {"name": TEXT, "source": TEXT, "live": YES, "recorded": YES, "threshold": NUMBER, "smoothing": _SMOOTHING}
    ),
    "Run": record(
        {
            "engine": TEXT,
            "bundle": TEXT,
            "fingerprint": TEXT,
            "rendered": YES,
            "closed": YES,
            "may_write": {"type": "boolean", "description": "whether the asker is an operator"},
            "can_sign_in": YES,
            "unseen": COUNT,
            "epoch": TEXT,
            "roster": {"type": "integer", "minimum": 0, "description": "counts the changes of the cameras"},
            "config": or_null(TEXT),
            "alarm": ANY_OBJECT,
            "cameras": array(ref("Camera")),
        }
    ),
    "Health": record({"healthy": YES, "live": YES, "decided_age_s": or_null(NUMBER), "max_age_s": NUMBER}),
    "Event": {
        **record({"schema": TEXT, "camera": TEXT, "epoch": TEXT, "seq": {"type": "integer"}, "emitted_utc": MOMENT}),
        "description": "as journalled; its JSON Schema is named in docs/protocol.md",
    },
    "Site": record(
        {"camera": TEXT, "alarms": array(ref("Alarm")), "kept": YES, "overlays": array(ANY_OBJECT)},
        {
            "rate": or_null(ANY_OBJECT),
            "in_service": or_null(TEXT),
            "shadow": or_null(TEXT),
            "memory": or_null(ANY_OBJECT),
        },
    ),
    "Replay": record(
        {
            "camera": TEXT,
            "recorded": YES,
            "threshold": NUMBER,
            "rows": array(array(NUMBER)),
            "alarms": array(ref("Alarm")),
        }
    ),
    "Settings": record(
        {
            "camera": TEXT,
            **_SETTINGS,
            "modes": array(TEXT),
            "time_zone": TEXT,
            "config": or_null(TEXT),
        }
    ),
    "SettingsChange": record({}, _SETTINGS),
    "Timeline": record(
        {
            "camera": TEXT,
            "since": MOMENT,
            "until": MOMENT,
            "bin_s": COUNT,
            "threshold": or_null(NUMBER),
            "bins": {
                **array({"type": ["array", "null"], "items": NUMBER}),
                "description": "[windows, mean, peak, 1 in an alarm] of smoothed scores; null where none was scored",
            },
            "alarms": array(ref("AlarmMark")),
            "more": {"type": "boolean", "description": "whether older alarms of this time were left out"},
            "recorded": array(ref("RecordedSpan")),
        }
    ),
    "AlarmMark": record(
        {"key": TEXT, "start_utc": MOMENT, "ended_utc": or_null(MOMENT), "peak_score": NUMBER, "clip": YES},
        {"verdict": or_null(TEXT)},
    ),
    "RecordedSpan": record(
        {
            "from_s": {"type": "number", "description": "seconds since the epoch"},
            "to_s": NUMBER,
            "files": {**array(array({})), "description": "[name, from_s, to_s]"},
        }
    ),
    "Tuned": record({"windows": COUNT, "alarms": array(array(or_null(NUMBER))), "points": array(array(NUMBER))}),
    "Written": record({"written": {"type": "string", "description": "name of the file"}}),
    "Login": record({"token": TEXT}),
    "Acknowledgement": record({}, {"note": NOTE, "by": BY}),
    "Verdict": record({"verdict": {"type": "string", "enum": list(VERDICTS)}}, {"note": NOTE, "by": BY}),
    "Miss": record({}, {"at_s": NUMBER, "at_utc": MOMENT, "lasting_s": NUMBER, "note": NOTE, "by": BY}),
    "Control": record({}, {"mode": TEXT, "mute_s": NUMBER, "threshold": or_null(NUMBER), "by": BY}),
    "By": record({}, {"by": BY}),
    "Command": record(
        {"command": {"type": "string", "enum": list(COMMANDS)}}, {"overlay": TEXT, "hours": NUMBER, "by": BY}
    ),
    "Tuning": record({"threshold": {"type": "number", "minimum": 0, "maximum": 1}, "smoothing": _SMOOTHING}),
}

PATH_PARAMETERS: dict[str, Schema] = {
    name: {"name": name, "in": "path", "required": True, "description": text, "schema": TEXT}
    for name, text in {
        "id": "key of an alarm, or its id for the newest of it; of a report: the fingerprint of its overlay",
        "name": "name of a camera",
        "path": "name of a file of the page",
        "file": "name of a recorded file",
    }.items()
}
