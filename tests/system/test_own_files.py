"""Files of others are never written, replaced, moved or waited for."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_detector.adaptation.memory import Memory
from stream_detector.bridges.outbox import Outbox
from stream_detector.client.cursor import Cursor, load_cursor
from stream_detector.cluster.shard_log import ShardLog
from stream_detector.config.settings import load_config
from stream_detector.errors import StreamDetectorError, UsageError
from stream_detector.events.ledger import Ledger
from stream_detector.reports.read_back import read_events
from stream_detector.reports.scores_file import read_scores
from stream_detector.system import own_files, user_files
from stream_detector.system.lock_file import LockFile, claim_journal
from stream_detector.testing import FakeClock


def foreign_database(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE diary(day TEXT, facts TEXT)")
    db.execute("INSERT INTO diary VALUES ('Monday', 'rain')")
    db.commit()
    db.close()


def foreign_with_id(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA application_id = 1196444487")
    db.execute("PRAGMA user_version = 3")
    db.close()


def text(path: Path) -> None:
    path.write_text("Dear diary\n" * 30)


def in_use(path: Path) -> None:
    """Everything of it is still beside it."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE diary(day TEXT)")
    db.commit()
    copies = {name: (path.parent / name).read_bytes() for name in (path.name, f"{path.name}-wal")}
    db.close()
    for name, content in copies.items():
        (path.parent / name).write_bytes(content)


def ledger(path: Path) -> None:
    Ledger(path, clock=FakeClock())


OWNERS: dict[str, Callable[[Path], object]] = {
    "journal": ledger,
    "outbox": Outbox,
    "memory": Memory,
    "shard": ShardLog,
}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("foreign", [foreign_database, foreign_with_id, text, in_use])
def test_a_foreign_file_is_refused_and_stays(tmp_path: Path, owner: str, foreign: Callable[[Path], None]) -> None:
    path = tmp_path / "theirs.db"
    foreign(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(StreamDetectorError) as caught:
        OWNERS[owner](path)
    assert "\n" not in str(caught.value) and "theirs.db" in str(caught.value)
    before.pop("theirs.db-shm", None)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir() if not f.name.endswith("-shm")} == before


@pytest.mark.parametrize("owner", OWNERS)
def test_an_empty_file_is_used(tmp_path: Path, owner: str) -> None:
    (tmp_path / "new.db").touch()
    opened = OWNERS[owner](tmp_path / "new.db")
    assert (tmp_path / "new.db").stat().st_size
    del opened


def test_every_damaged_journal_is_still_recognised(tmp_path: Path) -> None:
    """Wherever a block of its first page is overwritten: by its id, by its tables, or by its beginning."""
    path = tmp_path / "l.sqlite3"
    Ledger(path, clock=FakeClock()).close()
    content = path.read_bytes()
    for place in range(0, 4096, 64):
        path.write_bytes(content[:place] + os.urandom(64) + content[place + 64 :])
        assert own_files.is_own(path, own_files.JOURNAL), place


@pytest.mark.parametrize("kind", ["text", "link", "folder", "fifo"])
def test_only_a_lock_file_is_taken_as_one(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / "l.sqlite3.lock"
    diary = tmp_path / "diary"
    diary.write_text("12 pages of secrets")
    if kind == "text":
        lock.write_text("12 pages of secrets")
    elif kind == "link":
        lock.symlink_to(diary)
    elif kind == "folder":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    with pytest.raises(UsageError, match="stays unchanged"):
        claim_journal(tmp_path / "l.sqlite3")
    assert diary.read_text() == "12 pages of secrets" and (kind != "text" or lock.read_text() == diary.read_text())


def test_a_lock_that_a_killed_process_left_is_taken(tmp_path: Path) -> None:
    for text_left in ("", "4321\n", "4321"):
        (tmp_path / "x.lock").write_text(text_left)
        lock = LockFile(tmp_path / "x.lock")
        assert lock.acquire()
        lock.release()


def test_a_cursor_is_replaced_without_touching_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("mine")
    (tmp_path / "c.json.tmp").symlink_to(tmp_path / "diary")
    Cursor().save(tmp_path / "c.json")
    assert load_cursor(tmp_path / "c.json") == Cursor() and (tmp_path / "diary").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.json", "c.json.tmp", "diary"]


READERS: dict[str, Callable[[Path], object]] = {
    "config": load_config,
    "cursor": load_cursor,
    "scores": read_scores,
    "events": read_events,
    "journal": ledger,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["fifo", "zero", "folder", "address"])
def test_nothing_is_waited_for_or_read_without_a_bound(tmp_path: Path, reader: str, kind: str) -> None:
    path = {"zero": Path("/dev/zero"), "address": Path("rtsp://u:Zq7secret@h/x")}.get(kind, tmp_path / "it")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(StreamDetectorError) as caught:
        READERS[reader](path)
        if reader == "config":  # an empty pipe is an empty file
            raise UsageError("nothing is in it")
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value) and "Zq7" not in str(caught.value)


def test_a_pipe_is_read_to_its_end_and_no_further_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_files, "_PIPE_S", 0.05)
    reader, writer = os.pipe()
    try:
        with pytest.raises(UsageError, match="gave nothing"):
            user_files.read_named(Path(f"/dev/fd/{reader}"), "file", pipes=True)
        os.write(writer, b"abc")
        os.close(writer)
        writer = -1
        assert user_files.read_named(Path(f"/dev/fd/{reader}"), "file", pipes=True) == b"abc"
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    (tmp_path / "big").write_bytes(b"x" * 101)
    with pytest.raises(UsageError, match="more than 100 bytes"):
        user_files.read_named(tmp_path / "big", "file", most_bytes=100)
