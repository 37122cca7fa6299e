"""A shard that is killed at any moment, and its successor, tell the same story as one that never died."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stream_detector.cluster.messages import ShardItem
from stream_detector.cluster.shard import Shard
from stream_detector.errors import StageError
from tests.cluster.bench import EPOCH, ended, items, make_shard, raws

ASK_S = 10.0
COUNT = 60


def journal(folder: Path, kind: str = "alarm") -> list[dict[str, Any]]:
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as db:
        bodies = [json.loads(text) for (text,) in db.execute("SELECT body FROM events ORDER BY n")]
    volatile = ("timing", "emitted_utc", "start_utc", "epoch")
    return [{k: v for k, v in body.items() if k not in volatile} for body in bodies if body["schema"].count(kind)]


def rows(folder: Path) -> list[str]:
    return (folder / "s.csv").read_text(encoding="utf-8").splitlines()


def generation(shard: Shard, camera: str = "gate") -> int:
    return shard.adopt(camera).result(ASK_S).generation


def undisturbed(folder: Path, values: list[float]) -> list[dict[str, Any]]:
    shard = make_shard(folder, scores=folder / "s.csv")
    told = items("gate", generation(shard), values)
    shard.submit([*told, ended("gate", told[0].generation, len(told))]).result(ASK_S)
    shard.finish("shutdown").result(ASK_S)
    return journal(folder)


class Kill(BaseException):
    pass


def dies_at(monkeypatch: pytest.MonkeyPatch, shard: Shard, place: str, when: int) -> None:
    """The shard's thread ends at the `when`-th call of a step, before or after it."""
    target: Any = {"journal": shard._publisher, "score": shard._decider, "log": shard._log}[place.split("-")[0]]
    name = {"journal": "_journal_and_send", "score": "score", "log": "write"}[place.split("-")[0]]
    original: Callable[..., Any] = getattr(target, name)
    calls = 0

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == when and place.endswith("before"):
            raise Kill
        result = original(*args, **kwargs)
        if calls == when and place.endswith("after"):
            raise Kill
        return result

    monkeypatch.setattr(target, name, step)


@pytest.mark.parametrize("place", ["journal-before", "journal-after", "score-before", "score-after", "log-after"])
@pytest.mark.parametrize("when", [1, 2, 4, 7])
def test_a_shard_killed_anywhere_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, when: int
) -> None:
    values = raws(COUNT)
    expected = undisturbed(tmp_path / "whole", values)
    assert {body["type"] for body in expected} == {"start", "update", "end"}
    folder = tmp_path / "killed"
    shard = make_shard(folder, scores=folder / "s.csv")
    current = generation(shard)
    told: list[ShardItem] = [*items("gate", current, values), ended("gate", current, COUNT)]
    dies_at(monkeypatch, shard, place, when)
    at = 0
    while at < len(told) and shard.error is None:  # stop and wait, as a camera host does
        done = shard.submit(told[at : at + 5])
        while not done.done() and shard.error is None:
            shard._thread.join(0.005)
        at += 5 if done.done() else 0
    assert isinstance(shard.error, Kill)
    shard.close()
    successor = make_shard(folder, scores=folder / "s.csv")
    for start in range(at, len(told), 5):
        successor.submit(told[start : start + 5]).result(ASK_S)
    successor.finish("shutdown").result(ASK_S)
    assert journal(folder) == expected
    assert rows(folder) == rows(tmp_path / "whole")


def test_numbering_goes_on_in_the_same_epoch(tmp_path: Path) -> None:
    shard = make_shard(tmp_path)
    told = items("gate", generation(shard), [0.9] * 8)
    shard.submit(told).result(ASK_S)
    shard.close()
    successor = make_shard(tmp_path)
    successor.submit(items("gate", told[0].generation, [0.0] * 8, 8, 8)).result(ASK_S)
    successor.finish("shutdown").result(ASK_S)
    events = journal(tmp_path)
    assert [body["seq"] for body in events] == list(range(1, len(events) + 1))
    assert [body["type"] for body in events][-1] == "end"
    assert len({body["id"] for body in events}) == 1
    assert events[-1]["reason"] == "normal"


def test_a_new_run_goes_on_with_a_files_alarm_and_after_an_orderly_end_begins_anew(tmp_path: Path) -> None:
    shard = make_shard(tmp_path)
    shard.submit(items("gate", generation(shard), [0.9] * 8)).result(ASK_S)
    shard.close()  # the driver was killed, and everything with it
    second = make_shard(tmp_path, epoch="cd" * 8)
    resume = second.adopt("gate").result(ASK_S)
    assert (resume.next_index, resume.done, resume.generation) == (8, False, 2)
    second.submit(items("gate", 2, [0.0] * 8, 8)).result(ASK_S)
    second.finish("shutdown").result(ASK_S)
    assert [body["type"] for body in journal(tmp_path)].count("start") == 1
    third = make_shard(tmp_path, epoch="ef" * 8)
    assert third.adopt("gate").result(ASK_S).next_index == 0
    third.finish("shutdown").result(ASK_S)


def test_an_alarm_of_a_camera_that_is_no_more_ends_with_restart(tmp_path: Path) -> None:
    shard = make_shard(tmp_path)
    shard.submit(items("gate", generation(shard), [0.9] * 8)).result(ASK_S)
    shard.close()
    other = make_shard(tmp_path, names=("yard",), epoch="cd" * 8)
    other.finish("shutdown").result(ASK_S)
    assert journal(tmp_path)[-1]["reason"] == "restart"
    back = make_shard(tmp_path, epoch="ef" * 8)
    assert back.adopt("gate").result(ASK_S).next_index == 0
    back.finish("shutdown").result(ASK_S)


def test_a_former_host_is_not_believed(tmp_path: Path) -> None:
    shard = make_shard(tmp_path)
    old, new = generation(shard), generation(shard)
    shard.submit(items("gate", old, [0.9] * 8)).result(ASK_S)
    shard.submit(items("gate", new, [0.1] * 8)).result(ASK_S)
    shard.submit(items("gate", new, [0.9] * 8)).result(ASK_S)  # sent twice
    report = shard.report().result(ASK_S)
    shard.finish("shutdown").result(ASK_S)
    assert (report["windows"], report["alarms"]) == (8, 0)


def test_a_hole_is_an_error_of_ours_and_is_not_passed_over(tmp_path: Path) -> None:
    shard = make_shard(tmp_path)
    shard.submit(items("gate", generation(shard), [0.9] * 2, n=1))
    shard._thread.join(ASK_S)
    assert isinstance(shard.error, StageError)
    shard.close()
    assert EPOCH
