"""The event file is a copy of the journal: completed after crashes, begun anew after rotations, never in the way."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from event_bench import Bench, MakeBench, an_event

from stream_detector.cli.main import main
from stream_detector.config import PublishConfig
from stream_detector.errors import UsageError
from stream_detector.events import jsonl_file, protocol
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.reports.read_back import gather_alarms, read_events
from stream_detector.system.lock_file import (
    LockFile,
    claim_events,
    claim_evidence,
    claim_journal,
    claim_output,
    claimed,
)
from stream_detector.testing import FakeClock


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def kinds(path: Path) -> list[tuple[str, str]]:
    return [(body.get("id", "follows")[-1], body.get("type", "")) for body in lines(path)]


def die(bench: Bench) -> None:
    """As by kill -9: nothing more is written, the locks are free."""
    bench.ledger._db.close()
    assert bench.ledger._lock and bench.publisher._file
    bench.ledger._lock.release()
    bench.publisher._file.close()
    bench.publisher._ledger = Ledger(None, clock=bench.clock)
    bench.publisher._file = bench.publisher._copy = None
    bench.publisher.close()


def without_the_file(bench: Bench, monkeypatch: pytest.MonkeyPatch, *changes: dict[str, Any]) -> None:
    """Events that reach the journal, and then the process dies."""
    with monkeypatch.context() as patch:
        patch.setattr(bench.publisher._copy, "write", lambda body: None)
        for change in changes:
            bench.publisher.alarm(an_event(**change))
    die(bench)


def test_the_first_event_of_all_is_brought_in_after_a_kill(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.jsonl"
    bench = make_bench(bind="none", events_path=path)
    without_the_file(bench, monkeypatch, {"id": "1"})
    assert path.read_bytes() == b""
    bench.start(bind="none", events_path=path)
    assert kinds(path) == [("1", "start"), ("1", "end")]


def test_the_first_event_of_an_epoch_is_brought_in_across_several_lives(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.jsonl"
    bench = make_bench(bind="none", events_path=path)
    bench.publisher.alarm(an_event(id="1"))
    bench.publisher.alarm(an_event(id="1", type="end", reason="normal"))
    bench.stop()
    bench.start(bind="none", events_path=path)
    without_the_file(bench, monkeypatch, {"id": "2"}, {"id": "2", "type": "end", "reason": "normal"})
    bench.start(bind="none")  # a life without the file
    bench.publisher.alarm(an_event(id="3"))
    bench.stop()
    bench.start(bind="none", events_path=path)
    assert kinds(path) == [(n, kind) for n in "123" for kind in ("start", "end")]
    bench.stop()
    bench.start(bind="none", events_path=path)
    assert len(lines(path)) == 6


def test_a_rotated_file_says_what_it_follows_and_is_completed_from_there_only(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.jsonl"
    bench = make_bench(bind="none", events_path=path)
    bench.publisher.alarm(an_event(id="1"))
    path.rename(tmp_path / "e.jsonl.1")
    bench.clock.advance(2.0)
    bench.publisher.service()
    follows = {"schema": protocol.FOLLOWS_SCHEMA, "topic": "v1/alarm/gate/", "epoch": bench.ledger.epoch, "seq": 1}
    assert lines(path) == [follows]
    without_the_file(bench, monkeypatch, {"id": "1", "type": "end", "reason": "normal"}, {"id": "2"})
    bench.start(bind="none", events_path=path)
    assert kinds(path) == [("s", ""), ("1", "end"), ("2", "start"), ("2", "end")]
    assert kinds(tmp_path / "e.jsonl.1") == [("1", "start")]
    assert [event["type"] for event in read_events(path)] == ["end", "start", "end"]
    bench.stop()
    path.rename(tmp_path / "e.jsonl.2")  # while no detector runs
    bench.start(bind="none", events_path=path)
    assert [body["schema"] for body in lines(path)] == [protocol.FOLLOWS_SCHEMA]
    bench.publisher.alarm(an_event(id="3"))
    path.unlink()
    bench.publisher.alarm(an_event(id="3", type="end", reason="normal"))  # noticed without waiting
    assert [body.get("seq") for body in lines(path)] == [1, 2] and kinds(path)[1] == ("3", "end")


@pytest.mark.parametrize("rotated", ["e.jsonl.1", "e.jsonl-20250301", "elsewhere.jsonl"])
def test_what_a_kill_kept_from_a_file_that_was_rotated_then_is_in_the_next_one(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rotated: str
) -> None:
    path = tmp_path / "e.jsonl"
    bench = make_bench(bind="none", events_path=path)
    bench.publisher.alarm(an_event(id="1"))
    bench.publisher.alarm(an_event(id="1", type="end", reason="normal"))
    without_the_file(bench, monkeypatch, {"id": "2"})
    with path.open("ab") as file:
        file.write(b'{"schema":"stream-detector.alarm/1","id":"2","ty')  # torn
    path.rename(tmp_path / rotated)  # while no detector runs
    (tmp_path / "e.jsonl.other").write_bytes(b"nothing of ours\n")
    bench.start(bind="none", events_path=path)
    expected = [("s", ""), ("2", "start"), ("2", "end")]
    assert kinds(path) == (expected if rotated.startswith("e.jsonl") else [("s", ""), ("2", "end")])


def test_a_file_that_is_cut_to_nothing_begins_anew(make_bench: MakeBench, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    bench = make_bench(bind="none", events_path=path)
    bench.publisher.alarm(an_event(id="1"))
    os.truncate(path, 0)
    bench.publisher.reopen_events()
    bench.publisher.alarm(an_event(id="1", type="end", reason="normal"))
    assert kinds(path) == [("s", ""), ("1", "end")]


def test_a_disk_that_stays_full_leaves_no_hole(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl_file, "_WAITING", 5)
    path = tmp_path / "e.jsonl"
    bench = make_bench(bind="none", events_path=path)
    bench.publisher.alarm(an_event(id="1"))
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    for _ in range(50):
        bench.publisher.alarm(an_event(id="1", type="update"))
    assert bench.publisher._file and len(bench.publisher._file._waiting) <= 5
    monkeypatch.setattr(os, "write", real)
    bench.clock.advance(2.0)
    bench.publisher.service()
    bench.publisher.alarm(an_event(id="1", type="end", reason="normal"))
    assert [body["seq"] for body in lines(path)] == list(range(1, 53))


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_what_could_block_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "special"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.close()
    else:
        path.symlink_to("/dev/null")
    ledger = Ledger(None, clock=FakeClock())
    with pytest.raises(UsageError, match=f"is a {kind}, which could block the detector; give a regular") as caught:
        Publisher(PublishConfig(bind="none"), ledger, clock=FakeClock(), events_path=path)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_a_second_detector_on_the_same_event_file_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    config = PublishConfig(bind="none")
    first = Publisher(config, Ledger(None, clock=bench.clock), clock=bench.clock, events_path=path)
    with pytest.raises(UsageError, match=r"e.jsonl' is in use by another detector \(process \d+\)"):
        Publisher(config, Ledger(None, clock=bench.clock), clock=bench.clock, events_path=path)
    first.close()
    Publisher(config, Ledger(None, clock=bench.clock), clock=bench.clock, events_path=path).close()


def test_a_rerun_of_a_file_is_another_alarm_in_what_is_read_back(make_bench: MakeBench, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    bench = make_bench(bind="none", events_path=path)
    for score in (0.7, 0.9):
        bench.publisher.alarm(an_event(id="1", peak_score=score))
        bench.publisher.alarm(an_event(id="1", type="end", reason="normal", peak_score=score, end_s=9.0))
        bench.stop()
        bench.start(bind="none", events_path=path)
    found = [(record.id, record.peak_score, record.ended, record.events) for record in gather_alarms(read_events(path))]
    assert found == [("1", 0.7, True, 2), ("1", 0.9, True, 2)]


# -- locks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", ["journal", "events", "evidence"])
def test_a_second_detector_is_refused_before_anything_is_opened(tmp_path: Path, shared: str) -> None:
    first = {"journal": tmp_path / "l.sqlite3", "events": tmp_path / "e.jsonl", "evidence": tmp_path / "evidence"}
    second = {name: path if name == shared else tmp_path / "other" / name for name, path in first.items()}
    with claimed(**first):
        with pytest.raises(UsageError, match="in use by another detector") as caught, claimed(**second):
            pass
        assert "\n" not in str(caught.value) and str(first[shared]) in str(caught.value)
        with claimed(**{**second, shared: None}):
            pass
    assert not first["journal"].exists() and not first["events"].exists()
    with claimed(**second):
        pass


def test_a_lock_whose_file_is_deleted_is_taken_again(tmp_path: Path) -> None:
    lock, other = LockFile(tmp_path / "x.lock"), LockFile(tmp_path / "x.lock")
    assert lock.acquire() and lock.held()
    (tmp_path / "x.lock").unlink()
    assert not lock.held()
    assert lock.renew() and lock.held() and not other.acquire()
    (tmp_path / "x.lock").unlink()
    assert other.acquire() and not lock.renew()
    other.release()
    assert not (tmp_path / "x.lock").exists()


def test_trouble_with_the_event_file_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    logged: list[str] = []
    monkeypatch.setattr(jsonl_file.log, "warning", lambda text, *values: logged.append(text % values))
    file = jsonl_file.EventFile(tmp_path / "events.jsonl", told.append)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        file.write(b"{}")
    file.close()
    assert len(told) == 1 and logged == told


@pytest.mark.parametrize("kind", ["journal", "events"])
def test_a_hard_link_is_the_same_file(tmp_path: Path, kind: str) -> None:
    """Whether the file was there before the lock was taken, or was made by its holder."""
    name, other = tmp_path / "one", tmp_path / "folder" / "two"
    other.parent.mkdir()
    for _ in range(2):
        is_journal = kind == "journal"
        holder = Ledger(name, clock=FakeClock()) if is_journal else jsonl_file.EventFile(name, lambda text: None)
        if not other.exists():
            other.hardlink_to(name)
        with pytest.raises(UsageError, match="in use by another detector under another name"):
            {"journal": claim_journal, "events": claim_events}[kind](other)
        assert not other.with_name("two.lock").exists()
        if kind == "events":
            with pytest.raises(UsageError, match="in use by another detector"):
                claim_output(name)
        holder.close()
    claim_events(other).release()


@pytest.mark.parametrize("option", ["--ledger", "--events", "--evidence"])
def test_the_command_refuses_before_it_loads_anything(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stream_detector.models.bundle.Bundle.load", lambda *_: pytest.fail("a bundle was loaded"))
    mine = {"--ledger": tmp_path / "l.sqlite3", "--events": tmp_path / "e.jsonl", "--evidence": tmp_path / "evidence"}
    lock = {"--ledger": claim_journal, "--events": claim_events, "--evidence": claim_evidence}[option](mine[option])
    command = ["run", "demo", "--no-dashboard", "--bind", "none"]
    assert main([*command, *(str(part) for pair in mine.items() for part in pair)]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "is in use by another detector" in error and f"another with {option}" in error
    lock.release()
    os.mkfifo(tmp_path / "fifo")
    assert main([*command, "--events", str(tmp_path / "fifo")]) == 2
    assert "is a FIFO" in capfd.readouterr().err
