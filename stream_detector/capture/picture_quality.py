"""Picture quality: detects pictures in which nothing can be judged, from the frames of a window.

    black     nothing is brighter than `black_below`: lens cap, no light, a dead sensor
    covered   one even surface: a hand, paint, fog, a "no signal" screen
    blurred   far less sharp than usual for this camera: out of focus, dirt, rain on the glass
    frozen    the same picture repeats for longer than any real scene keeps still

A window carries the cause in `degraded` once the state has lasted for `min_duration_s` (frozen: `frozen_after_s`) of
media time, so that a flash, a passing lorry or a cut is not reported. Black, and covered by an even surface, have
absolute limits. Blurred and unevenly covered are relative to the usual contrast and sharpness of a camera: a slow
average that is used after `warmup_s`, is not updated while a cause is suspected, and is reset when a cause has lasted
for `reset_after_s`. Cost: about 0.2 ms a window, in the capture thread.

`Coverage` is the share of the last time span for which the windows of a camera were scored.
`CameraQualityMonitor` turns causes and coverage into the `detail` of the status of a camera.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import PictureQualityConfig
from stream_detector.types import WINDOW_FRAMES, UInt8Array, Window, WindowRef

PICTURE_CAUSES = ("black", "covered", "blurred", "frozen")
REPORTED_CAUSES = (*PICTURE_CAUSES, "novelty", "unfamiliar")  # `novelty.NoveltyMonitor` sets the last two
_STEP = 2  # every second pixel is enough for brightness and contrast
_LOOKED_AT = (0, 7, 15)  # frames measured per window; all others are only compared for "frozen"
_SAME = 1  # grey levels by which the codec may change a still picture
_AVERAGE_S = 300.0  # seconds; time constant of the usual values


@dataclass(frozen=True, slots=True)
class PictureStatistics:
    """Statistics of a window in grey levels (0 to 255): the maximum over the frames that are measured.

    bright: the 99th percentile.  contrast: standard deviation over the picture.  sharpness: variance of the Laplacian
    (Pech-Pacheco et al.: Diatom autofocusing in brightfield microscopy, 2000).
    """

    bright: float
    contrast: float
    sharpness: float


def picture_statistics(frames: UInt8Array) -> PictureStatistics:
    """Measure a window. frames: uint8 (16, H, W, 3) RGB; green stands for grey."""
    greens = [np.ascontiguousarray(frames[index, :, :, 1]) for index in _LOOKED_AT if index < len(frames)]
    thin = np.stack([green[::_STEP, ::_STEP] for green in greens])
    return PictureStatistics(
        bright=_percentile_99(thin),
        contrast=max(math.sqrt(_variance(picture)) for picture in thin),
        sharpness=max(_variance(_laplacian(green)) for green in greens),
    )


class PictureQualityMonitor:
    """Checks the windows of one camera, in order. For one thread."""

    def __init__(self, config: PictureQualityConfig) -> None:
        self._config = config
        self._usual: tuple[float, float] | None = None  # averages of log contrast and log sharpness
        self._learned_s = 0.0
        self._last_s: float | None = None
        self._since: dict[str, float] = {}  # media time at which the present state began
        self._still: UInt8Array | None = None  # the picture that every frame since `_still_s` equals
        self._still_s = 0.0

    def check(self, window: Window) -> tuple[str, ...]:
        """The causes of PICTURE_CAUSES that apply to this window, sorted; normally empty."""
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
        lasting = {cause for cause, since_s in self._since.items() if ref.end_s - since_s >= config.min_duration_s}
        self._learn(seen, passed_s, bool(suspects), ref.end_s)
        if self._frozen_s(window) >= config.frozen_after_s:
            lasting.add("frozen")
        return tuple(sorted(lasting))

    def _suspects(self, seen: PictureStatistics) -> set[str]:
        """The causes that this window alone suggests, at most one: black before covered before blurred."""
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
            self._usual, self._learned_s = None, 0.0  # the state has lasted so long that it is the normal one
            self._since.pop("blurred", None)
        elif suspected:
            return
        now = (_log(seen.contrast), _log(seen.sharpness))
        self._learned_s += min(passed_s, 60.0)
        weight = 1.0 - math.exp(-passed_s / min(_AVERAGE_S, max(1.0, self._learned_s)))
        old = self._usual or now
        self._usual = (old[0] + weight * (now[0] - old[0]), old[1] + weight * (now[1] - old[1]))

    def _frozen_s(self, window: Window) -> float:
        """Seconds of media time for which every frame has shown the same picture."""
        frames, ref = window.frames, window.ref
        if self._still is None or not _equal(self._still, frames[-1]):
            self._still, self._still_s = frames[-1].copy(), ref.end_s
            if all(_equal(self._still, frame) for frame in frames[:-1]):
                self._still_s = ref.start_s
        elif not all(_equal(self._still, frame) for frame in frames[:-1]):
            self._still_s = ref.end_s
        return ref.end_s - self._still_s


class Coverage:
    """The share of the last `span_s` seconds for which the windows of one camera were scored."""

    def __init__(self, span_s: float, began_s: float) -> None:
        self._span_s, self._began_s = span_s, began_s
        self._scored: deque[tuple[float, float]] = deque()  # (known at, seconds that the window stands for)
        self._sum_s = 0.0

    def add(self, now_s: float, seconds: float) -> None:
        """Add a scored window that covers `seconds` of media time (its stride)."""
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
    """Reports picture quality and coverage of one camera when they change. The decision thread uses it.

    live: coverage is checked for live sources only (files lose no windows).  stride_frames: frames between windows.
    """

    def __init__(self, config: PictureQualityConfig, live: bool, stride_frames: int, began_s: float) -> None:
        self._config = config
        self._stride_frames = stride_frames
        self._coverage = Coverage(config.coverage_span_s, began_s) if live else None
        self._causes: tuple[str, ...] = ()
        self._low = False
        self._reported = ""

    def scored(self, ref: WindowRef, now_s: float) -> str | None:
        """Process a scored window; return the new `detail`, or None if it did not change. now_s: monotonic seconds."""
        if self._coverage:
            frame_s = (ref.end_s - ref.start_s) / (WINDOW_FRAMES - 1)
            self._coverage.add(now_s, frame_s * self._stride_frames)
        self._causes = tuple(cause for cause in REPORTED_CAUSES if cause in ref.degraded)
        return self._changed()

    def tick(self, now_s: float) -> str | None:
        """Check the coverage; returns the new `detail`, or None. Coverage is good again 5 % above the limit."""
        share = self._coverage.share(now_s) if self._coverage else None
        if share is None:
            return None
        self._low = share < self._config.coverage_below + (0.05 if self._low else 0.0)
        return self._changed()

    def reset(self) -> None:
        """The state of the camera was reported: report the causes again with the next window."""
        self._reported = ""

    def _changed(self) -> str | None:
        parts = [f"picture_quality: {', '.join(self._causes)}"] if self._causes else []
        if self._low:
            limits = f"{self._config.coverage_below:.0%} of the last {self._config.coverage_span_s:.0f} s"
            parts.append(f"low_coverage: less than {limits} were scored")
        detail = "; ".join(parts)
        if detail == self._reported:
            return None
        self._reported = detail
        return detail or "picture and coverage are good again"


def with_causes(window: Window, causes: tuple[str, ...]) -> Window:
    """Return the window with further causes in its `degraded`."""
    if not causes:
        return window
    every = tuple(sorted({*window.ref.degraded, *causes}))
    return dataclasses.replace(window, ref=dataclasses.replace(window.ref, degraded=every))


def _log(value: float) -> float:
    return math.log(max(value, 0.1))


def _equal(first: UInt8Array, second: UInt8Array) -> bool:
    if first.shape != second.shape:
        return False
    coarse = _apart(first[::8], second[::8])  # most pictures already differ here
    return coarse <= _SAME and _apart(first, second) <= _SAME


def _apart(first: UInt8Array, second: UInt8Array) -> int:
    """The largest difference of two pixels."""
    return int((np.maximum(first, second) - np.minimum(first, second)).max())


def _laplacian(grey: UInt8Array) -> NDArray[np.int16]:
    """The sum of the four neighbours less four times the pixel, edges mirrored. grey: uint8 (H, W), at least 2 × 2."""
    pixels = grey.astype(np.int16)
    found: NDArray[np.int16] = pixels * np.int16(-4)
    found[1:] += pixels[:-1]
    found[:-1] += pixels[1:]
    found[:, 1:] += pixels[:, :-1]
    found[:, :-1] += pixels[:, 1:]
    found[0] += pixels[1]  # in place of the missing neighbours
    found[-1] += pixels[-2]
    found[:, 0] += pixels[:, 1]
    found[:, -1] += pixels[:, -2]
    return found


def _variance(values: NDArray[Any]) -> float:
    """As `values.var()`, for pictures: several times as fast."""
    flat = values.ravel().astype(np.float32)
    flat -= np.add.reduce(flat) / np.float32(flat.size)
    return float(flat @ flat) / flat.size


def _percentile_99(values: UInt8Array) -> float:
    """As `numpy.percentile(values, 99)`, by counting grey levels."""
    flat = values.ravel()
    counted = np.cumsum(np.bincount(flat, minlength=256))
    place = 0.99 * (flat.size - 1)
    below = int(place)
    low, high = (int(np.searchsorted(counted, rank + 1)) for rank in (below, min(below + 1, flat.size - 1)))
    return low + (place - below) * (high - low)
