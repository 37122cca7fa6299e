"""MQTT against a real broker: retained states, events, last will, and a broker that loses its memory."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bridge_rig import Broker, Lab, MqttListener, alarm, camera_notice, needs_broker, until

pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed: pip install 'stream-detector[mqtt]'")

from stream_detector.bridges.home_assistant import camera_entities, command_entities, detector_entities
from stream_detector.bridges.kinds import DeliveryError
from stream_detector.bridges.mqtt import MqttSettings, MqttTarget
from stream_detector.bridges.notice import Notice
from stream_detector.events.writes import parse_write

BASE = "stream-detector"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def listen(broker: Broker) -> Iterator[Callable[..., MqttListener]]:
    made: list[MqttListener] = []

    def make(*topics: str) -> MqttListener:
        made.append(MqttListener(broker.port, *topics))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


def lab_of(tmp_path: Path, port: int, **values: Any) -> Lab:
    given = {"host": "127.0.0.1", "port": port, "timeout_s": 5.0, "backoff_min_s": 0.1, **values}
    lab = Lab(tmp_path, MqttTarget, MqttSettings.model_validate(given))
    lab.target.open()
    until(lab.target._connected.is_set, "the connection")
    return lab


def flush(lab: Lab) -> None:
    """Deliver everything, through outages."""

    def done() -> bool:
        lab.clock.advance(0.5)
        lab.delivery.came_back()
        while lab.delivery.step():
            pass
        return lab.outbox.waiting() == 0

    until(done, "the deliveries")


@needs_broker
def test_states_are_retained_and_events_are_not(
    tmp_path: Path, broker: Broker, listen: Callable[..., MqttListener]
) -> None:
    live = listen()
    lab = lab_of(tmp_path, broker.port, snapshot=True)
    picture = lab.evidence / "gate" / "a.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"\xff\xd8 picture")
    start = alarm(1, evidence={"clip": None, "snapshot": str(picture)})
    lab.add(camera_notice(1, "covered", detail="picture_quality: covered"), start)
    flush(lab)
    assert until(lambda: len(live.events()) == 2) and live.events()[1] == start.body
    late = listen(f"{BASE}/#")
    kept = (
        "availability",
        *(f"gate/{name}" for name in ("alarm", "picture", "state", "score", "threshold", "snapshot")),
    )
    until(lambda: all(late.last(f"{BASE}/{name}") for name in kept), "what is retained")
    assert late.last(f"{BASE}/gate/alarm") == b"ON" and late.last(f"{BASE}/gate/picture") == b"ON"
    assert json.loads(late.last(f"{BASE}/gate/state") or b"")["state"] == "online"
    assert late.last(f"{BASE}/gate/score") == b"0.9" and late.last(f"{BASE}/gate/threshold") == b"0.6"
    assert late.last(f"{BASE}/gate/snapshot") == b"\xff\xd8 picture"
    assert late.last(f"{BASE}/availability") == b"online"
    assert not late.events() and all(retained for _, _, retained in late.messages)
    lab.add(alarm(2, what="end"))
    flush(lab)
    until(lambda: live.last(f"{BASE}/gate/alarm") == b"OFF", "the end")
    lab.target.close()
    until(lambda: live.last(f"{BASE}/availability") == b"offline", "the goodbye")
    lab.outbox.close()


@needs_broker
def test_a_bridge_that_is_killed_is_offline_by_its_last_will(
    tmp_path: Path, broker: Broker, listen: Callable[..., MqttListener]
) -> None:
    live = listen(f"{BASE}/availability")
    lab = lab_of(tmp_path, broker.port)
    lab.target.tick()
    until(lambda: live.last(f"{BASE}/availability") == b"online")
    lab.target._client.loop_stop()
    sock = lab.target._client.socket()
    assert sock is not None
    sock.close()  # as a kill does
    until(lambda: live.last(f"{BASE}/availability") == b"offline", "the last will")
    lab.outbox.close()


@needs_broker
def test_a_broker_that_lost_its_memory_gets_events_and_states_again(
    tmp_path: Path, broker: Broker, listen: Callable[..., MqttListener]
) -> None:
    lab = lab_of(tmp_path, broker.port, resend_s=30)
    lab.add(*(alarm(n) for n in range(1, 5)), alarm(5, what="end"))
    flush(lab)
    broker.kill()
    until(lambda: not lab.target._connected.is_set())
    with pytest.raises(DeliveryError) as caught:
        lab.target.deliver(alarm(6))
    assert caught.value.verdict == "unreachable"
    broker.start()
    live = listen()
    until(lab.target._connected.is_set, "the new connection")
    lab.add(camera_notice(1, "online"))

    def heard() -> bool:
        lab.clock.advance(1.0)
        lab.target.tick()
        flush(lab)
        return {event["seq"] for event in live.events()} == {1, 2, 3, 4, 5}

    until(heard, "all events")
    late = listen(f"{BASE}/#")
    until(lambda: late.last(f"{BASE}/gate/alarm") == b"OFF", "the retained states")
    states = [payload for topic, payload, _ in live.messages if topic == f"{BASE}/gate/alarm"]
    assert b"ON" not in states  # what is sent again changes no state: the alarm is over
    lab.target.close()
    lab.outbox.close()


@needs_broker
def test_a_wrong_password_is_told_without_it(tmp_path: Path) -> None:
    broker = Broker(tmp_path, anonymous=False)
    given = {"host": "127.0.0.1", "port": broker.port, "username": "me", "password": "hunter2"}
    lab = Lab(tmp_path, MqttTarget, MqttSettings.model_validate(given))
    lab.target.open()
    until(lambda: "refused" in lab.target._failure or "hung up" in lab.target._failure)
    with pytest.raises(DeliveryError) as caught:
        lab.target.deliver(alarm(1))
    assert "hunter2" not in str(caught.value) and caught.value.verdict == "unreachable"
    lab.target.close()
    broker.kill()
    lab.outbox.close()


@needs_broker
def test_home_assistant_is_told_again_when_it_starts(
    tmp_path: Path, broker: Broker, listen: Callable[..., MqttListener]
) -> None:
    lab = lab_of(tmp_path, broker.port)
    lab.add(alarm(1))
    flush(lab)
    live = listen("homeassistant/#")
    config = f"homeassistant/binary_sensor/{BASE}/gate_alarm/config"
    until(lambda: live.last(config))
    count = len(live.messages)
    live._client.publish("homeassistant/status", "online")
    until(lab.target._refresh.is_set, "the word of Home Assistant")
    lab.target.tick()
    until(lambda: len([m for m in live.messages[count:] if m[0] == config]) == 1, "the configuration")
    lab.target.close()
    lab.outbox.close()


def test_detector_and_camera_messages_name_their_topics(tmp_path: Path) -> None:
    given = {"host": "127.0.0.1", "base": "site/one"}
    lab = Lab(tmp_path, MqttTarget, MqttSettings.model_validate(given))
    silent = Notice("bridge/detector/", "e" * 16, 1, "detector", "", "silent", 0.0, {"emitted_utc": "x"})
    assert lab.target.event_topic(silent) == "site/one/_detector/event"
    assert json.loads(dict(lab.target.states(silent))["site/one/detector"])["state"] == "silent"
    assert dict(lab.target.states(alarm(1, what="end")))["site/one/gate/alarm"] == b"OFF"
    lab.outbox.close()


# -- commands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "payload", "write"),
    [
        ("set/mode", "away", {"kind": "control", "mode": "away"}),
        ("gate/set/threshold", "0.7", {"kind": "control", "camera": "gate", "threshold": 0.7}),
        ("gate/set/threshold", "default", {"kind": "control", "camera": "gate", "threshold": None}),
        ("gate/set/mute", "600", {"kind": "control", "camera": "gate", "mute_s": 600.0}),
        ("gate/set/acknowledge", "a" * 32, {"kind": "ack", "camera": "gate", "id": "a" * 32, "note": ""}),
    ],
)
def test_a_message_on_a_set_topic_is_a_write(tmp_path: Path, topic: str, payload: str, write: dict[str, Any]) -> None:
    lab = Lab(tmp_path, MqttTarget, MqttSettings.model_validate({"host": "127.0.0.1", "commands": True}))
    made = lab.target.command(f"{BASE}/{topic}", payload.encode())
    assert {k: v for k, v in made.items() if k not in ("by", "alarm_epoch")} == write and made["by"] == "mqtt:here"
    parse_write(made)
    lab.outbox.close()


@pytest.mark.parametrize("topic", ["gate/set/acknowledge", "gate/set/zoom", "Gate!/set/mute", "a/b/set/mute"])
def test_a_message_that_is_no_command_is_refused(tmp_path: Path, topic: str) -> None:
    lab = Lab(tmp_path, MqttTarget, MqttSettings.model_validate({"host": "127.0.0.1", "commands": True}))
    with pytest.raises(ValueError, match=r"none of the set topics|no alarm"):
        lab.target.command(f"{BASE}/{topic}", b"newest")
    lab.outbox.close()


@needs_broker
@pytest.mark.parametrize("commands", [True, False])
def test_commands_are_off_unless_asked_for_and_retained_ones_are_never_taken(
    tmp_path: Path, broker: Broker, listen: Callable[..., MqttListener], commands: bool
) -> None:
    lab = lab_of(tmp_path, broker.port, commands=commands)
    written: list[dict[str, Any]] = []
    lab.target.context = dataclasses.replace(lab.target.context, write=lambda v: written.append(v) or {})
    live = listen(f"{BASE}/#")
    lab.add(alarm(1))
    flush(lab)
    live._client.publish(f"{BASE}/gate/set/mute", "60", qos=1, retain=True).wait_for_publish(10)
    live._client.publish(f"{BASE}/gate/set/acknowledge", "newest", qos=1).wait_for_publish(10)
    if commands:
        until(lambda: len(written) == 2, "the commands")
        assert [w["kind"] for w in written] == ["control", "ack"] and written[1]["id"] == alarm(1).body["id"]
        lab.target._client.reconnect()  # the retained one comes again, marked as such
        live._client.publish(f"{BASE}/set/mode", "away", qos=1).wait_for_publish(10)
    lab.add(alarm(2, what="end"))
    until(lambda: flush(lab) or live.last(f"{BASE}/gate/alarm") == b"OFF")
    assert sum("mute_s" in w for w in written) == (1 if commands else 0)
    lab.target.close()
    lab.outbox.close()


# -- discovery ----------------------------------------------------------------------------------------------------

DOCUMENTED = json.loads((Path(__file__).parent / "home_assistant_discovery.json").read_text(encoding="utf-8"))
TOPIC = re.compile(r"homeassistant/(?P<component>[a-z_]+)/(?:[A-Za-z0-9_-]+/)?[A-Za-z0-9_-]+/config")


@pytest.mark.parametrize("picture", [False, True])
def test_discovery_keeps_to_the_documents_of_home_assistant(picture: bool) -> None:
    import jsonschema

    place = ("homeassistant", BASE, BASE)
    entities = camera_entities(*place, "gate", picture) | detector_entities(*place) | command_entities(*place, "gate")
    seen = set()
    for topic, payload in entities.items():
        found = TOPIC.fullmatch(topic)
        assert found, topic
        component = found["component"]
        seen.add(component)
        schema = {**DOCUMENTED["components"][component], "$defs": DOCUMENTED["$defs"]}
        jsonschema.validate(json.loads(json.dumps(payload)), schema)
    assert seen == {"binary_sensor", "sensor", "number", "button"} | ({"image"} if picture else set())
    ids = [payload["unique_id"] for payload in entities.values()]
    assert len(set(ids)) == len(ids)


def test_every_entity_listens_to_a_topic_that_is_sent(tmp_path: Path) -> None:
    lab = Lab(tmp_path, MqttTarget, MqttSettings.model_validate({"host": "127.0.0.1", "snapshot": True}))
    body = {"emitted_utc": "x"}
    notices = [
        alarm(1),
        camera_notice(1, "covered"),
        Notice("bridge/detector/", "e" * 16, 1, "detector", "", "silent", 0.0, body),
    ]
    sent = {topic for notice in notices for topic, _ in lab.target.states(notice)}
    sent |= {f"{BASE}/availability", f"{BASE}/gate/snapshot"}
    entities = camera_entities("homeassistant", BASE, BASE, "gate", True) | detector_entities(
        "homeassistant", BASE, BASE
    )
    for payload in entities.values():
        topics = {payload[key] for key in ("state_topic", "image_topic", "json_attributes_topic") if key in payload}
        topics |= {entry["topic"] for entry in payload["availability"]}
        assert topics <= sent, payload["name"]
    lab.outbox.close()
