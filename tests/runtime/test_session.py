"""Frames that a program has: the windows, scores and alarms of the stream, without a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from model_samples import SMALL, noise_windows, small_bundle

import stream_detector as sd
from stream_detector.models.bundle import Bundle
from stream_detector.testing import ConstantEngine
from stream_detector.types import UInt8Array

FPS = 25.0
FOREIGN_TOLERANCE = 0.05  # of the raw score, as docs/library.md and the docstring of push say


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return small_bundle(tmp_path / "small")


def moving(count: int, size: tuple[int, int] = SMALL.size, seed: int = 0) -> UInt8Array:
    """uint8 (count, h, w, 3): one noise picture that slides; no cut in it."""
    still = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return np.stack([np.roll(still, shift, axis=1) for shift in range(count)])


def test_a_decision_comes_with_the_last_frame_of_each_window(bundle: Bundle) -> None:
    with sd.Session(bundle, engine=ConstantEngine(0.7)) as session:
        came = [len(session.push("gate", image, n / FPS)) for n, image in enumerate(moving(48))]
    assert [n for n, decisions in enumerate(came) if decisions] == [15, 31, 47]


def test_alarms_start_and_end_as_in_the_stream(bundle: Bundle) -> None:
    settings = {"alarm": {"min_length_s": 0.5, "update_interval_s": 60}, "smoothing": {"kind": "none"}}
    with sd.Session(bundle, engine=ConstantEngine(0.7), settings=settings) as session:
        for n, image in enumerate(moving(32)):
            session.push("gate", image, n / FPS)
        (start,) = session.events("gate")
        assert (start.type, start.camera, start.threshold) == ("start", "gate", 0.4)
        assert session.events("gate") == ()
        session.finish("gate")
        (end,) = session.events("gate")
        assert (end.type, end.id) == ("end", start.id)


def test_cameras_do_not_know_of_each_other(bundle: Bundle) -> None:
    frames = moving(64)
    with sd.Session(bundle, engine="torch", precision="fp32") as session:
        alone = [d.score.raw for n, image in enumerate(frames) for d in session.push("a", image, n / FPS)]
        mixed = []
        for n, image in enumerate(frames):
            session.push("noise", noise_windows(1, seed=n)[0, 0], n / FPS)
            mixed += [d.score.raw for d in session.push("b", image, n / FPS)]
    assert len(alone) == 4
    assert np.allclose(alone, mixed, atol=1e-6)


def test_a_hole_in_media_time_begins_a_new_window(bundle: Bundle) -> None:
    with sd.Session(bundle, engine=ConstantEngine()) as session:
        decisions = []
        for n, image in enumerate(moving(40)):
            decisions += session.push("gate", image, n / FPS + (60 if n >= 8 else 0))
    assert [d.score.ref.start_frame for d in decisions] == [8, 24]
    assert decisions[0].score.ref.degraded == ("gap",)


def test_frames_faster_than_the_recipe_are_passed_over(bundle: Bundle) -> None:
    with sd.Session(bundle, engine=ConstantEngine()) as session:
        decisions = [d for n, image in enumerate(moving(64)) for d in session.push("gate", image, n / (2 * FPS))]
    assert [(d.score.ref.start_frame, d.score.ref.end_frame) for d in decisions] == [(0, 30), (32, 62)]


def test_footage_too_short_for_a_window_gives_one_and_names_are_free_again(bundle: Bundle) -> None:
    with sd.Session(bundle, engine=ConstantEngine()) as session:
        for n, image in enumerate(moving(5)):
            assert session.push("clip", image, n / FPS) == ()
        (decision,) = session.finish("clip")
        assert "short" in decision.score.ref.degraded
        for n, image in enumerate(moving(16)):
            decisions = session.push("clip", image, n / FPS)
        assert [d.score.ref.index for d in decisions] == [0]


def test_pictures_of_another_size_are_scaled(bundle: Bundle) -> None:
    seen: list[tuple[int, ...]] = []

    def note(frames: UInt8Array) -> float:
        seen.append(frames.shape)
        return 0.5

    with sd.Session(bundle, engine=ConstantEngine(score_of=note)) as session:
        for n, image in enumerate(moving(16, (120, 160))):
            session.push("gate", image, n / FPS)
    assert seen == [(16, *SMALL.size, 3)]


def test_bad_frames_names_and_settings_are_one_sentence(bundle: Bundle) -> None:
    with sd.Session(bundle, engine=ConstantEngine()) as session:
        with pytest.raises(sd.DataError, match="uint8"):
            session.push("gate", np.zeros((8, 8), np.uint8), 0.0)  # type: ignore[arg-type, unused-ignore]
        with pytest.raises(sd.ConfigError, match="Gate 1"):
            session.push("Gate 1", moving(1)[0], 0.0)
    for settings, told in (
        ({"alarm": {"cooldown": 3}}, "cooldown"),
        ({"alarm": 3}, "alarm"),
        ({"bundle": "accurate"}, "argument 'bundle'"),
        ({"cameras": {"gate": "demo"}}, "argument 'camera of push'"),
    ):
        with pytest.raises(sd.ConfigError, match=told):
            sd.Session(bundle, engine=ConstantEngine(), settings=settings)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"camera": [1]}, "camera is named by a text, got list"),
        ({"image": [1]}, "NumPy array.*got list"),
        ({"image": np.zeros((0, 8, 3), np.uint8)}, "uint8"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, "float32"),
        ({"media_s": "x"}, "media_s.*got str 'x'"),
        ({"media_s": None}, "media_s.*NoneType"),
        ({"media_s": float("nan")}, "media_s.*finite.*nan"),
        ({"media_s": float("-inf")}, "media_s.*finite"),
        ({"media_s": 10**400}, "media_s.*finite"),
        ({"index": "3"}, "index.*whole number"),
        ({"index": -1}, "index.*whole number"),
        ({"discontinuity": "gap"}, "discontinuity.*tuple"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_one_sentence_and_adds_no_camera(
    bundle: Bundle, changed: dict[str, Any], told: str
) -> None:
    good: dict[str, Any] = {"camera": "gate", "image": moving(1)[0], "media_s": 0.0}
    with sd.Session(bundle, engine=ConstantEngine()) as session:
        with pytest.raises(sd.DataError, match=told) as raised:
            session.push(**{**good, **changed})
        assert "\n" not in str(raised.value)
        assert not session._cameras
        session.push(**{**good, "media_s": np.float32(0.5), "index": np.int64(3)})


def test_the_threshold_of_the_settings_counts_where_no_argument_is_given(bundle: Bundle) -> None:
    for settings in ({"threshold": 0.9}, {"alarm": {"threshold": 0.9}}):
        with sd.Session(bundle, engine=ConstantEngine(0.7), settings=settings) as session:
            for n, image in enumerate(moving(64)):
                session.push("gate", image, n / FPS)
            assert session.events("gate") == ()


def test_frames_of_a_recording_score_as_the_stream_scores_it(bundle: Bundle, video: Path) -> None:
    folder = str(bundle.directory)
    wanted = [(row.start_frame, row.end_frame, row.raw, row.smoothed) for row in sd.score(video, bundle=folder)]
    assert len(wanted) >= 4
    with sd.Session(folder) as session:
        came = []
        for frame in sd.read_frames(video, bundle=folder):
            came += session.push("video", frame.image, frame.media_s, index=frame.index)
    assert [(d.score.ref.start_frame, d.score.ref.end_frame, d.score.raw, d.smoothed) for d in came] == wanted


@pytest.mark.parametrize("embedded", [False, True])
def test_pictures_decoded_elsewhere_score_within_the_stated_tolerance(
    bundle: Bundle, video: Path, embedded: bool
) -> None:
    chosen = "embedded" if embedded else str(bundle.directory)
    wanted = [row.raw for row in sd.score(video, bundle=chosen)]
    with sd.Session(chosen) as session:
        own = [
            d.score.raw
            for number, image in enumerate(decoded_by_opencv(video))
            for d in session.push("video", image, number / FPS)
        ]
    assert len(own) == len(wanted) >= 4
    assert np.abs(np.subtract(own, wanted)).max() <= FOREIGN_TOLERANCE
    assert f"at most {FOREIGN_TOLERANCE}" in " ".join(str(sd.Session.push.__doc__).split())


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Three seconds of a picture that slides, as H.264."""
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        smooth = cv2.GaussianBlur(moving(1, (240, 320), seed=5)[0], (0, 0), 6)
        smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
        for shift in range(75):
            picture = np.roll(smooth, 2 * shift, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def decoded_by_opencv(path: Path) -> list[UInt8Array]:
    capture = cv2.VideoCapture(str(path))
    pictures = []
    while (found := capture.read())[0]:
        pictures.append(np.ascontiguousarray(found[1][:, :, ::-1]))
    capture.release()
    return pictures
