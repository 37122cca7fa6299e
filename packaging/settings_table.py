"""The page of every setting, made from the models of `stream_detector.config`.

Type, range and default come from the model; the meaning is the comment beside the key in the source, or stands in
MEANINGS; the unit follows from the name of the key; every example is a line that a configuration takes (a test tries
them all).
"""

from __future__ import annotations

import ast
import inspect
import json
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from stream_detector.config import CameraConfig, Config

UNITS = {
    "_s": "seconds",
    "_ms": "milliseconds",
    "_days": "days",
    "_hours": "hours",
    "_per_day": "a day",
    "_bytes": "bytes",
    "_mb": "MB",
    "_fps": "frames a second",
    "_ratio": "fraction",
    "_share": "fraction",
    "_port": "port",
}
UNIT_OF = {
    "threshold": "score",
    "stride": "frames",
    "max_size": "windows",
    "buffer_windows": "windows",
    "span": "windows",
    "preview_size": "pixels",
    "black_below": "grey levels",
    "contrast_below": "grey levels",
    "coverage_below": "fraction",
    "high_water_mark": "messages",
    "recovery_limit": "events",
    "hosts": "processes",
    "threads": "threads",
    "decoder_threads": "threads",
    "mask": "fractions of width and height",
    "ignore": "fractions of width and height",
}
MEANINGS = {
    "bundle": "the model: a name that `stream-detector models list` shows, or a folder",
    "pace": "speed of recordings: as filmed, or as fast as possible",
    "events": "every alarm event is appended to this file, one a line",
    "scores": "the score of every window is written to this table",
    "cameras": "the cameras: a table for each, `[cameras.NAME]`",
    "capture.open_timeout_s": "a source that does not open within this time is tried again",
    "capture.read_timeout_s": "a read that takes longer is given up, and the source is opened again",
    "capture.backoff_max_s": "longest time between two attempts",
    "capture.preview_fps": "pictures for the page",
    "batch.max_size": "windows scored at once; without: what suits the engine",
    "batch.max_wait_ms": "how long a window waits for others; without: what suits the engine",
    "picture_quality.enabled": "look for black, covered, blurred and frozen pictures and for missing windows",
    "picture_quality.frozen_after_s": "a picture that does not change for so long is frozen",
    "picture_quality.warmup_s": "the camera's usual picture is learned for so long",
    "picture_quality.reset_after_s": "after so long with other pictures these are the usual ones",
    "picture_quality.coverage_span_s": "time over which scored windows are counted",
    "engine.device": "where the engine runs; `stream-detector doctor` says what is there",
    "engine.precision": "number format of the network",
    "evidence.enabled": "keep clips and snapshots of alarms",
    "evidence.directory": "folder of clips and snapshots",
    "evidence.pre_s": "a clip begins so long before the alarm",
    "evidence.post_s": "and ends so long after it",
    "evidence.max_clip_s": "longest clip",
    "evidence.keep_days": "older clips are removed",
    "evidence.max_bytes": "the oldest clips are removed when all together are larger",
    "publish.bind": "ZeroMQ endpoint of the events; `none`: no socket",
    "publish.high_water_mark": "messages that wait for a slow subscriber before it loses some",
    "publish.linger_ms": "a stop waits so long for messages to leave",
    "publish.heartbeat_s": "time between two heartbeats",
    "publish.keep_days": "older events leave the journal",
    "publish.ledger_max_bytes": "largest journal; the oldest events leave first",
    "alarm.min_length_s": "the score must stay above the threshold for so long",
    "alarm.threshold": "smoothed score at which an alarm begins; without: the bundle's",
    "alarm.update_interval_s": "time between two updates of an alarm",
    "recording.directory": "folder of the recordings",
    "recording.keep_days": "older recordings are removed",
    "schedule.modes": "names of the modes that rules may ask for, for instance at home or away",
    "cameras.schedule": "rules by time of the day and mode: another threshold, or no notice",
    "site.directory": "folder of what the detector learns of this site",
    "sinks.kind": "a registered kind of sink",
    "sinks.options": "what that kind wants to be told",
    "telemetry.log_format": "format of log lines",
    "telemetry.dashboard": "the live view in a terminal",
    "web.bind": "HOST:PORT of the page; `none`: no page",
    "web.token_file": "file with the password of the page: one line of at least 16 characters",
    "web.cert": "TLS certificate of the page",
    "web.key": "key of the TLS certificate",
    "cameras.name": "of the camera: 1 to 64 of a-z, 0-9, `_` and `-`; written in the table's name",
    "cameras.source": "file, rtsp:// or http:// address, USB index or device, `pipe:COMMAND`, `demo`",
    "cameras.source_file": "a file that holds the source, in place of `source`",
    "cameras.password_file": "a file that holds the password of the user whom the source names",
    "cameras.stride": "as `window.stride`, for this camera",
    "cameras.threshold": "as `alarm.threshold`, for this camera",
    "cameras.smoothing": "as `[smoothing]`, for this camera",
    "cameras.mask": "a polygon that is painted over before anything else sees the picture",
    "cameras.evidence": "as `evidence.enabled`, for this camera",
    "cameras.rtsp_transport": "as `capture.rtsp_transport`, for this camera",
}
EXAMPLES: dict[str, Any] = {
    "cameras.schedule": [{"from": "22:00", "to": "06:00", "threshold": 0.8}],
    "severity.kinds": {"crash": 1},
    "events": "events.jsonl",
    "scores": "scores.csv",
    "batch.max_size": 8,
    "batch.max_wait_ms": 20,
    "capture.hosts": 4,
    "capture.hwaccel": "cuda",
    "alarm.threshold": 0.6,
    "publish.curve_secret": "keys/server.key_secret",
    "publish.curve_clients": "keys/allowed",
    "sinks.kind": "csv",
    "telemetry.log_file": "detector.log",
    "web.bind": "127.0.0.1:8080",
    "web.token_file": "token",
    "web.cert": "cert.pem",
    "web.key": "key.pem",
    "web.hosts": ["cameras.example.org"],
    "cameras.source": "rtsp://admin:${GATE_PASSWORD}@10.0.0.7/live",
    "cameras.source_file": "gate.source",
    "cameras.password_file": "gate.password",
    "cameras.stride": 8,
    "cameras.threshold": 0.6,
    "cameras.smoothing": {"kind": "ema", "time_constant_s": 2.0},
    "cameras.mask": [[0, 0], [1, 0], [1, 0.2], [0, 0.2]],
    "cameras.evidence": False,
    "cameras.allow_hosts": ["media.example.org"],
}
INTRO = """# Every setting

*This page is generated from the program's own models; it cannot differ from what a configuration takes.*

The keys of `cameras.toml`, table by table. [Configuration](../configuration.md) explains what wins over what, and where
passwords may stand. On the command line any key can be set: `--set alarm.cooldown_s=10`.
"""


