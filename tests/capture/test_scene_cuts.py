"""Cuts: another scene is found at its first frame; light, motion, noise and flat pictures are none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.capture.scene_cuts import LEAST_HISTORY, RUN_UP, SceneCutDetector, cell_sums
from stream_detector.types import UInt8Array


def scene(seed: int, size: int = 112) -> UInt8Array:
    """A picture with structure at all scales, twice as large as a frame."""
    rng = np.random.default_rng(seed)
    total = np.zeros((2 * size, 2 * size, 3), np.float32)
    for cells in (3, 9, 27):
        total += cv2.resize(rng.random((cells, cells, 3), dtype=np.float32), (2 * size, 2 * size)) * 80
    return np.clip(total, 0, 255).astype(np.uint8)


def shown(picture: UInt8Array, count: int, seed: int = 0, step: int = 0) -> list[UInt8Array]:
    """Frames of it with the noise of a camera, which pans by `step` pixels a frame."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(count):
        part = picture[: len(picture) // 2, k * step : k * step + len(picture) // 2].astype(np.float32)
        frames.append(np.clip(part + rng.normal(0, 4, part.shape), 0, 255).astype(np.uint8))
    return frames


def found(frames: list[UInt8Array], finder: SceneCutDetector | None = None) -> list[int]:
    finder = finder or SceneCutDetector()
    return [k for k, frame in enumerate(frames) if finder.push(frame)]


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_cut_is_found_at_the_first_frame_of_the_new_scene(step: int) -> None:
    for seed in range(8):
        frames = [*shown(scene(2 * seed), 25, step=step), *shown(scene(2 * seed + 1), 25, step=step)]
        assert found(frames) == [25]


def test_what_is_no_cut() -> None:
    still, noise = shown(scene(1), 60), np.random.default_rng(3).integers(0, 256, (40, 112, 112, 3)).astype(np.uint8)
    darker = [(frame * 0.5).astype(np.uint8) for frame in still]
    black = [np.zeros_like(frame) for frame in still]
    assert found(still) == []
    assert found([*still[:30], *darker[30:]]) == []  # the lamps go out
    assert found([*still[:30], *black[:10], *still[30:]]) == []  # trouble, not another scene
    assert found(list(noise)) == []
    assert found(shown(scene(1), 30, step=3)) == []  # a panning camera
    passing = [frame.copy() for frame in still]
    for k, frame in enumerate(passing):
        frame[20:100, max(0, 6 * k - 120) : 6 * k] = 230  # something large goes through the picture
    assert found(passing) == []


def test_a_scene_must_have_been_seen_for_a_moment() -> None:
    frames = [*shown(scene(1), LEAST_HISTORY), *shown(scene(2), 20)]
    assert found(frames) == []
    assert found([*shown(scene(1), LEAST_HISTORY + 1), *shown(scene(2), 20)]) == [LEAST_HISTORY + 1]


def test_a_finder_that_starts_late_soon_tells_the_same() -> None:
    frames = [f for k, n in enumerate((40, 9, 30, 6, 70, 50)) for f in shown(scene(k), n, seed=k)]
    whole = found(frames)
    assert len(whole) == 5
    for late in range(0, len(frames) - RUN_UP, 7):
        told = [late + k for k in found(frames[late:])]
        assert [k for k in told if k >= late + RUN_UP] == [k for k in whole if k >= late + RUN_UP]


@given(st.integers(16, 180), st.integers(16, 180), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_cells_are_the_sums_of_their_pixels(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    wanted = cv2.resize(image.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    cells, pixels = cell_sums(image)
    assert pixels == pytest.approx(height * width / 256)
    assert cells.reshape(16, 16, 3) / pixels == pytest.approx(wanted, rel=1e-3, abs=0.01)


def test_cells_of_a_large_bright_picture_do_not_overflow() -> None:
    cells, pixels = cell_sums(np.full((1024, 1024, 3), 255, np.uint8))
    assert (cells == 255 * pixels).all()


def test_calm_frames_are_passed_over_and_the_cut_after_them_is_found() -> None:
    """A cut is measured against the frame right before it, also where that was too like its own to be looked at."""
    first, second = scene(1), scene(2)
    detector = SceneCutDetector()
    frames = shown(first, 40) + shown(second, 10)
    assert [number for number, frame in enumerate(frames) if detector.push(frame)] == [40]
    slow = [np.clip(first[:112, :112].astype(int) + number // 4, 0, 255).astype(np.uint8) for number in range(60)]
    detector = SceneCutDetector()
    assert not any(detector.push(frame) for frame in slow)  # light that changes slowly, step by step
