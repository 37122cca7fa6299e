"""Every event kind has a JSON Schema, and what the detector sends, writes and answers is valid against it."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import zmq
from event_bench import Bench, MakeBench, a_decision, an_event, online

from stream_detector.adaptation.promise import rate_state
from stream_detector.alarms.schedule import Controls
from stream_detector.config.schedule import ScheduleConfig
from stream_detector.events import protocol
from stream_detector.events.writes import ControlWrite, VerdictWrite

KINDS = {
    "alarm": protocol.ALARM_SCHEMA,
    "score": protocol.SCORE_SCHEMA,
    "status": protocol.STATUS_SCHEMA,
    "ack": protocol.ACK_SCHEMA,
    "verdict": protocol.VERDICT_SCHEMA,
    "control": protocol.CONTROL_SCHEMA,
    "site": protocol.SITE_SCHEMA,
    "shadow": protocol.SHADOW_SCHEMA,
    "heartbeat": protocol.HEARTBEAT_SCHEMA,
    "follows": protocol.FOLLOWS_SCHEMA,
    "recovery": protocol.RECOVERY_SCHEMA,
}


def validator(schema_name: str) -> jsonschema.Draft202012Validator:
    kind = schema_name.removeprefix("stream-detector.").removesuffix("/1")
    folder = resources.files("stream_detector").joinpath("events", "schemas")
    schema = json.loads(folder.joinpath(f"{kind}-1.schema.json").read_text(encoding="utf-8"))
    assert schema["$id"] == schema_name
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def check(body: dict[str, Any]) -> str:
    """Validate one message against the schema that it names, and return that name."""
    name: str = body["schema"]
    validator(name).validate(body)
    return name


def test_there_is_one_schema_a_kind_and_no_other() -> None:
    folder = resources.files("stream_detector").joinpath("events", "schemas")
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(f"{kind}-1.schema.json" for kind in KINDS)
    for name in KINDS.values():
        validator(name)


def test_what_a_publisher_sends_and_writes_is_valid(make_bench: MakeBench, tmp_path: Path) -> None:
    events = tmp_path / "e.jsonl"
    bench = make_bench(events_path=events)
    socket = bench.joined("v1/")
    bench.publisher.alarm(an_event())
    bench.publisher.alarm(an_event(type="update", clip="a.webm"))
    bench.publisher.alarm(an_event(type="end", reason="normal", end_s=3.0))
    bench.publisher.alarm(an_event(id="b" * 32))
    bench.publisher.score(a_decision())
    bench.publisher.status(online())
    bench.publisher.acknowledge("gate", "a" * 32, "looked", "Ann", bench.ledger.epoch)
    bench.publisher.acknowledge("gate", "a" * 32, "", "")
    bench.publisher.write(VerdictWrite("gate", "a" * 32, bench.ledger.epoch, "false", "a cat", "Ann"), "key:ann")
    bench.publisher.write(VerdictWrite("gate", "b" * 32, "", "missed", at_utc=1.7e9, lasting_s=10.0), "http:ann")
    bench.publisher.controls = Controls(ScheduleConfig(), {})
    bench.publisher.write(ControlWrite("gate", {"mute_s": 60.0, "threshold": 0.7}, "Ann"), "key:ann")
    bench.publisher.write(ControlWrite("", {"mode": "away"}), "http:ann")
    overlay = {"overlay": "1" * 16, "former": None, "model": "f" * 16 + "+" + "1" * 16, "by": "", "author": "local"}
    bench.publisher.site("gate", {"type": "promoted", **overlay, "detail": "camera gate: promoted"})
    bench.publisher.site("_detector", {"type": "promise_broken", "detail": "so", "rate": rate_state([], 1.0).to_dict()})
    times = {"start_s": 1.0, "end_s": None, "score": 0.5, "peak_score": 0.6, "threshold": 0.4}
    told = {"type": "start", "id": "a" * 32, "overlay": "1" * 16, "in_service_alarmed": False, "detail": "would have"}
    bench.publisher.shadow("gate", {**told, **times})
    bench.ledger._report_problem("the disk is full")
    seen: dict[str, int] = {}

    def all_kinds() -> bool:
        bench.tick(1.0)
        while socket.poll(1):
            name = check(json.loads(socket.recv_multipart()[1]))
            seen[name] = seen.get(name, 0) + 1
        kinds = ("alarm", "score", "status", "ack", "verdict", "control", "site", "shadow", "heartbeat")
        return {KINDS[kind] for kind in kinds} <= set(seen)

    bench.until(all_kinds)
    assert seen[protocol.ALARM_SCHEMA] >= 4 and seen[protocol.ACK_SCHEMA] == 2
    rotated = events.rename(tmp_path / "e.jsonl.1")
    bench.publisher.reopen_events()
    names = [check(json.loads(line)) for path in (events, rotated) for line in path.read_bytes().splitlines()]
    assert sorted(set(names)) == [protocol.ALARM_SCHEMA, protocol.FOLLOWS_SCHEMA]


def test_events_repeated_for_late_subscribers_and_ends_after_a_restart_are_valid(bench: Bench) -> None:
    bench.publisher.alarm(an_event())
    bench.publisher.status(online())
    socket = bench.subscriber("v1/alarm/", "v1/status/")
    repeated = [bench.next(socket)[1] for _ in range(2)]
    assert all(body["replayed"] for body in repeated)
    for body in repeated:
        check(body)
    bench.stop()
    bench.start()
    texts, _ = bench.ledger.since("v1/alarm/gate/", bench.ledger.epoch, 0, 10)
    end = json.loads(texts[-1])
    assert end["reason"] == "restart"
    check(end)


def test_replies_of_the_recovery_socket_are_valid(bench: Bench) -> None:
    for _ in range(3):
        bench.publisher.alarm(an_event())
        bench.publisher.score(a_decision())
    socket = bench.socket(zmq.DEALER)
    requests: list[Any] = [
        {"from": {"v1/alarm/gate/": 1}, "limit": 1, "request": "r1"},
        {"from": {"v1/alarm/gate/": 9}, "epoch": "f" * 16},
        {"from": {"v1/score/gate/": 0}, "epoch": protocol.FIRST_EPOCH},
        {"snapshot": ["v1/"]},
        {"neither": 1},
    ]
    for request in requests:
        reply = bench.ask(socket, request)
        check(reply)
        for _, body in reply.get("events", ()):
            check(body)


def test_a_reply_that_names_lost_events_is_valid() -> None:
    epoch = "0123456789abcdef"
    reply = {
        "schema": protocol.RECOVERY_SCHEMA,
        "epoch": epoch,
        "request": "",
        "lost": {"v1/alarm/gate/": [12, epoch, 40], "v1/ack/gate/": [3, "", 3]},
        "reached": {"v1/status/gate/": [epoch, 7]},
        "more": False,
        "unknown_epoch": False,
        "events": [],
    }
    check(reply)
    protocol.decode_reply(json.dumps(reply).encode())


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("score", {"raw": 1.5}),
        ("score", {"timing": {"queue": 1.0}}),
        ("status", {"state": "trouble"}),
        ("status", {"camera": "Gate 1"}),
        ("ack", {"note": "x" * 501}),
        ("ack", {"alarm_epoch": "now"}),
    ],
)
def test_a_wrong_message_is_refused(kind: str, wrong: dict[str, Any]) -> None:
    epoch = "0123456789abcdef"
    bodies = {
        "score": protocol.score_to_dict(a_decision(), epoch, 1, 1.0),
        "status": protocol.status_to_dict(online(), epoch, 1, 1.0),
        "ack": protocol.ack_to_dict("gate", "a" * 32, "", "", epoch, 1, 1.0),
    }
    check(bodies[kind])
    assert not validator(KINDS[kind]).is_valid({**bodies[kind], **wrong})
