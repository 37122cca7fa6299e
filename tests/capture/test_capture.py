"""The capture thread on files: order, pace, faults, previews; scripted, by a clock moved by hand."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from capture_rig import DEADLINE_S, FILE, Make, Rig

from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.testing import FakeClock, FakeSource
from stream_detector.types import Frame


def test_a_file_gives_every_frame_in_order_and_ends(rigs: Make) -> None:
    source = FakeSource(["frame"] * 40)
    rig = rigs(source).run()
    assert [f.index for f in rig.frames] == list(range(40))
    assert [f.media_s for f in rig.frames] == pytest.approx([i / 25 for i in range(40)])
    assert all(f.image.shape == (32, 32, 3) and f.camera == "cam" and not f.discontinuity for f in rig.frames)
    assert [int(f.image[0, 0, 0]) for f in rig.frames] == list(range(40))
    assert rig.states() == ["connecting", "online", "ended"]
    assert rig.ended == [("cam", "ended")]
    assert rig.capture.counters().frames == 40 and source.closes == 1 and not rig.waits


def test_real_time_waits_by_the_time_stamps(rigs: Make) -> None:
    rig = rigs(FakeSource(["frame"] * 26), pace="realtime").run()
    assert sum(rig.waits) == pytest.approx(1.0)
    captured = [f.captured_s for f in rig.frames]
    assert np.diff(captured) == pytest.approx(0.04)
    assert rig.frames[-1].captured_utc - rig.frames[0].captured_utc == pytest.approx(1.0, abs=1e-5)


def test_a_slow_consumer_holds_a_paced_file_back_and_nothing_is_lost(rigs: Make) -> None:
    clock = FakeClock()
    rig = rigs(FakeSource(["frame"] * 20), pace="realtime", clock=clock, on_frame=lambda _: clock.advance(0.1)).run()
    assert len(rig.frames) == 20 and rig.states() == ["connecting", "online", "ended"]


def test_frames_that_nobody_needs_are_not_decoded(rigs: Make) -> None:
    source = FakeSource(["frame"] * 100, fps=50.0)
    rig = rigs(source, frame_fps=25.0).run()
    assert [f.index for f in rig.frames] == list(range(0, 100, 2))
    assert source.retrieved == 50 and rig.capture.counters().frames == 100 and not rig.capture.counters().dropped


def test_a_rate_a_little_above_the_recipe_loses_nothing(rigs: Make) -> None:
    assert len(rigs(FakeSource(["frame"] * 60, fps=30.0), frame_fps=25.0).run().frames) == 60


def test_bad_and_broken_frames_mark_the_next_good_one(rigs: Make) -> None:
    rig = rigs(FakeSource(["frame", "bad", "bad", "frame", "frame", "broken", "frame", "frame"])).run()
    assert [f.discontinuity for f in rig.frames] == [(), ("corrupt",), (), ("corrupt",), ()]
    assert rig.capture.counters().dropped == {"corrupt": 3}


def test_how_a_file_ended_is_told(rigs: Make) -> None:
    source = FakeSource(["frame"] * 3)
    source.detail = "truncated: 3 of 9 frames could be read"
    rig = rigs(source).run()
    assert rig.ended == [("cam", source.detail)]
    assert (rig.statuses[-1].state, rig.statuses[-1].detail) == ("ended", source.detail)


def test_a_file_that_cannot_be_opened_fails_with_its_sentence(rigs: Make) -> None:
    rig = rigs(FakeSource(refuse=1)).run()
    assert rig.ended == [("cam", "failed: the fake source was told to refuse; wait")]
    assert rig.states() == ["connecting", "failed"]
    assert rig.statuses[-1].detail == "the fake source was told to refuse; wait"


def test_stop_ends_a_file_in_the_middle(rigs: Make) -> None:
    rig: Rig = rigs(FakeSource(["frame"] * 50), on_frame=lambda f: rig.stop.set() if f.index == 9 else None)
    rig.run()
    assert len(rig.frames) == 10 and rig.ended == [("cam", "stopped")]


@pytest.mark.parametrize("live", [False, True])
def test_an_error_of_the_consumer_is_reported_and_ends_the_thread(rigs: Make, live: bool) -> None:
    def fail(frame: Frame) -> None:
        raise ZeroDivisionError("a bug further on")

    source = FakeSource(live=live)
    rig = rigs(source, live=live, on_frame=fail).run()
    assert isinstance(rig.errors[0], ZeroDivisionError) and not rig.ended
    assert rig.capture.state == "failed" and source.closes == 1


def test_an_error_inside_the_reader_is_reported(rigs: Make) -> None:
    rig = rigs(FakeSource(["frame", "raise"])).run()
    assert isinstance(rig.errors[0], RuntimeError)


def test_a_file_held_back_by_its_consumer_is_not_stalled(rigs: Make) -> None:
    entered, go = threading.Event(), threading.Event()

    def block(frame: Frame) -> None:
        entered.set()
        assert go.wait(DEADLINE_S)

    rig = rigs(FakeSource(["frame"] * 3), on_frame=block)
    rig.capture.start()
    assert entered.wait(DEADLINE_S)
    rig.clock.advance(100.0)
    rig.capture.check()
    assert "stalled" not in rig.states()
    go.set()
    rig.until(lambda: bool(rig.ended))


def test_a_file_on_a_hanging_disk_is_stalled_but_kept(rigs: Make) -> None:
    source = FakeSource(["frame", "stall", "frame"])
    rig = rigs(source)
    rig.capture.start()
    assert source.stalled.wait(DEADLINE_S)
    rig.clock.advance(100.0)
    rig.capture.check()
    assert rig.states() == ["connecting", "online", "stalled"]
    source.release()
    rig.until(lambda: bool(rig.ended))
    assert len(rig.frames) == 3 and rig.states()[-2:] == ["online", "ended"]


# -- previews and masks --------------------------------------------------------------------------------------------


def test_previews_come_at_most_so_often_and_so_large(rigs: Make) -> None:
    config = CaptureConfig(preview_fps=8.0, preview_size=64)
    rig = rigs(FakeSource(["frame"] * 100, size=(96, 128)), config=config).run()
    previews = [f.preview for f in rig.frames if f.preview is not None]
    assert 30 <= len(previews) <= 33  # 4 s of media time
    assert {p.image.shape for p in previews} == {(48, 64, 3)}
    assert all(f.preview is None or f.preview.media_s == f.media_s for f in rig.frames)


@pytest.mark.parametrize("options", [{"previews": False}, {"config": CaptureConfig(preview_fps=0.0)}])
def test_no_previews_when_nobody_wants_them(rigs: Make, options: dict[str, object]) -> None:
    assert all(f.preview is None for f in rigs(FakeSource(), **options).run().frames)


def test_the_mask_covers_the_network_s_picture_and_the_evidence(rigs: Make) -> None:
    camera = CameraConfig(name="cam", source=FILE, mask=((0, 0), (0.25, 0), (0.25, 1), (0, 1)))
    rig = rigs(FakeSource(["frame"] * 2, size=(48, 64)), camera=camera).run()
    frame = rig.frames[0]
    assert frame.preview is not None
    for picture in (frame.image, frame.preview.image):
        assert (picture[:, :15] == 127).all() and not (picture[:, 20:24] == 127).all()
