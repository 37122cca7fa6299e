"""All capture hosts of a run: the one inside this process, and those in processes of their own.

    cameras ──plan──▶ 0 processes: all cameras in this process
                      N processes: live cameras and files in turn; sources that only this process can read stay here

`capture_hosts` ("auto" or a number) sets the number; `HostPlan.sentence` describes the result in one line.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np

from stream_detector.capture.framing import Views
from stream_detector.capture.host import CameraReport, CameraTask, CaptureHost, HostOutput
from stream_detector.capture.host_process import HostSetup, make_taps
from stream_detector.capture.host_supervisor import HostSupervisor
from stream_detector.capture.picture import DecodedPicture, Picture, make_views
from stream_detector.capture.readers import Reader, make_reader
from stream_detector.capture.shared_slots import SlotLayout, available_bytes, slots_each
from stream_detector.config import CameraConfig, CaptureConfig, Config
from stream_detector.config.kinds import SOURCE_KINDS
from stream_detector.models.recipe import Recipe
from stream_detector.types import Clock, SystemClock

FEW_CAMERAS = 6  # with this number of live cameras or fewer, one process is enough
HOST_LOAD = 0.5  # cores that the pictures of one host's cameras may need, as estimated
NOMINAL_FPS = 25.0
SPARE_SLOTS = 2  # slots per camera in addition to the buffer's: one being written, one being scored


@dataclass(frozen=True, slots=True)
class HostPlan:
    """The number of processes, the slots of shared memory per camera, and a sentence with the reason."""

    processes: int
    slots_each: int
    sentence: str


def plan_hosts(
    asked: int | Literal["auto"],
    cameras: Sequence[CameraConfig],
    recipe: Recipe,
    buffer_windows: int,
    *,
    cores: int,
    available: int | None,
    picture_s: Callable[[Recipe], float],
    at_once: int = 0,
) -> HostPlan:
    """Choose a plan. cores: of this machine.  available: bytes of memory that can be used; None: unknown.

    picture_s: measures the CPU seconds per picture on this machine; called only if needed.  at_once: cameras that run
    at the same time; 0: all.
    """
    movable = [camera for camera in cameras if is_movable(camera)]
    live = sum(camera.source.live for camera in movable)
    wanted = buffer_windows + SPARE_SLOTS
    all_here = _in_this_process(cameras)
    if not movable or not hasattr(os, "fork") or not sys.executable:
        return HostPlan(0, wanted, all_here)
    if asked == "auto":
        if live <= FEW_CAMERAS or cores < 2:
            return HostPlan(0, wanted, f"{all_here} (few cameras, {cores} cores)")
        cost_s = picture_s(recipe)
        processes = min(max(1, cores - 1), max(1, math.ceil(live * NOMINAL_FPS * cost_s / HOST_LOAD)))
        why = f"{cores} cores, a picture of 1280×720 costs {cost_s * 1e3:.1f} ms here"
    else:
        processes, why = min(asked, len(movable)), "as asked for"
    if not processes:
        return HostPlan(0, wanted, f"{all_here} ({why})")
    lanes = processes * math.ceil(min(len(movable), at_once or len(movable)) / processes)
    each = slots_each(lanes, wanted, layout_of(recipe, 1).slot_bytes, available)
    if not each:
        return HostPlan(0, wanted, f"{all_here} (no memory for {lanes} buffers)")
    short = "" if each == wanted else f"; memory is short: {each} windows a camera instead of {wanted}"
    here = len(cameras) - len(movable)
    stay = f", {here} in this process" if here else ""
    there = f"{_number(len(movable), 'camera')} in {_number(processes, 'process', 'es')}"
    return HostPlan(processes, each, f"capture: {there}{stay} ({why}{short})")


def _number(count: int, word: str, ending: str = "s") -> str:
    return f"{count} {word}{'' if count == 1 else ending}"


def _in_this_process(cameras: Sequence[CameraConfig]) -> str:
    return f"capture: {_number(len(cameras), 'camera')} in this process"


def is_movable(camera: CameraConfig) -> bool:
    """Return whether another process can read it: neither standard input, nor a kind that this program registered
    itself.
    """
    source = camera.source
    known = SOURCE_KINDS.module_of(source.kind) is not None
    return known and not (source.kind == "pipe" and source.shown == "pipe:")


def _modules(cameras: Sequence[CameraConfig]) -> tuple[str, ...]:
    """Return the modules that register this program's own kinds of source."""
    found = {SOURCE_KINDS.module_of(camera.source.kind) for camera in cameras if is_movable(camera)}
    return tuple(sorted(module for module in found if module))


