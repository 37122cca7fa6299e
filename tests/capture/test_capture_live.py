"""The capture thread on live sources: reconnecting, stalls, stuck readers; scripted, by a clock moved by hand."""

from __future__ import annotations

import threading
import time

import pytest
from capture_rig import DEADLINE_S, LIVE, Make

from stream_detector.capture.watchdog import Watchdog
from stream_detector.config import CaptureConfig
from stream_detector.errors import SourceError
from stream_detector.testing import FakeClock, FakeSource


def test_live_frames_are_stamped_by_the_clock_since_the_start(rigs: Make) -> None:
    clock = FakeClock(start_s=5000.0)
    rig = rigs(FakeSource(["frame"] * 10, live=True, clock=clock), live=True, clock=clock)
    rig.capture.start()
    rig.until(lambda: len(rig.frames) == 10)
    assert [f.media_s for f in rig.frames] == pytest.approx([(i + 1) / 25 for i in range(10)])
    assert [f.captured_s for f in rig.frames] == pytest.approx([5000.0 + (i + 1) / 25 for i in range(10)])
    assert rig.capture.fps == pytest.approx(25.0) and rig.capture.last_frame_age() == pytest.approx(0.0)


def test_a_lost_camera_is_reopened_and_the_first_frame_says_so(rigs: Make) -> None:
    clock = FakeClock()
    source = FakeSource(["frame"] * 5 + ["lost"] + ["frame"] * 5, live=True, clock=clock)
    rig = rigs(source, live=True, clock=clock)
    rig.capture.start()
    rig.until(lambda: len(rig.frames) == 10)
    assert [f.discontinuity for f in rig.frames] == [()] * 5 + [("reconnect",)] + [()] * 4
    assert [f.index for f in rig.frames] == list(range(10))
    assert rig.states() == ["connecting", "online", "offline", "online"]
    assert rig.capture.counters().reconnects == 1 and (source.opens, source.closes) == (2, 1)
    times = [f.media_s for f in rig.frames]
    assert times == sorted(times) and times[5] - times[4] == pytest.approx(0.54)  # half a second of back-off


def test_back_off_doubles_up_to_its_limit_and_never_gives_up(rigs: Make) -> None:
    clock = FakeClock()
    config = CaptureConfig(backoff_min_s=0.5, backoff_max_s=30.0)
    rig = rigs(FakeSource(["frame"] * 3, live=True, refuse=12, clock=clock), live=True, clock=clock, config=config)
    rig.capture.start()
    rig.until(lambda: len(rig.frames) == 3)
    assert rig.waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0] + [30.0] * 6
    assert rig.states() == ["connecting", "offline", "online"]
    assert rig.frames[0].discontinuity == () and rig.capture.counters().reconnects == 0


def test_back_off_starts_afresh_after_a_good_while(rigs: Make) -> None:
    clock = FakeClock()
    source = FakeSource(["lost"] * 4 + ["frame"] * 2000 + ["lost", "frame"], live=True, clock=clock)
    rig = rigs(source, live=True, clock=clock)
    rig.capture.start()
    rig.until(lambda: len(rig.frames) == 2001)
    assert rig.waits == [0.5, 1.0, 2.0, 4.0, 0.5]


def test_jitter_shortens_a_delay_by_up_to_half(rigs: Make) -> None:
    rig = rigs(FakeSource(["frame"], live=True, refuse=2), live=True)
    rig.capture._jitter = lambda: 0.0
    rig.capture.start()
    rig.until(lambda: len(rig.frames) == 1)
    assert rig.waits == [0.25, 0.5]


def test_exit_on_error_concerns_the_first_opening_only(rigs: Make) -> None:
    config = CaptureConfig(exit_on_error=True)
    rig = rigs(FakeSource(live=True, refuse=1), live=True, config=config).run()
    assert rig.ended[0][1].startswith("failed: ")
    later = rigs([FakeSource(["frame", "lost"]), FakeSource(refuse=3), FakeSource(["frame"], live=True)], live=True)
    later.capture._config = config
    later.capture.start()
    later.until(lambda: len(later.frames) == 2)
    assert not later.ended


def test_flat_pictures_after_a_connect_are_skipped_for_two_seconds_at_most(rigs: Make) -> None:
    clock = FakeClock()
    rig = rigs(FakeSource(["flat"] * 5 + ["frame"] * 5, live=True, clock=clock), live=True, clock=clock)
    rig.capture.start()
    rig.until(lambda: len(rig.frames) == 5)
    assert rig.capture.counters().dropped == {"unclean": 5} and rig.frames[0].index == 5
    clock = FakeClock()
    dark = rigs(FakeSource(["flat"] * 70, live=True, clock=clock), live=True, clock=clock)
    dark.capture.start()
    dark.until(lambda: len(dark.frames) >= 10)  # a camera that really sees one colour is taken at its word
    assert dark.capture.counters().dropped["unclean"] == pytest.approx(50, abs=1)


