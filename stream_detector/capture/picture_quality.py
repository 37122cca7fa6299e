"""Camera trouble: pictures that hold nothing to judge, told from the frames of a window.

    black     nothing brighter than `black_below`: lens cap, no light, a dead sensor
    covered   one even surface: a hand, paint, fog, a "no signal" screen
    blurred   far less sharp than this camera normally is: out of focus, dirt, rain on the glass
    frozen    the same picture again and again, for longer than any real scene keeps still

A window that shows trouble carries the cause in `degraded` once the trouble has lasted (`hold_s`, frozen:
`frozen_after_s`, media time), so that a flash, a passing lorry or a cut is no trouble. Black, and covered by an even
surface, are judged by themselves; blurred, and covered by an uneven one, against what is usual for this camera: a slow
average, learned for `warmup_s` before it is used, kept during trouble and learned anew when "trouble" has become the
normal state (`reset_after_s`). Cost: about 0.2 ms a window, in the capture thread.

`Coverage` says for how much of the last time a camera's windows were scored: "no alarm" is a statement for that share.
`CameraQualityMonitor` makes of both what the camera's status tells (`detail`).
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np

from stream_detector.config import PictureQualityConfig
from stream_detector.types import WINDOW_FRAMES, UInt8Array, Window, WindowRef

PICTURE_CAUSES = ("black", "covered", "blurred", "frozen")
REPORTED_CAUSES = (*PICTURE_CAUSES, "novelty", "unfamiliar")  # the last two are set by `novelty.NoveltyMonitor`
_STEP = 2  # every second pixel is enough for brightness and contrast
_LOOKED_AT = (0, 7, 15)  # frames of a window; the others are compared for "frozen" only
_SAME = 1  # grey levels by which the codec may change a picture that stands still
_AVERAGE_S = 300.0  # time constant of what is usual


@dataclass(frozen=True, slots=True)
class PictureStatistics:
    """What a window looks like, in grey levels (0 to 255): the best of the frames looked at counts.

    bright: the 99th percentile.  contrast: standard deviation over the picture.  sharpness: variance of the Laplacian
    (Pech-Pacheco et al.: Diatom autofocusing in brightfield microscopy, 2000).
    """

    bright: float
    contrast: float
    sharpness: float


def picture_statistics(frames: UInt8Array) -> PictureStatistics:
    """Measure a window. frames: uint8 (16, H, W, 3) RGB; green stands for grey."""
    greens = [np.ascontiguousarray(frames[index, :, :, 1]) for index in _LOOKED_AT if index < len(frames)]
    thin = np.stack([green[::_STEP, ::_STEP] for green in greens]).astype(np.float32)
    return PictureStatistics(
        bright=float(np.percentile(thin, 99)),
        contrast=float(thin.std(axis=(1, 2)).max()),
        sharpness=max(float(cv2.Laplacian(green, cv2.CV_32F).var()) for green in greens),
    )


class PictureQualityMonitor:
    """Looks at the windows of one camera, in order; used by one thread."""

    def __init__(self, config: PictureQualityConfig) -> None:
        self._config = config
        self._usual: tuple[float, float] | None = None  # logarithms of contrast and sharpness
        self._learned_s = 0.0
        self._last_s: float | None = None
        self._since: dict[str, float] = {}  # media time at which what is seen now began
        self._still: UInt8Array | None = None  # the picture that every frame since `_still_s` equals
        self._still_s = 0.0

    def check(self, window: Window) -> tuple[str, ...]:
        """Causes of PICTURE_CAUSES that this window deserves, sorted; empty normally."""
        config, ref = self._config, window.ref
        if self._last_s is None or ref.end_s < self._last_s or {"reconnect", "seek"} & set(ref.degraded):
            self._since.clear()
            self._still = None
        passed_s = 0.0 if self._last_s is None else max(0.0, ref.end_s - self._last_s)
        self._last_s = ref.end_s
        seen = picture_statistics(window.frames)
        suspects = self._suspects(seen)
        for cause in tuple(self._since):
            if cause not in suspects:
                del self._since[cause]
        for cause in suspects:
            self._since.setdefault(cause, ref.start_s)
        lasting = {cause for cause, since_s in self._since.items() if ref.end_s - since_s >= config.hold_s}
        self._learn(seen, passed_s, bool(suspects), ref.end_s)
        if self._frozen_s(window) >= config.frozen_after_s:
            lasting.add("frozen")
        return tuple(sorted(lasting))

    def _suspects(self, seen: PictureStatistics) -> set[str]:
        """What this one window looks like; the darkest word wins."""
        config = self._config
        if seen.bright < config.black_below:
            return {"black"}
        usual = self._usual if self._learned_s >= config.warmup_s else None
        flat = seen.contrast < config.contrast_below
        if usual is not None:
            dull = _log(seen.contrast) < usual[0] + math.log(config.covered_ratio)
            soft = _log(seen.sharpness) < usual[1] + math.log(config.blurred_ratio)
            if flat or (dull and soft):
                return {"covered"}
            return {"blurred"} if soft else set()
        return {"covered"} if flat else set()

    def _learn(self, seen: PictureStatistics, passed_s: float, suspected: bool, now_s: float) -> None:
        if now_s - self._since.get("blurred", self._since.get("covered", now_s)) > self._config.reset_after_s:
            self._usual, self._learned_s = None, 0.0  # it has looked like this for so long: this is how it looks
            self._since.pop("blurred", None)
        elif suspected:
            return
        now = (_log(seen.contrast), _log(seen.sharpness))
        self._learned_s += min(passed_s, 60.0)
        weight = 1.0 - math.exp(-passed_s / min(_AVERAGE_S, max(1.0, self._learned_s)))
        old = self._usual or now
        self._usual = (old[0] + weight * (now[0] - old[0]), old[1] + weight * (now[1] - old[1]))

    def _frozen_s(self, window: Window) -> float:
        """For how long every frame has shown the same picture, seconds of media time."""
        frames, ref = window.frames, window.ref
        if self._still is None or not _equal(self._still, frames[-1]):
            self._still, self._still_s = frames[-1].copy(), ref.end_s
            if all(_equal(self._still, frame) for frame in frames[:-1]):
                self._still_s = ref.start_s
        elif not all(_equal(self._still, frame) for frame in frames[:-1]):
            self._still_s = ref.end_s
        return ref.end_s - self._still_s


class Coverage:
    """For how much of the last `span_s` seconds one camera's windows were scored."""

    def __init__(self, span_s: float, began_s: float) -> None:
        self._span_s, self._began_s = span_s, began_s
        self._scored: deque[tuple[float, float]] = deque()  # (known at, seconds that the window stands for)
        self._sum_s = 0.0

    def add(self, now_s: float, seconds: float) -> None:
        """A window was scored that stands for `seconds` of the picture (its stride)."""
        self._scored.append((now_s, seconds))
        self._sum_s += seconds

    def share(self, now_s: float) -> float | None:
        """In [0, 1]; None before one full span has passed."""
        while self._scored and self._scored[0][0] <= now_s - self._span_s:
            self._sum_s -= self._scored.popleft()[1]
        if now_s - self._began_s < self._span_s:
            return None
        return min(1.0, max(0.0, self._sum_s / self._span_s))


