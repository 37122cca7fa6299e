"""Value types that the stages exchange, and the protocols of the stages.

    Source ─Frame─▶ Windower ─Window─▶ Batcher ─Batch─▶ Engine ─Score─▶ Smoother ─▶ HysteresisRule ─AlarmEvent─▶ …

Clocks, used throughout:
    media time      seconds; a file's presentation time stamp, or for a live camera the monotonic time since its
                    thread started. All decisions use media time, so a replay decides like the live run.
    monotonic time  seconds of `time.monotonic()`; used for latency and time-outs only.
    UTC             seconds since the epoch; used for display only, never for decisions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]
Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of a picture

WINDOW_FRAMES = 16

EventType = Literal["start", "update", "end"]
EndReason = Literal["normal", "source_lost", "shutdown", "restart"]
ALARM_SCHEMA = "stream-detector.alarm/1"
FORMER_WINDOW_KEY = "captured→window"  # the former name of "capture_to_window"; events carry both until version 0.2

CapturedBy = Literal["arrival", "sender_report"]  # whose clock says when a picture was taken: ours, or the camera's
CameraState = Literal["connecting", "online", "stalled", "offline", "ended", "failed"]

# Causes that mark a score as degraded (a discontinuity resets the window; the next windows carry the cause).
DegradedCause = Literal[
    "reconnect",
    "seek",
    "gap",
    "cut",
    "corrupt",
    "truncated",
    "dropped",
    "short",
    "black",
    "covered",
    "blurred",
    "frozen",
    "novelty",
    "unfamiliar",  # the former name of novelty; both are set until version 0.2
]


class Clock(Protocol):
    """The clocks that stages use; tests use `testing.FakeClock`."""

    def monotonic(self) -> float:
        """Seconds, never stepping back."""
        ...

    def utc(self) -> float:
        """Seconds since the epoch."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Seconds, never stepping back."""
        return time.monotonic()

    def utc(self) -> float:
        """Seconds since the epoch."""
        return time.time()


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture for people: evidence clips, snapshots, the live page.

    media_s: media time.  image: uint8 (h, w, 3) BGR, long side at most `CaptureConfig.preview_size`.
    """

    media_s: float
    image: UInt8Array


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame, already resized for the network.

    camera: name.  index: 0-based number of the frame in its source (counts every grabbed frame; continues after a
    reconnect). media_s: media time.  captured_s: monotonic time directly after the grab.  captured_utc: UTC at
    which the picture was taken: of the same moment, or by the camera's sender reports, as captured_by says.
    image: uint8 (H, W, 3) RGB, H×W of the bundle's recipe: its first view.  preview: see Preview; None for most
    frames. discontinuity: reasons why this frame does not continue the previous one; usually empty. views: the recipe's
    further views, each like `image`; empty for a recipe of one view.
    """

    camera: str
    index: int
    media_s: float
    captured_s: float
    captured_utc: float
    image: UInt8Array
    preview: Preview | None = None
    discontinuity: tuple[str, ...] = ()
    views: tuple[UInt8Array, ...] = ()
    captured_by: CapturedBy = "arrival"


@dataclass(frozen=True, slots=True)
class WindowRef:
    """A window without its pixels, for decisions and events.

    camera, source: names (source: the one to show).  index: 0-based number of the window of that camera. start_frame,
    end_frame: first and last frame, inclusive.  start_s, end_s: media time of these two frames. captured_s,
    captured_utc, captured_by: of the last frame, see Frame. completed_s: monotonic time at which the window
    was complete.  degraded: causes, sorted; usually empty.
    """

    camera: str
    source: str
    index: int
    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    captured_s: float
    captured_utc: float
    completed_s: float
    degraded: tuple[str, ...] = ()
    captured_by: CapturedBy = "arrival"

    @classmethod
    def of_fields(cls, fields: Sequence[Any]) -> WindowRef:
        """The inverse of `dataclasses.astuple`, also after JSON, and of versions without the last field."""
        values: list[Any] = list(fields)
        values[10] = tuple(values[10])
        return cls(*values)


