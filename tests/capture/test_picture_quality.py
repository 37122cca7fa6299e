"""Camera trouble: what is told, when, and what must not be told."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.alarms.state_machine import HysteresisRule
from stream_detector.capture.picture import resize_frame
from stream_detector.capture.picture_quality import (
    CameraQualityMonitor,
    Coverage,
    PictureQualityMonitor,
    _laplacian,
    _percentile_99,
    _variance,
    picture_statistics,
    with_causes,
)
from stream_detector.capture.windower import Windower
from stream_detector.config import AlarmConfig, PictureQualityConfig, SmoothingConfig
from stream_detector.models.preprocess import recipe_named
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.telemetry.collector import Telemetry
from stream_detector.testing import FakeClock
from stream_detector.types import (
    AlarmEvent,
    CameraStatus,
    Decision,
    Float32Array,
    Frame,
    Score,
    Timing,
    UInt8Array,
    Window,
    WindowRef,
)

CONFIG = PictureQualityConfig()
WINDOW_S = 16 / 25
SIZE = 56
NOISE = np.random.default_rng(7).normal(0.0, 1.0, (64, SIZE, SIZE, 3)).astype(np.float32)
_offset = itertools.cycle(range(0, 48, 5))


def noisy(scene: Float32Array, grain: float) -> UInt8Array:
    """16 frames of a still scene (SIZE, SIZE) with sensor noise, uint8 (16, SIZE, SIZE, 3)."""
    first = next(_offset)
    return np.clip(scene[None, :, :, None] + grain * NOISE[first : first + 16], 0, 255).astype(np.uint8)


def scene_at(level: float) -> Float32Array:
    """A sharp scene: boxes on a gradient."""
    scene = np.tile(np.linspace(level * 0.6, level * 1.2, SIZE, dtype=np.float32), (SIZE, 1))
    for x, y, tone in ((5, 10, 30), (25, 30, 200), (40, 7, 90), (15, 40, 150), (35, 45, 20)):
        scene[y : y + 9, x : x + 7] = tone * level / 110.0
    return scene


def street(level: float = 110.0, grain: float = 3.0) -> UInt8Array:
    return noisy(scene_at(level), grain)


def soft_street() -> UInt8Array:
    """Out of focus; the sensor's noise stays."""
    return noisy(np.asarray(cv2.GaussianBlur(scene_at(110.0), (0, 0), 3.0), np.float32), 1.0)


def even(level: float, grain: float = 1.0) -> UInt8Array:
    return noisy(np.full((SIZE, SIZE), level, np.float32), grain)


class Feed:
    """Windows of one camera, one after another, into one watch."""

    def __init__(self, config: PictureQualityConfig = CONFIG) -> None:
        self.watch = PictureQualityMonitor(config)
        self.count = 0

    def give(self, frames: UInt8Array, degraded: tuple[str, ...] = ()) -> tuple[str, ...]:
        start_s = self.count * WINDOW_S
        ref = WindowRef(
            "gate", "", self.count, 0, 15, start_s, start_s + 15 / 25, start_s, 0.0, start_s, degraded=degraded
        )
        self.count += 1
        return self.watch.check(Window(ref, frames))

    def last(self, seconds: float, make: Any) -> tuple[str, ...]:
        told: tuple[str, ...] = ()
        for _ in range(round(seconds / WINDOW_S)):
            told = self.give(make())
        return told


def test_a_good_picture_is_no_trouble_by_day_and_by_night() -> None:
    feed = Feed()
    for level in (110.0, 60.0, 25.0):
        for _ in range(60):
            assert feed.give(street(level)) == ()


def test_black_is_told_after_the_hold_and_is_over_with_the_first_good_picture() -> None:
    feed = Feed()
    feed.last(40, street)
    assert feed.give(even(3.0)) == ()
    assert feed.last(2.5, lambda: even(3.0)) == ("black",)
    assert feed.give(street()) == ()


def test_a_flash_of_black_is_no_trouble() -> None:
    feed = Feed()
    for _ in range(20):
        assert feed.last(5, street) == ()
        assert feed.give(even(2.0)) == ()


def test_an_even_surface_is_covered_at_any_brightness_and_without_having_learned() -> None:
    for level in (40.0, 128.0, 250.0):
        assert Feed().last(3.5, lambda level=level: even(level)) == ("covered",)  # type: ignore[misc]