class CameraQualityMonitor:
    """What is to be told of one camera: the sentence whenever it changes. Used by the decision thread.

    live: coverage is watched for live sources only (files are never dropped from).  stride_frames: between windows.
    """

    def __init__(self, config: PictureQualityConfig, live: bool, stride_frames: int, began_s: float) -> None:
        self._config = config
        self._stride_frames = stride_frames
        self._coverage = Coverage(config.coverage_span_s, began_s) if live else None
        self._causes: tuple[str, ...] = ()
        self._low = False
        self._told = ""

    def scored(self, ref: WindowRef, now_s: float) -> str | None:
        """A window was scored; a new `detail` if there is something to tell."""
        if self._coverage:
            frame_s = (ref.end_s - ref.start_s) / (WINDOW_FRAMES - 1)
            self._coverage.add(now_s, frame_s * self._stride_frames)
        self._causes = tuple(cause for cause in REPORTED_CAUSES if cause in ref.degraded)
        return self._changed()

    def tick(self, now_s: float) -> str | None:
        """Time passes; a new `detail` if coverage fell below the limit or is back (5 % above it)."""
        share = self._coverage.share(now_s) if self._coverage else None
        if share is None:
            return None
        self._low = share < self._config.coverage_below + (0.05 if self._low else 0.0)
        return self._changed()

    def reset(self) -> None:
        """The camera's state was told anew: what is wrong with it is to be told again."""
        self._told = ""

    def _changed(self) -> str | None:
        parts = [f"picture_trouble: {', '.join(self._causes)}"] if self._causes else []
        if self._low:
            limits = f"{self._config.coverage_below:.0%} of the last {self._config.coverage_span_s:.0f} s"
            parts.append(f"low_coverage: less than {limits} were scored")
        detail = "; ".join(parts)
        if detail == self._told:
            return None
        self._told = detail
        return detail or "picture and coverage are good again"


def with_causes(window: Window, causes: tuple[str, ...]) -> Window:
    """The window with further causes in its `degraded`."""
    if not causes:
        return window
    every = tuple(sorted({*window.ref.degraded, *causes}))
    return dataclasses.replace(window, ref=dataclasses.replace(window.ref, degraded=every))


def _log(value: float) -> float:
    return math.log(max(value, 0.1))


def _equal(first: UInt8Array, second: UInt8Array) -> bool:
    if first.shape != second.shape:
        return False
    coarse = cv2.norm(first[::8], second[::8], cv2.NORM_INF)  # most pictures differ here already
    return coarse <= _SAME and cv2.norm(first, second, cv2.NORM_INF) <= _SAME
