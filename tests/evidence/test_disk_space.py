"""Room on the disk: recordings stop first, then evidence, and it is said before."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.evidence.disk_space import DiskSpace

GB = 1_000_000_000


def test_recordings_stop_first_then_evidence_and_it_is_told_before(tmp_path: Path) -> None:
    free = [10 * GB]
    disk = DiskSpace([tmp_path / "not" / "made"], GB, lambda _folder: free[0])
    told, seen = [], []
    for number, gigabytes in enumerate((10, 2.9, 2.5, 1.9, 1.5, 0.9, 0.2, 1.05, 1.2, 2.1, 2.3, 3.2, 3.4)):
        free[0] = int(gigabytes * GB)
        state = disk.look(10.0 * number)
        seen.append((state.recording, state.evidence))
        if state.changed:
            told.append(disk.sentence(state))
    assert seen[:7] == [(True, True)] * 3 + [(False, True)] * 2 + [(False, False)] * 2
    assert seen[7:] == [(False, False), (False, True), (False, True), (True, True), (True, True), (True, True)]
    assert "recordings stop below 2.0 GB, clips and snapshots below 1.0 GB" in told[0]
    assert "recordings stopped" in told[1] and "kept for journal and events" in told[2] and "again" in told[-1]
    assert len(told) == 6


@given(st.lists(st.integers(0, 5 * GB), min_size=1, max_size=30))
def test_evidence_is_never_written_below_the_reserve_nor_recordings_below_two(amounts: list[int]) -> None:
    free = [0]
    disk = DiskSpace([Path("/")], GB, lambda _folder: free[0])
    for number, amount in enumerate(amounts):
        free[0] = amount
        state = disk.look(10.0 * number)
        assert not (state.evidence and amount < GB) and not (state.recording and amount < 2 * GB)
        assert state.evidence or amount < 1.1 * GB
        assert state.recording or amount < 2.2 * GB


def test_no_reserve_never_stops(tmp_path: Path) -> None:
    disk = DiskSpace([tmp_path], 0, lambda _folder: 0)
    assert disk.look(0.0).recording


@pytest.mark.parametrize("broken", [PermissionError, FileNotFoundError])
def test_a_folder_that_cannot_be_asked_is_asked_for_its_parent(tmp_path: Path, broken: type[OSError]) -> None:
    def free_of(folder: Path) -> int:
        if folder != tmp_path:
            raise broken
        return 7 * GB

    assert DiskSpace([tmp_path / "a" / "b"], GB, free_of).look(0.0).free == 7 * GB
