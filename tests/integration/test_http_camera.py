"""A real MJPEG camera over HTTP that stalls, hangs up, sends rubbish, goes away and comes back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from stream_detector.capture.camera import Capture
from stream_detector.capture.framing import Views
from stream_detector.capture.picture import Picture, make_views
from stream_detector.capture.watchdog import Watchdog
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.models.recipe import RECIPES
from stream_detector.testing import FakeCamera
from stream_detector.types import CameraStatus, Frame, SystemClock

pytestmark = pytest.mark.integration

CONFIG = CaptureConfig(
    stall_after_s=0.5, open_timeout_s=1.0, read_timeout_s=1.5, backoff_min_s=0.05, backoff_max_s=0.2, preview_fps=0.0
)
DEADLINE_S = 20.0


def resize(picture: Picture) -> Views:
    return make_views(picture, RECIPES["stream-112"])


class Watched:
    """Captures of several cameras with their watchdog; what they tell is kept, and can be waited for."""

    def __init__(self, urls: dict[str, str], config: CaptureConfig = CONFIG) -> None:
        self.frames: dict[str, list[Frame]] = {name: [] for name in urls}
        self.statuses: dict[str, list[CameraStatus]] = {name: [] for name in urls}
        self.ended: dict[str, str] = {}
        self.errors: list[Exception] = []
        self._changed = threading.Condition()
        self._stop = threading.Event()
        clock = SystemClock()
        self.captures = {
            name: Capture(
                CameraConfig(name=name, source=url),
                config,
                resize=resize,
                frame_fps=25.0,
                pace="realtime",
                on_frame=lambda frame: self._note(lambda: self.frames[frame.camera].append(frame)),
                on_status=lambda status: self._note(lambda: self.statuses[status.camera].append(status)),
                on_end=lambda camera, reason: self._note(lambda: self.ended.update({camera: reason})),
                on_error=lambda error: self._note(lambda: self.errors.append(error)),
                clock=clock,
                stop=self._stop,
            )
            for name, url in urls.items()
        }
        self.watchdog = Watchdog(lambda: list(self.captures.values()), config.stall_after_s, self._stop)
        for capture in self.captures.values():
            capture.start()
        self.watchdog.start()

    def _note(self, what: Callable[[], None]) -> None:
        with self._changed:
            what()
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, within_s), f"not in {within_s} s; states {self.states()}"
        assert not self.errors

    def more(self, name: str, count: int = 5) -> None:
        """Wait for `count` further frames."""
        target = len(self.frames[name]) + count
        self.until(lambda: len(self.frames[name]) >= target)

    def states(self, name: str = "") -> list[str]:
        return [s.state for n, told in self.statuses.items() for s in told if name in ("", n)]

    def close(self) -> None:
        self._stop.set()
        for capture in self.captures.values():
            assert capture.join(DEADLINE_S)
        self.watchdog.join(DEADLINE_S)


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def start(urls: dict[str, str], config: CaptureConfig = CONFIG) -> Watched:
        made.append(Watched(urls, config))
        return made[-1]

    yield start
    for watched in made:
        watched.close()


Watch = Callable[..., Watched]


def test_frames_come_as_they_are_sent_and_fresh(watch: Watch) -> None:
    with FakeCamera(fps=25.0, user="admin", password="hunter2") as camera:
        watched = watch({"cam": camera.url})
        watched.more("cam", 40)
        frames = watched.frames["cam"]
        assert [f.index for f in frames] == sorted({f.index for f in frames})
        assert frames[-1].image.shape == (112, 112, 3)
        rate = (len(frames) - 1) / (frames[-1].media_s - frames[0].media_s)
        assert rate == pytest.approx(25.0, rel=0.25)
        assert camera.sent - watched.captures["cam"].counters().frames <= 5  # it is not read behind the times
        assert "hunter2" not in repr(watched.statuses)


def test_a_silent_camera_is_stalled_and_taken_up_again(watch: Watch) -> None:
    with FakeCamera() as camera:
        watched = watch({"cam": camera.url})
        watched.more("cam")
        camera.stall()
        began_s = time.monotonic()
        watched.until(lambda: "stalled" in watched.states(), 5.0)
        assert time.monotonic() - began_s < CONFIG.stall_after_s + 1.0
        watched.until(lambda: "offline" in watched.states(), 15.0)  # the read time-out: it hangs up and tries again
        camera.resume()
        watched.more("cam")
        assert watched.states()[-1] == "online"
        assert ("reconnect",) in [f.discontinuity for f in watched.frames["cam"]]


def test_a_camera_that_hangs_up_is_called_again(watch: Watch) -> None:
    with FakeCamera() as camera:
        watched = watch({"cam": camera.url})
        for times in (1, 2, 3):
            watched.more("cam")
            camera.drop()
            watched.until(lambda times=times: watched.captures["cam"].counters().reconnects >= times)
        watched.more("cam")
        assert camera.connections >= 4
        assert [f.discontinuity for f in watched.frames["cam"]].count(("reconnect",)) == 3


def test_an_absent_camera_delays_nobody_and_is_found_later(watch: Watch) -> None:
    late = FakeCamera()
    late.start()
    late.stop()
    with FakeCamera() as present:
        began_s = time.monotonic()
        watched = watch({"late": late.url, "present": present.url})
        watched.more("present", 1)
        assert time.monotonic() - began_s < 3.0
        watched.until(lambda: "offline" in watched.states("late"))
        assert "cannot be opened" in watched.statuses["late"][-1].detail
        late.start()
        try:
            watched.more("late")
            assert watched.states("late") == ["connecting", "offline", "online"]
            assert watched.frames["late"][0].discontinuity == ()
        finally:
            late.stop()


def test_a_stall_of_one_leaves_the_other_its_rate(watch: Watch) -> None:
    with FakeCamera(fps=20.0) as bad, FakeCamera(fps=20.0) as good:
        watched = watch({"bad": bad.url, "good": good.url})
        watched.more("bad")
        watched.more("good")
        bad.stall()
        began_s, at = time.monotonic(), len(watched.frames["good"])
        watched.until(lambda: "offline" in watched.states("bad"))
        rate = (len(watched.frames["good"]) - at) / (time.monotonic() - began_s)
        assert rate == pytest.approx(20.0, rel=0.2)


def test_pictures_cut_short_do_not_end_the_stream(watch: Watch) -> None:
    with FakeCamera() as camera:
        watched = watch({"cam": camera.url})
        watched.more("cam")
        camera.corrupt(3)
        watched.more("cam", 15)
        assert watched.states()[-1] == "online" and not watched.errors


def test_exit_on_error_ends_a_camera_that_is_not_there(watch: Watch) -> None:
    camera = FakeCamera(user="admin", password="hunter2")
    camera.start()
    camera.stop()
    watched = watch({"cam": camera.url}, CONFIG.model_copy(update={"exit_on_error": True}))
    watched.until(lambda: "cam" in watched.ended)
    assert watched.ended["cam"].startswith("failed: source 'http://127.0.0.1")
    assert "hunter2" not in watched.ended["cam"]


def test_a_wrong_password_is_no_way_in(watch: Watch) -> None:
    with FakeCamera(user="admin", password="hunter2") as camera:
        watched = watch({"cam": camera.url.replace("hunter2", "guess")})
        watched.until(lambda: "offline" in watched.states())
        assert not watched.frames["cam"] and "guess" not in repr(watched.statuses)


def test_nothing_is_left_behind_after_many_faults(watch: Watch) -> None:
    def counts() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("threads and descriptors are counted in /proc, which this system lacks")
    with FakeCamera() as camera:
        watched = watch({"cam": camera.url})
        watched.more("cam")
        before = counts()
        for times in range(1, 21):
            camera.drop()
            watched.until(lambda times=times: watched.captures["cam"].counters().reconnects >= times)
        watched.more("cam")
        deadline_s = time.monotonic() + 5.0  # the server's own side may take a moment to hang up
        while counts() > before and time.monotonic() < deadline_s:
            threading.Event().wait(0.02)
        after = counts()
        assert after[0] <= before[0] and after[1] <= before[1], f"(threads, descriptors) {before} → {after}"
