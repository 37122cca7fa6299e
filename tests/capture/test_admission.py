"""Which packets are decoded in an overload: the share, whole groups of pictures, all cameras alike."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.capture.admission import STRETCH, Admission
from stream_detector.capture.decoder import Decoder
from stream_detector.capture.grabs import GrabResult
from stream_detector.capture.jpeg_snapshots import JpegStream
from stream_detector.testing import FakeSource
from tests.capture_rig import Make, rigs  # noqa: F401


def decoded(camera: str, share: float, group: int, packets: int) -> list[bool]:
    admission = Admission(camera, lambda: share)
    return [admission.wanted(number % group == 0) for number in range(packets)]


@given(st.floats(0.02, 1.0), st.integers(1, 250), st.text("abc", min_size=1, max_size=8))
@settings(deadline=None)
def test_every_camera_gets_the_share_in_whole_groups(share: float, group: int, camera: str) -> None:
    packets = 40_000
    taken = decoded(camera, share, group, packets)
    assert sum(taken) / packets == pytest.approx(share, abs=0.02 + 5 * max(STRETCH, group) / packets)
    changes = [n for n in range(1, packets) if taken[n] != taken[n - 1]]
    assert all(n % group == 0 for n in changes)  # a decoder can begin there
    assert all(b - a >= STRETCH for a, b in pairwise(changes))


def test_cameras_do_not_decode_in_step() -> None:
    rows = np.array([decoded(f"cam{n}", 0.25, 50, 4000) for n in range(64)])
    at_once = rows[:, 1000:].mean(axis=0)
    assert at_once.max() < 0.6


def test_a_camera_that_is_late_passes_over_until_it_has_caught_up() -> None:
    admission = Admission("gate", lambda: 1.0)
    now_s = 0.0

    def packets(count: int, late_s: float) -> list[bool]:
        nonlocal now_s
        found = []
        for number in range(count):
            now_s += 0.04
            admission.late(late_s, now_s)
            found.append(admission.wanted(number % 25 == 0))
        return found

    assert all(packets(100, 0.05))
    assert not any(packets(50, 1.3))
    assert not any(packets(25, 0.6))  # nearer, but not there
    assert all(packets(100, 0.1))
    assert not any(packets(25, 1.4))
    assert all(packets(25 * 80, 1.4)[-50:])  # for over a minute: so long is the way now, it is no backlog


def test_a_new_connection_is_decoded_from_its_beginning() -> None:
    admission = Admission("gate", lambda: 0.02)
    while admission.wanted(True):
        pass
    admission.begin()
    assert admission.wanted(True)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s of H.264, a key frame a second."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    blocks = np.kron(np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.options = {"g": "25", "keyint_min": "25", "sc_threshold": "0", "bf": "0"}
        for number in range(500):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(blocks, 2 * number, 1), "rgb24")))
        container.mux(stream.encode())
    return path


def test_the_decoder_passes_over_without_decoding_and_goes_on_with_whole_pictures(film: Path) -> None:
    whole = Decoder(str(film))
    whole.open()
    wanted = []
    while (found := whole.next()) is not None:
        wanted.append((found.media_s, found.frame.to_ndarray(format="gray")))
    half = Decoder(str(film))
    half.admission = Admission("gate", lambda: 0.5)
    half.open()
    times, passed = [], []
    while not half.ended:
        found = half.next()
        if found is None:
            if half.passed_s is not None:
                passed.append(half.passed_s)
            continue
        assert not found.corrupt and not found.missed
        index = round(found.media_s * 25)
        assert found.media_s == pytest.approx(wanted[index][0])
        assert np.array_equal(found.frame.to_ndarray(format="gray"), wanted[index][1])
        times.append(found.media_s)
    assert sorted(times + passed) == pytest.approx([media_s for media_s, _ in wanted])
    assert 150 <= len(passed) <= 350


class Stretches(FakeSource):
    """A live source whose frames 40 to 79 are passed over."""

    def grab(self) -> GrabResult:
        found = super().grab()
        if found.status == "frame" and 40 <= self._frames - 1 < 80:
            return GrabResult("skipped")
        return found


def test_what_is_passed_over_is_counted_and_marks_the_next_frame(rigs: Make) -> None:  # noqa: F811
    rig = rigs(Stretches(("frame",) * 100, live=True), live=True, frame_fps=1e6)
    rig.capture.start()
    rig.until(lambda: len(rig.frames) == 60)
    assert [frame.index for frame in rig.frames] == [*range(40), *range(80, 100)]
    assert {frame.index: frame.discontinuity for frame in rig.frames if frame.discontinuity} == {80: ("dropped",)}
    assert rig.capture.counters().dropped == {"skipped": 40}
    assert rig.capture.counters().frames == 100
    assert "stalled" not in rig.states()


class Pictures:
    """Implements `jpeg_snapshots.JpegSource`: so many pictures, then the end."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.jpeg = cv2.imencode(".jpg", np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8))[1].tobytes()

    def next(self) -> bytes:
        self.left -= 1
        return self.jpeg if self.left >= 0 else b""

    def close(self) -> None:
        pass


def test_jpegs_are_passed_over_in_stretches_too() -> None:
    stream = JpegStream(Pictures(2000))
    stream.admission = Admission("gate", lambda: 0.25)
    taken = []
    while not stream.ended:
        found = stream.next()
        if found is not None or stream.passed_s is not None:
            taken.append(found is not None)
    assert len(taken) == 2000
    assert sum(taken) / 2000 == pytest.approx(0.25, abs=0.05)
    changes = [n for n in range(1, 2000) if taken[n] != taken[n - 1]]
    assert all(b - a >= STRETCH for a, b in pairwise(changes))
