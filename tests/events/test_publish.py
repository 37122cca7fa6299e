"""The publisher over real sockets on loopback: greeting, recovery, heartbeat, refusals, CURVE, slow subscribers."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import zmq
from event_bench import Bench, MakeBench, a_decision, an_event, online

from stream_detector.config import PublishConfig
from stream_detector.errors import ConfigError, EndpointError, UsageError
from stream_detector.events import curve, endpoint, protocol
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.system.rate_limit import RateLimiter
from stream_detector.types import CameraStatus


def test_a_plain_subscriber_gets_what_the_file_holds(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench(events_path=tmp_path / "runs" / "e.jsonl")
    socket = bench.joined("v1/alarm/")
    for kind in ("start", "update", "end"):
        end = {"reason": "normal", "end_s": 3.0} if kind == "end" else {}
        bench.publisher.alarm(an_event(type=kind, **end))
        bench.publisher.score(a_decision())
    received = [socket.recv_multipart() for _ in range(3) if socket.poll(2000)]
    lines = (tmp_path / "runs" / "e.jsonl").read_bytes().splitlines()
    assert [body for _, body in received] == lines
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3]
    assert {topic for topic, _ in received} == {b"v1/alarm/gate/"}


def test_a_late_joiner_is_greeted_with_open_alarms_and_last_status(bench: Bench) -> None:
    bench.publisher.alarm(an_event(id="over"))
    bench.publisher.alarm(an_event(id="over", type="end", reason="normal"))
    bench.publisher.alarm(an_event(id="open"))
    bench.publisher.alarm(an_event(id="open", type="update"))
    bench.publisher.alarm(an_event(id="open", type="update", score=0.7))
    bench.publisher.alarm(an_event(id="other", camera="gate2"))
    bench.publisher.status(CameraStatus("gate", "", "connecting"))
    bench.publisher.status(online())
    socket = bench.subscriber("v1/alarm/gate/", "v1/status/gate/")
    got = [bench.next(socket) for _ in range(3)]
    assert all(body["replayed"] is True for _, body in got)
    assert [(t, b.get("id"), b.get("type"), b["seq"], b.get("state")) for t, b in got] == [
        ("v1/alarm/gate/", "open", "start", 3, None),
        ("v1/alarm/gate/", "open", "update", 5, None),
        ("v1/status/gate/", None, None, 2, "online"),
    ]


def test_many_subscriptions_cause_few_snapshots(bench: Bench) -> None:
    bench.publisher.alarm(an_event())
    watcher = bench.subscriber("v1/alarm/gate/")
    bench.next(watcher)
    others = [bench.subscriber("v1/alarm/gate/", f"v1/alarm/x{i}/") for i in range(20)]
    bench.clock.advance(1)
    for other in others:
        bench.until(lambda: other.poll(1) or bench.tick(0.3))  # noqa: B023
    replays = 0
    while watcher.poll(50):
        watcher.recv_multipart()
        replays += 1
    assert 1 <= replays < 20


def test_the_heartbeat_tells_last_seqs_ages_and_trouble(bench: Bench) -> None:
    socket = bench.joined()
    socket.subscribe(protocol.HEARTBEAT_TOPIC)
    bench.publisher.alarm(an_event())
    bench.publisher.score(a_decision())
    bench.ledger._report_problem("the disk is full")
    bench.clock.advance(2.5)

    def trouble() -> Any:
        bench.tick(1.0)
        body = json.loads(socket.recv_multipart()[1]) if socket.poll(1) else {}
        return body if body.get("problem") else None

    body = bench.until(trouble)
    assert body["last"] == {"v1/alarm/gate/": 1, "v1/score/gate/": 1, "v1/status/_detector/": 1}
    assert body["scored_age_s"]["gate"] >= 2.5 and body["scored_age_s"]["yard"] is None
    assert body["problem"] == body["trouble"] == "the disk is full" and body["epoch"] == bench.ledger.epoch
    protocol.decode_message([b"v1/heartbeat/", json.dumps(body).encode()])


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
def test_recovery_answers_what_was_missed(bench: Bench, kind: int) -> None:
    for _ in range(5):
        bench.publisher.alarm(an_event())
        bench.publisher.score(a_decision())
    socket = bench.socket(kind)
    reply = bench.ask(socket, {"from": {"v1/alarm/gate/": 2, "v1/score/gate/": 4, "v1/status/no/": 0}, "request": "r1"})
    assert [(topic, body["seq"]) for topic, body in reply["events"]] == [
        *(("v1/alarm/gate/", seq) for seq in (3, 4, 5)),
        ("v1/score/gate/", 5),
    ]
    assert (reply["request"], reply["more"], reply["epoch"]) == ("r1", False, bench.ledger.epoch)
    parsed = protocol.decode_reply(json.dumps(reply).encode())
    assert parsed.events[0].camera == "gate" and not parsed.unknown_epoch
    part = bench.ask(socket, {"from": {"v1/alarm/gate/": 0}, "limit": 2})
    assert [body["seq"] for _, body in part["events"]] == [1, 2] and part["more"] is True
    assert bench.ask(socket, {"from": {"v1/alarm/gate/": 9}, "epoch": "f" * 16})["unknown_epoch"] is True
    snapshot = bench.ask(socket, {"snapshot": ["v1/"]})
    assert snapshot["last"] == {topic: [bench.ledger.epoch, 5] for topic in ("v1/alarm/gate/", "v1/score/gate/")}
    assert [body["seq"] for _, body in snapshot["events"]] == [5] and snapshot["events"][0][1]["replayed"] is True


def test_bad_requests_get_an_error_and_change_nothing(bench: Bench) -> None:
    socket = bench.socket(zmq.DEALER)
    for bad in (b"", b"\xff", b"[]", b"{}", b'{"from":{"../../etc":1}}', b"[" * 50_000):
        assert bench.ask(socket, bad)["error"]
    bench.publisher.alarm(an_event())
    assert len(bench.ask(socket, {"from": {"v1/alarm/gate/": 0}})["events"]) == 1


def test_a_flood_of_requests_is_refused_for_that_peer_only(bench: Bench) -> None:
    bench.publisher.alarm(an_event())
    flooder, other = bench.socket(zmq.DEALER), bench.socket(zmq.DEALER)
    for _ in range(150):
        flooder.send(b'{"from":{"v1/alarm/gate/":0}}')
    replies: list[dict[str, Any]] = []
    quiet = 0
    while len(replies) < 150 and quiet < 100:  # who does not read fast enough loses replies
        bench.publisher.service()
        quiet += 1
        if flooder.poll(3):
            quiet = 0
            replies.append(json.loads(flooder.recv()))
    refused = [reply for reply in replies if "error" in reply]
    assert refused and refused[0]["retry_after_s"] > 0
    assert len(replies) - len(refused) <= 20  # the clock stands still: no more than the burst is served
    assert len(bench.ask(other, {"from": {"v1/alarm/gate/": 0}})["events"]) == 1


def test_the_rate_limit_forgets_old_peers_and_refills() -> None:
    limit = RateLimiter(rate=1.0, burst=2.0, peers=2)
    assert [limit.allow(b"a", 0.0) for _ in range(3)] == [True, True, False]
    assert limit.allow(b"a", 1.0) and not limit.allow(b"a", 1.0)
    assert limit.allow(b"b", 1.0) and limit.allow(b"c", 1.0) and len(limit._buckets) == 2


def test_a_restart_ends_what_the_last_run_left_open(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench()
    bench.publisher.alarm(an_event())
    bench.publisher.alarm(an_event(type="update", peak_score=0.95))
    first = bench.ledger.epoch
    bench.ledger.close()  # without the publisher's knowledge, as after a kill
    bench.publisher._ledger = Ledger(None, clock=bench.clock)
    bench.publisher.close()
    bench.start(events_path=tmp_path / "e.jsonl")
    follows, body = map(json.loads, (tmp_path / "e.jsonl").read_text().splitlines())
    assert follows == {"schema": protocol.FOLLOWS_SCHEMA, "topic": "v1/alarm/gate/", "epoch": first, "seq": 2}
    assert (body["type"], body["reason"], body["id"], body["seq"]) == ("end", "restart", "a" * 32, 1)
    assert body["epoch"] == bench.ledger.epoch != first and body["peak_score"] == 0.95
    reply = bench.ask(bench.socket(zmq.DEALER), {"from": {"v1/alarm/gate/": 1}, "epoch": first})
    assert [(b["epoch"], b["seq"]) for _, b in reply["events"]] == [(first, 2), (bench.ledger.epoch, 1)]
    assert bench.ledger.open_alarms() == []


def test_the_event_file_is_completed_after_a_kill(make_bench: MakeBench, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    bench = make_bench(events_path=path)
    for number in range(3):
        bench.publisher.alarm(an_event(id=f"n{number}", camera=f"c{number}"))
        bench.publisher.status(online())
    bench.stop()
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(whole[0] + whole[1][:20])  # torn in the second line
    bench.start(events_path=path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert lines[:3] == whole
    assert [json.loads(line)["reason"] for line in lines[3:]] == ["restart"] * 3


def test_a_slow_subscriber_is_counted_and_does_not_slow_or_rob_others(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench(high_water_mark=100)
    slow = bench.joined("v1/status/", rcvhwm=1, rcvbuf=4096)
    quick = bench.joined("v1/status/")
    sent, got, late_ms = 0, 0, 0
    while bench.publisher.overflows == 0 or sent < 500:
        bench.publisher.status(CameraStatus("gate", "", "online", "x" * 20_000))
        sent += 1
        late_ms += 0 if quick.poll(1000) else 1000
        got += len(quick.recv_multipart()) // 2
        assert sent < 10_000, "nothing was ever dropped"
    assert got == sent and late_ms == 0
    read = 0
    while slow.poll(200):
        slow.recv_multipart()
        read += 1
    assert read < sent


def test_no_socket_at_all(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench(bind="none", events_path=tmp_path / "e.jsonl")
    assert bench.publisher.endpoint == "none"
    bench.publisher.alarm(an_event())
    bench.publisher.score(a_decision())
    bench.publisher.status(online())
    bench.publisher.service()
    assert len((tmp_path / "e.jsonl").read_text().splitlines()) == 1


def test_endpoints_that_are_refused(bench: Bench, tmp_path: Path) -> None:
    for bind, word in [
        (bench.publisher.endpoint, "in use"),
        ("tcp://0.0.0.0:5999", "--insecure"),
        ("tcp://*:5999", "--insecure"),
        ("tcp://192.168.1.7:5999", "--insecure"),
        ("tcp://127.0.0.1:65535", "65534"),
        ("tcp://127.0.0.1", "understood"),
        ("udp://127.0.0.1:5", "understood"),
        ("tcp://[::1:5", "understood"),
        ("ipc://" + "/no/such/folder/x", "cannot be made"),
    ]:
        with pytest.raises(EndpointError, match=word) as caught:
            Publisher(PublishConfig(bind=bind), bench.ledger, clock=bench.clock)
        assert str(caught.value).count("\n") == 0


def test_an_ipc_path_is_not_stolen(tmp_path: Path, bench: Bench) -> None:
    bind = f"ipc://{tmp_path}/e"
    first = Publisher(PublishConfig(bind=bind), bench.ledger, clock=bench.clock)
    with pytest.raises(EndpointError, match="in use"):
        Publisher(PublishConfig(bind=bind), bench.ledger, clock=bench.clock)
    first.close()
    Publisher(PublishConfig(bind=bind), bench.ledger, clock=bench.clock).close()


def test_recovery_endpoints() -> None:
    assert endpoint.recovery_endpoint("tcp://[::1]:5555") == "tcp://[::1]:5556"
    assert endpoint.recovery_endpoint("ipc:///a/b") == "ipc:///a/b.recovery"
    local = ["tcp://127.8.0.1:5", "tcp://localhost:5", "tcp://[::1]:5", "ipc://x"]
    assert all(map(endpoint.is_local, local))
    assert not any(map(endpoint.is_local, ["tcp://*:5", "tcp://0.0.0.0:5", "tcp://[::]:5", "tcp://eth0:5", "rubbish"]))


def test_the_event_file_is_refused_if_it_is_something_else(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "movie.mp4").write_bytes(b"\0\0\0 ftyp")
    (tmp_path / "x.json").write_text('{"mine": 1}')
    for bad in (tmp_path / "movie.mp4", tmp_path / "x.json", tmp_path):
        with pytest.raises(UsageError):
            Publisher(PublishConfig(bind="none"), bench.ledger, clock=bench.clock, events_path=bad)
    assert (tmp_path / "movie.mp4").read_bytes() == b"\0\0\0 ftyp"


def test_the_event_file_waits_for_a_full_disk(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(bind="none", events_path=tmp_path / "e.jsonl")
    real = os.write
    space = [100]

    def write(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: space[0]])

    monkeypatch.setattr(os, "write", write)
    bench.publisher.alarm(an_event())
    bench.publisher.alarm(an_event(type="update"))
    assert (tmp_path / "e.jsonl").read_bytes() == b""
    space[0] = 10**9
    bench.publisher.alarm(an_event(type="update"))
    assert [json.loads(x)["seq"] for x in (tmp_path / "e.jsonl").read_text().splitlines()] == [1, 2, 3]
    states = [json.loads(t)["detail"] for t in bench.ledger.since("v1/status/_detector/", None, 0, 9)[0]]
    assert "cannot be written" in states[0] and "written again" in states[1] and len(states) == 2


# -- CURVE ------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    old = os.umask(0)
    try:
        for name in ("server", "alice", "mallory"):
            curve.new_pair(folder, name)
    finally:
        os.umask(old)
    (folder / "allowed").mkdir()
    (folder / "alice.key").rename(folder / "allowed" / "alice.key")
    return folder


def curve_options(keys: Path, client: str | None) -> dict[str, Any]:
    pair = curve.load_pair(keys / f"{client}.key_secret")
    server = curve.load_public(keys / "server.key")
    return {"curve_publickey": pair.public, "curve_secretkey": pair.secret, "curve_serverkey": server}


def test_secret_keys_are_made_and_kept_private(keys: Path) -> None:
    assert stat.S_IMODE((keys / "server.key_secret").stat().st_mode) == 0o600
    pair = curve.load_pair(keys / "server.key_secret")
    assert len(pair.public) == len(pair.secret) == 40 and pair.secret.decode() not in repr(pair)
    assert zmq.curve_public(pair.secret) == pair.public == curve.load_public(keys / "server.key")
    with pytest.raises(ConfigError, match="already exists"):
        curve.new_pair(keys, "server")
    with pytest.raises(ConfigError, match="not allowed"):
        curve.new_pair(keys, "../x")
    (keys / "server.key_secret").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        curve.load_pair(keys / "server.key_secret")
    for bad in (keys / "no.key_secret", keys, keys / "server.key"):
        with pytest.raises(ConfigError):
            curve.load_pair(bad)
    (keys / "bad.key").write_text('public-key = "' + '"' * 40 + '"\npublic-key = "' + "\x7f" * 40 + '"')
    with pytest.raises(ConfigError):
        curve.load_public(keys / "bad.key")
    # five digits of Z85 can mean more than 32 bits
    (keys / "bad.key").write_text('public-key = "' + "#" * 40 + '"\n')
    with pytest.raises(ConfigError, match="malformed"):
        curve.load_public(keys / "bad.key")


def test_only_listed_keys_get_anything(
    make_bench: MakeBench, tmp_path: Path, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(curve_secret=keys / "server.key_secret", curve_clients=keys / "allowed")
    bench.publisher.alarm(an_event())
    bad = [
        bench.subscriber("v1/", **curve_options(keys, "mallory")),
        bench.subscriber("v1/"),
        bench.subscriber("v1/", **{**curve_options(keys, "alice"), "curve_serverkey": zmq.curve_keypair()[0]}),
    ]
    thief = bench.socket(zmq.DEALER, **curve_options(keys, "mallory"))
    thief.send(b'{"from":{"v1/alarm/gate/":0}}')
    good = bench.subscriber("v1/", **curve_options(keys, "alice"))
    assert bench.next(good)[1]["replayed"]
    asked = bench.ask(bench.socket(zmq.DEALER, **curve_options(keys, "alice")), {"from": {"v1/alarm/gate/": 0}})
    assert len(asked["events"]) == 1
    bench.until(lambda: bench.publisher.refused_handshakes >= 3)
    bench.publisher.alarm(an_event(type="update"))
    assert bench.next(good)[1]["seq"] == 2
    assert not any(socket.poll(0) for socket in [*bad, thief])
    assert "refused a client at '127.0.0.1'" in caplog.text and "refused a handshake" in caplog.text
    assert curve.load_pair(keys / "mallory.key_secret").secret.decode() not in caplog.text

    # a key that is put into the folder is let in without a restart
    (keys / "mallory.key").rename(keys / "allowed" / "mallory.key")
    late = bench.subscriber("v1/alarm/", **curve_options(keys, "mallory"))
    bench.until(lambda: late.poll(1) or bench.tick(0.3))


def test_curve_needs_its_files(bench: Bench, keys: Path) -> None:
    secret = keys / "server.key_secret"
    for pair, clients in ((keys / "no", keys), (secret, keys / "no")):
        config = PublishConfig(bind="tcp://127.0.0.1:*", curve_secret=pair, curve_clients=clients)
        with pytest.raises(ConfigError):
            Publisher(config, bench.ledger, clock=bench.clock)