@dataclass(frozen=True, slots=True)
class Window:
    """16 frames of one camera. frames: uint8 (16, H, W, 3) RGB.  previews: those since the previous window.

    views: the recipe's further views, each as `frames`; empty for a recipe of one view.
    release: to be called when the pixels are not needed any more; None where they are this process's own memory.
    """

    ref: WindowRef
    frames: UInt8Array
    previews: tuple[Preview, ...] = ()
    views: tuple[UInt8Array, ...] = ()
    release: Callable[[], None] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of one or more cameras. taken_s: monotonic time at which the batch was closed."""

    windows: tuple[Window, ...]
    taken_s: float

    @property
    def pixels(self) -> list[UInt8Array]:
        """The pixels of each window, without a copy: uint8 (16, H, W, 3) RGB each."""
        return [window.frames for window in self.windows]

    @property
    def frames(self) -> UInt8Array:
        """A copy of all pixels side by side: uint8 (B, 16, H, W, 3) RGB; row i belongs to windows[i]."""
        return np.stack(self.pixels)


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """The result of an engine for a batch of B windows.

    features: float32 (B, D).  scores: float32 (B,) in [0, 1].  preprocess_s, forward_s: seconds for the whole batch.
    grids: float32 (B, h, w), what each cell of the network's input adds to the score's logit (`models.saliency`); None
    if the engine does not know.
    """

    features: Float32Array
    scores: Float32Array
    preprocess_s: float
    forward_s: float
    grids: Float32Array | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds spent by one window in each stage, in processing order.

    window: last frame captured → window complete.  queue: complete → batch closed.  preprocess, forward: of the batch.
    decide: scores known → decision taken.  publish: decision → passed to the publisher; for a score it contains the
    journalling of an event that the same window caused.  The body of an event is complete before its own journalling
    and sending, so they are not in it: /metrics has them (stage "publish"), and a subscriber sees them as delivery
    time.  So the parts add up to `emitted_utc` minus the capture of the last frame.
    """

    window: float
    queue: float
    preprocess: float
    forward: float
    decide: float = 0.0
    publish: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return the keys of the events, milliseconds rounded to a microsecond. FORMER_WINDOW_KEY repeats the first."""
        pairs = {
            "capture_to_window": self.window,
            FORMER_WINDOW_KEY: self.window,
            "queue": self.queue,
            "preprocess": self.preprocess,
            "forward": self.forward,
            "decide": self.decide,
            "publish": self.publish,
        }
        return {name: round(value, 3) for name, value in pairs.items()}


@dataclass(frozen=True, slots=True)
class Score:
    """The raw score of one window. raw: in [0, 1].  scored_s: monotonic time at which it was known.

    features: float32 (D,), only from the engine to the decision thread, for heads with a state; None afterwards.
    grid: float32 (h, w), see EngineOutput; also only up to the decision thread.
    """

    ref: WindowRef
    raw: float
    scored_s: float
    timing: Timing
    previews: tuple[Preview, ...] = ()
    features: Float32Array | None = field(default=None, compare=False)
    grid: Float32Array | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Decision:
    """A score after causal smoothing, with the resulting alarm state. smoothed: in [0, 1].

    emitted_utc: UTC at which its last timing ended; None without timing.
    """

    score: Score
    smoothed: float
    alarmed: bool
    emitted_utc: float | None = None


@dataclass(frozen=True, slots=True)
class EventWindow:
    """One window that contributed to an event. start_s, end_s: media time; None in events of earlier versions."""

    start_frame: int
    end_frame: int
    raw: float
    smoothed: float
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class Where:
    """Where in the picture the strongest window of an alarm looks at (`alarms.where`).

    grid: rows of cells, 0 to 1; 1 speaks loudest for the alarm.  boxes: around the loud cells, (left, top, right,
    bottom) as shares of the picture.  region: the part of the picture that the grid covers, likewise.  start_s, end_s:
    media time of that window.
    """

    grid: tuple[tuple[float, ...], ...]
    boxes: tuple[Box, ...]
    region: Box
    start_s: float
    end_s: float

    @classmethod
    def of_dict(cls, fields: Mapping[str, Any]) -> Where:
        """The inverse of `dataclasses.asdict`, also after JSON."""
        grid = tuple(tuple(row) for row in fields["grid"])
        boxes: Any = tuple(tuple(box) for box in fields["boxes"])
        region: Any = tuple(fields["region"])
        return cls(grid, boxes, region, fields["start_s"], fields["end_s"])


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """A change of an alarm: start, update or end (schema `stream-detector.alarm/1`).

    start_s, end_s: media time; end_s is None until the end.  score: smoothed score of the newest window. windows: the
    windows since the previous event, newest last.  clip, snapshot: paths, or None without evidence. emitted_utc: UTC at
    which the last timing ended, or None.  The ledger adds epoch and seq when the event is journalled.  severity: "low",
    "medium", "high" or "".  mode: of the house, "" where none applies.  muted: nobody is to be told.  notify: severity
    from which people are told, "none" or "".  where: of the strongest window so far, or None.
    kind, kind_probability: what kind of incident it is if it is one; "" if nobody says.
    """

    id: str
    camera: str
    type: EventType
    reason: EndReason | None
    start_s: float
    end_s: float | None
    start_utc: float
    peak_score: float
    score: float
    threshold: float
    bundle: str
    windows: tuple[EventWindow, ...] = ()
    degraded: tuple[str, ...] = ()
    clip: str | None = None
    snapshot: str | None = None
    timing: Timing | None = None
    emitted_utc: float | None = None
    severity: str = ""
    mode: str = ""
    muted: bool = False
    notify: str = ""
    where: Where | None = None
    kind: str = ""
    kind_probability: float = 0.0


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """A change in the state of a camera, reported by its capture thread or the watchdog. at_s: monotonic seconds."""

    camera: str
    source: str
    state: CameraState
    detail: str = ""
    media_s: float | None = None
    at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CameraCounters:
    """Counters of a capture thread. dropped: frames or windows by cause.  reconnects: successful ones."""

    frames: int = 0
    windows: int = 0
    reconnects: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


class Engine(Protocol):
    """uint8 windows in, features and scores out; the head is included. Only one thread uses an engine.

    A head with a state runs in the decision thread, on the features; the scores are then those of windows without a
    past.

    max_batch: limit of `infer`.  good_batch, good_wait_s: the batch size that is worth waiting for, and for how long,
    in seconds; a larger batch only delays its first windows.
    """

    name: str
    device: str
    precision: str
    reason: str
    max_batch: int
    good_batch: int
    good_wait_s: float

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """Score a batch: uint8 (B, 16, H, W, 3) RGB, 1 <= B <= max_batch. Raises EngineError; never returns zeros
        instead.
        """
        ...

    def close(self) -> None:
        """Release the device. Safe to call twice."""
        ...


class EventSink(Protocol):
    """Receives events from the decision thread; `publisher.Publisher` journals and sends them."""

    def alarm(self, event: AlarmEvent) -> dict[str, Any]:
        """Journal, then send; return the full event (with epoch and seq) as in the JSON contract."""
        ...

    def score(self, decision: Decision) -> None:
        """Send one score on `v1/score/<camera>/`."""
        ...

    def status(self, status: CameraStatus) -> None:
        """Journal, then send a status on `v1/status/<camera>/`."""
        ...

    def service(self) -> None:
        """Answer recovery requests, send the current state to new subscribers, send the heartbeat when due. Never
        blocks.
        """
        ...

    def close(self) -> None:
        """Flush within the configured linger and close every socket and file."""
        ...


def event_windows(decisions: Sequence[Decision]) -> tuple[EventWindow, ...]:
    """Return the windows of `decisions` as an event carries them."""
    return tuple(
        EventWindow(
            d.score.ref.start_frame,
            d.score.ref.end_frame,
            round(d.score.raw, 6),
            round(d.smoothed, 6),
            round(d.score.ref.start_s, 3),
            round(d.score.ref.end_s, 3),
        )
        for d in decisions
    )