def test_an_uneven_cover_is_known_from_what_is_usual() -> None:
    shade = np.tile(np.linspace(20, 40, SIZE, dtype=np.float32), (SIZE, 1))

    def hand() -> UInt8Array:
        return noisy(shade, 0.5)

    assert picture_statistics(hand()).contrast > CONFIG.contrast_below
    feed = Feed()
    feed.last(60, street)
    assert feed.last(4, hand) == ("covered",)


def test_blur_is_judged_against_what_is_usual_for_the_camera() -> None:
    feed = Feed()
    feed.last(60, street)
    assert feed.last(4, soft_street) == ("blurred",)
    soft_lens = Feed()
    assert soft_lens.last(120, soft_street) == ()  # it was never sharper


def test_what_lasts_long_enough_is_learned_as_usual() -> None:
    feed = Feed(PictureQualityConfig(reset_after_s=60))
    feed.last(60, street)
    assert feed.last(30, soft_street) == ("blurred",)
    assert feed.last(80, soft_street) == ()
    assert feed.last(60, soft_street) == ()


def test_a_frozen_picture_is_told_after_its_time_and_a_quiet_one_is_not() -> None:
    feed = Feed()
    feed.last(20, street)
    still = np.repeat(street()[:1], 16, 0)
    assert feed.last(9, lambda: still) == ()
    assert feed.last(3, lambda: still) == ("frozen",)
    assert feed.give(street()) == ()
    assert feed.last(30, lambda: street(grain=2.0)) == ()


def test_repeated_frames_of_a_slow_camera_are_not_frozen() -> None:
    feed = Feed()
    for _ in range(60):
        fresh = street(grain=2.0)
        assert feed.give(fresh[[0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]]) == ()


def test_a_frozen_tail_counts_from_its_last_change() -> None:
    feed = Feed(PictureQualityConfig(frozen_after_s=2.0))
    moving = street()
    feed.give(np.concatenate([moving[:8], np.repeat(moving[7:8], 8, 0)]))
    still = np.repeat(moving[7:8], 16, 0)
    assert [feed.give(still) for _ in range(4)] == [(), (), (), ("frozen",)]


def test_a_reconnect_begins_anew() -> None:
    feed = Feed()
    assert feed.last(3.5, lambda: even(100.0)) == ("covered",)
    assert feed.give(even(100.0), ("reconnect",)) == ()


def test_marked_joins_the_causes() -> None:
    ref = WindowRef("gate", "", 0, 0, 15, 0.0, 0.6, 0.0, 0.0, 0.0, degraded=("gap",))
    window = Window(ref, street())
    assert with_causes(window, ()) is window
    assert with_causes(window, ("frozen", "black")).ref.degraded == ("black", "frozen", "gap")


def test_coverage_is_the_share_of_the_span() -> None:
    coverage = Coverage(60.0, 100.0)
    for second in range(60):
        coverage.add(100.0 + second, 1.0 if second % 4 else 0.0)
    assert coverage.share(130.0) is None  # too early to say
    assert coverage.share(160.0) == pytest.approx(0.75, abs=0.02)
    assert coverage.share(300.0) == 0.0


def test_low_coverage_is_told_once_and_again_when_it_is_over() -> None:
    trouble = CameraQualityMonitor(PictureQualityConfig(coverage_span_s=10), True, 25, 0.0)
    ref = WindowRef("gate", "", 0, 0, 15, 0.0, 15 / 25, 0.0, 0.0, 0.0)  # stands for one second
    for second in range(20):
        assert trouble.scored(ref, float(second)) is None
        assert trouble.tick(float(second)) is None
    told = [detail for second in range(20, 40) if (detail := trouble.tick(float(second)))]
    assert told == ["low_coverage: less than 80% of the last 10 s were scored"]
    over = []
    for second in range(40, 60):
        trouble.scored(ref, float(second))
        over.append(trouble.tick(float(second)))
    assert [detail for detail in over if detail] == ["picture and coverage are good again"]


