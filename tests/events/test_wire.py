"""The wire: the contract's keys, the JSON Schema, and parsers that refuse whatever is wrong in one sentence."""

from __future__ import annotations

import contextlib
import json
import math
from importlib import resources
from typing import Any

import jsonschema
import pytest
from event_bench import EPOCH, an_event
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.faultlib.fuzz import mutated
from stream_detector.client.cursor import parse_cursor
from stream_detector.config import build_config
from stream_detector.errors import ConfigError, ProtocolError, StreamDetectorError
from stream_detector.events import protocol
from stream_detector.types import FORMER_WINDOW_KEY

# fmt: off
KEYS = [
    "schema", "id", "camera", "type", "reason", "epoch", "seq", "start_s", "end_s", "start_utc", "emitted_utc",
    "peak_score", "score", "threshold", "windows", "degraded", "bundle", "evidence", "timing",
]
# fmt: on


def schema() -> dict[str, Any]:
    text = resources.files("stream_detector").joinpath("events/schemas/alarm-1.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_an_event_has_exactly_the_keys_of_the_contract_and_fits_the_schema() -> None:
    body = protocol.alarm_to_dict(an_event(), EPOCH, 7, 1_700_000_001.0)
    assert list(body) == KEYS
    assert body["start_utc"] == "2023-11-14T22:13:20.123Z"
    assert body["evidence"] is None
    assert list(body["timing"])[:2] == ["capture_to_window", FORMER_WINDOW_KEY]
    assert body["timing"][FORMER_WINDOW_KEY] == body["timing"]["capture_to_window"]
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    validator.validate(body)
    validator.validate(protocol.alarm_to_dict(an_event(type="end", reason="normal", end_s=3.0), EPOCH, 8, 1.0))
    validator.validate(protocol.restart_end(body, 1_700_000_002.0))
    with_evidence = protocol.alarm_to_dict(an_event(clip="a.webm"), EPOCH, 8, 1.0)
    assert with_evidence["evidence"] == {"clip": "a.webm", "snapshot": None}
    validator.validate(with_evidence)
    for spoiled in ({"seq": 0}, {"reason": "normal"}, {"epoch": "x"}, {"camera": "Gate 1"}):
        assert not validator.is_valid({**body, **spoiled})


def test_no_camera_has_the_name_under_which_the_detector_speaks() -> None:
    with pytest.raises(ConfigError, match="reports its own state"):
        build_config({"cameras": [{"name": protocol.DETECTOR, "source": "a.mp4"}]})


def test_ids_are_stable_and_tell_everything_apart() -> None:
    args = ("gate", "a.mp4", "f" * 64, 12)
    assert (
        protocol.alarm_id(*args) == "5305adadce96f4345022fc3b28ce0ecd"
    )  # also that of the next release: it is published
    others = [("yard", *args[1:]), ("gate", "b.mp4", *args[2:]), (*args[:2], "e" * 64, 12), (*args[:3], 13)]
    assert len({protocol.alarm_id(*a) for a in [args, *others]} | {protocol.alarm_id(*args, run="r1")}) == 6
    assert protocol.alarm_id("a", "bc", "", 1) != protocol.alarm_id("ab", "c", "", 1)


def test_times_far_out_do_not_raise() -> None:
    for utc in (-1e18, 1e18, math.inf, math.nan, 253402300799.9999):
        assert protocol.rfc3339(utc).endswith("Z")
    assert protocol.rfc3339(1.9999) == "1970-01-01T00:00:02.000Z"


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud800", {1, 2}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError):
        protocol.encode({"a": value})


def test_a_message_survives_the_wire() -> None:
    body = protocol.alarm_to_dict(an_event(), EPOCH, 7, 1.0)
    message = protocol.decode_message([b"v1/alarm/gate/", protocol.encode(body)])
    assert (message.topic, message.kind, message.camera) == ("v1/alarm/gate/", "alarm", "gate")
    assert (message.epoch, message.seq, message.replayed, message.body) == (EPOCH, 7, False, body)


GOOD = protocol.encode(protocol.alarm_to_dict(an_event(), EPOCH, 7, 1.0))


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"v1/alarm/gate/"],
        [b"v1/alarm/gate/", GOOD, b""],
        [b"v1/alarm/gate", GOOD],
        [b"v1/alarm/yard/", GOOD],
        [b"v1/score/gate/", GOOD],
        [b"v2/alarm/gate/", GOOD],
        [b"\xff", GOOD],
        [b"v1/alarm/" + b"a" * 200 + b"/", GOOD],
        [b"v1/alarm/gate/", b"x" * (protocol.MAX_EVENT_BYTES + 1)],
        [b"v1/alarm/gate/", b"[" * 100_000],
        [b"v1/alarm/gate/", b"[1]"],
        [b"v1/alarm/gate/", b"\xff\xfe"],
        [b"v1/alarm/gate/", GOOD.replace(b'"seq":7', b'"seq":true')],
        [b"v1/alarm/gate/", GOOD.replace(b'"seq":7', b'"seq":1e400')],
        [b"v1/alarm/gate/", GOOD.replace(b'"seq":7', b'"seq":' + b"9" * 5000)],
        [b"v1/alarm/gate/", GOOD.replace(b'"seq":7', b'"seq":NaN')],
        [b"v1/alarm/gate/", GOOD.replace(b'"schema"', b'"x":"\\ud800","schema"')],
        [b"v1/alarm/gate/", GOOD.replace(EPOCH.encode(), b"0123")],
        [b"v1/heartbeat/", b'{"schema":"stream-detector.heartbeat/1","epoch":"0123456789abcdef","seq":1}'],
    ],
)
def test_bad_messages_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode_message(frames)


