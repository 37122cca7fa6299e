"""Bad cameras beside healthy ones: silent, unreachable, hostile; and a camera that is opened over and over."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks.badcameras import bad_cameras
from stream_detector.capture.host import CameraTask
from stream_detector.capture.host_pool import HostPool
from stream_detector.capture.picture import make_views
from stream_detector.config import CameraConfig, CaptureConfig, Config, WindowConfig
from stream_detector.models.recipe import Recipe
from stream_detector.types import CameraStatus, Preview, Window
from tests import host_cameras

pytestmark = pytest.mark.integration

RECIPE = Recipe("tiny", (16, 24), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, fps=1e6)
DEADLINE_S = 300.0


class Watched:
    """Cameras in capture hosts (0: in this process): the times of their windows, and their states."""

    def __init__(self, sources: dict[str, str], hosts: int) -> None:
        self.windows: dict[str, list[float]] = {name: [] for name in sources}
        self.indices: dict[str, list[int]] = {name: [] for name in sources}
        self.states: dict[str, set[str]] = {name: set() for name in sources}
        self.errors: list[Exception] = []
        self._changed = threading.Condition()
        capture = CaptureConfig(
            hosts=hosts, open_timeout_s=2.0, read_timeout_s=20.0, backoff_min_s=0.02, backoff_max_s=0.05
        )
        cameras = tuple(CameraConfig(name=name, source=source) for name, source in sources.items())
        config = Config(cameras=cameras, capture=capture, window=WindowConfig(detect_cuts=False))
        self.pool = HostPool(config, partial(make_views, recipe=RECIPE), RECIPE.fps, self, recipe=RECIPE)
        self.begun_s = time.monotonic()
        for camera in cameras:
            self.pool.assign(CameraTask(camera, 16))

    def window(self, window: Window) -> None:
        with self._changed:
            self.windows[window.ref.camera].append(time.monotonic())
            self.indices[window.ref.camera].append(window.ref.index)
            self._changed.notify_all()
        if window.release is not None:
            window.release()

    def status(self, status: CameraStatus) -> None:
        with self._changed:
            self.states[status.camera].add(status.state)
            self._changed.notify_all()

    def preview(self, camera: str, preview: Preview) -> None:
        raise AssertionError("nobody asked for previews")

    def ended(self, camera: str, reason: str) -> None:
        pass

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_S), {n: len(w) for n, w in self.windows.items()}

    def close(self) -> None:
        self.pool.stop()
        self.pool.join(5.0)
        assert not self.errors


@pytest.fixture
def watch() -> Iterator[Callable[[dict[str, str], int], Watched]]:
    made: list[Watched] = []

    def make(sources: dict[str, str], hosts: int) -> Watched:
        made.append(Watched(sources, hosts))
        return made[-1]

    yield make
    for watched in made:
        watched.close()


@pytest.mark.parametrize("hosts", [0, 2])
@pytest.mark.parametrize("crowd", ["silent and unreachable", "hostile"])
def test_healthy_cameras_notice_nothing_of_bad_ones(
    tmp_path: Path, watch: Callable[[dict[str, str], int], Watched], crowd: str, hosts: int
) -> None:
    healthy = {f"good{n}": f"numbered:{tmp_path}" for n in range(4)}
    with contextlib.ExitStack() as stack:
        bad = bad_cameras(stack)[crowd]
        assert len(bad) >= (24 if crowd != "hostile" else 8)
        watched = watch({**bad, **healthy}, hosts)  # the bad ones are opened first
        watched.until(lambda: all(len(watched.windows[name]) >= 20 for name in healthy))
        for name in healthy:
            assert watched.indices[name] == list(range(len(watched.indices[name])))  # nothing lost
            assert watched.states[name] == {"connecting", "online"}
        assert not any(watched.windows[name] for name in bad)
        assert all("online" not in watched.states[name] for name in bad)
        me = psutil.Process()
        taken = sum(process.memory_info().rss for process in (me, *me.children(recursive=True)))
        assert taken < 2_000_000_000


def test_a_thousand_opens_leak_nothing(watch: Callable[[dict[str, str], int], Watched]) -> None:
    """A server that hangs up at once, asked over RTSP and HTTP: descriptors and threads stay what they were."""
    opened = 0

    def answer() -> None:
        nonlocal opened
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()
                opened += 1

    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        kinds = ("rtsp", "http")
        watched = watch({f"cam{n}": f"{kinds[n % 2]}://127.0.0.1:{port}/live" for n in range(8)}, 0)
        _until(lambda: opened >= 200)
        descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        _until(lambda: opened >= 1200)
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 16  # one or two are open at any moment, of each camera
        assert threading.active_count() <= threads + 2
        watched.pool.stop()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10.0)


def _until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until_s, "it did not happen in time"
        time.sleep(0.02)


assert host_cameras.FPS  # the module registers the kind of source
