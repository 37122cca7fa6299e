"""Media time always rises, whatever the stamps do."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.capture.media_clock import JUMP_S, SEEK_BACK_S, MediaClock

STEP_S = 0.04


def played(stamps: list[float | None], clock: MediaClock | None = None) -> list[tuple[float, bool]]:
    clock = clock or MediaClock()
    return [clock.time(stamp, STEP_S) for stamp in stamps]


@pytest.mark.parametrize(
    ("stamps_ms", "expected_ms"),
    [
        ([0, 40, 80, 120], [0, 40, 80, 120]),
        ([1400, 1440, 1480], [0, 40, 80]),  # MPEG-TS does not begin at 0
        ([0, 0, 40, 80], [0, 20, 40, 80]),  # the first two alike, as some muxers write
        ([0, 0, 40, 40, 80, 80], [0, 20, 40, 60, 80, 100]),  # pairs alike do not slow the film down
        ([0, 0, 0, 0, 0], [0, 20, 40, 80, 120]),  # standing still: after two, taken for absent
        ([None, None, None], [0, 40, 80]),
        ([0, 40, math.nan, 120], [0, 40, 80, 120]),
        ([0, 40, 30, 120], [0, 40, 60, 120]),  # disorder, and the next good stamp counts again
        ([-80, -40, 0, 40], [0, 40, 80, 120]),
        ([0, 500, 540, 2000], [0, 500, 540, 2000]),  # variable rate
        ([0, 40, 60_000, 60_040], [0, 40, 60_000, 60_040]),  # a hole, where the format's clock does not restart
    ],
)
def test_stamps_become_media_time(stamps_ms: list[float | None], expected_ms: list[float]) -> None:
    found = played([None if s is None else s / 1000 for s in stamps_ms])
    assert [1000 * media_s for media_s, _ in found] == pytest.approx(expected_ms, abs=1e-6)
    assert not any(cut for _, cut in found)


@pytest.mark.parametrize("jump_s", [3600.0, -3.9, 26.5 * 3600, -26.5 * 3600])
def test_a_jump_is_a_cut_and_time_goes_on_by_a_frame(jump_s: float) -> None:
    stamps = [i * STEP_S for i in range(100)] + [i * STEP_S + jump_s for i in range(100, 150)]
    found = played(list(stamps), MediaClock(0.0, may_jump=True))
    assert [media_s for media_s, _ in found] == pytest.approx([i * STEP_S for i in range(150)])
    assert [i for i, (_, cut) in enumerate(found) if cut] == [100]


def test_video_that_begins_late_keeps_its_place() -> None:
    assert MediaClock(1.4).time(3.4, STEP_S)[0] == pytest.approx(2.0)
    assert MediaClock(1.4).time(1e6, STEP_S)[0] == 0.0  # a start that cannot be
    assert MediaClock(5.0).time(1.0, STEP_S)[0] == 0.0


@given(
    stamps=st.lists(st.none() | st.floats(-1e6, 1e6) | st.just(math.nan) | st.just(math.inf), max_size=60),
    may_jump=st.booleans(),
    start_s=st.none() | st.floats(-1e6, 1e6),
)
def test_time_always_rises_and_never_waits_where_stamps_may_jump(
    stamps: list[float | None], may_jump: bool, start_s: float | None
) -> None:
    found = [media_s for media_s, _ in played(stamps, MediaClock(start_s, may_jump))]
    assert all(math.isfinite(t) and t >= 0.0 for t in found)
    steps = [later - earlier for earlier, later in pairwise(found)]
    assert all(step > 0 for step in steps)
    if may_jump:
        assert all(step <= JUMP_S for step in steps)


@given(jitter=st.lists(st.floats(-SEEK_BACK_S / 4, SEEK_BACK_S / 4), min_size=20, max_size=60))
def test_disorder_never_drifts(jitter: list[float]) -> None:
    """However the stamps tremble, media time stays with them."""
    stamps = [i * STEP_S + shake for i, shake in enumerate(jitter)]
    found = [media_s for media_s, _ in played(list(stamps), MediaClock(0.0 if stamps[0] >= 0 else stamps[0]))]
    newest = max(stamps) - min(0.0, stamps[0])
    assert abs(found[-1] - max(newest, found[-1] - 1.0)) < 1.0 + STEP_S
