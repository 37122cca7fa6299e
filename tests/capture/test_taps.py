"""What capture tells a tap: packets, the media time of frames, whole pictures, and whose clock their UTC is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_rig import Make
from video_rig import make_video

from stream_detector.capture.framing import Framer
from stream_detector.capture.grabs import GrabResult
from stream_detector.capture.readers import FileReader
from stream_detector.config import CaptureConfig, EvidenceConfig, build_config
from stream_detector.errors import ConfigError
from stream_detector.evidence.camera_tap import CameraTap
from stream_detector.testing import FakeSource


@pytest.mark.parametrize(("form", "suffix"), [("mp4", "mp4"), ("mpegts", "ts"), ("matroska", "mkv")])
def test_packets_get_the_media_time_of_the_frames_that_are_scored(form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    make_video(path, 4, form=form)
    tap = CameraTap(EvidenceConfig())
    reader = FileReader(path, CaptureConfig())
    connection = tap.connection()
    reader.attach(connection)
    reader.open()
    frames = []
    while (grabbed := reader.grab()).status == "frame":
        connection.place(grabbed.stamp_s, grabbed.media_s or 0.0)
        frames.append(grabbed.media_s)
    reader.close()
    packets = sorted(packet.media_s or 0.0 for packet in tap.ring.after(0))
    assert len(packets) == 100 and packets == pytest.approx(frames, abs=1e-3)


class Told(FakeSource):
    """A live source whose pictures carry the camera's own time."""

    def __init__(self, ahead_s: float, *args: Any) -> None:
        super().__init__(*args)
        self._ahead_s = ahead_s
        self.utc: Any = None

    def grab(self) -> GrabResult:
        grabbed = super().grab()
        if grabbed.status != "frame" or self.utc is None:
            return grabbed
        return GrabResult("frame", grabbed.media_s, wall_utc=self.utc() + self._ahead_s)


@pytest.mark.parametrize(
    ("ahead_s", "by"), [(-0.2, "sender_report"), (3600.0, "arrival"), (-1.7e9, "arrival"), (4.9, "sender_report")]
)
def test_captured_utc_says_whose_clock_it_is(rigs: Make, ahead_s: float, by: str) -> None:
    """A camera whose clock is far off is not believed."""
    source = Told(ahead_s, ("frame",) * 5)
    rig = rigs(source, live=True)
    source.utc = rig.clock.utc
    rig.capture.start()
    rig.until(lambda: len(rig.frames) == 5)
    frame = rig.frames[0]
    assert frame.captured_by == by
    shift_s = ahead_s if by == "sender_report" else 0.0
    assert frame.captured_utc == pytest.approx(rig.clock.utc() + shift_s, abs=1.0)


def test_ignored_polygons_touch_scoring_only() -> None:
    values = {"source": "a.mp4", "ignore": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]], [[0.9, 0.9], [1, 0.9], [1, 1]]]}
    camera = build_config({"cameras": {"a": values}}).cameras[0]
    framer = Framer(camera, CaptureConfig(), lambda picture: (picture.bgr()[..., ::-1],), previews=True)
    image = np.full((100, 200, 3), 200, np.uint8)
    shot = framer.process(image, 0.0)
    assert shot is not None and shot.preview is not None
    (view,) = shot.views
    assert (view[:, :96] == 127).all() and (view[20:60, 110:] == 200).all() and (view[97:, 197:] == 127).all()
    assert (shot.preview.image == 200).all() and (image == 200).all()


def test_an_ignored_polygon_of_two_points_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 3 points"):
        build_config({"cameras": {"a": {"source": "a.mp4", "ignore": [[[0, 0], [1, 1]]]}}})


def test_a_camera_of_pictures_fills_the_ring_with_jpegs(rigs: Make) -> None:
    rig = rigs(FakeSource(("frame",) * 50, fps=25.0))
    tap = CameraTap(EvidenceConfig())
    rig.capture._tap = tap
    rig.run()
    form = tap.ring.form
    assert form is not None and form.made and form.codec == "mjpeg"
    assert 23 <= tap.ring.newest_serial <= 26  # 12.5 a second