def test_requests() -> None:
    request = protocol.decode_request(b'{"from": {"v1/alarm/gate/": 3}, "epoch": "0123456789abcdef", "limit": 5}')
    assert (request.positions, request.epoch, request.limit) == ({"v1/alarm/gate/": 3}, EPOCH, 5)
    assert protocol.decode_request(b'{"snapshot": ["v1/alarm/"]}').snapshot == ("v1/alarm/",)
    many = {f"v1/alarm/c{i}/": 0 for i in range(protocol.MAX_REQUEST_TOPICS + 1)}
    bads: tuple[dict[str, Any], ...] = (
        {},
        {"from": {}, "snapshot": ["v1/"]},
        {"from": many},
        {"from": {"v1/alarm/gate/": -1}},
        {"from": {"x": 1}},
        {"from": [1]},
        {"snapshot": []},
        {"snapshot": [1]},
        {"snapshot": "v1/"},
        {"from": {}, "epoch": "zzz"},
        {"from": {}, "limit": 0},
        {"from": {}, "request": "x" * 65},
    )
    for bad in bads:
        with pytest.raises(ProtocolError):
            protocol.decode_request(json.dumps(bad).encode())


REPLY = json.dumps(
    {
        "schema": protocol.RECOVERY_SCHEMA,
        "epoch": EPOCH,
        "request": "r",
        "more": True,
        "last": {"v1/alarm/gate/": [EPOCH, 9]},
        "events": [["v1/alarm/gate/", json.loads(GOOD)]],
    }
).encode()
REQUEST = json.dumps({"from": {"v1/alarm/gate/": 3}, "epoch": EPOCH, "request": "abc"}).encode()
CURSOR = json.dumps(
    {"schema": "stream-detector.cursor/1", "base": EPOCH, "places": {"v1/alarm/a/": ["first", 0]}, "output_bytes": 3}
).encode()


def test_a_reply_survives_the_wire() -> None:
    reply = protocol.decode_reply(REPLY)
    assert reply.more and reply.events[0].seq == 7 and reply.last == {"v1/alarm/gate/": (EPOCH, 9)}
    assert parse_cursor(CURSOR).places == {"v1/alarm/a/": ("first", 0)}


PARSERS = {
    "message": lambda data: protocol.decode_message([b"v1/alarm/gate/", data]),
    "topic": lambda data: protocol.decode_message([data, GOOD]),
    "request": protocol.decode_request,
    "reply": protocol.decode_reply,
    "cursor": parse_cursor,
}
VALID = {"message": GOOD, "topic": b"v1/alarm/gate/", "request": REQUEST, "reply": REPLY, "cursor": CURSOR}


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=300, deadline=None, database=None)
@given(data=st.data())
def test_any_bytes_parse_or_raise_our_error(parser: str, data: st.DataObject) -> None:
    raw = data.draw(st.one_of(st.binary(max_size=300), mutated(VALID[parser])))
    with contextlib.suppress(StreamDetectorError):
        PARSERS[parser](raw)
