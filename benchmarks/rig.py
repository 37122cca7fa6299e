"""One measured run of the detector in a separate process, with a subscriber in this one.

The child builds the detector exactly as `run` does (`build.build_run`) and changes two things: the reader of the source
(so that it is known when each picture was due, or which time it shows) and a stopwatch around resizing. Cameras are
live sources (windows are dropped, not waited for, if the machine is too slow):

    "file"   an H.264 file played in real time, N times, each camera with its own phase (cameras are not synchronous); a
             picture is decoded when it is due, like one that has just arrived, and never skipped
    "rtsp"   a real RTSP server (`clock_server.py`) whose pictures show the time at which they were made

Measured between the end of settling and the stop: CPU by thread, CPU of decoding, colour conversion and resizing (each
by its thread's clock), memory, drops, lateness, and every score and event with the time of its arrival here.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.clock_server import BAND, BITS
from stream_detector.capture.framing import Views
from stream_detector.capture.picture import AnyPicture, Picture, as_picture
from stream_detector.capture.readers import FileReader, GrabResult, NetworkReader
from stream_detector.config import CameraConfig, CaptureConfig, Config, build_config
from stream_detector.config.source import Source
from stream_detector.runtime.build import Run, build_run
from stream_detector.types import UInt8Array

ROOT = Path(__file__).parents[1]
WINDOW_S = 16 / 25


@dataclass(frozen=True)
class Spec:
    """What to run. source: a file or an RTSP URL.  probe: camera 0 alarms all the time, so that events come.

    web: with the page; its address is printed after the endpoint.
    """

    cameras: int
    mode: str
    source: str
    seconds: float = 20.0
    settle_s: float = 4.0
    fps: float = 25.0
    stride: int = 16
    probe: bool = True
    evidence: bool = True
    in_step: bool = False
    web: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


class Stopwatch:
    """What one camera's reader counted: CPU seconds, and by frame how long before the grab's end it was due, in ms."""

    def __init__(self) -> None:
        self.grab_s = self.retrieve_s = self.resize_s = 0.0
        self.frames = self.retrieved = 0
        self.capture_ms: dict[int, float] = {}

    def totals(self) -> list[float]:
        return [self.grab_s, self.retrieve_s, self.resize_s, self.frames, self.retrieved]


class LiveFile:
    """A file as a camera that cannot be held up. Implements `readers.Reader`."""

    def __init__(self, path: Path, config: CaptureConfig, watch: Stopwatch, fps: float, phase_s: float) -> None:
        self.fps, self.detail = fps, ""
        self._path, self._config, self._watch, self._phase_s = path, config, watch, phase_s
        self._reader = FileReader(path, config)
        self._begun_s = 0.0

    def open(self) -> None:
        self._reader.open()
        self._begun_s = time.monotonic() + self._phase_s

    def grab(self) -> GrabResult:
        watch = self._watch
        due_s = self._begun_s + watch.frames / self.fps
        wait_s = due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        cpu_s = time.thread_time()
        result = self._reader.grab()
        if result.status == "end":
            self._reader.close()
            self._reader = FileReader(self._path, self._config)
            self._reader.open()
            result = self._reader.grab()
        watch.grab_s += time.thread_time() - cpu_s
        watch.capture_ms[watch.frames] = (time.monotonic() - due_s) * 1e3
        watch.frames += 1
        return GrabResult("frame", None, None, result.missed)

    def retrieve(self) -> AnyPicture | None:
        cpu_s = time.thread_time()
        picture = self._reader.retrieve()
        self._watch.retrieve_s += time.thread_time() - cpu_s
        self._watch.retrieved += 1
        return picture

    def close(self) -> None:
        self._reader.close()


class ClockStream:
    """A `NetworkReader` that reads the time which its pictures show."""

    def __init__(self, url: Source, config: CaptureConfig, watch: Stopwatch) -> None:
        self._reader, self._watch, self._grabbed_s = (
            NetworkReader(CameraConfig(name="clock", source=url), config),
            watch,
            0.0,
        )
        self.fps, self.detail = 25.0, ""

    def open(self) -> None:
        self._reader.open()
        self.fps = self._reader.fps

    def grab(self) -> GrabResult:
        cpu_s = time.thread_time()
        result = self._reader.grab()
        self._watch.grab_s += time.thread_time() - cpu_s
        self._grabbed_s = time.monotonic()
        self._watch.frames += result.status == "frame"
        return result

    def retrieve(self) -> AnyPicture | None:
        cpu_s = time.thread_time()
        picture = self._reader.retrieve()
        self._watch.retrieve_s += time.thread_time() - cpu_s
        self._watch.retrieved += 1
        if picture is not None:
            shown_ms = read_band(as_picture(picture).bgr())
            age_ms = (round(self._grabbed_s * 1000) - shown_ms) % (1 << BITS)
            self._watch.capture_ms[self._watch.frames - 1] = float(age_ms)
        return picture

    def close(self) -> None:
        self._reader.close()


def read_band(picture: UInt8Array) -> int:
    """The milliseconds that a picture of `clock_server` shows. picture: uint8 (h, w, 3) BGR."""
    block = picture.shape[1] // BITS
    row = picture[BAND // 4 : BAND - BAND // 4, :, 1].mean(axis=0)
    return sum(int(row[bit * block + 2 : (bit + 1) * block - 2].mean() > 128) << bit for bit in range(BITS))


@contextmanager
def running(config: Config, web: bool) -> Iterator[tuple[Run, str]]:
    """The detector, with its page or without; also the page's address."""
    if not web:
        with build_run(config) as run:
            yield run, ""
        return
    from stream_detector.web.live_state import LiveState
    from stream_detector.web.server import serve_web

    live_state = LiveState(len(config.cameras))
    with (
        build_run(
            config, on_event=live_state.event, on_decision=live_state.decision, on_preview=live_state.preview
        ) as run,
        serve_web(config.web, run, live_state) as server,
    ):
        yield run, server.url