class _Schema(GenerateJsonSchema):
    """A source is a text."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One key. name: with its table, for instance "alarm.threshold".  default: as JSON has it, or None."""

    name: str
    table: str
    key: str
    values: str
    unit: str
    default: Any
    required: bool
    example: Any
    meaning: str


def tables() -> list[tuple[str, str, type[BaseModel]]]:
    """(name for keys, heading, model) of every table of the configuration."""
    found: list[tuple[str, str, type[BaseModel]]] = [("", "At the top of the file", Config)]
    found.append(("cameras", "[cameras.NAME]", CameraConfig))
    for key, field in Config.model_fields.items():
        for model in models_in(field.annotation):
            if model is not CameraConfig:
                found.append((key, "[sinks.NAME]" if key == "sinks" else f"[{key}]", model))
    order = ["", "cameras", *Config.model_fields]
    return sorted(found, key=lambda entry: order.index(entry[0]))


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def every() -> Iterator[Setting]:
    """Every setting of every table."""
    keys = {key for key, _, _ in tables()}
    for table, _, model in tables():
        schema = model.model_json_schema(schema_generator=_Schema)
        told = comments(model)
        for key, value in schema["properties"].items():
            if table == "" and key in keys - {""}:
                continue  # a table of its own
            name = f"{table}.{key}" if table else key
            default = value.get("default")
            meaning = MEANINGS.get(name) or told.get(key, "")
            unit = UNIT_OF.get(key) or next((unit for end, unit in UNITS.items() if key.endswith(end)), "")
            example = EXAMPLES.get(name, default)
            required = key in schema.get("required", [])
            yield Setting(name, table, key, values_of(value), unit, default, required, example, meaning)


def comments(model: type[BaseModel]) -> dict[str, str]:
    """The comments beside the fields of a model, or alone on the lines before them, by field."""
    source = inspect.getsource(model)
    at = {
        token.start[0]: token
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.splitlines()
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        last = node.end_lineno or node.lineno
        beside = [line for line in range(node.lineno, last + 1) if line in at]
        before = node.lineno - 1
        while before in at and lines[before - 1].strip().startswith("#"):
            beside.insert(0, before)
            before -= 1
        found[node.target.id] = " ".join(at[line].string.lstrip("# ") for line in beside)
    return found


def values_of(value: dict[str, Any]) -> str:
    """What a key takes, in words."""
    if "anyOf" in value:
        kinds = [values_of(each) for each in value["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{each}`" for each in value.get("enum", [value.get("const")]))
    kind = {"number": "number", "integer": "whole number", "boolean": "`true`, `false`", "string": "text"}
    kind |= {"array": "list", "object": "table"}
    text = kind.get(value.get("type", ""), "table")
    if value.get("format") == "path":
        text = "path"
    low = value.get("minimum", value.get("exclusiveMinimum"))
    high = value.get("maximum", value.get("exclusiveMaximum"))
    if low is not None and high is not None:
        text += f", {_number(low)} to {_number(high)}"
    elif low is not None:
        text += f", {_number(low)} or more"
    if "exclusiveMinimum" in value:
        text += f", not {_number(low)}"
    if "pattern" in value:
        text += f" like `{value['pattern']}`".replace("|", "\\|")
    return text


def _number(value: float) -> str:
    return f"{value:,.10g}".replace(",", " ")


def toml(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def example_of(setting: Setting) -> str:
    """A line for the key's table."""
    value = setting.example
    if value is None and setting.values.startswith("path"):
        value = "file"
    return f"{setting.key} = {toml(value)}" if value is not None else ""


def default_of(setting: Setting) -> str:
    """The default, in words."""
    if setting.required:
        return "must be given"
    return "–" if setting.default is None else f"`{toml(setting.default)}`"


def page() -> str:
    """The page."""
    parts, everything = [INTRO], list(every())
    for table, heading, model in tables():
        parts.append(f"## {heading}\n")
        if table:
            parts.append(f"{' '.join((model.__doc__ or '').split())}\n")
        parts.append("| key | meaning | values | unit | default | example |\n|---|---|---|---|---|---|")
        for each in everything:
            if each.table == table:
                example = f"`{example_of(each)}`".replace("|", "\\|") if example_of(each) else ""
                meaning = each.meaning.replace("|", "\\|").replace("<", "\\<")
                default = default_of(each).replace("|", "\\|")
                parts.append(f"| `{each.key}` | {meaning} | {each.values} | {each.unit} | {default} | {example} |")
        parts.append("")
    return "\n".join(parts)
