"""The capture thread, its states, its faults, by a scripted source and a clock that moves when told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from stream_detector.capture import Capture, Watchdog
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.errors import SourceError
from stream_detector.tally import Spacing, Tally
from stream_detector.testing import FakeClock, FakeSource
from stream_detector.types import CameraStatus, Frame, UInt8Array

FILE, LIVE = "clip.mp4", "rtsp://admin:hunter2@host/live"
DEADLINE_S = 10.0


class Rig:
    """One capture with everything around it faked and recorded."""

    def __init__(
        self,
        source: FakeSource | Sequence[FakeSource],
        *,
        live: bool = False,
        pace: str = "max",
        frame_fps: float = 25.0,
        config: CaptureConfig | None = None,
        camera: CameraConfig | None = None,
        previews: bool = True,
        on_frame: Callable[[Frame], None] | None = None,
        clock: FakeClock | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.stop = threading.Event()
        self.frames: list[Frame] = []
        self.statuses: list[CameraStatus] = []
        self.ended: list[tuple[str, str]] = []
        self.errors: list[Exception] = []
        self.waits: list[float] = []
        self.config = config or CaptureConfig()
        self._sources = [source] if isinstance(source, FakeSource) else list(source)
        self._opened = 0
        self._changed = threading.Condition()
        self._also = on_frame
        fake_wait = self.clock.waiter(self.stop)

        def wait(seconds: float) -> bool:
            self.waits.append(seconds)
            return fake_wait(seconds)

        self.capture = Capture(
            camera or CameraConfig(name="cam", source=LIVE if live else FILE),
            self.config,
            resize=self.resize,
            frame_fps=frame_fps,
            pace="realtime" if pace == "realtime" else "max",
            on_frame=self.on_frame,
            on_status=self.on_status,
            on_end=self.on_end,
            on_error=self.on_error,
            clock=self.clock,
            stop=self.stop,
            previews=previews,
            open_reader=self.open_reader,
            wait=wait,
            jitter=lambda: 1.0,
        )

    def open_reader(self, camera: CameraConfig, config: CaptureConfig) -> FakeSource:
        """The sources in turn, the last one for ever."""
        source = self._sources[min(self._opened, len(self._sources) - 1)]
        self._opened += 1
        return source

    def resize(self, picture: UInt8Array) -> UInt8Array:
        return np.ascontiguousarray(picture[:32, :32, ::-1])

    def on_frame(self, frame: Frame) -> None:
        if self._also:
            self._also(frame)
        self._note(lambda: self.frames.append(frame))

    def on_status(self, status: CameraStatus) -> None:
        self._note(lambda: self.statuses.append(status))

    def on_end(self, camera: str, reason: str) -> None:
        self._note(lambda: self.ended.append((camera, reason)))

    def on_error(self, error: Exception) -> None:
        self._note(lambda: self.errors.append(error))

    def _note(self, what: Callable[[], None]) -> None:
        with self._changed:
            what()
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_S), "it did not happen in time"

    def run(self) -> Rig:
        """Start, and wait for the end."""
        self.capture.start()
        self.until(lambda: bool(self.ended or self.errors))
        assert self.capture.join(DEADLINE_S)
        return self

    def states(self) -> list[str]:
        return [status.state for status in self.statuses]

    def finish(self) -> None:
        self.stop.set()
        for source in self._sources:
            source.release()
        assert self.capture.join(DEADLINE_S)


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    """Makes rigs, and sees to it that no thread outlives the test."""
    made: list[Rig] = []

    def make(*args: object, **options: object) -> Rig:
        made.append(Rig(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for rig in made:
        rig.finish()
    deadline_s = time.monotonic() + DEADLINE_S
    for thread in threading.enumerate():
        if thread.name.startswith("capture-"):
            thread.join(max(0.0, deadline_s - time.monotonic()))
            assert not thread.is_alive(), f"{thread.name} was left behind"


Make = Callable[..., Rig]


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_file_gives_every_frame_in_order_and_ends(rigs: Make) -> None:
    source = FakeSource(["frame"] * 40)
    rig = rigs(source).run()
    assert [f.index for f in rig.frames] == list(range(40))
    assert [f.media_s for f in rig.frames] == pytest.approx([i / 25 for i in range(40)])
    assert all(f.image.shape == (32, 32, 3) and f.camera == "cam" and not f.discontinuity for f in rig.frames)
    assert [int(f.image[0, 0, 0]) for f in rig.frames] == list(range(40))
    assert rig.states() == ["connecting", "online", "ended"]
    assert rig.ended == [("cam", "ended")]
    assert rig.capture.counters().frames == 40 and source.closes == 1 and not rig.waits


def test_real_time_waits_by_the_time_stamps(rigs: Make) -> None:
    rig = rigs(FakeSource(["frame"] * 26), pace="realtime").run()
    assert sum(rig.waits) == pytest.approx(1.0)
    captured = [f.captured_s for f in rig.frames]
    assert np.diff(captured) == pytest.approx(0.04)
    assert rig.frames[-1].captured_utc - rig.frames[0].captured_utc == pytest.approx(1.0, abs=1e-5)


def test_a_slow_consumer_holds_a_paced_file_back_and_nothing_is_lost(rigs: Make) -> None:
    clock = FakeClock()
    rig = rigs(FakeSource(["frame"] * 20), pace="realtime", clock=clock, on_frame=lambda _: clock.advance(0.1)).run()
    assert len(rig.frames) == 20 and rig.states() == ["connecting", "online", "ended"]


def test_frames_that_nobody_needs_are_not_decoded(rigs: Make) -> None:
    source = FakeSource(["frame"] * 100, fps=50.0)
    rig = rigs(source, frame_fps=25.0).run()
    assert [f.index for f in rig.frames] == list(range(0, 100, 2))
    assert source.retrieved == 50 and rig.capture.counters().frames == 100 and not rig.capture.counters().dropped


def test_a_rate_a_little_above_the_recipe_loses_nothing(rigs: Make) -> None:
    assert len(rigs(FakeSource(["frame"] * 60, fps=30.0), frame_fps=25.0).run().frames) == 60


def test_bad_and_broken_frames_mark_the_next_good_one(rigs: Make) -> None:
    rig = rigs(FakeSource(["frame", "bad", "bad", "frame", "frame", "broken", "frame", "frame"])).run()
    assert [f.discontinuity for f in rig.frames] == [(), ("corrupt",), (), ("corrupt",), ()]
    assert rig.capture.counters().dropped == {"corrupt": 3}


def test_how_a_file_ended_is_told(rigs: Make) -> None:
    source = FakeSource(["frame"] * 3)
    source.detail = "truncated: 3 of 9 frames could be read"
    rig = rigs(source).run()
    assert rig.ended == [("cam", source.detail)]
    assert (rig.statuses[-1].state, rig.statuses[-1].detail) == ("ended", source.detail)


def test_a_file_that_cannot_be_opened_fails_with_its_sentence(rigs: Make) -> None:
    rig = rigs(FakeSource(refuse=1)).run()
    assert rig.ended == [("cam", "failed: the fake source was told to refuse; wait")]
    assert rig.states() == ["connecting", "failed"]
    assert rig.statuses[-1].detail == "the fake source was told to refuse; wait"


def test_stop_ends_a_file_in_the_middle(rigs: Make) -> None:
    rig: Rig = rigs(FakeSource(["frame"] * 50), on_frame=lambda f: rig.stop.set() if f.index == 9 else None)
    rig.run()
    assert len(rig.frames) == 10 and rig.ended == [("cam", "stopped")]


@pytest.mark.parametrize("live", [False, True])
def test_an_error_of_the_consumer_is_reported_and_ends_the_thread(rigs: Make, live: bool) -> None:
    def fail(frame: Frame) -> None:
        raise ZeroDivisionError("a bug further on")

    source = FakeSource(live=live)
    rig = rigs(source, live=live, on_frame=fail).run()
    assert isinstance(rig.errors[0], ZeroDivisionError) and not rig.ended
    assert rig.capture.state == "failed" and source.closes == 1


def test_an_error_inside_the_reader_is_reported(rigs: Make) -> None:
    rig = rigs(FakeSource(["frame", "raise"])).run()
    assert isinstance(rig.errors[0], RuntimeError)


def test_a_file_held_back_by_its_consumer_is_not_stalled(rigs: Make) -> None:
    entered, go = threading.Event(), threading.Event()

    def block(frame: Frame) -> None:
        entered.set()
        assert go.wait(DEADLINE_S)

    rig = rigs(FakeSource(["frame"] * 3), on_frame=block)
    rig.capture.start()
    assert entered.wait(DEADLINE_S)
    rig.clock.advance(100.0)
    rig.capture.check()
    assert "stalled" not in rig.states()
    go.set()
    rig.until(lambda: bool(rig.ended))


def test_a_file_on_a_hanging_disk_is_stalled_but_kept(rigs: Make) -> None:
    source = FakeSource(["frame", "stall", "frame"])
    rig = rigs(source)
    rig.capture.start()
    assert source.stalled.wait(DEADLINE_S)
    rig.clock.advance(100.0)
    rig.capture.check()
    assert rig.states() == ["connecting", "online", "stalled"]
    source.release()
    rig.until(lambda: bool(rig.ended))
    assert len(rig.frames) == 3 and rig.states()[-2:] == ["online", "ended"]


# -- previews and masks --------------------------------------------------------------------------------------------


def test_previews_come_at_most_so_often_and_so_large(rigs: Make) -> None:
    config = CaptureConfig(preview_fps=8.0, preview_size=64)
    rig = rigs(FakeSource(["frame"] * 100, size=(96, 128)), config=config).run()
    previews = [f.preview for f in rig.frames if f.preview is not None]
    assert 30 <= len(previews) <= 33  # 4 s of media time
    assert {p.image.shape for p in previews} == {(48, 64, 3)}
    assert all(f.preview is None or f.preview.media_s == f.media_s for f in rig.frames)


@pytest.mark.parametrize("options", [{"previews": False}, {"config": CaptureConfig(preview_fps=0.0)}])
def test_no_previews_when_nobody_wants_them(rigs: Make, options: dict[str, object]) -> None:
    assert all(f.preview is None for f in rigs(FakeSource(), **options).run().frames)


def test_the_mask_covers_the_network_s_picture_and_the_evidence(rigs: Make) -> None:
    camera = CameraConfig(name="cam", source=FILE, mask=((0, 0), (0.25, 0), (0.25, 1), (0, 1)))
    rig = rigs(FakeSource(["frame"] * 2, size=(48, 64)), camera=camera).run()
    frame = rig.frames[0]
    assert frame.preview is not None
    for picture in (frame.image, frame.preview.image):
        assert (picture[:, :15] == 127).all() and not (picture[:, 20:24] == 127).all()


# -- live ----------------------------------------------------------------------------------------------------------


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
    assert "hunter2" not in repr(rig.statuses) and rig.statuses[0].source == "rtsp://host/live"
    assert "cannot open rtsp://host/live" in rig.statuses[1].detail


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
    watchdog = Watchdog([rig.capture], CaptureConfig(stall_after_s=0.04), clock, rig.on_status, rig.stop)
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


# -- counting and spacing ------------------------------------------------------------------------------------------


def test_the_tally_measures_the_rate_and_forgets_it_when_it_is_old() -> None:
    clock = FakeClock()
    tally = Tally(clock)
    assert tally.last_s() is None and tally.rate(3.0) == 0.0
    for number in range(80):
        assert tally.frame() == number
        clock.advance(0.1)
    assert tally.rate(3.0) == pytest.approx(10.0)
    clock.advance(3.0)
    assert tally.rate(3.0) == 0.0
    tally.drop("corrupt")
    tally.reconnect()
    counters = tally.counters()
    assert (counters.frames, counters.reconnects, counters.dropped) == (80, 1, {"corrupt": 1})


def taken(times: Sequence[float], fps: float, rate_fps: float | None = None) -> list[float]:
    spacing, result = Spacing(fps), []
    for media_s in times:
        if spacing.wanted(media_s, rate_fps):
            spacing.taken(media_s)
            result.append(media_s)
    return result


@pytest.mark.parametrize(
    ("source_fps", "share"), [(15, 1.0), (25, 1.0), (30, 1.0), (37, 1.0), (50, 0.5), (60, 0.5), (100, 1 / 3)]
)
def test_spacing_thins_out_fast_sources_evenly(source_fps: int, share: float) -> None:
    for rate in (None, float(source_fps)):
        assert len(taken([i / source_fps for i in range(300)], 25.0, rate)) == pytest.approx(300 * share, abs=2)


def test_late_live_frames_are_not_taken_for_surplus() -> None:
    rng = np.random.default_rng(0)
    times = np.maximum.accumulate(np.arange(500) * 0.04 + rng.exponential(0.02, 500)).tolist()
    assert len(taken(times, 25.0, 25.0)) >= 490
    assert len(taken(times, 25.0)) < 460


def test_a_burst_after_a_stall_is_thinned_out() -> None:
    times = [i * 0.04 for i in range(50)] + [10.0 + i * 0.001 for i in range(200)]
    assert len(taken(times, 25.0, 25.0)) <= 50 + 12