def layout_of(recipe: Recipe, slots: int) -> SlotLayout:
    """Return the layout of shared memory for a number of windows."""
    return SlotLayout(recipe.size, len(recipe.input_views), slots)


def measured_picture_s(recipe: Recipe) -> float:
    """Measure the CPU seconds of decoding one picture of 1280×720 H.264 and scaling it to the recipe's views.

    The test video is a moving pattern, encoded with a fast preset. Takes some 0.15 s.
    """
    packets, context = _sample(1280, 720, 12)
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata = context.extradata
    decoder.thread_count = 1
    pictures = 0
    begun_s = time.thread_time()
    for packet in [*packets, None]:
        for frame in decoder.decode(packet):
            make_views(DecodedPicture(frame), recipe)
            pictures += 1
    return (time.thread_time() - begun_s) / max(1, pictures)


def _sample(width: int, height: int, count: int) -> tuple[list[Any], av.VideoCodecContext]:
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = context.framerate = 25  # type: ignore[assignment]
    context.thread_count = 1
    context.options = {"preset": "ultrafast", "tune": "zerolatency"}
    noise = np.random.default_rng(7).integers(0, 256, (height * 3 // 2, width), np.uint8)
    packets: list[Any] = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(np.roll(noise >> 3, 4 * number, 1) + 90, "yuv420p")
        frame.pts = number
        packets += context.encode(frame)
    return packets + list(context.encode(None)), context


class HostPool:
    """Runs tasks as planned. Has the interface of one `host.CaptureHost`.

    resize, frame_fps, open_reader: of the cameras in this process; other processes use `recipe` and the registered
    readers. at_once: cameras that run at the same time, 0: all.  taps_name: see `HostSetup.taps`.  on_kept(report): a
    report on evidence, from any thread; None when a process ended, with the files that it was writing.
    """

    def __init__(
        self,
        config: Config,
        resize: Callable[[Picture], Views],
        frame_fps: float,
        output: HostOutput,
        *,
        recipe: Recipe | None = None,
        clock: Clock | None = None,
        open_reader: Callable[[CameraConfig, CaptureConfig], Reader] = make_reader,
        at_once: int = 0,
        taps_name: str = "",
        on_kept: Callable[[Any], object] = lambda _report: None,
    ) -> None:
        capture = config.capture
        self._share = 1.0
        self._taps = make_taps(taps_name, config, on_kept)
        self._own = CaptureHost(
            config,
            resize,
            frame_fps,
            output,
            clock=clock or SystemClock(),
            open_reader=open_reader,
            share=lambda: self._share,
            taps=self._taps,
        )
        self._hosts: list[HostSupervisor] = []
        self._waiting: deque[CameraTask] = deque()
        self._here: set[str] = set()  # cameras that came later, when no process had room
        self._lock = threading.Lock()
        self.plan = HostPlan(0, 0, _in_this_process(config.cameras))
        if recipe is None or open_reader is not make_reader:
            return
        self.plan = plan_hosts(
            capture.hosts,
            config.cameras,
            recipe,
            config.batch.buffer_windows,
            cores=cores_here(),
            available=available_bytes(),
            picture_s=measured_picture_s,
            at_once=at_once,
        )
        if not self.plan.processes:
            return
        movable = sum(is_movable(camera) for camera in config.cameras)
        lanes = math.ceil(min(movable, at_once or movable) / self.plan.processes)
        layout = layout_of(recipe, lanes * self.plan.slots_each)
        bare = config.model_copy(update={"cameras": ()})
        setup = HostSetup(bare, recipe, layout, _modules(config.cameras), taps_name)
        self._hosts = [
            HostSupervisor(
                number,
                setup,
                output,
                self.plan.slots_each,
                silence_s=capture.host_silence_s,
                memory_bytes=capture.host_memory_mb << 20,
                on_room=self._place,
                on_kept=on_kept,
            )
            for number in range(self.plan.processes)
        ]
        for host in self._hosts:
            host.start()

    def windows_outside(self, camera: CameraConfig) -> int:
        """Return how many windows of a camera may wait in this process; 0: its own thread waits here (see
        `WindowBuffer`).
        """
        return self.plan.slots_each if self._moves(camera) else 0

    def make_place(self, camera: CameraConfig) -> None:
        """Before a camera that came during the run is assigned: it runs in this process if no other has room."""
        with self._lock:
            if not any(host.room for host in self._hosts):
                self._here.add(camera.name)

    def _moves(self, camera: CameraConfig) -> bool:
        return bool(self._hosts) and is_movable(camera) and camera.name not in self._here

    def end(self, name: str) -> bool:
        """Ask one camera to end; False if it has not begun, so that nothing of it will come. Never blocks."""
        with self._lock:
            waiting = next((task for task in self._waiting if task.name == name), None)
            if waiting is not None:
                self._waiting.remove(waiting)
                return False
            host = next((host for host in self._hosts if host.has(name)), None)
        if host is None:
            return self._own.end(name)
        host.end(name)
        return True

    def forget(self, name: str) -> None:
        """A camera has ended, and all its windows were scored. Never blocks."""
        self._own.release(name)
        if self._taps is not None:
            self._taps.drop(name)
        with self._lock:
            self._here.discard(name)
        for host in self._hosts:
            host.forget(name)

    def assign(self, task: CameraTask) -> None:
        """Run a camera, here or in the process with the most room; the camera waits while no process has room."""
        if not self._moves(task.camera):
            self._own.assign(task)
            return
        with self._lock:
            self._waiting.append(task)
        self._place()

    @property
    def share(self) -> float:
        """The last value of `set_share`."""
        return self._share

    def set_share(self, share: float) -> None:
        """The share of live cameras' packets that may be decoded, 0 to 1, everywhere."""
        if share != self._share:
            self._share = share
            for host in self._hosts:
                host.set_share(share)

    def command(self, command: Any) -> None:
        """Pass a command about evidence to the recorder of its camera. Never blocks."""
        for host in self._hosts:
            if host.has(command.camera):
                host.command(command)
                return
        if self._taps is not None:
            self._taps.command(command)

    def finish_files(self, timeout_s: float) -> bool:
        """Finish all clips and recordings with the data so far; return whether that was done in time."""
        until_s = time.monotonic() + timeout_s
        for host in self._hosts:
            host.begin_finish(timeout_s)
        done = [self._taps is None or self._taps.close(timeout_s)]
        done += [host.wait_finished(max(0.0, until_s - time.monotonic()) + 0.2) for host in self._hosts]
        return all(done)

    def report(self) -> dict[str, CameraReport]:
        """Return the counts by camera."""
        found = self._own.report()
        for host in self._hosts:
            found |= host.report()
        return found

    def stop(self) -> None:
        """Ask every camera to end. Does not wait. Safe to repeat."""
        with self._lock:
            self._waiting.clear()
        self._own.stop()
        for host in self._hosts:
            host.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for threads and processes after `stop`; processes that take longer are killed."""
        until_s = time.monotonic() + timeout_s
        joined = [self._own.join(timeout_s)]
        joined += [host.join(max(0.0, until_s - time.monotonic())) for host in self._hosts]
        return all(joined)

    def pids(self) -> list[int]:
        """Return the ids of the running processes."""
        return [pid for host in self._hosts if (pid := host.pid) is not None]

    @property
    def restarts(self) -> int:
        """Return how often a process was replaced."""
        return sum(host.restarts for host in self._hosts)

    def _place(self) -> None:
        with self._lock:
            while self._waiting:
                host = max(self._hosts, key=lambda h: h.room)
                if not host.room:
                    return
                host.assign(self._waiting.popleft())


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
