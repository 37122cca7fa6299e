"""Capture hosts that are processes: windows, deaths, hang-ups, memory, and what is left when the main process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from stream_detector.capture.host import CameraTask
from stream_detector.capture.host_pool import HostPool
from stream_detector.capture.picture import make_views
from stream_detector.config import CameraConfig, CaptureConfig, Config, WindowConfig
from stream_detector.models.recipe import Recipe
from stream_detector.types import CameraStatus, Preview, Window
from tests import host_cameras

pytestmark = pytest.mark.integration

RECIPE = Recipe("tiny", (16, 24), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, fps=1e6)  # takes every frame
DEADLINE_S = 60.0


class Hosts:
    """A pool of processes, and everything that came from it."""

    def __init__(self, folder: Path, cameras: dict[str, str], hosts: int, **capture: object) -> None:
        self.folder = folder
        self.windows: list[Window] = []
        self.statuses: list[CameraStatus] = []
        self.ends: dict[str, str] = {}
        self.errors: list[Exception] = []
        self.keep = False  # do not release the windows' slots
        self._changed = threading.Condition()
        settings = CaptureConfig(hosts=hosts, backoff_min_s=0.05, **capture)  # type: ignore[arg-type]
        configs = tuple(CameraConfig(name=n, source=f"numbered:{folder}{query}") for n, query in cameras.items())
        config = Config(cameras=configs, capture=settings, window=WindowConfig(detect_cuts=False))
        self.pool = HostPool(config, partial(make_views, recipe=RECIPE), RECIPE.fps, self, recipe=RECIPE)
        for camera in configs:
            self.pool.assign(CameraTask(camera, 16))

    def window(self, window: Window) -> None:
        self._note(lambda: self.windows.append(window))
        if window.release is not None and not self.keep:
            window.release()

    def status(self, status: CameraStatus) -> None:
        self._note(lambda: self.statuses.append(status))

    def preview(self, camera: str, preview: Preview) -> None:
        raise AssertionError("nobody asked for previews")

    def ended(self, camera: str, reason: str) -> None:
        self._note(lambda: self.ends.update({camera: reason}))

    def failed(self, error: Exception) -> None:
        self._note(lambda: self.errors.append(error))

    def _note(self, what: Callable[[], object]) -> None:
        with self._changed:
            what()
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_S), (self.statuses[-4:], self.errors, len(self.windows))

    def of(self, camera: str) -> list[Window]:
        return [window for window in self.windows if window.ref.camera == camera]

    def pid_of(self, camera: str) -> int:
        return int((self.folder / f"{camera}.pid").read_text())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Hosts]]:
    made: list[Hosts] = []

    def make(cameras: dict[str, str], hosts: int, **capture: object) -> Hosts:
        made.append(Hosts(tmp_path, cameras, hosts, **capture))
        return made[-1]

    yield make
    for hosts in made:
        pids = hosts.pool.pids()
        hosts.pool.stop()
        assert hosts.pool.join(10.0)
        assert not hosts.errors
        assert not any(psutil.pid_exists(pid) for pid in pids)


def same_without_holes(windows: list[Window]) -> bool:
    return [window.ref.index for window in windows] == list(range(len(windows)))


def test_windows_cross_with_their_pixels_and_numbers(start: Callable[..., Hosts]) -> None:
    hosts = start({"gate": "", "yard": ""}, 2)
    hosts.keep = True
    hosts.until(lambda: len(hosts.of("gate")) >= 3 and len(hosts.of("yard")) >= 3)
    assert hosts.pid_of("gate") != hosts.pid_of("yard") != os.getpid()
    for name in ("gate", "yard"):
        for window in hosts.of(name)[:3]:
            corner = window.frames[:, 2, 2, 0].astype(int)
            assert (corner == np.arange(window.ref.start_frame, window.ref.end_frame + 1) % 256).all()
            assert window.frames.shape == (16, 16, 24, 3)
            assert window.ref.degraded == ()
        assert same_without_holes(hosts.of(name))


def test_a_live_camera_without_room_drops_and_says_so_in_the_next_window(start: Callable[..., Hosts]) -> None:
    hosts = start({"gate": ""}, 1)
    hosts.keep = True
    hosts.until(lambda: hosts.pool.report()["gate"].counters.dropped.get("overload", 0) >= 2)
    held = hosts.of("gate")
    assert len(held) == hosts.pool.plan.slots_each
    hosts.keep = False
    for window in held:
        assert window.release is not None
        window.release()
        window.release()  # twice does no harm
    hosts.until(lambda: len(hosts.of("gate")) > len(held) + 1)
    after = hosts.of("gate")[len(held)].ref
    assert "dropped" in after.degraded
    assert after.index >= held[-1].ref.index + 3


@pytest.mark.parametrize("fault", ["kill", "die", "hang"])
def test_a_dead_or_hanging_host_is_replaced_and_its_camera_goes_on(start: Callable[..., Hosts], fault: str) -> None:
    hosts = start({"gate": "" if fault == "kill" else f"?{fault}=40", "yard": ""}, 2, host_silence_s=2.0)
    hosts.until(lambda: len(hosts.of("gate")) >= 2 and len(hosts.of("yard")) >= 2)
    if fault == "kill":
        os.kill(hosts.pid_of("gate"), signal.SIGKILL)
    hosts.until(lambda: hosts.pool.restarts == 1)
    before, counted = len(hosts.of("gate")), hosts.pool.report()["gate"].counters.frames
    hosts.until(lambda: len(hosts.of("gate")) >= before + 3)
    gate = hosts.of("gate")
    assert same_without_holes(gate)
    marked = [window.ref for window in gate if window.ref.degraded]
    assert [ref.degraded for ref in marked] == [("gap",)]
    times = [(w.ref.start_s, w.ref.end_s) for w in gate]
    assert all(first[1] < second[0] for first, second in pairwise(times))
    frames = [(w.ref.start_frame, w.ref.end_frame) for w in gate]
    assert all(first[1] < second[0] for first, second in pairwise(frames))
    assert same_without_holes(hosts.of("yard"))
    assert not any(window.ref.degraded for window in hosts.of("yard"))  # the others notice nothing
    told = [(s.state, s.detail) for s in hosts.statuses if s.camera == "gate"]
    assert [state for state, _ in told] == ["connecting", "online", "connecting", "online"]
    assert "its capture process" in told[2][1]
    assert [s.state for s in hosts.statuses if s.camera == "yard"] == ["connecting", "online"]
    assert hosts.pool.report()["gate"].counters.frames >= counted > 0  # counts go on over both lives


def test_a_host_that_takes_too_much_memory_is_replaced(start: Callable[..., Hosts]) -> None:
    hosts = start({"gate": "?eat=400", "yard": ""}, 2, host_memory_mb=256)
    hosts.until(lambda: hosts.pool.restarts == 1)
    hosts.until(lambda: len(hosts.of("gate")) >= 3 and len(hosts.of("yard")) >= 3)
    (told,) = [s.detail for s in hosts.statuses if s.camera == "gate" and s.detail]
    assert "memory" in told
    assert same_without_holes(hosts.of("yard"))


def test_a_camera_that_kills_its_host_again_and_again_is_held_back(start: Callable[..., Hosts]) -> None:
    hosts = start({"bad": "?die=1&always=1", "gate": "", "yard": ""}, 1)
    hosts.until(lambda: any("it is tried again in" in status.detail for status in hosts.statuses))
    (told,) = [status for status in hosts.statuses if "it is tried again in" in status.detail]
    assert (told.camera, told.state) == ("bad", "offline")
    restarts = hosts.pool.restarts
    before = len(hosts.of("gate")), len(hosts.of("yard"))
    hosts.until(lambda: len(hosts.of("gate")) >= before[0] + 10 and len(hosts.of("yard")) >= before[1] + 10)
    assert hosts.pool.restarts == restarts
    assert not hosts.of("bad")
    for name in ("gate", "yard"):
        assert same_without_holes(hosts.of(name))


def test_a_stop_ends_cameras_and_processes(start: Callable[..., Hosts]) -> None:
    hosts = start({"gate": "", "yard": "", "shed": ""}, 2)
    hosts.until(lambda: all(hosts.of(name) for name in ("gate", "yard", "shed")))
    pids = hosts.pool.pids()
    assert len(pids) == 2
    hosts.pool.stop()
    assert hosts.pool.join(10.0)
    assert hosts.ends == dict.fromkeys(("gate", "yard", "shed"), "stopped")
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_hosts_ignore_the_signals_of_a_terminal_and_a_service_manager(start: Callable[..., Hosts]) -> None:
    hosts = start({"gate": ""}, 1)
    hosts.until(lambda: bool(hosts.of("gate")))
    (pid,) = hosts.pool.pids()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    before = len(hosts.of("gate"))
    hosts.until(lambda: len(hosts.of("gate")) >= before + 3)
    assert hosts.pool.restarts == 0
    assert hosts.pool.pids() == [pid]


def test_a_host_imports_nothing_heavy() -> None:
    code = (
        "import stream_detector.capture.host_process, sys;"
        "print([m for m in ('torch', 'openvino', 'cv2', 'zmq', 'rich', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


MAIN = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.integration.test_capture_hosts import Hosts
hosts = Hosts(Path(sys.argv[1]), {"gate": "", "yard": "?hang=30"}, 2, host_silence_s=600.0)
hosts.until(lambda: bool(hosts.of("gate") and hosts.of("yard")))
print(*hosts.pool.pids(), flush=True)
threading.Event().wait(60)
"""


def test_no_host_outlives_a_main_process_that_is_killed(tmp_path: Path) -> None:
    """Not even one that is stopped and sees nothing."""
    root = str(Path(__file__).parents[2])
    main = subprocess.Popen([sys.executable, "-c", MAIN, str(tmp_path), root], stdout=subprocess.PIPE, text=True)
    assert main.stdout is not None
    pids = [int(text) for text in main.stdout.readline().split()]
    assert len(pids) == 2
    until_s = time.monotonic() + DEADLINE_S
    while not (tmp_path / "yard.hang").exists() and time.monotonic() < until_s:
        time.sleep(0.02)
    main.kill()
    main.wait()
    main.stdout.close()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], DEADLINE_S)
    assert not alive


assert host_cameras.FPS  # the module registers the kind of source