def child(spec: Spec, folder: Path) -> dict[str, Any]:
    """The measured process. Prints the endpoint once it is bound."""
    watches = [Stopwatch() for _ in range(spec.cameras)]
    cameras = [
        CameraConfig(
            name=f"cam{index:02d}",
            source=spec.source if spec.mode == "rtsp" else f"rtsp://file.invalid/{index}",
            threshold=0.0 if spec.probe and index == 0 else None,
            evidence=False if spec.probe and index == 0 else None,
        )
        for index in range(spec.cameras)
    ]
    values: dict[str, Any] = {
        "cameras": cameras,
        "window": {"stride": spec.stride},
        "evidence": {"enabled": spec.evidence, "directory": folder / "evidence"},
        "publish": {"bind": "tcp://127.0.0.1:*", "ledger": folder / "ledger.sqlite3"},
        "events": folder / "events.jsonl",
        "scores": folder / "scores.csv",
        "web": {"bind": "127.0.0.1:0" if spec.web else "none"},
        **spec.settings,
    }

    def reader(camera: CameraConfig, config: CaptureConfig) -> LiveFile | ClockStream:
        index = int(camera.name.removeprefix("cam"))
        phase_s = 0.0 if spec.in_step else WINDOW_S * index / spec.cameras
        if spec.mode == "rtsp":
            return ClockStream(camera.source, config, watches[index])
        return LiveFile(Path(spec.source), config, watches[index], spec.fps, phase_s)

    with running(build_config(values), spec.web) as (run, url):
        pipeline = run.pipeline
        pipeline.open_reader = reader
        resize, total = pipeline.resize, Stopwatch()

        def timed_resize(picture: Picture) -> Views:
            cpu_s = time.thread_time()
            image = resize(picture)
            total.resize_s += time.thread_time() - cpu_s  # a lost update among threads is a lost 0.1 ms
            return image

        pipeline.resize = timed_resize
        print(run.publisher.endpoint, url, flush=True)
        result: dict[str, Any] = {}
        me = psutil.Process()

        def sample() -> dict[str, Any]:
            snapshot = run.telemetry.snapshot()
            names = {thread.native_id: thread.name for thread in threading.enumerate()}
            groups: dict[str, float] = {}
            for thread in me.threads():
                name = names.get(thread.id, "engine").partition("-")[0]
                groups[name] = groups.get(name, 0.0) + thread.user_time + thread.system_time
            return {
                "at_s": time.monotonic(),
                "utc": time.time(),
                "cpu_s": sum(me.cpu_times()[:2]),
                "groups": groups,
                "watch": [sum(values) for values in zip(*(watch.totals() for watch in watches), strict=True)],
                "resize_s": total.resize_s,
                "windows": snapshot.windows,
                "scored": snapshot.scored,
                "frames": snapshot.frames,
                "dropped": snapshot.drops,
                "batches": snapshot.batches,
                "batched": snapshot.batched_windows,
                "publish": snapshot.stages["publish"],
            }

        def measure() -> None:
            until_s = time.monotonic() + 90.0
            while time.monotonic() < until_s:
                if all(camera.scored for camera in run.telemetry.snapshot().cameras):
                    break
                time.sleep(0.1)
            time.sleep(spec.settle_s)
            first = sample()
            time.sleep(spec.seconds)
            last = sample()
            result.update(figures(spec, first, last))
            result["publish_ms"] = last["publish"].to_dict()
            result["rss_mb"] = round(me.memory_info().rss / 1e6, 1)
            result["threads"] = me.num_threads()
            result["capture_ms"] = [watch.capture_ms for watch in watches]
            pipeline.stop()

        measurer = threading.Thread(target=measure, name="measure")
        measurer.start()
        ended = pipeline.run()
        measurer.join()
        result["exit_code"] = ended.exit_code
        engine = run.engine
        result["engine"] = f"{engine.name} {engine.device} {engine.precision}"
        result["bundle"] = run.bundle.name
        result["arch"] = run.bundle.manifest.backbone.arch
        result["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)
    return result


def figures(spec: Spec, first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """What happened between two samples."""
    span_s = last["at_s"] - first["at_s"]
    cpu_s = last["cpu_s"] - first["cpu_s"]
    grab, retrieve, _, frames, _ = (b - a for a, b in zip(first["watch"], last["watch"], strict=True))
    resize = last["resize_s"] - first["resize_s"]
    groups = {name: last["groups"][name] - first["groups"].get(name, 0.0) for name in last["groups"]}
    split = {
        "decode": grab,
        "convert": retrieve,
        "resize": resize,
        "capture_rest": groups.get("capture", 0.0) - grab - retrieve - resize,
        "inference": groups.get("engine", 0.0) + groups.get("worker", 0.0),
        "decide": groups.get("decide", 0.0),
        "evidence": sum(groups.get(name, 0.0) for name in ("evidence", "clips", "transcode")),
    }
    split["other"] = cpu_s - sum(split.values())
    camera_minutes = spec.cameras * span_s / 60
    batches = last["batches"] - first["batches"]
    return {
        "cameras": spec.cameras,
        "from_utc": first["utc"],
        "to_utc": last["utc"],
        "seconds": round(span_s, 2),
        "fps_per_camera": round(frames / span_s / spec.cameras, 3),
        "windows_per_s": round((last["scored"] - first["scored"]) / span_s, 2),
        "dropped": last["dropped"] - first["dropped"],
        "mean_batch": round((last["batched"] - first["batched"]) / batches, 2) if batches else None,
        "cores_busy": round(cpu_s / span_s, 3),
        "cpu_s_per_camera_minute": round(cpu_s / camera_minutes, 3),
        "cpu_share": {name: round(seconds / cpu_s, 3) for name, seconds in split.items()} if cpu_s else {},
        "cpu_ms_per_frame": {
            name: round(split[name] / frames * 1e3, 4) for name in ("decode", "convert", "resize", "capture_rest")
        }
        if frames
        else {},
        "cpu_ms_per_window": round(split["inference"] / max(1, last["scored"] - first["scored"]) * 1e3, 2),
    }


def run(
    spec: Spec, timeout_s: float = 300.0, beside: Callable[[str], AbstractContextManager[Any]] | None = None
) -> tuple[dict[str, Any], list[tuple[float, dict[str, Any]]]]:
    """Run the child; returns its figures and the scores and events that came, with the UTC of their arrival.

    beside: called with the page's address; what it returns is open while the child runs.
    Raises RuntimeError when the child does not start or fails.
    """
    import zmq

    messages: list[tuple[float, bytes]] = []
    with tempfile.TemporaryDirectory() as name, zmq.Context() as context, context.socket(zmq.SUB) as sub:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.rig", json.dumps(asdict(spec)), name]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stderr is not None
        sub.linger = 0
        sub.rcvhwm = 0
        for topic in (b"v1/score/", b"v1/alarm/"):
            sub.subscribe(topic)
        endpoint, _, url = process.stdout.readline().strip().partition(" ")
        if endpoint:
            sub.connect(endpoint)
        until_s = time.monotonic() + timeout_s
        with ExitStack() as stack:
            stack.callback(_end, process)
            if beside is not None and url:
                stack.enter_context(beside(url))
            while process.poll() is None and time.monotonic() < until_s:
                if sub.poll(100):
                    _, body = sub.recv_multipart()
                    messages.append((time.time(), body))
        _, err = process.communicate()
        out = folder / "figures.json"
        if process.returncode or not out.is_file():
            raise RuntimeError(f"the measured run failed with {process.returncode}: {err[-800:]}")
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    parsed = [(at, json.loads(body)) for at, body in messages]
    return result, [(at, body) for at, body in parsed if result["from_utc"] <= at <= result["to_utc"]]


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()


if __name__ == "__main__":
    described = Spec(**json.loads(sys.argv[1]))
    where = Path(sys.argv[2])
    measured = child(described, where)
    (where / "figures.json").write_text(json.dumps(measured), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # a library thread that will not end is no part of the measurement