def test_statuses_never_carry_the_password(rigs: Make) -> None:
    class Chatty(FakeSource):
        def open(self) -> None:
            self.opens += 1
            if self.opens == 1:
                raise SourceError(f"cannot open {LIVE}")

    rig = rigs(Chatty(["frame"], live=True), live=True)
    rig.capture.start()
    rig.until(lambda: len(rig.frames) == 1)
    assert "hunter2" not in repr(rig.statuses) and rig.statuses[0].source == "rtsp://host"
    assert "cannot open rtsp://…@host" in rig.statuses[1].detail


# -- the watchdog --------------------------------------------------------------------------------------------------


def test_a_stall_is_told_by_the_age_of_the_last_frame_and_taken_back(rigs: Make) -> None:
    clock = FakeClock()
    source = FakeSource(["frame"] * 3 + ["stall"] + ["frame"] * 3, live=True, clock=clock)
    rig = rigs(source, live=True, clock=clock)
    rig.capture.start()
    assert source.stalled.wait(DEADLINE_S)
    clock.advance(2.9)
    rig.capture.check()
    assert rig.capture.state == "online"
    clock.advance(0.2)
    rig.capture.check()
    rig.capture.check()
    assert rig.states() == ["connecting", "online", "stalled"]
    assert rig.statuses[-1].detail == "no frame for 3.1 s" and rig.capture.fps == 0.0
    source.release()
    rig.until(lambda: len(rig.frames) == 7)
    assert rig.states()[:4] == ["connecting", "online", "stalled", "online"]
    assert all(not f.discontinuity for f in rig.frames)  # the hole in media time is for the windower to see


def test_a_stuck_reader_is_abandoned_and_its_late_frame_thrown_away(rigs: Make) -> None:
    clock = FakeClock()
    stuck = FakeSource(["frame"] * 3 + ["stall", "frame"], live=True, clock=clock)
    fresh = FakeSource(["frame"] * 4, live=True, clock=clock)
    rig = rigs([stuck, fresh], live=True, clock=clock)
    rig.capture.start()
    assert stuck.stalled.wait(DEADLINE_S)
    clock.advance(16.0)
    rig.capture.check()
    rig.until(lambda: len(rig.frames) == 7)
    assert rig.states() == ["connecting", "online", "stalled", "offline", "online"]
    assert rig.capture.abandoned == 1 and stuck.closes == 0
    assert rig.frames[3].discontinuity == ("reconnect",)
    assert [f.index for f in rig.frames] == list(range(7))
    stuck.release()
    deadline_s = time.monotonic() + DEADLINE_S
    while rig.capture.abandoned and time.monotonic() < deadline_s:
        threading.Event().wait(0.005)
    assert rig.capture.abandoned == 0 and stuck.closes == 1  # it came back, closed its connection and went
    assert len(rig.frames) == 7 and rig.capture.counters().frames == 7


def test_only_a_few_threads_are_left_stuck_at_a_time(rigs: Make) -> None:
    sources = [FakeSource(["stall"], live=True) for _ in range(6)]
    rig = rigs(sources, live=True)
    rig.capture.start()
    for source in sources[:4]:
        assert source.stalled.wait(DEADLINE_S)
        rig.clock.advance(16.0)
        rig.capture.check()
    assert rig.capture.abandoned == 3 and not sources[4].opens


def test_the_watchdog_looks_by_itself_and_stops(rigs: Make) -> None:
    clock = FakeClock()
    source = FakeSource(["frame", "stall"], live=True, clock=clock)
    rig = rigs(source, live=True, clock=clock)
    watchdog = Watchdog(lambda: [rig.capture], 0.04, rig.stop)
    rig.capture.start()
    watchdog.start()
    assert source.stalled.wait(DEADLINE_S)
    clock.advance(3.5)
    rig.until(lambda: "stalled" in rig.states())
    rig.finish()
    watchdog.join(DEADLINE_S)
    assert not watchdog.is_alive()


def test_close_silences_a_thread_that_cannot_be_stopped(rigs: Make) -> None:
    source = FakeSource(["frame", "stall", "frame"], live=True)
    rig = rigs(source, live=True)
    rig.capture.start()
    assert source.stalled.wait(DEADLINE_S)
    rig.stop.set()
    assert not rig.capture.join(0.01)
    rig.capture.close()
    told = (len(rig.frames), len(rig.statuses))
    source.release()
    assert rig.capture.join(DEADLINE_S)
    assert (len(rig.frames), len(rig.statuses)) == told and not rig.ended and source.closes == 1


def test_a_dead_camera_does_not_delay_the_start(rigs: Make) -> None:
    class Hanging(FakeSource):
        def open(self) -> None:
            self._block()
            raise SourceError("too late")

    dead = Hanging(live=True)
    rig = rigs(dead, live=True)
    rig.capture.start()  # returns while open() hangs
    assert dead.stalled.wait(DEADLINE_S)
    other = rigs(FakeSource(["frame"] * 5)).run()
    assert len(other.frames) == 5 and rig.states() == ["connecting"]
