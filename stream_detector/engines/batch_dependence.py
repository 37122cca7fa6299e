"""Batch dependence: how much a score changes with the other windows of its batch, by engine, and a check of it.

openvino, every precision         bit-equal in any batch
torch on the CPU                  1e-6; bit-equal in bf16, and with `deterministic = true`
torch on a GPU, fp32              1e-5
torch on a GPU, tf32/fp16/bf16    2e-3; bit-equal with `deterministic = true`
"""

from __future__ import annotations

import functools

import numpy as np

from stream_detector.capture.picture import resize_frame
from stream_detector.models.preprocess import Recipe
from stream_detector.types import Engine, UInt8Array

PROBES = 5


def tolerance(engine: Engine) -> float:
    """Return the largest allowed change of a score with its batch; 0: bit-equal."""
    if engine.name == "openvino" or getattr(engine, "deterministic", False):
        return 0.0
    if engine.device == "cpu":
        return 0.0 if engine.precision == "bf16" else 1e-6
    return 1e-5 if engine.precision == "fp32" else 2e-3


def describe_tolerance(limit: float) -> str:
    """Return the tolerance in words."""
    return "bit-equal in any batch" if limit == 0 else f"within {limit:g} in any batch"


def probe_windows(recipe: Recipe, count: int = PROBES) -> UInt8Array:
    """Return different windows for a test: uint8 (count, 16, H, W, 3), coarse squares that move."""
    rng = np.random.default_rng(0)
    height, width = recipe.size
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    windows: UInt8Array = np.empty((count, recipe.frames, height, width, 3), np.uint8)
    for window in windows:
        picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)[rows][:, columns]
        for index in range(recipe.frames):
            window[index] = np.roll(picture, index * int(rng.integers(0, 4)), axis=1)
    return windows


@functools.cache
def demo_windows(recipe: Recipe) -> UInt8Array:
    """Return four cached windows of the rendered demo, two of its incident: uint8 (4, 16, H, W, 3) RGB. Do not change
    them.
    """
    from stream_detector.demo import DemoScene

    scene = DemoScene(seed=0, duration_s=20.0, size=(320, 240))
    incident_s = scene.incident_start_s or 8.0
    windows: list[UInt8Array] = []
    for begin_s in (1.0, 5.0, incident_s + 1.0, incident_s + 4.0):
        first = round(begin_s * scene.fps)
        frames = [resize_frame(scene.frame(first + i), recipe) for i in range(recipe.frames)]
        windows.append(np.stack(frames))
    return np.stack(windows)


def batch_dependence(engine: Engine, windows: UInt8Array) -> float:
    """Return the largest change of a score with its batch. windows: uint8 (B, 16, H, W, 3), 2 <= B. Raises EngineError.

    Every window is scored alone, among all windows in either order, in pairs, and beside copies of itself.
    """
    windows = windows[: engine.max_batch]
    count = len(windows)
    alone = np.concatenate([engine.infer(windows[i : i + 1]).scores for i in range(count)])
    orders = [list(range(count)), list(range(count))[::-1], [0] * count]
    orders += [[i, (i + 1) % count] for i in range(count)]
    worst = 0.0
    for order in orders:
        scores = engine.infer(windows[order]).scores
        worst = max(worst, float(np.abs(scores - alone[order]).max()))
    return worst
