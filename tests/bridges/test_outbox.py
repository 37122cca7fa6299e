"""The outbox: what is written before a kill is there after it, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from bridge_rig import alarm, camera_notice
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.bridges.notice import SUMMARY_LANE, Notice
from stream_detector.bridges.outbox import Outbox
from stream_detector.errors import LedgerError


def row(notice: Notice, target: str = "a", due_utc: float = 0.0) -> tuple[str, str, Notice, float]:
    return target, notice.camera, notice, due_utc


def test_an_event_seen_twice_is_kept_once_also_after_its_delivery(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "box.sqlite3")
    assert box.add([row(alarm(1)), row(alarm(1), "b"), row(alarm(2))]) == 3
    box.finish(box.heads("a")[0], 5.0)
    assert box.add([row(alarm(1)), row(alarm(2))]) == 0
    assert (box.waiting("a"), box.waiting("b"), box.waiting()) == (1, 1, 2)
    box.close()


def test_rows_that_are_done_go_only_when_the_cursor_is_past_them(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "box.sqlite3")
    box.add([row(alarm(1)), row(alarm(2))])
    first = box.heads("a")[0]
    box.finish(first, 5.0)
    assert box.prune(first - 1, 10.0) == 0  # the cursor is not there yet: the event may come again
    assert box.prune(first, 5.0) == 0  # younger than what must be kept
    assert box.prune(first, 10.0) == 1
    box.close()


def test_each_lane_has_its_oldest_row_at_its_head(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "box.sqlite3")
    box.add([row(alarm(1)), row(alarm(1, "yard")), row(alarm(2))])
    heads = [box.item(n) for n in box.heads("a")]
    assert [(item.lane, item.notice.seq) for item in heads if item] == [("gate", 1), ("yard", 1)]
    assert (after := box.after("a", "gate", heads[0].n)) is not None and after.notice.seq == 2  # type: ignore[union-attr]
    box.close()


def test_old_alarms_become_one_summary_that_grows_until_it_is_tried(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "box.sqlite3")
    box.add([row(alarm(n, utc=100.0 + n)) for n in range(1, 4)] + [row(alarm(9, "yard", utc=500.0))])
    assert box.fold("a", "age", 200.0, 600.0) == 3
    (n,) = [n for n in box.heads("a") if (item := box.item(n)) and item.lane == SUMMARY_LANE]
    box.add([row(camera_notice(4, "offline", utc=150.0)), row(alarm(5, what="end", utc=151.0))])
    assert box.fold("a", "age", 200.0, 601.0) == 2
    item = box.item(n)
    assert item is not None
    body = item.notice.body
    assert (body["count"], body["cameras"], body["camera_changes"]) == (3, {"gate": 3}, 1)
    assert body["first_utc"] < body["last_utc"] and body["severity"] == "high" and len(body["alarms"]) == 3
    box.begin(n, 602.0)  # the receiver may have it: what follows is another summary
    box.add([row(alarm(6, utc=160.0))])
    box.fold("a", "age", 200.0, 603.0)
    box.finish(n, 604.0)
    (second,) = [n for n in box.heads("a") if (item := box.item(n)) and item.lane == SUMMARY_LANE]
    assert second != n
    box.close()


def test_ends_alone_make_no_summary(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "box.sqlite3")
    box.add([row(alarm(1, what="end", utc=100.0))])
    assert box.fold("a", "age", 200.0, 600.0) == 1 and box.waiting() == 0
    box.close()


def test_what_was_delivered_since_is_pending_again_in_its_old_order(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "box.sqlite3")
    box.add([row(alarm(n)) for n in range(1, 5)])
    for at in (10.0, 20.0, 30.0):
        box.finish(box.heads("a")[0], at)
    assert box.again("a", 20.0) == 2
    seqs = []
    while heads := box.heads("a"):
        item = box.item(heads[0])
        assert item is not None
        seqs.append(item.notice.seq)
        box.finish(heads[0], 40.0)
    assert seqs == [2, 3, 4]
    box.close()


def test_a_camera_that_comes_back_takes_its_offline_back(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "box.sqlite3")
    box.add([row(camera_notice(1, "offline"), due_utc=130.0)])
    assert box.cancel("a", "yard", "offline", 110.0, 110.0) is False
    assert box.cancel("a", "gate", "offline", 131.0, 131.0) is False  # it is due already
    assert box.cancel("a", "gate", "offline", 110.0, 110.0) is True and box.waiting() == 0
    box.close()


def test_facts_and_the_name_of_the_bridge_survive(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "box.sqlite3")
    name = box.name
    box.remember("a", {"told": ["x"], "last:gate": {"utc": 1.5}})
    box.own_notice(lambda n: [row(n)], "bridge/detector/", "detector", "silent", {"state": "silent"}, 5.0, {"d": "s"})
    box.own_notice(lambda n: [row(n)], "bridge/detector/", "detector", "running", {"state": "running"}, 6.0)
    box.close()
    box = Outbox(tmp_path / "box.sqlite3")
    assert (box.name, box.recall("a", "told"), box.recall("", "d")) == (name, ["x"], "s")
    assert box.recall_all("a", "last:") == {"gate": {"utc": 1.5}}
    items = [box.item(n) for n in box.heads("a")]
    assert [(i.notice.epoch, i.notice.seq, i.notice.what) for i in items if i] == [(name, 1, "silent")]
    box.remember("a", {"told": None})
    assert box.recall("a", "told") is None
    box.close()


def test_a_file_that_is_no_outbox_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "box.sqlite3"
    path.write_bytes(b"not a database, but long enough to be looked at as one" * 40)
    with pytest.raises(LedgerError, match=r"no file of this program"):
        Outbox(path)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=30))
def test_any_sequence_of_repeats_gives_each_event_once_in_order(tmp_path_factory: pytest.TempPathFactory, seen) -> None:  # type: ignore[no-untyped-def]
    box = Outbox(tmp_path_factory.mktemp("box") / "box.sqlite3")
    first: dict[str, list[int]] = {}
    for camera, seq in seen:
        box.add([row(alarm(seq, camera))])
        if seq not in first.setdefault(camera, []):
            first[camera].append(seq)
    got: dict[str, list[int]] = {}
    while heads := box.heads("a"):
        item = box.item(heads[0])
        assert item is not None
        got.setdefault(item.lane, []).append(item.notice.seq)
        box.finish(heads[0], 1.0)
    assert got == first
    box.close()
