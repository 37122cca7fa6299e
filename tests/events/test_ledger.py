"""The journal: numbering, restarts, open alarms, retention, and every way a disk can fail."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_detector.errors import LedgerError, ProtocolError, UsageError
from stream_detector.events import ledger_file
from stream_detector.events.ledger import Ledger
from stream_detector.events.protocol import ALARM_SCHEMA
from stream_detector.testing import FakeClock

GATE, YARD = "v1/alarm/gate/", "v1/status/yard/"


def alarm(name: str, kind: str = "start") -> dict[str, Any]:
    return {"schema": ALARM_SCHEMA, "id": name, "camera": "gate", "type": kind, "epoch": "", "seq": 0}


def make(path: Path | None, clock: FakeClock | None = None, **options: Any) -> Ledger:
    return Ledger(path, clock=clock or FakeClock(), on_problem=lambda text: None, **options)


def seqs(ledger: Ledger, topic: str, epoch: str | None = None, seq: int = 0, limit: int = 100) -> list[tuple[str, int]]:
    bodies = [json.loads(text) for text in ledger.since(topic, epoch, seq, limit)[0]]
    return [(body["epoch"], body["seq"]) for body in bodies]


@pytest.mark.parametrize("on_disk", [True, False])
def test_seq_counts_per_topic_without_holes(tmp_path: Path, on_disk: bool) -> None:
    ledger = make(tmp_path / "l.sqlite3" if on_disk else None)
    assert [ledger.append(GATE, {}) for _ in range(3)] == [1, 2, 3]
    body: dict[str, Any] = {"epoch": "", "seq": 0, "x": "ü"}
    assert ledger.append(YARD, body) == 1
    assert body == {"epoch": ledger.epoch, "seq": 1, "x": "ü"}
    assert ledger.last_seqs() == {GATE: 3, YARD: 1}
    assert ledger.last_positions() == {GATE: (ledger.epoch, 3), YARD: (ledger.epoch, 1)}
    assert [s for _, s in seqs(ledger, GATE, seq=1)] == [2, 3]
    assert [s for _, s in seqs(ledger, GATE, limit=2)] == [1, 2]
    assert json.loads(ledger.since(YARD, None, 0, 9)[0][0]) == body
    assert not ledger.degraded and ledger.take_problems() == []
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError):
        ledger.append(GATE, {})


def test_a_number_is_stored_under_a_name_of_any_bytes(tmp_path: Path) -> None:
    """The name of an event file is such a name; Linux allows every byte in it."""
    path = os.fsdecode(b"/var/b\xff\xfc.jsonl")
    ledger = make(tmp_path / "ledger.sqlite3")
    ledger.store_number(path, 7)
    ledger.store_number("/var/ü中.jsonl", 8)
    assert (ledger.stored_number(path), ledger.stored_number("/var/ü中.jsonl")) == (7, 8)
    ledger.close()


def test_a_body_that_is_no_json_uses_no_number() -> None:
    ledger = make(None)
    with pytest.raises(ProtocolError):
        ledger.append(GATE, {"x": float("nan")})
    assert ledger.append(GATE, {}) == 1


def test_reading_goes_on_across_restarts(tmp_path: Path) -> None:
    epochs = []
    for _ in range(3):
        ledger = make(tmp_path / "l.sqlite3")
        epochs.append(ledger.epoch)
        ledger.append(GATE, {})
        ledger.append(GATE, {})
        ledger.close()
    ledger = make(tmp_path / "l.sqlite3")
    assert len({*epochs, ledger.epoch}) == 4
    assert ledger.last_seqs() == {} and ledger.last_positions() == {GATE: (epochs[2], 2)}
    every = [(epoch, seq) for epoch in epochs for seq in (1, 2)]
    assert seqs(ledger, GATE, epochs[0], 1) == every[1:]
    assert seqs(ledger, GATE, epochs[1], 2) == every[4:]
    assert seqs(ledger, GATE, "first", 0) == every
    texts, unknown = ledger.since(GATE, "f" * 16, 77, 100)
    assert len(texts) == 6 and unknown
    ledger.close()


def test_open_alarms_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    code = f"""
import os, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from pathlib import Path
from test_ledger import alarm, make
ledger = make(Path({str(path)!r}))
ledger.append("{GATE}", alarm("a")); ledger.append("{GATE}", alarm("b")); ledger.append("{GATE}", alarm("a", "update"))
ledger.append("{GATE}", alarm("b", "end"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    ledger = make(path)
    (left,) = ledger.open_alarms()
    assert (left.topic, left.first["seq"], left.last["seq"], left.last["type"]) == (GATE, 1, 3, "update")
    ledger.append(GATE, {**left.last, "type": "end"})
    ledger.close()
    assert make(path).open_alarms() == []


def test_a_second_detector_on_the_same_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    first = make(path)
    first.append(GATE, alarm("a"))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"in use by another detector \(process \d+\); stop that one, or") as caught:
        make(path)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert path.read_bytes() == before
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UsageError):
        make(tmp_path / "link")
    first.close()
    third = make(path)
    assert [o.first["id"] for o in third.open_alarms()] == ["a"]
    third.close()
    assert not list(tmp_path.glob("*.lock"))


