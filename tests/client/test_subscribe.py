"""The client library: exactly once and in order, whatever is lost between."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from event_bench import EPOCH, Bench, MakeBench, a_decision, an_event, online

from stream_detector.cli.main import main
from stream_detector.cli.subscribe import describe
from stream_detector.client.cursor import Cursor, load_cursor
from stream_detector.client.subscriber import Subscriber
from stream_detector.errors import EndpointError, UsageError
from stream_detector.events import protocol
from stream_detector.events.curve import load_pair, load_public, new_pair
from stream_detector.events.protocol import Message

GATE = "v1/alarm/gate/"
Subscribe = Callable[..., Subscriber]


@pytest.fixture
def subscribe(bench: Bench) -> Iterator[Subscribe]:
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Subscriber:
            return stack.enter_context(Subscriber(bench.publisher.endpoint, **options))

        yield make


def take(bench: Bench, subscriber: Subscriber, count: int) -> list[Message]:
    """The next `count` events, while the publisher serves in the same thread."""
    got: list[Message] = []

    def one() -> bool:
        bench.tick(0.1)
        message = subscriber.receive(0.002)
        if message is not None:
            got.append(message)
        return len(got) == count

    bench.until(one)
    return got


def nothing(bench: Bench, subscriber: Subscriber) -> bool:
    """Whether nothing comes although the publisher speaks (twenty heartbeats)."""
    for _ in range(20):
        bench.tick(1.0)
        bench.publisher.service()
        if subscriber.receive(0.01) is not None:
            return False
    return True


def deafen(monkeypatch: pytest.MonkeyPatch, bench: Bench, topic: str = GATE) -> Callable[[], None]:
    """Lose every message of `topic` between publisher and socket, until the returned function is called."""
    real = bench.publisher._send
    monkeypatch.setattr(bench.publisher, "_send", lambda t, data: None if t == topic else real(t, data))
    return lambda: monkeypatch.setattr(bench.publisher, "_send", real)


def joined(bench: Bench, subscriber: Subscriber) -> Subscriber:
    """Have it hear a first event, so that it is surely connected."""
    bench.publisher.status(online("yard"))
    take(bench, subscriber, 1)
    return subscriber


def test_a_late_joiner_gets_what_is_open_then_what_comes(bench: Bench, subscribe: Subscribe) -> None:
    bench.publisher.alarm(an_event(id="over"))
    bench.publisher.alarm(an_event(id="over", type="end", reason="normal"))
    bench.publisher.alarm(an_event(id="open"))
    bench.publisher.alarm(an_event(id="open", type="update"))
    bench.publisher.status(online())
    subscriber = subscribe()
    first = take(bench, subscriber, 3)
    assert [(m.kind, m.seq, m.replayed) for m in first] == [("alarm", 3, True), ("alarm", 4, True), ("status", 1, True)]
    bench.publisher.alarm(an_event(id="open", type="end", reason="normal"))
    (end,) = take(bench, subscriber, 1)
    assert (end.seq, end.replayed, end.camera) == (5, False, "gate")
    assert nothing(bench, subscriber) and subscriber.lost == 0


@pytest.mark.parametrize("recover", [True, False])
def test_a_burst_arrives_once_and_in_order(bench: Bench, subscribe: Subscribe, recover: bool) -> None:
    subscriber = joined(bench, subscribe(recover=recover))
    for _ in range(300):
        bench.publisher.alarm(an_event())
    assert [m.seq for m in take(bench, subscriber, 300)] == list(range(1, 301))
    assert subscriber.lost == 0


def test_a_hole_is_fetched(bench: Bench, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch) -> None:
    subscriber = joined(bench, subscribe())
    bench.publisher.alarm(an_event())
    hear = deafen(monkeypatch, bench)
    for _ in range(5):
        bench.publisher.alarm(an_event())
    hear()
    bench.publisher.alarm(an_event())
    assert [m.seq for m in take(bench, subscriber, 7)] == list(range(1, 8))
    assert subscriber.recovered >= 5 and subscriber.lost == 0
    assert nothing(bench, subscriber)


def test_a_lost_last_event_is_noticed_by_the_heartbeat(
    bench: Bench, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscriber = joined(bench, subscribe())
    deafen(monkeypatch, bench)
    bench.publisher.alarm(an_event())
    (event,) = take(bench, subscriber, 1)
    assert event.seq == 1 and subscriber.recovered == 1


def test_a_large_hole_is_fetched_in_bounded_pieces(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(recovery_limit=10)
    with Subscriber(bench.publisher.endpoint, kinds=("alarm", "status", "score")) as subscriber:
        joined(bench, subscriber)
        hear = deafen(monkeypatch, bench)
        for _ in range(55):
            bench.publisher.alarm(an_event())
        hear()
        bench.publisher.score(a_decision())
        got = take(bench, subscriber, 56)
        assert [m.seq for m in got if m.kind == "alarm"] == list(range(1, 56))
        assert [m.seq for m in got if m.kind == "score"] == [1]


def test_without_recovery_losses_are_counted(
    bench: Bench, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscriber = joined(bench, subscribe(recover=False))
    bench.publisher.alarm(an_event())
    hear = deafen(monkeypatch, bench)
    bench.publisher.alarm(an_event())
    bench.publisher.alarm(an_event())
    hear()
    bench.publisher.alarm(an_event())
    assert [m.seq for m in take(bench, subscriber, 2)] == [1, 4]
    assert subscriber.lost == 2


def restart(bench: Bench, endpoint: str) -> None:
    """The publisher dies without a word (its journal closed under it) and comes back at the same endpoint."""
    bench.ledger.close()
    bench.publisher._heartbeat = lambda: None  # type: ignore[method-assign]
    bench.publisher.close()
    bench.start(bind=endpoint)


def test_a_restart_of_the_detector_loses_nothing(
    bench: Bench, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, subscriber = bench.publisher.endpoint, joined(bench, subscribe())
    first = bench.ledger.epoch
    bench.publisher.alarm(an_event())
    take(bench, subscriber, 1)
    deafen(monkeypatch, bench)
    bench.publisher.alarm(an_event(type="update"))
    bench.publisher.alarm(an_event(camera="new", id="n" * 32))  # of a camera never heard of before
    deafen(monkeypatch, bench, "v1/alarm/new/")
    restart(bench, where)
    second = bench.ledger.epoch
    bench.publisher.alarm(an_event(id="later"))
    got = take(bench, subscriber, 5)
    gate = [(m.epoch, m.seq, m.body["type"], m.body["reason"]) for m in got if m.camera == "gate"]
    assert gate == [(first, 2, "update", None), (second, 1, "end", "restart"), (second, 2, "start", None)]
    new = [(m.epoch, m.seq, m.body["type"]) for m in got if m.camera == "new"]
    assert new == [(first, 1, "start"), (second, 1, "end")]
    assert nothing(bench, subscriber) and subscriber.lost == 0


def test_a_restart_of_the_subscriber_goes_on_at_its_cursor(bench: Bench, tmp_path: Path) -> None:
    cursor, where = tmp_path / "cursor.json", bench.publisher.endpoint
    with Subscriber(where, cursor=cursor) as subscriber:
        joined(bench, subscriber)
        for _ in range(3):
            bench.publisher.alarm(an_event())
        assert [m.seq for m in take(bench, subscriber, 3)] == [1, 2, 3]
        # the third was given, not handled: a client that dies now sees it again
    bench.publisher.alarm(an_event())
    with Subscriber(where, cursor=cursor) as subscriber:
        assert [m.seq for m in take(bench, subscriber, 2)] == [3, 4]
        subscriber.commit()
    with Subscriber(where, cursor=cursor) as subscriber:
        assert nothing(bench, subscriber)


def test_from_start_reads_the_whole_journal(bench: Bench, subscribe: Subscribe) -> None:
    where = bench.publisher.endpoint
    bench.publisher.alarm(an_event())
    restart(bench, where)
    bench.publisher.alarm(an_event(id="b"))
    got = take(bench, subscribe(from_start=True), 3)
    assert [(m.body["type"], m.seq) for m in got] == [("start", 1), ("end", 1), ("start", 2)]
    assert not any(m.replayed for m in got)


def test_cameras_and_kinds_are_filtered(bench: Bench, subscribe: Subscribe) -> None:
    subscriber = subscribe(cameras=["cam1"], kinds=["status"])
    bench.publisher.status(online("cam1"))
    take(bench, subscriber, 1)
    bench.publisher.status(online("cam10"))
    bench.publisher.alarm(an_event(camera="cam1"))
    bench.publisher._report_problem("the disk is full")
    (trouble,) = take(bench, subscriber, 1)
    assert trouble.camera == "_detector"
    assert nothing(bench, subscriber)
    bads: list[dict[str, Any]] = [{"cameras": ["Gate 1"]}, {"kinds": ["alarms"]}, {"kinds": []}, {"keys": object()}]
    for bad in bads:
        with pytest.raises(UsageError):
            Subscriber(bench.publisher.endpoint, **bad)
    with pytest.raises(EndpointError):
        Subscriber("nonsense")


def test_a_hole_that_nobody_can_fill_is_counted_and_passed(
    bench: Bench, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscriber = joined(bench, subscribe(kinds=("score", "status")))
    bench.publisher.score(a_decision())
    take(bench, subscriber, 1)
    hear = deafen(monkeypatch, bench, "v1/score/gate/")
    for _ in range(2010):  # the ring holds 2,000
        bench.publisher.score(a_decision())
    hear()
    bench.publisher.score(a_decision())
    seqs = [m.seq for m in take(bench, subscriber, 2000)]
    assert seqs == list(range(13, 2013)) and subscriber.lost == 11


def test_garbage_on_the_wire_is_dropped(bench: Bench, subscribe: Subscribe) -> None:
    subscriber = joined(bench, subscribe())
    send = bench.publisher._events.send_multipart
    topic = GATE.encode()
    for frames in ([topic], [topic, b"{"], [topic, b"{}", b""], [b"v1/alarm/x", b"1"]):
        send(frames)
    bench.publisher.alarm(an_event())
    assert [m.seq for m in take(bench, subscriber, 1)] == [1]
    assert subscriber.malformed == 4


def test_nobody_there(tmp_path: Path) -> None:
    with Subscriber("tcp://127.0.0.1:9", timeout_s=0.05) as subscriber:
        assert list(subscriber) == []
        assert subscriber.heartbeat_age_s() == float("inf")


def test_a_detector_without_a_recovery_socket_is_followed_with_losses_counted(
    bench: Bench, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_detector.client.subscriber._PATIENCE_S", 0.3)
    monkeypatch.setattr("stream_detector.client.recovery_client.REQUEST_S", 0.05)
    subscriber = joined(bench, subscribe())
    monkeypatch.setattr(bench.publisher, "_answer_requests", lambda until_s: None)
    hear = deafen(monkeypatch, bench)
    bench.publisher.alarm(an_event())
    bench.publisher.alarm(an_event())
    hear()
    got: list[Message] = []

    def one() -> bool:
        bench.tick(0.5)
        bench.publisher.alarm(an_event())
        message = subscriber.receive(0.002)
        got.extend([message] if message else [])
        return len(got) == 3

    bench.until(one)
    assert got[1].seq == got[0].seq + 1 and subscriber.lost >= 2


def test_cursor_files(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    assert load_cursor(path) is None
    cursor = Cursor(EPOCH, {GATE: (EPOCH, 3)}, 10)
    cursor.save(path)
    assert load_cursor(path) == cursor and cursor.place(GATE) == (EPOCH, 3) and cursor.place("x") == (EPOCH, 0)
    for bad in (b"", b"{}", b'{"schema":"stream-detector.cursor/1","base":1,"places":{}}', b"\xff"):
        path.write_bytes(bad)
        with pytest.raises(UsageError, match="delete it"):
            load_cursor(path)


def test_a_damaged_cursor_is_one_sentence_and_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(b"{torn")
    assert main(["subscribe", "tcp://127.0.0.1:9", "--cursor", str(path)]) == 2
    assert "is damaged" in capsys.readouterr().err and path.read_bytes() == b"{torn"


# -- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def served(bench: Bench) -> Iterator[Bench]:
    """The publisher's own thread, as in a run; three events lie in the journal."""
    for kind in ("start", "update"):
        bench.publisher.alarm(an_event(type=kind))
    bench.publisher.status(online())
    stop = threading.Event()

    def serve() -> None:
        while not stop.wait(0.005):
            bench.tick(0.1)
            bench.publisher.service()

    thread = threading.Thread(target=serve)
    thread.start()
    yield bench
    stop.set()
    thread.join()


