"""Writes from outside: who may, what is taken, what is journalled. Over real sockets, with and without CURVE."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import zmq
from event_bench import Bench, MakeBench, an_event
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.cli.main import main
from stream_detector.errors import ProtocolError
from stream_detector.events import curve
from stream_detector.events.writes import VERDICTS, parse_write

ID = "a" * 32
VERDICT = {"kind": "verdict", "camera": "gate", "id": ID, "verdict": "false", "note": "a cat", "by": "Ann"}


def journalled(bench: Bench, topic: str = "v1/verdict/gate/") -> list[dict[str, Any]]:
    return [json.loads(text) for text in bench.ledger.since(topic, bench.ledger.epoch, 0, 100)[0]]


def test_without_a_key_nobody_writes_on_loopback_either(bench: Bench) -> None:
    reply = bench.ask(bench.socket(zmq.DEALER), {"write": VERDICT})
    assert "may read but not write" in reply["error"] and "written" not in reply
    assert journalled(bench) == []


def test_where_local_writes_are_allowed_a_verdict_is_journalled_sent_and_recovered(make_bench: MakeBench) -> None:
    bench = make_bench(local_writes=True)
    listener = bench.joined("v1/verdict/gate/")
    socket = bench.socket(zmq.DEALER)
    bench.publisher.alarm(an_event())
    before = bench.ledger.since("v1/alarm/gate/", bench.ledger.epoch, 0, 10)
    for word in ("true", "false"):
        written = bench.ask(socket, {"write": {**VERDICT, "verdict": word}, "request": "r"})["written"]
        assert (written["author"], written["by"], written["verdict"]) == ("local", "Ann", word)
    assert [body["verdict"] for body in journalled(bench)] == ["true", "false"]  # the newest counts
    heard = [bench.next(listener)[1] for _ in range(2)]
    assert [body["seq"] for body in heard] == [1, 2]
    missed = bench.ask(socket, {"from": {"v1/verdict/gate/": 1}})["events"]
    assert missed == [["v1/verdict/gate/", heard[1]]]
    assert bench.ledger.since("v1/alarm/gate/", bench.ledger.epoch, 0, 10) == before  # a verdict changes no event


def test_a_miss_has_an_id_of_its_own_that_a_later_verdict_withdraws(make_bench: MakeBench) -> None:
    bench = make_bench(local_writes=True)
    socket = bench.socket(zmq.DEALER)
    miss = {"kind": "miss", "camera": "gate", "at_utc": "2026-01-31T12:00:00Z", "lasting_s": 4, "by": "Ann"}
    first, second = (bench.ask(socket, {"write": miss})["written"] for _ in range(2))
    assert first["verdict"] == "missed" and first["id"] == second["id"] and first["at_utc"].endswith(":00:00.000Z")
    withdrawn = bench.ask(socket, {"write": {**VERDICT, "id": first["id"], "verdict": "unsure"}})["written"]
    assert withdrawn["id"] == first["id"]


def test_writes_of_all_peers_together_are_bounded(make_bench: MakeBench) -> None:
    bench = make_bench(local_writes=True)
    replies = [bench.ask(bench.socket(zmq.DEALER), {"write": VERDICT}) for _ in range(50)]
    assert "too many writes" in replies[-1]["error"] and len(journalled(bench)) == 40


def test_with_curve_only_keys_of_writers_write(make_bench: MakeBench, tmp_path: Path) -> None:
    curve.new_pair(tmp_path, "server")
    allowed = tmp_path / "allowed"
    (allowed / "writers").mkdir(parents=True)
    pairs = {}
    for name, folder in (("reader", allowed), ("ann", allowed / "writers")):
        public, secret = curve.new_pair(tmp_path, name)
        shutil.copy(public, folder)
        pairs[name] = curve.load_pair(secret)
    server = curve.load_pair(tmp_path / "server.key_secret")
    bench = make_bench(
        curve_secret=tmp_path / "server.key_secret", curve_clients=allowed, local_writes=True
    )  # where there are keys, loopback alone is no right

    def client(name: str) -> zmq.Socket[bytes]:
        pair = pairs[name]
        keys = {"curve_publickey": pair.public, "curve_secretkey": pair.secret, "curve_serverkey": server.public}
        return bench.socket(zmq.DEALER, **keys)

    refused = bench.ask(client("reader"), {"write": VERDICT})
    assert "may read but not write" in refused["error"]
    assert bench.ask(client("reader"), {"snapshot": ["v1/"]})["epoch"] == bench.ledger.epoch
    assert bench.ask(client("ann"), {"write": VERDICT})["written"]["author"] == "key:ann"
    assert [body["author"] for body in journalled(bench)] == ["key:ann"]
    heard = bench.joined("v1/", curve_publickey=pairs["ann"].public, curve_secretkey=pairs["ann"].secret,
                         curve_serverkey=server.public)  # fmt: skip
    bench.publisher.alarm(an_event())
    assert bench.next(heard)[0] == "v1/alarm/gate/"  # who may write may read


WRONG: list[dict[str, Any]] = [
    {"verdict": "maybe"},
    {"id": "A" * 32},
    {"id": 7},
    {"camera": "Gate 1"},
    {"note": "x" * 501},
    {"by": "\x1b[2J"},
    {"kind": "delete"},
    {"alarm_epoch": "now"},
    {"kind": "miss"},
    {"kind": "miss", "at_s": 1.0, "at_utc": "2026-01-31T12:00:00Z"},
    {"kind": "miss", "at_s": -1.0},
    {"kind": "miss", "at_utc": "yesterday"},
    {"kind": "command", "command": "reboot"},
    {"kind": "command", "command": "promote"},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_malformed_write_is_one_sentence_and_changes_nothing(make_bench: MakeBench, wrong: dict[str, Any]) -> None:
    bench = make_bench(local_writes=True)
    reply = bench.ask(bench.socket(zmq.DEALER), {"write": {**VERDICT, **wrong}})
    assert reply["error"] and "\n" not in reply["error"] and journalled(bench) == []


def test_a_camera_that_the_run_does_not_have_is_refused(make_bench: MakeBench) -> None:
    bench = make_bench(local_writes=True)
    reply = bench.ask(bench.socket(zmq.DEALER), {"write": {**VERDICT, "camera": "attic"}})
    assert "none of this run's" in reply["error"]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=40), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(st.sampled_from([*VERDICT, "at_s", "at_utc", "lasting_s", "command", "hours"]), JSON), JSON)
def test_whatever_is_sent_is_a_write_or_a_protocol_error(changes: dict[str, Any], instead: Any) -> None:
    for value in ({**VERDICT, **changes}, instead):
        try:
            write = parse_write(value)
        except ProtocolError as error:
            assert "\n" not in str(error)
        else:
            assert len(write.by) <= 64 and getattr(write, "verdict", "true") in (*VERDICTS, "missed")


def test_the_command_writes_into_a_journal_that_no_detector_holds(
    make_bench: MakeBench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = make_bench()
    journal = tmp_path / "l.sqlite3"
    bench.publisher.alarm(an_event(id="b" * 32))
    command = ["verdict", "bbbb", "benign", "--ledger", str(journal), "--by", "Ann", "--json"]
    assert main(command) == 2  # the detector holds it
    assert "use" in capsys.readouterr().err
    bench.stop()
    assert main(command) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["id"], body["camera"], body["verdict"], body["by"]) == ("b" * 32, "gate", "benign", "Ann")
    assert body["author"].startswith("file:") and body["alarm_epoch"] is not None
    assert main(["verdict", "cccc", "true", "--ledger", str(journal)]) == 2
    assert main(["verdict", "gate@75.5", "missed", "--ledger", str(journal)]) == 0
    bench.start()
    assert len(bench.ledger.since("v1/verdict/gate/", "first", 0, 10)[0]) == 2
