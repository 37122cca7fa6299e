"""The memory of a site: what it keeps, for how long, in how many bytes, and what a kill leaves of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector.adaptation.memory import Block, KeptAlarm, Memory, check_memory, grow_coreset, remove
from stream_detector.errors import DataError

DIM, BUNDLE, WINDOW_S = 256, "f" * 16, 0.64
T0 = 1_700_000_000.0


def a_block(at_s: float, count: int = 64, camera: str = "gate", seed: int = 0, peak: float = 0.1) -> Block:
    dice = np.random.default_rng(seed)
    starts = at_s + np.arange(count) * WINDOW_S
    raw = dice.uniform(0, peak, count).astype(np.float32)
    features = dice.uniform(0, 1, (count, DIM)).astype(np.float16)
    flags = np.zeros(count, np.uint8)
    return Block(camera, "e" * 16, BUNDLE, starts, starts + WINDOW_S, T0 + starts, raw, flags, features)


def an_alarm(at_s: float, key: str = "a", camera: str = "gate") -> KeptAlarm:
    return KeptAlarm(key * 32, "e" * 16, camera, at_s, at_s + 5.0, T0 + at_s, 0.9, 0.4, BUNDLE, "")


def bounds(**changes: Any) -> dict[str, Any]:
    return {"window_hours": 1.0, "alarm_days": 90.0, "max_bytes": 10**9, "coreset": 100, **changes}


@pytest.fixture()
def memory(tmp_path: Path) -> Any:
    made = Memory(tmp_path / "site" / "memory.sqlite3")
    yield made
    made.close()


def test_what_goes_in_comes_out(memory: Memory) -> None:
    block = a_block(0.0)
    memory.add([block])
    (found,) = memory.blocks("gate", BUNDLE)
    for name in ("starts_s", "ends_s", "utc", "raw", "flags", "features"):
        assert np.array_equal(getattr(found, name), getattr(block, name))
    assert memory.hours("gate")[0][1] == pytest.approx(64 * WINDOW_S)
    assert list(memory.blocks("yard")) == [] and list(memory.blocks("gate", "0" * 16)) == []


def test_older_windows_are_thinned_to_alarms_peaks_and_a_sample(memory: Memory) -> None:
    hour = 3600.0
    blocks = [a_block(k * 64 * WINDOW_S, seed=k) for k in range(int(2 * hour / (64 * WINDOW_S)))]
    memory.add(blocks)
    memory.alarm(an_alarm(1000.0))
    now = T0 + 3 * hour
    memory.prune(now, **bounds(window_hours=1.5))
    kept = list(memory.blocks("gate"))
    thin = [b for b in kept if b.thin]
    assert any(not b.thin for b in kept) and thin
    ends = np.concatenate([b.ends_s for b in thin])
    around = (ends > 1000 - 59) & (ends < 1005 + 59)
    assert around.sum() >= 118 / WINDOW_S - 4  # the whole of what surrounds the alarm
    calm = ends[~((ends > 1000 - 62) & (ends < 1005 + 62))]
    assert 0 < len(calm) < 400  # some peaks an hour, of some 8,000 windows
    assert 0 < len(memory.coreset("gate")) <= 100
    assert memory.hours("gate") and sum(s for _, s in memory.hours("gate")) == pytest.approx(
        sum(len(b) for b in blocks) * WINDOW_S
    )  # hours are counted although the windows are gone
    assert memory.prune(now, **bounds(window_hours=1.5)) == 0


def test_the_highest_calm_windows_are_the_ones_that_stay(memory: Memory) -> None:
    blocks = [a_block(k * 64 * WINDOW_S, seed=k) for k in range(200)]
    blocks[50].raw[10] = 0.95
    memory.add(blocks)
    memory.prune(T0 + 10**6, **bounds())
    assert max(float(b.raw.max()) for b in memory.blocks("gate")) >= 0.0
    assert sum(len(b) for b in memory.blocks("gate")) < 0.05 * 200 * 64


@pytest.mark.parametrize("limit", [2_000_000, 6_000_000])
def test_the_size_is_bounded_whatever_comes(memory: Memory, limit: int) -> None:
    for k in range(300):
        memory.add([a_block(k * 64 * WINDOW_S, camera=("gate", "yard")[k % 2], seed=k)])
        if k % 20 == 19:
            memory.alarm(an_alarm(k * 64 * WINDOW_S, key=f"{k % 10}"))
            memory.prune(T0 + k * 64 * WINDOW_S, **bounds(window_hours=0.0, max_bytes=limit))
            assert memory.bytes <= limit
    newest = max(float(b.utc[-1]) for b in memory.blocks())
    assert newest == pytest.approx(T0 + 299 * 64 * WINDOW_S + 64 * WINDOW_S, abs=1.0)  # the oldest went first


def test_time_deletes_alarms_and_verdicts_too(memory: Memory) -> None:
    memory.add([a_block(0.0)])
    memory.alarm(an_alarm(10.0))
    body = {"id": "a" * 32, "alarm_epoch": "e" * 16, "camera": "gate", "verdict": "false"}
    memory.verdict({**body, "note": "", "by": "", "author": "local", "epoch": "e" * 16}, None, T0)
    assert memory.alarms("gate")[0].verdict == "false"
    memory.prune(T0 + 91 * 86400, **bounds())
    assert memory.alarms() == [] and list(memory.blocks()) == [] and memory.hours("gate") == []


def test_the_newest_verdict_counts_and_a_miss_can_be_withdrawn(memory: Memory) -> None:
    memory.alarm(an_alarm(10.0))
    told = {"note": "", "by": "Ann", "author": "local", "epoch": "e" * 16, "camera": "gate"}
    for word in ("true", "false", "benign"):
        memory.verdict({**told, "id": "a" * 32, "alarm_epoch": "e" * 16, "verdict": word}, None, T0)
    assert [a.verdict for a in memory.alarms()] == ["benign"]
    miss = {**told, "id": "b" * 32, "alarm_epoch": None, "at_s": 7.0, "lasting_s": 4.0}
    memory.verdict({**miss, "verdict": "missed"}, None, T0)
    assert [(m.at_s, m.lasting_s) for m in memory.misses("gate")] == [(7.0, 4.0)]
    memory.verdict({**miss, "verdict": "unsure", "at_s": None, "lasting_s": None}, None, T0 + 1)
    assert memory.misses() == []


def test_a_camera_can_be_forgotten(memory: Memory) -> None:
    memory.add([a_block(0.0), a_block(0.0, camera="yard")])
    memory.forget("gate")
    assert [c.camera for c in memory.cameras()] == ["yard"]


def _fill(path: Path, pipe: Any) -> None:
    memory = Memory(path)
    k = 0
    while True:
        memory.add([a_block(k * 64 * WINDOW_S, seed=k)])
        memory.prune(T0 + k * 64 * WINDOW_S, **bounds(window_hours=0.1, max_bytes=3_000_000))
        k += 1
        pipe.send(k)


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    context = multiprocessing.get_context("spawn")
    for until in (3, 40):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_fill, args=(path, theirs))
        process.start()
        try:
            while ours.poll(300) and ours.recv() < until:
                pass
        finally:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join(20)
            ours.close()
            theirs.close()
        assert check_memory(path) == "ok"
        memory = Memory(path)
        assert all(len(b) for b in memory.blocks())
        memory.close()


def test_a_file_that_is_no_memory_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "notes.sqlite3"
    foreign.write_bytes(b"not a database at all, and long enough to be looked at" * 40)
    with pytest.raises(DataError):
        Memory(foreign)
    with pytest.raises(DataError):
        Memory(tmp_path / "absent.sqlite3", read_only=True)
    made = Memory(tmp_path / "m.sqlite3")
    made.close()
    remove(tmp_path / "m.sqlite3")
    assert not (tmp_path / "m.sqlite3").exists()


def test_the_sample_is_spread_out_and_bounded() -> None:
    dice = np.random.default_rng(0)
    crowd = dice.normal(0, 0.01, (500, 4)).astype(np.float32)
    corners = np.eye(4, dtype=np.float32) * 10
    kept, radius = grow_coreset(np.empty((0, 4), np.float32), np.concatenate([crowd, corners]), 0.0, 32)
    assert len(kept) <= 32 and radius > 0
    for corner in corners:
        assert np.abs(kept - corner).sum(axis=1).min() < 1e-6  # what is rare is kept, what is common is thinned
