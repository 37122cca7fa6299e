"""`kill -9` of capture hosts during alarms: cameras are back soon, every event and every window exactly once."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import zmq
from rich.progress import track

from benchmarks.faultlib import pacedcam
from benchmarks.faultlib.detector import Plan, free_endpoint, kill, plans_of, start
from benchmarks.faultlib.judge import judge, passed, read_lines
from benchmarks.faultlib.listening import DEADLINE_S, Listener
from stream_detector.capture.picture import make_views
from stream_detector.client.subscriber import Subscriber
from stream_detector.config import BatchConfig, CameraConfig, CaptureConfig, Config, WindowConfig
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.models.recipe import Recipe
from stream_detector.runtime.decider import Decider
from stream_detector.runtime.pipeline import Pipeline
from stream_detector.system.malloc import configure_malloc
from stream_detector.telemetry.collector import Telemetry
from stream_detector.testing import ConstantEngine
from stream_detector.types import SystemClock

HOSTS = 2
CAMERAS = 6
FPS = 100.0
BACK_S = 3.0  # what is promised
RECIPE = Recipe("tiny", (16, 24), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, fps=FPS)


def run_hosts(plan: Plan) -> None:
    """The whole detector with capture hosts; alarms are open three quarters of the time. SIGTERM ends it in order."""
    configure_malloc()
    clock = SystemClock()
    plans = plans_of(plan, update_s=0.1)
    cameras = tuple(CameraConfig(name=p.name, source=f"{pacedcam.KIND}:{plan.fps}") for p in plans)
    telemetry = Telemetry([p.name for p in plans], clock)
    ledger = Ledger(plan.ledger, clock=clock)
    publisher = Publisher(
        plan.publish(), ledger, clock=clock, events_path=plan.events, camera_names=[p.name for p in plans]
    )
    pipeline = Pipeline(
        config=Config(
            cameras=cameras,
            window=WindowConfig(stride=plan.stride),
            batch=BatchConfig(max_wait_ms=1),
            capture=CaptureConfig(hosts=HOSTS),
        ),
        cameras=tuple(zip(cameras, plans, strict=True)),
        engine=ConstantEngine(score_of=lambda frames: 1.0 if 32 <= int(frames[0, 8, 4, 0]) < 224 else 0.0),
        resize=partial(make_views, recipe=RECIPE),
        frame_fps=RECIPE.fps,
        recipe=RECIPE,
        decider=Decider(plans, "f00d", sink=publisher, telemetry=telemetry, clock=clock, epoch=ledger.epoch),
        sink=publisher,
        telemetry=telemetry,
        clock=clock,
    )
    signal.signal(signal.SIGTERM, lambda *_: pipeline.stop())
    pipeline.run()
    ledger.close()


class _Scores:
    """Every score message: when each camera was last scored, and windows that came twice or overlap."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.rcvhwm = 0
        self._socket.linger = 0
        self._socket.connect(endpoint)
        self._socket.subscribe("v1/score/")
        self.captured: dict[str, float] = {}
        self._last: dict[str, int] = defaultdict(lambda: -1)
        self.windows = self.again = self.gaps = 0

    def take(self) -> None:
        """All that has come by now."""
        while self._socket.poll(0):
            body = json.loads(self._socket.recv_multipart()[1])
            camera, start = body["camera"], int(body["start_frame"])
            self.windows += 1
            self.again += start <= self._last[camera]
            self.gaps += "gap" in body["degraded"]
            self._last[camera] = start
            self.captured[camera] = time.monotonic()

    def close(self) -> None:
        self._socket.close()


def kill_hosts(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """`times` kills of one of the hosts, each while an alarm is open, 0–0.5 s after it was seen.

    A camera is back when a score of it comes again; the time counts until all cameras are.
    """
    dice = random.Random(seed)
    plan = Plan(free_endpoint(), folder / "ledger.sqlite3", events=folder / "events.jsonl", cameras=CAMERAS, fps=FPS)
    back_s: list[float] = []
    process = start(run_hosts, plan)
    assert process.pid is not None
    detector = psutil.Process(process.pid)
    names = {f"cam{number}" for number in range(CAMERAS)}
    with zmq.Context() as context, Subscriber(plan.endpoint, from_start=True) as subscriber:
        listener, scores = Listener(subscriber), _Scores(context, plan.endpoint)
        received, open_now = listener.received, listener.open_now

        def until(done: Any, what: str) -> None:
            limit_s = time.monotonic() + DEADLINE_S
            while not done():
                if time.monotonic() > limit_s:
                    raise TimeoutError(what)
                listener.take(0.02)
                scores.take()

        until(lambda: set(scores.captured) == names, "no scores came from a new detector")
        for _ in track(range(times), description="kill -9 of a capture host", transient=True):
            until(lambda: bool(open_now), "no alarm came")
            moment_s = time.monotonic() + dice.uniform(0.0, 0.5)
            until(lambda m=moment_s: time.monotonic() >= m and bool(open_now), "no alarm is open")
            hosts = [child for child in detector.children() if "host_process" in " ".join(child.cmdline())]
            killed_s = time.monotonic()
            os.kill(dice.choice(hosts).pid, signal.SIGKILL)
            settle_s = killed_s + 0.3  # what was on its way from the killed one has come by then
            until(lambda s=settle_s: time.monotonic() > s, "")
            until(lambda s=settle_s: all(scores.captured[n] > s for n in names), "a camera did not come back")
            back_s.append(max(scores.captured.values()) - killed_s)
        code = kill(process, signal.SIGTERM)
        written = listener.complete(plan)
        scores.take()
        scores.close()
    counts = judge(received, written)
    alarms = [event for event in written if event.topic.startswith("v1/alarm/")]
    differs = read_lines(folder / "events.jsonl") != alarms
    whole = passed(counts) and not differs and not scores.again and code == 0 and subscriber.lost == 0
    return {
        **counts,
        "kills": times,
        "windows": scores.windows,
        "windows_again": scores.again,
        "gaps": scores.gaps,
        "back_median_s": round(sorted(back_s)[len(back_s) // 2], 2),
        "back_worst_s": round(max(back_s), 2),
        "event_file_differs": int(differs),
        "exit_code_on_sigterm": code,
        "lost_by_count": subscriber.lost,
        "passed": whole and max(back_s) <= BACK_S and scores.gaps >= times,
    }
