from __future__ import annotations

import numpy as np
import pytest

from stream_detector.capture.scene_cuts import SceneCutDetector
from stream_detector.capture.windower import Windower
from stream_detector.testing import FakeSource
from stream_detector.types import Frame, Preview, Window


class Still:
    def monotonic(self) -> float:
        return 5.0

    def utc(self) -> float:
        return 0.0


def frame(index: int, media_s: float | None = None, causes: tuple[str, ...] = (), preview: bool = False) -> Frame:
    image = np.full((4, 4, 3), index % 256, np.uint8)
    at = index / 25 if media_s is None else media_s
    return Frame("cam", index, at, 4.0, 0.0, image, Preview(at, image) if preview else None, causes)


def filmed(steps: tuple[str, ...]) -> list[Frame]:
    source, frames = FakeSource(steps), []
    for index in range(len(steps)):
        source.grab()
        picture = source.retrieve()
        assert picture is not None
        frames.append(Frame("cam", index, index / 25, 4.0, 0.0, picture))
    return frames


def feed(windower: Windower, frames: list[Frame]) -> list[Window]:
    return [window for f in frames if (window := windower.push(f))]


@pytest.mark.parametrize(
    ("stride", "count", "expected"),
    [(16, 48, [0, 16, 32]), (16, 47, [0, 16]), (8, 40, [0, 8, 16, 24]), (1, 18, [0, 1, 2]), (24, 88, [0, 24, 48, 72])],
)
def test_windows_start_every_stride(stride: int, count: int, expected: list[int]) -> None:
    windows = feed(Windower("cam", "f", stride, 2.0, Still()), [frame(i) for i in range(count)])
    assert [w.ref.start_frame for w in windows] == expected
    assert [w.ref.index for w in windows] == list(range(len(expected)))
    for window in windows:
        assert window.ref.end_frame == window.ref.start_frame + 15
        assert window.frames.shape == (16, 4, 4, 3) and window.frames.dtype == np.uint8
        assert window.frames[:, 0, 0, 0].tolist() == [
            i % 256 for i in range(window.ref.start_frame, window.ref.end_frame + 1)
        ]


def test_a_discontinuity_resets_and_marks_the_next_window_only() -> None:
    windower = Windower("cam", "f", 16, 2.0, Still())
    frames = [frame(i) for i in range(10)] + [frame(10, causes=("reconnect",))] + [frame(i) for i in range(11, 43)]
    windows = feed(windower, frames)
    assert [(w.ref.start_frame, w.ref.degraded) for w in windows] == [(10, ("reconnect",)), (26, ())]
    assert windower.discarded_frames == 10


@pytest.mark.parametrize(("jump_s", "cause"), [(2.5, "gap"), (-1.0, "seek")])
def test_a_hole_in_media_time_is_a_discontinuity(jump_s: float, cause: str) -> None:
    frames = [frame(i) for i in range(20)] + [frame(i, i / 25 + jump_s) for i in range(20, 40)]
    windows = feed(Windower("cam", "f", 16, 2.0, Still()), frames)
    assert [(w.ref.start_frame, w.ref.degraded) for w in windows] == [(0, ()), (20, (cause,))]


@pytest.mark.parametrize(
    ("look", "expected"), [(True, [(0, ()), (20, ("cut",)), (36, ())]), (False, [(0, ()), (16, ()), (32, ())])]
)
def test_a_cut_is_a_discontinuity(look: bool, expected: list[tuple[int, tuple[str, ...]]]) -> None:
    frames = filmed(("frame",) * 20 + ("other",) * 34)
    windower = Windower("cam", "f", 16, 2.0, Still(), SceneCutDetector() if look else None)
    windows = feed(windower, frames)
    assert [(w.ref.start_frame, w.ref.degraded) for w in windows] == expected
    assert windower.discarded_frames == 4 * look


def test_a_picture_that_keeps_jumping_is_scored_all_the_same() -> None:
    frames = filmed((("frame",) * 8 + ("other",) * 8) * 6)
    windower = Windower("cam", "f", 16, 2.0, Still(), SceneCutDetector())
    windows = feed(windower, frames)
    assert [(w.ref.start_frame, w.ref.degraded) for w in windows] == [(k, ("cut",)) for k in (8, 24, 40, 56, 72)]
    assert windower.discarded_frames == 8


def test_a_source_shorter_than_a_window_still_gives_one() -> None:
    windower = Windower("cam", "f", 16, 2.0, Still())
    assert feed(windower, [frame(i) for i in range(5)]) == []
    window = windower.finish()
    assert window is not None
    assert window.ref.degraded == ("short",) and (window.ref.start_frame, window.ref.end_frame) == (0, 4)
    assert window.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3] + [4] * 12


def test_the_rest_of_a_longer_source_is_not_padded() -> None:
    windower = Windower("cam", "f", 16, 2.0, Still())
    feed(windower, [frame(i) for i in range(20)])
    assert windower.finish() is None


def test_previews_travel_with_the_window_that_follows_them() -> None:
    windower = Windower("cam", "f", 16, 2.0, Still())
    windows = feed(windower, [frame(i, preview=i % 4 == 0) for i in range(32)])
    assert [[round(p.media_s * 25) for p in w.previews] for w in windows] == [[0, 4, 8, 12], [16, 20, 24, 28]]
