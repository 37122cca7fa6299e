"""Server-sent events: one hub works once for all viewers, and only while there are any.

    event: state    every half second: cameras that changed, each with its new windows
    event: picture  a camera's newest picture (JPEG in base64), at the rate that the viewer requested
    event: alarm    an alarm as in `history.Alarm.summary`, immediately
    event: again    the stream was open for STREAM_S; connect again
    event: bye      the server stops

A viewer that reads slowly gets the newest values when it is ready again, never a backlog. `connections` disconnects one
that does not read. Kernels may buffer small messages for half an hour, so no stream lasts longer than STREAM_S; with
MAX_VIEWERS streams, the oldest stream of the peer with the most streams is ended. Something is sent every second, so
that silence means a broken link or a dead server.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
from starlette.types import Receive, Scope, Send

from stream_detector.errors import EndpointError
from stream_detector.system.thread_priority import lower_priority
from stream_detector.telemetry.health import is_live
from stream_detector.telemetry.snapshot import CameraView, TelemetrySnapshot
from stream_detector.types import Preview, UInt8Array
from stream_detector.web.live_state import LiveState
from stream_detector.web.middleware import answer

TICK_S = 0.2
STATE_TICKS = 3
MAX_VIEWERS = 200
MAX_CAMERAS = 64  # cameras of one viewer: a page of the grid
HISTORY = 120
QUALITY = 62
STREAM_S = 600.0
STAY_S = 30.0  # seconds for which a new viewer cannot be displaced
OLD_PICTURE_S = 3  # seconds; the age of a newer picture is not sent
WAITING_ALARMS = 200
SILENT_S = 6.0  # seconds; an online camera without a scored window for longer has a problem


@dataclass(eq=False)
class Viewer:
    """One open stream. ticks: of the hub, between two pictures; 0: no pictures."""

    cameras: tuple[str, ...]
    ticks: int
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    alarms: deque[bytes] = field(default_factory=lambda: deque(maxlen=WAITING_ALARMS))
    states: dict[str, bytes] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)
    head: bytes = b""
    turns: dict[str, int] = field(default_factory=dict)  # numbers of the cameras' pictures, see Hub._turn
    peer: str = ""
    came_s: float = 0.0
    over: bool = False


def encode_picture(image: UInt8Array) -> bytes:
    """Encode a BGR picture as JPEG."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes() if done else b""


def coverage_of(camera: CameraView) -> float | None:
    """Return the fraction of completed or dropped windows that were scored, 0 to 1; windows in progress count as
    scored.
    """
    lost = sum(number for cause, number in camera.dropped.items() if "frame" not in cause)
    whole = max(camera.windows, camera.scored) + lost
    return None if not whole else 1.0 - lost / whole


def problem_of(camera: CameraView) -> str:
    """Describe the problem of a camera in a few words; empty without one."""
    if camera.state in ("offline", "stalled", "failed"):
        return f"{camera.state}: {camera.detail}" if camera.detail else camera.state
    if camera.state == "online" and camera.window_age_s is not None and camera.window_age_s > SILENT_S:
        return "no window was scored recently"
    if camera.state == "online" and camera.detail:
        return camera.detail
    return f"degraded: {', '.join(camera.degraded)}" if camera.degraded else ""


def state_of(camera: CameraView, picture_age_s: float | None = None) -> dict[str, Any]:
    """Return the state of a camera for the grid. picture_age_s: of its newest picture."""
    coverage = coverage_of(camera)
    old = picture_age_s is not None and picture_age_s >= OLD_PICTURE_S
    return {
        "picture_age_s": int(picture_age_s) if old and picture_age_s is not None else None,
        "name": camera.name,
        "source": camera.source,
        "state": camera.state,
        "problem": problem_of(camera)[:300],
        "fps": round(camera.fps, 1),
        "coverage": None if coverage is None else round(coverage, 4),
        "drops": camera.drops,
        "dropped": camera.dropped,
        "lag_ms": None if camera.lag_ms is None else round(camera.lag_ms, 1),
        "threshold": camera.threshold,
        "alarmed": camera.alarmed,
        "alarms": camera.alarms,
        "reconnects": camera.reconnects,
        "scored": camera.scored,
    }