def test_the_command_prints_events(served: Bench, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    where = served.publisher.endpoint
    assert main(["subscribe", where, "--json", "--from-start", "--count", "3", "--timeout", "10"]) == 0
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert sorted((b["schema"], b["seq"]) for b in lines) == [
        (protocol.ALARM_SCHEMA, 1),
        (protocol.ALARM_SCHEMA, 2),
        (protocol.STATUS_SCHEMA, 1),
    ]
    assert main(["subscribe", where, "--recover", "--count", "2", "--camera", "gate", "--timeout", "10"]) == 0
    assert "gate" in (out := capfdbinary.readouterr().out.decode()) and "(current state)" in out
    assert main(["subscribe", where, "--recover", "--kind", "score", "--count", "1", "--timeout", "0.1"]) == 1
    assert "0 of 1 events" in capfdbinary.readouterr().err.decode()


def test_acknowledgements_are_heard_recovered_and_shown(bench: Bench, subscribe: Subscribe) -> None:
    bench.publisher.acknowledge("gate", "a" * 32, "missed", "")
    subscriber = subscribe(kinds=["ack"], from_start=True)
    (first,) = take(bench, subscriber, 1)
    bench.publisher.acknowledge("gate", "a" * 32, "false alarm", "Kim")
    bench.publisher.alarm(an_event())
    (second,) = take(bench, subscriber, 1)
    assert (first.body["note"], second.body["note"], second.topic) == ("missed", "false alarm", "v1/ack/gate/")
    assert describe(second).endswith(f"alarm {'a' * 32}  seen by Kim  false alarm")
    assert describe(first).endswith("seen by somebody  missed")


def test_the_command_keeps_a_file_without_loss_or_double(served: Bench, tmp_path: Path) -> None:
    where, out, cursor = served.publisher.endpoint, tmp_path / "out.jsonl", tmp_path / "c.json"
    base = ["subscribe", where, "--kind", "alarm", "--output", str(out), "--cursor", str(cursor), "--timeout", "10"]
    earlier = '{"schema":"stream-detector.alarm/1"}'
    out.write_text(f"{earlier}\n")
    assert main([*base, "--from-start", "--count", "1"]) == 0
    with out.open("a") as file:
        file.write('{"half a line of a killed proc')
    assert main([*base, "--count", "1"]) == 0
    first, *events = out.read_text().splitlines()
    assert first == earlier and [json.loads(line)["seq"] for line in events] == [1, 2]
    out.write_text("")
    assert main([*base, "--count", "1"]) == 2


def test_the_command_over_curve(tmp_path: Path, make_bench: MakeBench, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("server", "alice"):
        assert main(["keys", "new", str(tmp_path), name]) == 0
    (tmp_path / "allowed").mkdir()
    (tmp_path / "alice.key").rename(tmp_path / "allowed" / "alice.key")
    bench = make_bench(curve_secret=tmp_path / "server.key_secret", curve_clients=tmp_path / "allowed")
    with Subscriber(
        bench.publisher.endpoint,
        keys=load_pair(tmp_path / "alice.key_secret"),
        server_key=load_public(tmp_path / "server.key"),
    ) as subscriber:
        joined(bench, subscriber)
    assert new_pair(tmp_path, "x")[1].name == "x.key_secret"
    assert "0600" in capfd.readouterr().out


def test_ten_lines_of_plain_pyzmq_are_enough(served: Bench) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.connect(served.publisher.endpoint)
    socket.subscribe("v1/alarm/")
    topic, body = socket.recv_multipart()
    event = json.loads(body)
    assert (topic, event["type"], event["replayed"]) == (b"v1/alarm/gate/", "start", True)
    socket.close(0)
    context.term()
