"""Webhooks: signed, idempotent, TLS checked, and never to an address that was not allowed."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bridge_rig import Lab, Receiver, alarm
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.bridges import address_rules
from stream_detector.bridges.address_rules import AddressError, may_connect, parse_networks, resolve
from stream_detector.bridges.kinds import DeliveryError
from stream_detector.bridges.webhook import Webhook, WebhookSettings

SECRET = "a shared secret"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path)
    yield made
    made.close()


def lab_of(tmp_path: Path, receiver: Receiver, host: str = "localhost", **values: Any) -> Lab:
    given = {
        "url": f"https://{host}:{receiver.port}/hook?x=1",
        "secret": SECRET,
        "allow": ["127.0.0.0/8", "::1"],
        "ca_file": str(receiver.cert),
        "backoff_min_s": 1.0,
        **values,
    }
    return Lab(tmp_path, Webhook, WebhookSettings.model_validate(given))


def test_a_notice_is_posted_signed_and_with_its_key(tmp_path: Path, receiver: Receiver) -> None:
    lab = lab_of(tmp_path, receiver, token="t0ken")
    lab.add(alarm(7))
    lab.run()
    ((headers, body, _),) = receiver.posts
    assert headers["idempotency-key"] == alarm(7).key and headers["authorization"] == "Bearer t0ken"
    message = headers["x-timestamp"].encode() + b"." + body
    assert headers["x-signature"] == "sha256=" + hmac.new(SECRET.encode(), message, hashlib.sha256).hexdigest()
    told = json.loads(body)
    assert told["event"] == alarm(7).body and (told["kind"], told["what"], told["snapshot"]) == ("alarm", "start", None)
    lab.outbox.close()


def test_a_repeat_carries_the_same_key_and_body(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers.extend([500, 503, 429])
    lab = lab_of(tmp_path, receiver)
    lab.add(alarm(1), alarm(2))
    lab.run(60.0)
    assert receiver.keys == [alarm(1).key] * 4 + [alarm(2).key]
    assert len({body for _, body, _ in receiver.posts[:4]}) == 1
    assert [headers["x-attempt"] for headers, _, _ in receiver.posts] == ["1", "2", "3", "4", "1"]
    lab.outbox.close()


def test_retry_after_is_kept_within_the_limit(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers.append(429)
    receiver.headers["Retry-After"] = "20"
    lab = lab_of(tmp_path, receiver, backoff_max_s=60)
    lab.add(alarm(1))
    lab.run(19.0)
    assert len(receiver.posts) == 1
    lab.run(3.0)
    assert len(receiver.posts) == 2
    lab.outbox.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404, 410])
def test_a_refusal_or_a_redirect_is_set_aside_and_not_followed(tmp_path: Path, receiver: Receiver, status: int) -> None:
    receiver.answers.append(status)
    receiver.headers["Location"] = f"https://localhost:{receiver.port}/other"
    lab = lab_of(tmp_path, receiver)
    lab.add(alarm(1), alarm(2))
    lab.run()
    assert receiver.keys == [alarm(1).key, alarm(2).key] and lab.letters()[0]["reason"].startswith(f"answered {status}")
    lab.outbox.close()


def test_the_snapshot_goes_along_and_is_left_out_where_it_is_too_large(tmp_path: Path, receiver: Receiver) -> None:
    lab = lab_of(tmp_path, receiver, snapshot=True)
    picture = lab.evidence / "gate" / "a.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"\xff\xd8 picture")
    evidence = {"clip": None, "snapshot": f"runs/evidence/gate/{picture.name}"}
    receiver.answers.extend([200, 413, 200])
    lab.add(alarm(1, evidence=evidence), alarm(2, evidence=evidence))
    lab.run()
    pictures = [told["snapshot"] and base64.b64decode(told["snapshot"]["base64"]) for told in receiver.bodies()]
    assert pictures == [b"\xff\xd8 picture", b"\xff\xd8 picture", None] and not lab.letters()
    lab.outbox.close()


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.jpg", "gate/../../secret.jpg", "a\0.jpg", "gate/link.jpg"])
def test_a_path_in_an_event_opens_nothing_outside_the_evidence(tmp_path: Path, receiver: Receiver, name: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "evidence" / "gate").mkdir(parents=True)
    (tmp_path / "evidence" / "gate" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    lab = lab_of(tmp_path, receiver, snapshot=True, snapshot_wait_s=0)
    lab.add(alarm(1, evidence={"clip": None, "snapshot": name}))
    lab.run()
    assert receiver.bodies()[0]["snapshot"] is None
    lab.outbox.close()


def test_a_certificate_that_is_not_trusted_or_of_another_name_sends_nothing(tmp_path: Path, receiver: Receiver) -> None:
    for number, changes in enumerate(({"ca_file": None}, {"host": "127.0.0.2"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        lab = lab_of(folder, receiver, **changes)  # type: ignore[arg-type]
        lab.add(alarm(1))
        lab.run(5.0)
        assert not receiver.posts and lab.outbox.waiting() == 1 and not lab.letters()
        lab.outbox.close()


def test_an_address_that_is_not_allowed_is_not_connected_to(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(tmp_path, receiver, allow=["10.0.0.0/8"])
    connected: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kw: connected.append(args))
    with pytest.raises(DeliveryError, match="allow"):
        lab.target.deliver(alarm(1))
    assert not connected
    lab.outbox.close()


def test_the_connection_goes_to_the_address_that_was_judged(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["127.0.0.1", "169.254.169.254"])  # the second answer of a name server that rebinds

    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    lab = lab_of(tmp_path, receiver)
    real = socket.create_connection
    asked: list[Any] = []

    def connect(address: Any, *args: Any, **kw: Any) -> Any:
        asked.append(address[0])
        monkeypatch.undo()
        return real(address, *args, **kw)

    monkeypatch.setattr(address_rules.socket, "getaddrinfo", lookup)
    monkeypatch.setattr("stream_detector.bridges.webhook.socket.create_connection", connect)
    lab.target.deliver(alarm(1))
    assert asked == ["127.0.0.1"] and len(receiver.posts) == 1
    lab.outbox.close()


def test_a_receiver_that_drips_is_left_after_the_time_out(tmp_path: Path, receiver: Receiver) -> None:
    import threading

    receiver.hold = threading.Event()
    lab = lab_of(tmp_path, receiver, timeout_s=0.3)
    with pytest.raises(DeliveryError) as caught:
        lab.target.deliver(alarm(1))
    assert caught.value.verdict == "unknown"
    receiver.hold.set()
    lab.outbox.close()


def test_a_receiver_that_is_away_is_out_of_reach(tmp_path: Path, receiver: Receiver) -> None:
    lab = lab_of(tmp_path, receiver)
    receiver.close()
    with pytest.raises(DeliveryError) as caught:
        lab.target.deliver(alarm(1))
    assert caught.value.verdict == "unreachable" and str(receiver.port) not in str(caught.value)
    lab.outbox.close()


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (b'{"verdict": "false", "note": "a cat", "by": "vlm"}', "false"),
        (b"", None),
        (b"no JSON", None),
        (b'{"verdict": "certainly"}', None),
        (b'{"answer": 42}', None),
    ],
)
def test_a_verifier_answers_with_a_verdict_and_anything_else_counts_as_silence(
    tmp_path: Path, receiver: Receiver, said: bytes, word: str | None
) -> None:
    lab = lab_of(tmp_path, receiver, verify=True)
    written: list[dict[str, Any]] = []
    lab.target.context = dataclasses.replace(lab.target.context, write=lambda v: written.append(v) or {})
    receiver.say = said
    lab.add(alarm(1), alarm(2, what="end"))
    lab.run()
    assert len(receiver.posts) == 2 and not lab.letters()
    assert [(w["verdict"], w["id"], w["by"]) for w in written] == ([(word, f"{1:032x}", "vlm")] if word else [])
    lab.outbox.close()


def test_a_verdict_that_may_not_be_written_is_logged_and_the_alarm_is_delivered(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    lab = lab_of(tmp_path, receiver, verify=True)
    receiver.say = b'{"verdict": "false"}'
    lab.add(alarm(1))
    lab.run()
    assert "the verifier's answer was not taken" in caplog.text and lab.outbox.waiting() == 0 and not lab.letters()
    lab.outbox.close()


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "255.255.255.255"),
    ],
)
def test_without_a_list_only_public_addresses_are_allowed(address: str) -> None:
    assert not may_connect(ipaddress.ip_address(address), ())


def test_public_addresses_and_listed_networks_are_allowed() -> None:
    assert may_connect(ipaddress.ip_address("93.184.215.14"), ())
    assert may_connect(ipaddress.ip_address("2606:2800:220:1::1"), ())
    listed = parse_networks(["192.168.1.0/24", "fd00::/8"])
    assert may_connect(ipaddress.ip_address("192.168.1.9"), listed)
    assert may_connect(ipaddress.ip_address("::ffff:192.168.1.9"), listed)
    assert not may_connect(ipaddress.ip_address("93.184.215.14"), listed)


@given(st.ip_addresses(), st.lists(st.ip_addresses(v=4).map(lambda a: f"{a}/12"), min_size=1, max_size=3))
def test_with_a_list_only_what_lies_in_it_is_allowed(address: Any, texts: list[str]) -> None:
    listed = parse_networks(texts)
    inside = any(address_rules.inner(address) in n for n in listed if n.version == address_rules.inner(address).version)
    assert may_connect(address, listed) == inside


def test_a_name_with_one_bad_and_one_good_address_uses_the_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", (a, 443)) for a in ("10.0.0.1", "93.184.215.14", "93.184.215.14")]
    monkeypatch.setattr(address_rules.socket, "getaddrinfo", lambda *a, **k: found)
    assert resolve("x.example", 443, ()) == ["93.184.215.14"]
    monkeypatch.setattr(address_rules.socket, "getaddrinfo", lambda *a, **k: found[:1])
    with pytest.raises(AddressError) as caught:
        resolve("x.example", 443, ())
    assert not caught.value.away
