"""Sources that cannot fill a window are told by name; what never fills a window leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
from capture_rig import Make
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.capture.media_clock import EARLY_S, LATE_S, LiveClock
from stream_detector.capture.slow_sources import SlowSourceDetector
from stream_detector.capture.windower import MAX_PREVIEWS, Windower
from stream_detector.testing import FakeClock, FakeSource
from stream_detector.types import Frame, Preview


@pytest.mark.parametrize(
    ("step_s", "key", "says"),
    [(2.5, None, "one picture every 2.5 s"), (4.0, True, "only key frames, one every 4.0 s"), (5.0, False, "5.0 s")],
)
def test_a_slow_source_is_told_what_it_sends_and_what_is_needed(step_s: float, key: bool | None, says: str) -> None:
    watch = SlowSourceDetector(2.0, 25.0)
    for index in range(4):
        assert not watch.slow
        watch.see(index * step_s, key)
    assert watch.ending("a.mp4", "ended") == f"failed: a.mp4: {watch.slow}"
    assert says in watch.slow and "needs 25 fps" in watch.slow and "0.5 fps to fill" in watch.slow


def test_one_hole_does_not_make_a_source_slow() -> None:
    watch = SlowSourceDetector(2.0, 25.0)
    for media_s in (0.0, 0.04, 3600.0, 3600.04, 3610.0, 3610.04):
        watch.see(media_s)
        assert not watch.slow


def test_a_time_lapse_fails_with_a_sentence(rigs: Make) -> None:
    rig = rigs(FakeSource(["frame"] * 80, fps=0.2)).run()
    assert rig.ended[0][1].startswith("failed: ") and "one picture every 5.0 s, too slow" in rig.ended[0][1]
    assert rig.states()[-1] == "failed"


def test_a_slow_camera_is_stalled_and_says_why(rigs: Make) -> None:
    clock = FakeClock()
    rig = rigs(FakeSource(["frame"] * 8, live=True, fps=0.4, clock=clock), live=True, clock=clock)
    rig.capture.start()
    rig.until(lambda: "stalled" in rig.states())
    assert "too slow for this model" in rig.statuses[-1].detail


class Still:
    def monotonic(self) -> float:
        return 0.0

    def utc(self) -> float:
        return 0.0


def frame(index: int, media_s: float, causes: tuple[str, ...] = ()) -> Frame:
    image = np.zeros((112, 112, 3), np.uint8)
    preview = Preview(media_s, np.zeros((288, 384, 3), np.uint8))
    return Frame("cam", index, media_s, media_s, 0.0, image, preview, causes)


@settings(max_examples=30, deadline=None)
@given(
    stride=st.sampled_from([1, 8, 16, 40, 5000]),
    every=st.integers(1, 15),
    step_s=st.sampled_from([0.04, 0.9, 2.5]),
    cause=st.sampled_from(["reconnect", "cut", "corrupt", "gap"]),
)
def test_a_camera_that_never_fills_a_window_holds_no_more_than_one(
    stride: int, every: int, step_s: float, cause: str
) -> None:
    """Flapping, dripping, stepping over: bytes held stay under 16 frames and 48 previews, however long it goes on."""
    windower = Windower("cam", "s", stride, 2.0, Still())
    bound = 16 * 112 * 112 * 3 + MAX_PREVIEWS * 288 * 384 * 3
    for index in range(400):
        windower.push(frame(index, index * step_s, (cause,) if index % every == 0 else ()))
        assert windower.held_bytes <= bound
    if cause == "reconnect" or step_s > 2.0:  # after the last reset nothing of before is left
        windower.push(frame(400, 400 * step_s + 100.0, ("reconnect",)))
        assert windower.held_bytes <= 112 * 112 * 3 + 288 * 384 * 3


def test_pictures_of_a_burst_keep_their_spacing_and_are_spread_out() -> None:
    """Segments of 4 s, each of which arrives at once."""
    clock = LiveClock()
    found = [clock.time(1e4 + i * 0.04, 50.0 + 4.0 * (i // 100)) for i in range(500)]
    steps = np.diff(found)
    assert steps.min() > 0.03 and steps.max() < 0.05
    assert abs(found[-1] - found[0] - 499 * 0.04) < 1.0


@given(
    stamps=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    waits=st.lists(st.floats(0.0, 30.0), min_size=40, max_size=40),
)
def test_live_time_rises_and_stays_near_arrival_whatever_the_stamps_do(stamps: list[float], waits: list[float]) -> None:
    clock, arrived_s, last_s = LiveClock(), 0.0, -1.0
    for stamp_s, wait_s in zip(stamps, waits, strict=False):
        arrived_s += wait_s
        media_s = clock.time(stamp_s, arrived_s)
        assert media_s > last_s and arrived_s - LATE_S - 0.1 <= media_s <= arrived_s + EARLY_S + 0.1
        last_s = media_s