class Sink:
    """Keeps statuses and decisions."""

    def __init__(self) -> None:
        self.details: list[tuple[str, str]] = []
        self.decisions: list[Decision] = []

    def alarm(self, event: AlarmEvent) -> dict[str, Any]:
        return {"id": event.id, "type": event.type, "camera": event.camera, "timing": event.timing}

    def score(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def status(self, status: CameraStatus) -> None:
        self.details.append((status.state, status.detail))

    def service(self) -> None: ...

    def close(self) -> None: ...


def test_the_decider_tells_of_trouble_in_statuses_and_accounts_for_every_millisecond() -> None:
    clock, sink = FakeClock(), Sink()
    alarm = AlarmConfig(threshold=0.5)
    plan = CameraPlan("gate", "rtsp://gate", True, 16, SmoothingConfig(kind="none"), alarm, 0.5, evidence=False)
    telemetry = Telemetry(["gate"], clock)
    decider = Decider((plan,), "f00d", sink=sink, telemetry=telemetry, clock=clock, picture_quality=CONFIG)
    decider.status(CameraStatus("gate", "rtsp://gate", "online"))

    def score(number: int, degraded: tuple[str, ...], raw: float = 0.1) -> None:
        start_s = number * WINDOW_S
        ref = WindowRef("gate", "", number, 0, 15, start_s, start_s + 0.6, 0.0, 0.0, 0.0, degraded)
        scored_s = clock.monotonic()
        clock.advance(0.004)  # spent on the way to the decision
        decider.score(Score(ref, raw, scored_s, Timing(1.0, 2.0, 3.0, 4.0)))

    score(0, ())
    score(1, ("black",))
    score(2, ("black", "gap"))
    score(3, ("frozen",))
    score(4, ())
    assert sink.details == [
        ("online", ""),
        ("online", "picture_quality: black"),
        ("online", "picture_quality: frozen"),
        ("online", "picture and coverage are good again"),
    ]
    assert sink.decisions[-1].score.timing.decide == pytest.approx(4.0)
    assert telemetry.snapshot().stages["decide"].quantile(0.5) == pytest.approx(4.0, rel=0.05)
    score(5, (), raw=0.9)
    assert telemetry.snapshot().stages["publish"].count == 1
    for _ in range(70):
        clock.advance(1.0)
        decider.tick()
    assert sink.details[-1][1].startswith("low_coverage: less than 80%")
    decider.status(CameraStatus("gate", "rtsp://gate", "stalled", "no frame"))
    decider.status(CameraStatus("gate", "rtsp://gate", "online"))
    clock.advance(1.0)
    decider.tick()
    assert sink.details[-1] == ("online", "low_coverage: less than 80% of the last 60 s were scored")


def test_alarm_machines_do_not_look_at_causes() -> None:
    machine = HysteresisRule(
        "gate", "f00d", str, threshold=0.5, off_ratio=0.7, min_length_s=0.0, cooldown_s=0.0, update_interval_s=9.0
    )
    ref = WindowRef("gate", "", 0, 0, 15, 0.0, 0.6, 0.0, 0.0, 0.0, degraded=("frozen",))
    _, event = machine.step(Score(ref, 0.9, 0.0, Timing(0, 0, 0, 0)), 0.9)
    assert event is not None and event.degraded == ("frozen",)


@pytest.mark.data
def test_a_quiet_real_camera_has_no_trouble() -> None:
    root = os.environ.get("STREAM_DETECTOR_DATA")
    videos = sorted(Path(root, "long_normal").rglob("*.mp4")) if root else []
    if not videos:
        pytest.skip("needs real footage; set STREAM_DETECTOR_DATA to the folder that holds long_normal/")
    recipe = recipe_named("stream-112")
    capture = cv2.VideoCapture(str(videos[0]), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    windower, watch = Windower("gate", "", 16, 2.0, FakeClock()), PictureQualityMonitor(CONFIG)
    told: list[tuple[str, ...]] = []
    for index in range(3000):  # ten minutes at 5 fps
        got, picture = capture.read()
        if not got:
            break
        window = windower.push(Frame("gate", index, index / 5, 0.0, 0.0, resize_frame(picture, recipe)))
        if window is not None:
            told.append(watch.check(window))
    capture.release()
    assert len(told) > 100
    assert not any(told)


@given(st.integers(2, 120), st.integers(2, 120), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_sharpness_and_brightness_are_those_of_opencv_and_numpy(height: int, width: int, seed: int) -> None:
    grey = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    assert np.array_equal(_laplacian(grey), cv2.Laplacian(grey, cv2.CV_32F))
    assert _variance(_laplacian(grey)) == pytest.approx(float(cv2.Laplacian(grey, cv2.CV_32F).var()), rel=1e-4)
    assert _percentile_99(grey) == pytest.approx(float(np.percentile(grey, 99)))
