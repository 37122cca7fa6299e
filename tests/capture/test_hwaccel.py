"""Hardware decoding: a device that cannot be used is reported once, and everything is decoded in software."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.hwaccel import hwdevices_available

from stream_detector.capture.decoder import has_device
from stream_detector.capture.readers import FileReader
from stream_detector.cli.doctor import video
from stream_detector.config import CaptureConfig


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            picture = np.full((48, 64, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    has_device.cache_clear()
    yield
    has_device.cache_clear()


def read(path: Path, name: str) -> int:
    reader = FileReader(path, CaptureConfig(hwaccel=name))
    reader.open()
    count = 0
    while reader.grab().status == "frame":
        picture = reader.retrieve()
        assert picture is not None and picture.bgr().shape == (48, 64, 3)
        count += 1
    reader.close()
    return count


@pytest.mark.parametrize("name", ["nosuch", *hwdevices_available()])
def test_every_device_there_is_or_not_gives_every_frame(
    film: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert [read(film, name), read(film, name)] == [20, 20]
    told = [record.getMessage() for record in caplog.records]
    if has_device(name):
        assert not told
    else:
        (sentence,) = told  # once, not for each source
        assert name in sentence and "decoding in software" in sentence


def test_software_is_not_reported(film: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert read(film, "") == 20
    assert not caplog.records


def test_the_doctor_lists_what_the_build_knows() -> None:
    (decoder,) = [check for check in video() if check.name == "decoder"]
    assert "--hwaccel takes" in decoder.detail
    assert all(name in decoder.detail for name in hwdevices_available())
