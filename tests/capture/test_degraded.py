"""A journal that cannot be written, or whose files vanish; and what was pruned, told with a count."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from event_bench import an_event
from lives import Life, Listener, World, counts

from stream_detector.client.cursor import Anchor, Cursor, load_cursor
from stream_detector.events import ledger as ledger_module
from stream_detector.events.ledger import Ledger
from stream_detector.events.protocol import decode_reply
from stream_detector.testing import FakeClock

GATE = "v1/alarm/gate/"


def begun(world: World) -> Life:
    life = Life(world)
    life.open()
    return life


def heard(world: World) -> list[tuple[str, Any, Any]]:
    world.listener.take()
    return [(e["type"], e["reason"], e.get("unjournalled")) for e in world.listener.events if "type" in e]


def test_a_read_only_life_publishes_live_marks_its_events_and_leaves_the_ends_to_the_next(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.patched():
        first = begun(world)
        first.alarm("gate")
        first.kill()
        world.read_only = True
        second = begun(world)
        second.alarm("yard")
        second.tick(2.0)
        assert second.ledger.unjournalled > 0
        assert heard(world) == [("start", None, None), ("start", None, True)]
        assert world.listener.subscriber.heartbeat is not None
        assert world.listener.subscriber.heartbeat.body["unjournalled"] == second.ledger.unjournalled
        second.stop()
        assert heard(world)[2:] == [("end", "shutdown", True)]
        told = [e["detail"] for e in world.listener.events if e.get("state") == "trouble"]
        assert "memory only" in told[0] and "events of it" in told[-1] and "are lost" in told[-1]
        world.read_only = False
        third = begun(world)
        third.tick(2.0)
        assert heard(world)[3:] == [("end", "restart", None)]
        third.stop()
        assert all(types == {"start": 1, "end": 1} for types in counts(world.lines()).values())
        assert world.listener.subscriber.lost == 0  # its farewell said that all was had


def test_the_ends_of_earlier_lives_come_as_soon_as_the_disk_takes_them(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.patched():
        first = begun(world)
        first.alarm("gate")
        first.kill()
        world.read_only = True
        second = begun(world)
        second.alarm("yard")
        second.tick(31.0)
        assert second.ledger.degraded and len(heard(world)) == 2
        world.read_only = False
        second.tick(31.0)
        assert not second.ledger.degraded and second.ledger.unjournalled == 0
        assert heard(world)[2:] == [("end", "restart", None)]
        assert "written to it" in world.told[-1]
        second.kill()
        third = begun(world)
        third.tick(1.0)
        assert heard(world)[3:] == [("end", "restart", None)]  # of the alarm at the yard
        third.stop()
    journalled = counts(world.journalled())
    assert len(journalled) == 2 and all(types == {"start": 1, "end": 1} for types in journalled.values())


def test_an_alarm_whose_end_was_not_journalled_is_ended_once_everywhere(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.patched():
        first = begun(world)
        first.publisher.alarm(an_event(id="1" * 32))
        world.full = True
        first.publisher.alarm(an_event(id="1" * 32, type="end", reason="normal"))
        first.publisher.alarm(an_event(id="2" * 32))
        assert heard(world) == [("start", None, None), ("end", "normal", True), ("start", None, True)]
        first.kill()
        world.full = False
        second = begun(world)
        second.tick(2.0)
        assert [e for e in heard(world) if e[0] == "end"] == [("end", "normal", True)]
        second.stop()
    assert counts(world.lines())["1" * 32] == {"start": 1, "end": 1}
    assert [body["reason"] for body in world.journalled() if body.get("type") == "end"] == ["restart"]


def test_a_rerun_of_a_file_in_a_life_without_a_journal_keeps_both_alarms(tmp_path: Path) -> None:
    """The ids are the same; the epochs of their starts tell them apart."""
    world = World(tmp_path)
    with world.patched():
        first = begun(world)
        first.publisher.alarm(an_event(id="1" * 32))
        first.kill()
        world.read_only = True
        second = begun(world)
        second.publisher.alarm(an_event(id="1" * 32))
        world.read_only = False
        second.tick(31.0)
        second.publisher.alarm(an_event(id="1" * 32, type="end", reason="normal"))
        world.listener.take()
        second.stop()
        assert heard(world) == [
            ("start", None, None),
            ("start", None, True),
            ("end", "restart", None),
            ("end", "normal", None),
        ]
    with sqlite3.connect(world.journal) as db:
        assert db.execute("SELECT count(*) FROM open_alarms").fetchone() == (0,)
    db.close()


@pytest.mark.parametrize(
    "which", [["", "-wal", "-shm", ".lock"], [""], ["-wal"], ["-shm"], ["-wal", "-shm"], [".lock"]]
)
def test_files_that_are_deleted_while_in_use_are_noticed(tmp_path: Path, which: list[str]) -> None:
    path, clock, told = tmp_path / "l.sqlite3", FakeClock(), []
    earlier = Ledger(path, clock=clock)
    earlier.append(GATE, {"x": 0})
    earlier.close()
    ledger = Ledger(path, clock=clock, on_problem=told.append)
    alarm = {"schema": "stream-detector.alarm/1", "id": "a", "camera": "gate", "type": "start"}
    ledger.append(GATE, dict(alarm))
    for part in which:
        path.with_name(path.name + part).unlink()
    clock.advance(2.0)
    ledger.maintain()
    assert not ledger.degraded
    if which != [".lock"]:
        assert len(told) == 1 and "deleted or replaced while in use; a new one was begun" in told[0]
    ledger.append(GATE, {**alarm, "type": "update"})
    ledger._db.close()  # killed
    assert ledger._lock and ledger._lock.held()
    ledger._lock.release()
    after = Ledger(path, clock=clock, on_problem=told.append)
    assert len(told) <= 1
    (left,) = after.open_alarms()
    assert (left.first["seq"], left.last["seq"]) == (1, 2)
    texts, unknown = after.since(GATE, earlier.epoch, 0, 10)
    assert [json.loads(text)["seq"] for text in texts] == [1, 1, 2] and not unknown
    assert after.lost(GATE, earlier.epoch, 0) is None
    after.close()


def test_a_large_journal_that_is_deleted_goes_on_with_its_newest_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_detector.events.salvage._WHOLE_BYTES", 1000)
    monkeypatch.setattr(ledger_module, "_TAIL", 10)
    path, clock = tmp_path / "l.sqlite3", FakeClock()
    ledger = Ledger(path, clock=clock, on_problem=lambda text: None)
    for _ in range(30):
        ledger.append(GATE, {"pad": "x" * 200})
    for part in tmp_path.glob("l.sqlite3*"):
        part.unlink()
    clock.advance(2.0)
    ledger.maintain()
    assert [json.loads(text)["seq"] for text in ledger.since(GATE, None, 0, 99)[0]] == list(range(21, 31))
    lost = ledger.lost(GATE, None, 4)
    assert lost and (lost.count, lost.epoch, lost.seq) == (16, ledger.epoch, 20)
    ledger.close()


def test_an_event_after_a_deletion_goes_into_the_new_file_with_all_that_was_before(tmp_path: Path) -> None:
    """No time goes by between the deletion, the event and the kill."""
    world = World(tmp_path)
    with world.patched():
        life = begun(world)
        for name in ("1", "2"):
            life.publisher.alarm(an_event(id=name))
        world.delete_journal()
        life.publisher.alarm(an_event(id="2", type="end", reason="normal"))
        life.kill()
        assert counts(world.journalled()) == {"1": {"start": 1}, "2": {"start": 1, "end": 1}}
        after = begun(world)
        assert counts(world.lines())["1"] == {"start": 1, "end": 1}
        after.stop()


# -- what was pruned ------------------------------------------------------------------------------------------------


def prune(world: World, life: Life) -> None:
    """Retention by size, down to next to nothing."""
    life.ledger._max_bytes = 1
    for _ in range(3):
        life.ledger._retain()
    life.ledger._max_bytes = 1_000_000_000


def test_a_subscriber_that_was_away_while_retention_pruned_is_told_how_many(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.patched():
        first = begun(world)
        for _ in range(3):
            first.publisher.alarm(an_event())
        assert len(heard(world)) == 3
        world.heard = False
        for _ in range(5):
            first.publisher.alarm(an_event())
        first.stop()
        second = begun(world)  # a whole epoch that the subscriber never sees
        for _ in range(7):
            second.publisher.alarm(an_event(camera="gate"))
        second.stop()
        third = begun(world)
        prune(world, third)
        world.heard = True
        third.tick(2.0)
        world.listener.take()
        assert world.listener.subscriber.lost == 5 + 1 + 7 + 1  # and the restart ends at the beginning of a life
        third.publisher.alarm(an_event())
        assert len(heard(world)) == 4
        assert world.listener.subscriber.lost == 14
        third.tick(2.0)
        world.listener.take()
        assert world.listener.subscriber.lost == 14, "it was counted twice"
        third.stop()


def test_a_loss_with_nothing_behind_it_is_not_told_again_to_the_next_subscriber(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.listener = Listener(world.clock, cursor=tmp_path / "cursor.json")
    with world.patched():
        life = begun(world)
        life.publisher.alarm(an_event())
        assert len(heard(world)) == 1
        world.heard = False
        for _ in range(5):
            life.publisher.alarm(an_event())
        prune(world, life)
        world.heard = True
        life.tick(2.0)
        world.listener.take()
        assert world.listener.subscriber.lost == 5
        world.listener.subscriber.commit()
        world.listener = Listener(world.clock, cursor=tmp_path / "cursor.json")
        world.listener.client.answer = life.publisher._server.answer
        life.tick(2.0)
        world.listener.take()
        assert world.listener.subscriber.lost == 0
        life.publisher.alarm(an_event())
        assert len(heard(world)) == 1 and world.listener.subscriber.lost == 0
        life.stop()


def test_an_epoch_that_the_journal_never_knew_counts_as_a_loss(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.patched():
        first = begun(world)
        first.alarm("gate")
        world.listener.take()
        first.kill()
        world.delete_journal()
        second = begun(world)
        second.alarm("gate")
        second.tick(2.0)
        world.listener.take()
        assert world.listener.subscriber.lost >= 1
        second.stop()


def test_what_is_lost_is_in_the_answer(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.patched():
        life = begun(world)
        for _ in range(6):
            life.publisher.alarm(an_event())
        prune(world, life)
        ask = json.dumps({"from": {GATE: 2}}).encode()
        reply = decode_reply(life.publisher._server.answer(ask))
        assert reply.lost == {GATE: (4, life.ledger.epoch, 6)} and not reply.events and not reply.reached
        first = json.dumps({"from": {GATE: 0}, "epoch": "first"}).encode()
        assert not decode_reply(life.publisher._server.answer(first)).lost
        unknown = json.dumps({"from": {GATE: 0}, "epoch": "f" * 16}).encode()
        reply = decode_reply(life.publisher._server.answer(unknown))
        assert reply.unknown_epoch and reply.lost[GATE][0] == 6
        life.stop()


def test_the_table_of_what_is_gone_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_detector.events.pruning._MOST_PLACES", 5)
    clock, epochs = FakeClock(), []
    for _ in range(20):
        ledger = Ledger(tmp_path / "l.sqlite3", clock=clock, max_bytes=1)
        epochs.append(ledger.epoch)
        ledger.append(GATE, {"x": 1})
        ledger.append(GATE, {"x": 2})
        ledger._retain()
        ledger.close()
    ledger = Ledger(tmp_path / "l.sqlite3", clock=clock)
    rows = ledger._db.execute("SELECT count(*) FROM pruned").fetchone()[0]
    assert rows <= 6
    lost = ledger.lost(GATE, "f" * 16, 0)
    assert lost and lost.count == 40
    near = ledger.lost(GATE, epochs[-2], 1)
    assert near and (near.count, near.epoch, near.seq) == (3, epochs[-1], 2)
    ledger.close()


def test_a_cursor_keeps_what_it_knows_of_unjournalled_events(tmp_path: Path) -> None:
    epoch, path = "0123456789abcdef", tmp_path / "c.json"
    cursor = Cursor(epoch, {GATE: (epoch, 3)}, None, {GATE: Anchor((epoch, 1), {epoch: 3})}, {"a": None}, {"b": None})
    cursor.save(path)
    assert load_cursor(path) == cursor


def test_a_listener_alone(tmp_path: Path) -> None:
    assert Listener(FakeClock()).events == []
