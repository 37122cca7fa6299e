"""Files as they are found in the world: whole, cut off, damaged, empty, odd, rotated, grey, large."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_detector.capture.readers import (
    FileReader,
    GrabResult,
    NetworkReader,
    UsbReader,
    check_source,
    make_reader,
)
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.config.source import Source
from stream_detector.demo.reader import DemoReader
from stream_detector.errors import SourceError
from stream_detector.testing import FakeCamera, numbered_image
from stream_detector.types import UInt8Array

CONFIG = CaptureConfig(open_timeout_s=2.0, read_timeout_s=1.0)
MakeVideo = Callable[..., Path]


@pytest.fixture
def video(tmp_path: Path) -> MakeVideo:
    def make(
        name: str = "clip.avi",
        frames: int = 60,
        fps: float = 25.0,
        size: tuple[int, int] = (160, 120),
        codec: str = "MJPG",
    ) -> Path:
        path = tmp_path / name
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, size)
        assert writer.isOpened()
        for index in range(frames):
            picture = numbered_image(0, (size[1], size[0]))
            picture[: size[1] // 2, : size[0] // 4] = (0, 0, 255)  # red, top left
            picture[-1, -1] = index % 256
            writer.write(picture)
        writer.release()
        return path

    return make


def read_all(reader: FileReader | DemoReader, limit: int = 5000) -> list[GrabResult]:
    grabbed = []
    for _ in range(limit):
        result = reader.grab()
        if result.status == "end":
            return grabbed
        grabbed.append(result)
    raise AssertionError("the reader does not end")


def opened(path: Path) -> FileReader:
    reader = FileReader(path, CONFIG)
    reader.open()
    return reader


def shown(reader: FileReader) -> UInt8Array:
    picture = reader.retrieve()
    assert picture is not None
    return picture.bgr()


def times(grabbed: list[GrabResult]) -> list[float]:
    return [g.media_s for g in grabbed if g.status == "frame" and g.media_s is not None]


def faststart(data: bytes) -> bytes:
    """An mp4 with its index moved to the front, as cameras that stream write it (chunk offsets mended)."""
    boxes: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(data):
        size, tag = struct.unpack(">I4s", data[at : at + 8])
        boxes.append((tag, data[at : at + size]))
        at += size
    moov = bytearray(next(box for tag, box in boxes if tag == b"moov"))
    start = moov.find(b"stco")
    while start != -1:
        (count,) = struct.unpack(">I", moov[start + 8 : start + 12])
        for entry in range(count):
            where = start + 12 + 4 * entry
            (offset,) = struct.unpack(">I", moov[where : where + 4])
            moov[where : where + 4] = struct.pack(">I", offset + len(moov))
        start = moov.find(b"stco", start + 4)
    rest = b"".join(box for tag, box in boxes if tag not in (b"moov", b"ftyp"))
    return next(box for tag, box in boxes if tag == b"ftyp") + bytes(moov) + rest


def test_a_file_is_read_to_its_end_with_its_time_stamps(video: MakeVideo) -> None:
    reader = opened(video(frames=60, fps=30.0))
    grabbed = read_all(reader)
    assert len(grabbed) == 60 and all(g.status == "frame" and g.cause is None for g in grabbed)
    assert times(grabbed) == pytest.approx([i / 30 for i in range(60)], abs=1e-4)
    assert (reader.fps, reader.detail) == (30.0, "")
    reader.close()
    reader.close()
    assert reader.grab().status == "end"


def test_a_picture_is_writeable_bgr(video: MakeVideo) -> None:
    reader = opened(video())
    assert reader.grab().status == "frame"
    picture = shown(reader)
    assert picture.shape == (120, 160, 3) and picture.dtype == np.uint8
    assert picture[20, 10, 2] > 200 and picture[20, 10, 0] < 60  # red is last
    picture[:] = 0
    reader.close()


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("a.webm", "VP80"), ("a.mkv", "MJPG")])
def test_containers(video: MakeVideo, name: str, codec: str) -> None:
    reader = opened(video(name, frames=30, codec=codec))
    assert len(times(read_all(reader))) == 30
    assert reader.detail == ""
    reader.close()


@pytest.mark.parametrize("size", [(318, 242), (64, 480), (3840, 2160)])
def test_sizes(video: MakeVideo, size: tuple[int, int]) -> None:
    reader = opened(video(frames=1, size=size))
    reader.grab()
    assert shown(reader).shape == (size[1], size[0], 3)
    reader.close()


def test_a_truncated_file_plays_what_is_there_and_says_so(video: MakeVideo) -> None:
    path = video(frames=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = opened(path)
    frames = len(times(read_all(reader)))
    assert 40 <= frames <= 55
    assert reader.detail == f"truncated: the file ends in the middle of the video; {frames} frames could be read"
    reader.close()


def test_a_truncated_mp4_with_its_index_in_front_plays(video: MakeVideo) -> None:
    path = video("a.mp4", frames=100, codec="mp4v")
    data = faststart(path.read_bytes())
    path.write_bytes(data)
    whole = opened(path)
    assert len(times(read_all(whole))) == 100 and whole.detail == ""
    whole.close()
    path.write_bytes(data[: int(len(data) * 0.6)])
    cut = opened(path)
    frames = len(times(read_all(cut)))
    assert 20 <= frames <= 80
    assert cut.detail == f"truncated: the file ends in the middle of the video; {frames} frames could be read"
    cut.close()


def test_a_truncated_mp4_without_its_index_is_refused(video: MakeVideo) -> None:
    path = video("a.mp4", frames=100, codec="mp4v")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SourceError, match="cut off before its index"):
        opened(path)


def test_a_damaged_stretch_is_read_over_and_marked(video: MakeVideo) -> None:
    path = video("a.webm", frames=90, codec="VP80")
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 400] = bytes(400)
    path.write_bytes(bytes(data))
    reader = opened(path)
    grabbed = read_all(reader)
    seen = times(grabbed)
    assert 45 <= len(seen) <= 90
    assert seen == sorted(seen) and seen[-1] > 3.0  # the end was reached
    reader.close()


def test_variable_frame_rate_keeps_its_own_times(tmp_path: Path) -> None:
    """A real file whose stamps are uneven: 50 frames a second in its first half, 17 in its second."""
    path = tmp_path / "vfr.mp4"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (64, 48))
    for index in range(20):
        writer.write(numbered_image(index, (48, 64)))
    writer.release()
    data = bytearray(path.read_bytes())
    at = data.find(b"stts")
    count, samples, delta = struct.unpack(">III", data[at + 8 : at + 20])
    assert (count, samples) == (1, 20)
    # One entry of 20 samples becomes two of 10, the second three times as long; every box around it grows by 8 bytes.
    size = struct.unpack(">I", data[at - 4 : at])[0]
    entry = struct.pack(">IIII", 10, delta // 2, 10, delta + delta // 2)
    grown = data[: at + 8] + struct.pack(">I", 2) + entry + data[at - 4 + size :]
    grown[at - 4 : at] = struct.pack(">I", size + 8)
    for tag in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        where = grown.find(tag)
        old = struct.unpack(">I", grown[where - 4 : where])[0]
        grown[where - 4 : where] = struct.pack(">I", old + 8)
    path.write_bytes(bytes(grown))
    reader = opened(path)
    steps = np.diff(times(read_all(reader)))
    assert list(steps) == pytest.approx([0.02] * 10 + [0.06] * 9, abs=1e-3)
    reader.close()


def test_a_rotated_file_comes_upright(video: MakeVideo) -> None:
    path = video("a.mp4", frames=5, codec="mp4v")
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4 + 40  # version 0: the matrix
    turn = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # 90° clockwise
    assert struct.unpack(">9i", data[at : at + 36])[0] == 1 << 16
    data[at : at + 36] = turn
    path.write_bytes(bytes(data))
    reader = opened(path)
    reader.grab()
    picture = shown(reader)
    assert picture.shape == (160, 120, 3)
    assert picture[10, 110, 2] > 200 and picture[10, 110, 0] < 60  # red has gone from top left to top right
    reader.close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"this is text, not a video\n" * 40, "not a video"),
        (b"", "is empty"),
        (b"\x00\x00\x00\x18ftypmp42", "not a video"),
    ],
)
def test_what_is_no_video_is_refused_in_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "notes.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=says) as error:
        check_source(CameraConfig(name="a", source=str(path)), CONFIG)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "codec"), [("zero.avi", "MJPG"), ("zero.mp4", "mp4v"), ("zero.webm", "VP80")])
def test_a_video_without_frames_is_refused(video: MakeVideo, name: str, codec: str) -> None:
    with pytest.raises(SourceError, match=r"frames|complete video"):
        opened(video(name, frames=0, codec=codec))


def test_a_missing_or_forbidden_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        opened(tmp_path / "none.mp4")
    path = tmp_path / "closed.mp4"
    path.write_bytes(b"x")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(SourceError, match="may not be read"):
        opened(path)


def test_check_source_accepts_a_video_and_leaves_live_sources_alone(video: MakeVideo) -> None:
    check_source(CameraConfig(name="a", source=str(video())), CONFIG)
    check_source(CameraConfig(name="b", source="rtsp://127.0.0.1:9/none"), CONFIG)


def test_a_colon_in_a_file_name_is_no_protocol(video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video("tcp:12.avi", frames=5)
    monkeypatch.chdir(path.parent)
    reader = opened(Path("tcp:12.avi"))
    assert len(times(read_all(reader))) == 5
    reader.close()


def test_readers_are_chosen_by_source(tmp_path: Path) -> None:
    chosen = [make_reader(CameraConfig(name="a", source=s), CONFIG) for s in ("clip.mp4", "rtsp://h/1", "0", "demo")]
    assert [type(r) for r in chosen] == [FileReader, NetworkReader, UsbReader, DemoReader]


def test_a_camera_that_is_not_there_is_refused_without_its_password(capfd: pytest.CaptureFixture[str]) -> None:
    camera = FakeCamera(user="admin", password="hunter2")
    camera.start()
    camera.stop()
    reader = NetworkReader(CameraConfig(name="a", source=camera.url), CONFIG)
    with pytest.raises(SourceError) as error:
        reader.open()
    assert "hunter2" not in str(error.value) and "127.0.0.1" in str(error.value)
    assert capfd.readouterr() == ("", "")  # neither OpenCV nor FFmpeg says a word
    assert reader.grab().status == "lost"


class Scene:
    fps, frame_count = 20.0, 3

    def frame(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
        return numbered_image(index)


def test_the_demo_reads_like_a_file() -> None:
    reader = DemoReader(Source.parse("demo:seed=1"), scene=Scene)
    reader.open()
    assert [g.media_s for g in read_all(reader)] == pytest.approx([0.0, 0.05, 0.1])
    picture = reader.retrieve()
    assert picture is not None and picture[0, 0, 0] == 2
    reader.close()
    assert reader.grab().status == "end"
