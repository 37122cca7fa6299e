"""Snapshots: full size, of the highest score so far, also when the decision came late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from evidence_rig import ID_1, WAIT_S, Deadline, Rig
from video_rig import make_video, picture, second_of

from stream_detector import web
from stream_detector.capture.picture import ArrayPicture
from stream_detector.evidence.camera_tap import CameraTap
from stream_detector.evidence.retention import OWN_FILE
from stream_detector.evidence.snapshot import caption_rows
from stream_detector.types import Where

SIZE = (640, 360)


def shown(path: Path) -> int:
    """The second that a snapshot tells; it has the full size and a caption."""
    image = cv2.imread(str(path))
    assert image is not None and image.shape[1] == SIZE[0] and image.shape[0] > SIZE[1] + 8
    assert image[SIZE[1] + 2 :].max() > 150  # the caption's ink
    return second_of(image[: SIZE[1]])


@pytest.fixture
def seen(rig: Callable[..., Rig], tmp_path: Path) -> tuple[Rig, Any]:
    source = tmp_path / "a.ts"
    make_video(source, 15, size=SIZE)
    evidence = rig()
    evidence.fill(source)
    return evidence, evidence.connections["gate"]


def test_a_snapshot_follows_the_peak_in_full_size(seen: tuple[Rig, Any]) -> None:
    evidence, connection = seen
    connection.picture(5.0, ArrayPicture(picture(5 * 25, SIZE)))
    evidence.writer.start("gate", ID_1, 5.0, 0.5)
    deadline = Deadline()
    while not evidence.snapshot().exists():
        deadline.check()
    assert shown(evidence.snapshot()) == 5
    for second, score in ((7, 0.9), (9, 0.8)):
        connection.picture(float(second), ArrayPicture(picture(second * 25, SIZE)))
        evidence.writer.peak("gate", ID_1, float(second), score)
        assert evidence.recorder.wait_idle(WAIT_S)
    evidence.writer.end("gate", ID_1, 9.0)
    evidence.close()
    assert shown(evidence.snapshot()) == 7


def test_a_copy_shows_where_the_alarm_looked_and_the_snapshot_stays_clean(seen: tuple[Rig, Any]) -> None:
    evidence, connection = seen
    connection.picture(5.0, ArrayPicture(picture(5 * 25, SIZE)))
    evidence.writer.start("gate", ID_1, 5.0, 0.5)
    where = Where(((0.0, 0.0), (0.0, 1.0)), ((0.5, 0.5, 1.0, 1.0),), (0.0, 0.0, 1.0, 1.0), 4.4, 5.0)
    evidence.writer.end("gate", ID_1, 6.0, where)
    evidence.close()
    clean = cv2.imread(str(evidence.snapshot())).astype(int)
    drawn = cv2.imread(str(evidence.snapshot().with_suffix(".where.jpg"))).astype(int)
    assert clean.shape == drawn.shape and clean.shape[0] == SIZE[1] + caption_rows(SIZE[0])
    changed = np.abs(clean - drawn).max(axis=2)
    assert changed[190:350, 330:630].min() > 20 and changed[:170, :310].max() < 16
    assert OWN_FILE.fullmatch(evidence.snapshot().with_suffix(".where.jpg").name)


def test_the_page_counts_the_rows_of_the_caption_alike() -> None:
    script = (Path(web.__file__).parent / "static" / "js" / "where.js").read_text(encoding="utf-8")
    assert "Math.max(22, Math.round(width / 32))" in script
    assert [caption_rows(width) for width in (64, 704, 1920)] == [22, 22, 60]


def test_a_late_decision_gets_the_picture_of_its_moment_out_of_the_packets(seen: tuple[Rig, Any]) -> None:
    """All pictures that are held are seconds newer than the window with the highest score."""
    evidence, connection = seen
    for number in range(4):
        connection.picture(13.0 + 0.5 * number, ArrayPicture(picture(13 * 25, SIZE)))
    evidence.writer.start("gate", ID_1, 6.5, 0.9, 6.0)
    evidence.writer.end("gate", ID_1, 8.0)
    evidence.close()
    assert shown(evidence.snapshot()) == 6


def test_pictures_that_are_held_are_bounded() -> None:
    from stream_detector.config import EvidenceConfig

    tap = CameraTap(EvidenceConfig())
    for number in range(100):
        tap.hold(number / 25, ArrayPicture(picture(number, SIZE)))
    assert len(tap._pictures) == 3
    large = CameraTap(EvidenceConfig())
    for number in range(10):
        large.hold(float(number), ArrayPicture(picture(number, (3840, 2160))))
    assert len(large._pictures) == 1