class FullDisk:
    """Makes every write to the real file fail, as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        real = ledger_file.insert

        def insert(db: sqlite3.Connection, row: ledger_file.Row, ordinal: int, replace: bool = False) -> None:
            if self.full and db.execute("PRAGMA database_list").fetchone()[2]:
                db.execute("PRAGMA max_page_count = 1")
                db.execute("CREATE TABLE filler AS SELECT hex(randomblob(100000)) AS x")
            real(db, row, ordinal, replace)

        monkeypatch.setattr(ledger_file, "insert", insert)


def test_a_full_disk_degrades_to_memory_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock, disk = tmp_path / "l.sqlite3", FakeClock(), FullDisk(monkeypatch)
    earlier = make(path)
    earlier.append(GATE, {})
    earlier.close()
    told: list[str] = []
    ledger = Ledger(path, clock=clock, on_problem=told.append)
    ledger.append(GATE, alarm("a"))
    disk.full = True
    assert ledger.append(GATE, alarm("a", "update")) == 2
    assert ledger.degraded and "full" in told[0] and "memory only" in told[0] and len(told) == 1
    assert ledger.append(GATE, alarm("b")) == 3
    assert len(told) == 1
    assert seqs(ledger, GATE, earlier.epoch, 0) == [(earlier.epoch, 1), *((ledger.epoch, s) for s in (1, 2, 3))]
    clock.advance(31)
    ledger.append(GATE, alarm("b", "update"))
    assert ledger.degraded
    disk.full = False
    clock.advance(31)
    ledger.append(GATE, alarm("a", "end"))
    assert not ledger.degraded and "in use again" in told[-1]
    ledger.close()
    after = make(path)
    assert [s for _, s in seqs(after, GATE, ledger.epoch, 0)] == [1, 2, 3, 4, 5]
    assert [o.first["id"] for o in after.open_alarms()] == ["b"]
    after.close()


def test_a_folder_that_cannot_be_made_degrades(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    ledger = make(tmp_path / "file" / "l.sqlite3")
    assert ledger.degraded and ledger.append(GATE, {}) == 1
    ledger.close()


def test_a_read_only_file_degrades_and_its_open_alarms_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "l.sqlite3"
    first = make(path)
    first.append(GATE, alarm("a"))
    first.close()
    real: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connect(target: Any, *args: Any, **options: Any) -> sqlite3.Connection:
        if target == path:
            return real(f"{path.as_uri()}?mode=ro", *args, uri=True, **options)
        return real(target, *args, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    ledger = make(path)
    assert ledger.degraded and "readonly" in ledger.take_problems()[0]
    assert [o.first["id"] for o in ledger.open_alarms()] == ["a"]
    assert ledger.append(GATE, alarm("a", "end")) == 1
    ledger.close()


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be looked at" * 50, b"SQLite format 3\0xx"]
)
def test_a_corrupt_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "l.sqlite3"
    path.write_bytes(content)
    if not content.startswith(b"SQLite"):  # a process died that had it open: it is not somebody else's
        (tmp_path / "l.sqlite3.lock").write_text("4321\n")
    ledger = make(path)
    assert "set aside" in ledger.take_problems()[0] and not ledger.degraded
    assert (tmp_path / "l.sqlite3.corrupt-1").read_bytes() == content
    assert ledger.append(GATE, {}) == 1
    ledger.close()
    assert make(path).last_positions() == {GATE: (ledger.epoch, 1)}


def test_a_corrupt_file_still_gives_its_open_alarms_and_newest_events(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    first = make(path)
    for number in range(200):
        first.append(GATE, alarm(f"n{number}", "start" if number == 150 else "update") | {"pad": "x" * 300})
    first.append(GATE, alarm("n150", "update"))
    first.close()
    data = bytearray(path.read_bytes())
    place = data.find(b'"id":"n60"')
    data[place + 7] ^= 1
    path.write_bytes(data)
    other = sqlite3.connect(path)
    with other:
        other.execute("UPDATE open_alarms SET last = 'x' WHERE id LIKE 'n7@%'")
    other.close()
    second = make(path)
    assert "set aside" in second.take_problems()[0]
    names = {o.last["id"] for o in second.open_alarms()}
    assert "n150" in names and "n7" not in names and len(names) == 199
    found = [seq for _, seq in seqs(second, GATE, first.epoch, 0, 500)]
    assert found == [n for n in range(1, 202) if n != 61]
    second.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE epochs SET epoch = 'nonsense'",
        "UPDATE topics SET topic = 'nonsense'",
        "UPDATE topics SET seq = -5",
        "UPDATE events SET seq = seq + 100",
        "UPDATE events SET body = x'ff00ff'",
        "DROP TABLE topics",
        "DROP TABLE events",
    ],
)
def test_nonsense_in_a_table_is_noticed(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "l.sqlite3"
    ledger = make(path)
    written = [(ledger.epoch, ledger.append(GATE, {})) for _ in range(3)]
    other = sqlite3.connect(path)
    with other:
        other.execute(damage)
    other.close()
    assert ledger.last_positions() == {GATE: written[-1]}
    assert seqs(ledger, GATE, None, 0) == written
    assert "set aside" in ledger.take_problems()[0]
    assert ledger.append(GATE, {}) == 4
    ledger.close()


def test_a_flipped_bit_in_a_body_is_noticed_and_what_is_remembered_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    ledger = make(path)
    for number in range(5):
        ledger.append(GATE, alarm(f"needle{number}"))
    other = sqlite3.connect(path)
    with other:
        other.execute("UPDATE events SET body = replace(body, 'needle3', 'needle9')")
    other.close()
    bodies = [json.loads(text) for text in ledger.since(GATE, None, 0, 10)[0]]
    assert [body["id"] for body in bodies] == [f"needle{number}" for number in range(5)]
    assert "checksum" in ledger.take_problems()[0]
    assert ledger.append(GATE, {}) == 6 and len(ledger.open_alarms()) == 5
    ledger.close()


@pytest.mark.parametrize("seed", range(12))
def test_random_flips_never_crash_and_never_change_an_event(tmp_path: Path, seed: int) -> None:
    """One flip each in a journal of 60 events; whatever is read afterwards is an event as it was written."""
    path, dice = tmp_path / "l.sqlite3", random.Random(seed)
    first = make(path)
    for number in range(60):
        first.append(GATE if number % 3 else YARD, alarm(f"n{number}"))
    written = {
        (body["epoch"], t, body["seq"]): body
        for t in (GATE, YARD)
        for body in map(json.loads, first.since(t, None, 0, 99)[0])
    }
    first.close()
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    second = make(path)
    for topic in (GATE, YARD):
        for body in map(json.loads, second.since(topic, first.epoch, 0, 99)[0]):
            assert written[body["epoch"], topic, body["seq"]] == body
        second.last_positions()
        assert second.append(topic, alarm("new")) == 1
    assert all(
        o.first == written.get((o.first["epoch"], o.topic, o.first["seq"]), o.first) for o in second.open_alarms()
    )
    second.close()


def test_retention_by_age_keeps_the_young_and_the_open(tmp_path: Path) -> None:
    clock = FakeClock()
    ledger = make(tmp_path / "l.sqlite3", clock, keep_days=1)
    ledger.append(GATE, alarm("open"))
    ledger.append(GATE, {})
    clock.advance(61)
    ledger.maintain()
    clock.advance(2 * 86400)
    ledger.append(GATE, {})
    ledger.append(GATE, {})
    assert [s for _, s in seqs(ledger, GATE)] == [3, 4]
    assert [o.first["id"] for o in ledger.open_alarms()] == ["open"]
    ledger.close()


def test_retention_by_size_holds_the_file_near_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite3"
    ledger = make(path, max_bytes=1_000_000)
    for _ in range(6000):
        ledger.append(GATE, {"pad": "x" * 400})
    numbers = [s for _, s in seqs(ledger, GATE, limit=10_000)]
    assert numbers == list(range(numbers[0], 6001)) and 100 < len(numbers) < 4000
    ledger.close()
    assert path.stat().st_size < 2_500_000


def test_a_clock_that_steps_breaks_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    ledger = make(tmp_path / "l.sqlite3", clock)
    for step in (3600.0, -7200.0, 3600.0):
        clock._offset_s += step
        ledger.append(GATE, alarm("a", "update"))
        clock.advance(61)
    assert [s for _, s in seqs(ledger, GATE)] == [1, 2, 3]
    ledger.close()