class Hub:
    """The shared work for all viewers. snapshot: of the telemetry.  names: the cameras now, in their order.

    version: counts the changes of the cameras.  live_age_s: after this time without a pass of the decision thread, the
    detector counts as dead.  epoch: of this run, so that a viewer who reconnects detects another run.
    """

    def __init__(
        self,
        live_state: LiveState,
        snapshot: Callable[[], TelemetrySnapshot],
        names: Callable[[], tuple[str, ...]],
        live_age_s: float = 10.0,
        epoch: str = "",
        version: Callable[[], int] = lambda: 0,
    ) -> None:
        self._names, self._version = names, version
        self.names = names()
        self._live_age_s, self._epoch = live_age_s, epoch
        self.tick = 0
        self._places = {name: place for place, name in enumerate(self.names)}
        self._live_state, self._snapshot = live_state, snapshot
        self._viewers: set[Viewer] = set()
        self._states: dict[str, bytes] = {}
        self._head = b"{}"
        self._rows: dict[tuple[str, int, int], bytes] = {}  # made once for all viewers that lack the same windows
        self._messages: dict[str, tuple[int, bytes]] = {}  # camera → serial of its picture, and the complete message
        self._ticked: dict[str, int] = {}  # camera → tick in which its message was updated
        self._encoding = asyncio.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="web-pictures", initializer=lower_priority)
        self._someone = asyncio.Event()
        self._closing = False

    @property
    def viewers(self) -> int:
        """The number of open streams."""
        return len(self._viewers)

    def viewer(self, names: list[str], rate: float, peer: str = "") -> Viewer:
        """Add a viewer of some cameras, with `rate` pictures per second (0 to 5). Raises EndpointError when full."""
        now_s = time.monotonic()
        self._look_at_names()
        if len(self._viewers) >= MAX_VIEWERS and not self._make_room(now_s):
            raise EndpointError(f"{MAX_VIEWERS} viewers are connected; try again later")
        known = set(self.names)
        cameras = tuple(dict.fromkeys(n for n in names if n in known))[:MAX_CAMERAS]
        ticks = 0 if rate <= 0 else max(1, round(1 / (min(rate, 5.0) * TICK_S)))
        return Viewer(cameras, ticks, peer=peer, came_s=now_s)

    def _look_at_names(self) -> None:
        """A reload may have changed the cameras; what is gone is forgotten."""
        names = self._names()
        if names == self.names:
            return
        for name in set(self.names) - set(names):
            for known in (self._states, self._messages, self._ticked):
                known.pop(name, None)
        self.names = names
        self._places = {name: place for place, name in enumerate(names)}

    def _make_room(self, now_s: float) -> bool:
        """End the oldest stream of the peer with the most streams; a live page reconnects by itself."""
        largest = Counter(viewer.peer for viewer in self._viewers).most_common(1)[0][0]
        oldest = min((v for v in self._viewers if v.peer == largest), key=lambda v: v.came_s)
        if now_s - oldest.came_s < STAY_S:
            return False
        oldest.over = True
        oldest.wake.set()
        self._viewers.discard(oldest)
        return True

    def broadcast(self, summary: dict[str, Any]) -> None:
        """An alarm changed: send it to all viewers immediately."""
        message = b"event: alarm\ndata: " + _json(summary) + b"\n\n"
        for viewer in self._viewers:
            viewer.alarms.append(message)
            viewer.wake.set()

    def close(self) -> None:
        """Disconnect all viewers."""
        self._closing = True
        self._someone.set()
        for viewer in self._viewers:
            viewer.wake.set()
        self._pool.shutdown(wait=False)

    async def run(self) -> None:
        """Tick while there are viewers; sleep otherwise."""
        loop = asyncio.get_running_loop()
        while not self._closing:
            if not self._viewers:
                self._someone.clear()
                await self._someone.wait()
                continue
            began_s = loop.time()
            self.tick += 1
            if self.tick % STATE_TICKS == 0:
                self._take()
            for viewer in self._viewers:
                if self.tick % min(STATE_TICKS, viewer.ticks or STATE_TICKS) == 0:  # messages cost, not bytes
                    viewer.wake.set()
            await asyncio.sleep(max(0.05, TICK_S - (loop.time() - began_s)))

    def _turn(self, name: str, ticks: int) -> int:
        """Return the number of the camera's present picture.

        Cameras take turns, so that a second's work is spread; a camera's turn is the same for all viewers, who share
        the picture.
        """
        return (self.tick + self._places.get(name, 0)) // ticks

    def _take(self) -> None:
        self._look_at_names()
        snapshot = self._snapshot()
        wanted = {name for viewer in self._viewers for name in viewer.cameras}
        by_name = {camera.name: camera for camera in snapshot.cameras}
        for name in wanted & by_name.keys():
            self._states[name] = _json(state_of(by_name[name], self._live_state.picture_age_s(name)))
        self._head = _json(self._overall(snapshot))
        self._rows.clear()

    def _overall(self, snapshot: TelemetrySnapshot) -> dict[str, Any]:
        p50, p95 = snapshot.total.quantile(0.5), snapshot.total.quantile(0.95)
        return {
            "at_s": int(
                snapshot.elapsed_s
            ),  # ticks: a viewer that receives nothing for seconds knows that the link is dead
            "epoch": self._epoch,
            "live": is_live(snapshot, self._live_age_s),
            "decided_age_s": None if snapshot.decided_age_s is None else int(snapshot.decided_age_s),
            "cameras": len(self.names),
            "roster": self._version(),  # another number: look at the run again
            "alarmed": [c.name for c in snapshot.cameras if c.alarmed][:MAX_CAMERAS],
            "with_problem": [c.name for c in snapshot.cameras if problem_of(c)][:MAX_CAMERAS],
            "scored": snapshot.scored,
            "p50_ms": None if p50 is None else round(p50, 1),
            "p95_ms": None if p95 is None else round(p95, 1),
            "ended": bool(snapshot.cameras) and all(c.state in ("ended", "failed") for c in snapshot.cameras),
        }

    async def serve(self, viewer: Viewer, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response: it runs until the viewer leaves, is stuck, or the server closes."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        if self._closing:
            await answer(send, 503, "the detector is stopping")
            return
        self._viewers.add(viewer)
        self._someone.set()
        gone = asyncio.ensure_future(_wait_for_disconnect(receive, viewer))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            self._take()
            message = b"retry: 1000\n\n" + await self._next(viewer)
            while not gone.done() and not self._closing and not viewer.over:
                if message:
                    await send({"type": "http.response.body", "body": message, "more_body": True})
                await viewer.wake.wait()
                viewer.wake.clear()
                message = await self._next(viewer)
                viewer.over = viewer.over or time.monotonic() - viewer.came_s > STREAM_S
            last = b"event: bye\ndata: {}\n\n" if self._closing else b"event: again\ndata: {}\n\n"
            await send({"type": "http.response.body", "body": last, "more_body": False})
        finally:
            gone.cancel()
            self._viewers.discard(viewer)

    async def _next(self, viewer: Viewer) -> bytes:
        parts = []
        while viewer.alarms:
            parts.append(viewer.alarms.popleft())
        parts.append(self._state(viewer))
        if viewer.ticks:
            parts.extend(await self._pictures(viewer))
        return b"".join(parts)

    def _state(self, viewer: Viewer) -> bytes:
        changed = []
        for name in viewer.cameras:
            count, known = self._live_state.count(name), viewer.counts.get(name, 0)
            state = self._states.get(name)
            if state is None or (viewer.states.get(name) == state and known == count):
                continue
            rows = self._rows.get((name, known, count))
            if rows is None:
                rows = self._rows[name, known, count] = _json(
                    [
                        [round(row.end_s, 3), round(row.raw, 4), round(row.smoothed, 4), int(alarmed)]
                        for row, alarmed in self._live_state.newest(name, known, count, HISTORY)
                    ]
                )
            viewer.states[name], viewer.counts[name] = state, count
            changed.append(b'{"state":' + state + b',"rows":' + rows + b"}")
        if not changed and viewer.head == self._head:
            return b""
        viewer.head = self._head
        return b'event: state\ndata: {"run":' + self._head + b',"cameras":[' + b",".join(changed) + b"]}\n\n"

    async def _pictures(self, viewer: Viewer) -> list[bytes]:
        wanted: list[str] = []
        for name in viewer.cameras:
            newest, turn = self._live_state.picture(name), self._turn(name, viewer.ticks)
            if newest is None or viewer.pictures.get(name) == newest[0] or viewer.turns.get(name) == turn:
                continue
            viewer.turns[name] = turn
            wanted.append(name)
        await self._encode(wanted)
        messages = []
        for name in wanted:
            serial, message = self._messages.get(name, (0, b""))
            if message:
                viewer.pictures[name] = serial
                messages.append(message)
        return messages

    async def _encode(self, names: list[str]) -> None:
        """Bring the cameras' messages up to date. One viewer at a time: those that wait find the work done."""
        async with self._encoding:
            fresh: list[tuple[str, int, Preview]] = []
            for name in names:
                newest = self._live_state.picture(name)
                if newest is not None and self._ticked.get(name) != self.tick:
                    self._ticked[name] = self.tick
                    if self._messages.get(name, (0, b""))[0] != newest[0]:
                        fresh.append((name, *newest))
            if fresh and not self._closing:
                loop = asyncio.get_running_loop()
                self._messages.update(await loop.run_in_executor(self._pool, _encode_all, fresh))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _encode_all(fresh: list[tuple[str, int, Preview]]) -> dict[str, tuple[int, bytes]]:
    messages = {}
    for name, serial, preview in fresh:
        jpeg = base64.b64encode(encode_picture(preview.image))
        messages[name] = (serial, b'event: picture\ndata: {"camera":' + _json(name) + b',"jpeg":"' + jpeg + b'"}\n\n')
    return messages


async def _wait_for_disconnect(receive: Receive, viewer: Viewer) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    viewer.wake.set()
