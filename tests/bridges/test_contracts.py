"""docs/asyncapi.yaml and the bridges' JSON Schemas, against what is really sent."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bridge_rig import EPOCH, Lab, alarm, alarm_body, camera_notice
from event_bench import Bench, a_decision, an_event, online
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from stream_detector.alarms.schedule import Controls
from stream_detector.bridges.kinds import TargetSettings
from stream_detector.bridges.notice import Notice
from stream_detector.bridges.outbox import Outbox
from stream_detector.bridges.webhook import Webhook, WebhookSettings
from stream_detector.config.schedule import ScheduleConfig
from stream_detector.events.protocol import parse_topic
from stream_detector.events.writes import ControlWrite, VerdictWrite

yaml = pytest.importorskip("yaml")

DOCS = Path(__file__).parents[2] / "docs"
API = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
OWN = ("bridge-detector", "bridge-summary", "dead-letter", "webhook")


def bridge_schema(kind: str) -> dict[str, Any]:
    folder = resources.files("stream_detector").joinpath("bridges", "schemas")
    loaded: dict[str, Any] = json.loads(folder.joinpath(f"{kind}-1.schema.json").read_text(encoding="utf-8"))
    return loaded


def check(kind: str, body: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(bridge_schema(kind)).validate(body)


def payload(message: str) -> dict[str, Any]:
    """The schema of a message of the document; references into the package are followed."""
    found: dict[str, Any] = API["components"]["messages"][message]["payload"]
    if "$ref" in found:
        found = json.loads((DOCS / found["$ref"]).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def channels(server: str) -> dict[str, tuple[re.Pattern[str], list[str]]]:
    """Channel → (pattern of its topics, names of its messages)."""
    result = {}
    for name, channel in API["channels"].items():
        if channel["address"] and channel["servers"][0]["$ref"] == f"#/servers/{server}":
            text = re.escape(channel["address"]).replace(r"\{camera\}", "[a-z0-9_-]+")
            pattern = re.compile(text.replace(r"\{base\}", "stream-detector"))
            result[name] = (pattern, [ref["$ref"].rpartition("/")[2] for ref in channel["messages"].values()])
    return result


def valid(server: str, topic: str, body: Any) -> str:
    """The channel of a topic, after its payload was found valid against one of its messages."""
    ((name, messages),) = [(n, m) for n, (pattern, m) in channels(server).items() if pattern.fullmatch(topic)]
    validators = [jsonschema.Draft202012Validator(payload(message), registry=Registry()) for message in messages]
    assert any(validator.is_valid(body) for validator in validators), (topic, body)
    return name


def test_the_schemas_of_the_bridges_are_these() -> None:
    folder = resources.files("stream_detector").joinpath("bridges", "schemas")
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(f"{kind}-1.schema.json" for kind in OWN)
    for kind in OWN:
        schema = bridge_schema(kind)
        DRAFT202012.create_resource(schema)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$id"] == f"stream-detector.{kind}/1"


def test_every_reference_of_the_document_leads_somewhere() -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for value in node.values() for ref in references(value)]
        return [ref for value in node for ref in references(value)] if isinstance(node, list) else []

    found = references(API)
    assert len(found) > 50
    for reference in found:
        if not reference.startswith("#/"):
            assert (DOCS / reference).is_file(), reference
            continue
        node = API
        for part in reference[2:].split("/"):
            assert part in node, reference
            node = node[part]


def test_every_kind_of_event_has_a_channel() -> None:
    names = channels("zeromq")
    for name, (pattern, _) in names.items():
        topic = f"v1/{name}/gate/" if name != "heartbeat" else "v1/heartbeat/"
        assert pattern.fullmatch(topic) and parse_topic(topic)[0] == name
    assert set(names) == {"alarm", "status", "score", "ack", "verdict", "control", "site", "shadow", "heartbeat"}


def test_what_a_publisher_sends_fits_the_document(bench: Bench) -> None:
    socket = bench.joined("v1/")
    bench.publisher.alarm(an_event(clip="a.webm", snapshot="a.jpg"))
    bench.publisher.alarm(an_event(type="end", reason="normal", end_s=3.0))
    bench.publisher.score(a_decision())
    bench.publisher.status(online())
    bench.publisher.acknowledge("gate", "a" * 32, "looked", "Ann", bench.ledger.epoch)
    bench.publisher.write(VerdictWrite("gate", "a" * 32, bench.ledger.epoch, "false", "a cat", "Ann"), "key:ann")
    bench.publisher.controls = Controls(ScheduleConfig(), {})
    bench.publisher.write(ControlWrite("gate", {"mute_s": 60.0}, "Ann"), "key:ann")
    bench.publisher.site("gate", {"type": "promoted", "overlay": "1" * 16, "former": None, "detail": "promoted"})
    times = {"start_s": 1.0, "end_s": None, "score": 0.5, "peak_score": 0.6, "threshold": 0.4}
    told = {"type": "start", "id": "a" * 32, "overlay": "1" * 16, "in_service_alarmed": False, "detail": "would have"}
    bench.publisher.shadow("gate", {**told, **times})
    bench.ledger._report_problem("the disk is full")
    seen = set()

    def all_channels() -> bool:
        bench.tick(1.0)
        while socket.poll(1):
            topic, body = socket.recv_multipart()
            seen.add(valid("zeromq", topic.decode(), json.loads(body)))
        return seen == set(channels("zeromq"))

    bench.until(all_channels)


def detector_notice(tmp_path: Path) -> Notice:
    box = Outbox(tmp_path / "own.sqlite3")
    body = {"schema": "stream-detector.bridge-detector/1", "state": "silent", "before": None, "dead_s": 15.0}
    box.own_notice(lambda n: [("a", "x", n, 0.0)], "bridge/detector/", "detector", "silent", body, 1.7e9)
    item = box.item(box.heads("a")[0])
    box.close()
    assert item is not None
    return item.notice


def summary_notice(tmp_path: Path) -> Notice:
    box = Outbox(tmp_path / "summary.sqlite3")
    box.add([("a", "gate", alarm(n), 0.0) for n in range(1, 4)])
    box.fold("a", "age", 2e9, 1.8e9)
    item = box.item(box.heads("a")[0])
    box.close()
    assert item is not None
    return item.notice


def test_what_the_bridges_send_and_write_themselves_is_valid(tmp_path: Path) -> None:
    silent, summary = detector_notice(tmp_path), summary_notice(tmp_path)
    check("bridge-detector", silent.body)
    check("bridge-summary", summary.body)
    lab = Lab(tmp_path, Webhook, WebhookSettings.model_validate({"url": "https://x.example/", "snapshot": True}))
    picture = lab.evidence / "gate" / "a.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"x")
    shown = alarm(1, evidence={"clip": None, "snapshot": str(picture)})
    for notice in (shown, alarm(2, what="end"), camera_notice(1, "offline"), silent, summary):
        for with_picture in (True, False):
            check("webhook", json.loads(lab.target.body(notice, picture=with_picture)))
    lab.outbox.close()
    assert not jsonschema.Draft202012Validator(bridge_schema("webhook")).is_valid({"schema": "x"})


def test_a_dead_letter_is_valid(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings=TargetSettings())
    lab.target.script.append("refused")
    lab.add(alarm(1))
    lab.run()
    (letter,) = lab.letters()
    check("dead-letter", letter)
    lab.outbox.close()


def test_what_the_mqtt_bridge_publishes_fits_the_document(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt")
    from stream_detector.bridges.mqtt import MqttSettings, MqttTarget

    lab = Lab(tmp_path, MqttTarget, MqttSettings.model_validate({"host": "127.0.0.1", "snapshot": True}))
    seen = set()
    status = {"schema": "stream-detector.status/1", "detail": "picture_quality: black"}
    for notice in (
        alarm(1),
        alarm(2, what="update"),
        alarm(3, what="end"),
        camera_notice(1, "covered", **status),
        detector_notice(tmp_path),
        summary_notice(tmp_path),
    ):
        seen.add(valid("mqtt", lab.target.event_topic(notice), notice.body))
        for topic, data in lab.target.states(notice):
            text = data.decode()
            seen.add(valid("mqtt", topic, text if text in ("ON", "OFF") else json.loads(text)))
    seen.add(valid("mqtt", "stream-detector/availability", "online"))
    seen.add(valid("mqtt", "stream-detector/gate/snapshot", "bytes"))
    for topic, body in (
        ("set/mode", "away"),
        ("gate/set/threshold", 0.7),
        ("gate/set/threshold", "default"),
        ("gate/set/mute", 60),
        ("gate/set/acknowledge", "newest"),
    ):
        seen.add(valid("mqtt", f"stream-detector/{topic}", body))
        lab.target.command(f"stream-detector/{topic}", str(body).encode()) if "acknowledge" not in topic else None
    assert seen == set(channels("mqtt"))
    assert alarm_body(1)["epoch"] == EPOCH
    lab.outbox.close()
