"""Clips and snapshots: what is in them, that they appear whole or not at all, and that nothing ever waits for them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stream_detector.config import EvidenceConfig
from stream_detector.evidence import clip_file
from stream_detector.evidence import writer as evidence_module
from stream_detector.evidence.writer import EvidenceWriter
from stream_detector.testing import FakeClock
from stream_detector.types import Preview

FPS = 8.0
ID_1, ID_2 = "1" * 32, "2" * 32


def level(number: int) -> int:
    return 40 + 6 * (number % 32)


def number(grey: float) -> int:
    """What a picture of this level shows; VP8 gives it back some 3 levels darker."""
    return round((grey + 2 - 40) / 6)


def picture(number: int, size: tuple[int, int] = (96, 54)) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A plain grey whose level tells the number (0 to 30)."""
    return np.full((size[1], size[0], 3), level(number), np.uint8)


def previews(begin_s: float, end_s: float, fps: float = FPS) -> list[Preview]:
    """One preview every 1 / fps from begin_s on, showing the whole seconds."""
    times = np.arange(round(begin_s * fps), round(end_s * fps)) / fps
    return [Preview(float(t), picture(int(t))) for t in times]


def read_back(path: Path) -> tuple[float, list[int]]:
    """fps and the second that each frame shows."""
    reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    fps, seconds = reader.get(cv2.CAP_PROP_FPS), []
    while True:
        read, frame = reader.read()
        if not read:
            break
        seconds.append(number(float(frame.mean())))
    reader.release()
    return fps, seconds


class Rig:
    """A writer in a folder, with what it complained about."""

    def __init__(self, folder: Path, epoch: str = "", **settings: object) -> None:
        self.errors: list[str] = []
        self.losses: list[tuple[str, int]] = []
        self.clock = FakeClock()
        config = EvidenceConfig.model_validate({"directory": folder, "pre_s": 3, "post_s": 2, **settings})
        self.writer = EvidenceWriter(
            config,
            clock=self.clock,
            epoch=epoch,
            on_error=self.errors.append,
            on_loss=lambda *a: self.losses.append(a),
        )

    def show(self, camera: str, begin_s: float, end_s: float, fps: float = FPS) -> None:
        for preview in previews(begin_s, end_s, fps):
            self.writer.observe(camera, (preview,))

    def settle(self) -> None:
        assert self.writer.wait_idle(20)

    def alarm(self, camera: str, alarm_id: str, begin_s: float, end_s: float) -> None:
        """An alarm with its pictures, from the end of those shown so far."""
        self.writer.start(camera, alarm_id, begin_s, 0.6)
        self.show(camera, begin_s, end_s)
        self.writer.end(camera, alarm_id, end_s)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "evidence")
    yield rig
    assert rig.writer.close(20)


def parts(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if ".part" in p.name]


def test_clip_reaches_from_pre_to_post_and_shows_the_right_moments(rig: Rig, tmp_path: Path) -> None:
    rig.show("gate", 0, 10)
    rig.alarm("gate", ID_1, 10, 14)
    rig.show("gate", 14, 20)
    rig.settle()
    clip, snapshot = map(Path, rig.writer.paths("gate", ID_1))
    assert clip == tmp_path / "evidence" / "gate" / f"{ID_1}.webm" and snapshot == clip.with_suffix(".jpg")
    fps, seconds = read_back(clip)
    assert fps == pytest.approx(FPS)
    assert len(seconds) == pytest.approx((3 + 4 + 2) * FPS, abs=2)
    assert seconds == sorted(seconds) and seconds[0] == 7 and seconds[-1] in (15, 16)
    assert clip.read_bytes()[:4] == b"\x1a\x45\xdf\xa3" and b"webm" in clip.read_bytes()[:64]
    assert not parts(tmp_path) and rig.errors == []


def test_what_lies_before_is_measured_from_the_begin_of_the_alarm(rig: Rig) -> None:
    """Not from the picture with which the alarm was decided, two seconds later."""
    rig.show("gate", 0, 12)
    rig.writer.start("gate", ID_1, 12.0, 0.6, begins_s=10.0)
    rig.writer.end("gate", ID_1, 12.0)
    rig.writer.flush_camera("gate")
    rig.settle()
    _, seconds = read_back(Path(rig.writer.paths("gate", ID_1)[0]))
    assert seconds[0] == 7 and len(seconds) == pytest.approx((3 + 2) * FPS, abs=2)


def test_snapshot_follows_the_peak_and_carries_a_caption(rig: Rig) -> None:
    rig.show("gate", 0, 10)
    rig.writer.start("gate", ID_1, 9.9, 0.5)
    rig.settle()
    path = Path(rig.writer.paths("gate", ID_1)[1])

    def second() -> int:
        image = cv2.imread(str(path))
        assert image is not None and image.shape[1] == 96 and image.shape[0] > 54 + 8
        assert image[56:].max() > 150  # the caption's ink
        return number(float(image[:50].mean()))

    assert second() == 9
    rig.show("gate", 10, 13)
    rig.writer.peak("gate", ID_1, 11.2, 0.9)
    rig.settle()
    assert second() == 11
    rig.writer.peak("gate", ID_1, 12.9, 0.8)  # lower: the peak stays
    rig.settle()
    assert second() == 11


def test_variable_rate_keeps_media_time(rig: Rig) -> None:
    rig.show("gate", 0, 4)
    rig.writer.start("gate", ID_1, 4, 0.5)
    rig.show("gate", 4, 7, fps=2)
    rig.show("gate", 7, 9, fps=25)
    rig.writer.flush_camera("gate")
    rig.settle()
    fps, seconds = read_back(Path(rig.writer.paths("gate", ID_1)[0]))
    assert fps == pytest.approx(FPS)
    for second in range(2, 8):
        assert seconds.count(second) == pytest.approx(FPS, abs=2), seconds


def test_a_new_alarm_during_post_has_its_own_clip(rig: Rig) -> None:
    rig.show("gate", 0, 5)
    rig.alarm("gate", ID_1, 5, 7)
    rig.show("gate", 7, 8)
    rig.alarm("gate", ID_2, 8, 10)
    rig.show("gate", 10, 13)
    rig.settle()
    first = read_back(Path(rig.writer.paths("gate", ID_1)[0]))[1]
    second = read_back(Path(rig.writer.paths("gate", ID_2)[0]))[1]
    assert (first[0], first[-1]) in {(2, 8), (2, 9)} and (second[0], second[-1]) in {(5, 11), (5, 12)}


def test_cameras_do_not_mix(rig: Rig) -> None:
    rig.show("gate", 0, 5)
    rig.show("yard", 40, 45)
    rig.writer.start("gate", ID_1, 5, 0.5)
    rig.show("yard", 45, 50)
    rig.show("gate", 5, 8)
    rig.writer.flush_camera("gate")
    rig.settle()
    assert set(read_back(Path(rig.writer.paths("gate", ID_1)[0]))[1]) == {2, 3, 4, 5, 6, 7}
    assert not (rig.writer._config.directory / "yard").exists()


def test_clip_has_a_greatest_length(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_clip_s=5)
    rig.show("gate", 0, 5)
    rig.alarm("gate", ID_1, 5, 30)
    rig.settle()
    clip = Path(rig.writer.paths("gate", ID_1)[0])
    assert clip.exists()  # finished although the alarm went on
    assert len(read_back(clip)[1]) == pytest.approx(5 * FPS, abs=1)
    assert rig.writer.close(20)


def test_close_finishes_open_clips(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.show("gate", 0, 5)
    rig.writer.start("gate", ID_1, 5, 0.5)
    rig.show("gate", 5, 8)
    assert rig.writer.close(20)
    assert read_back(Path(rig.writer.paths("gate", ID_1)[0]))[1][-1] == 7
    assert not parts(tmp_path)
    rig.writer.observe("gate", tuple(previews(8, 9)))  # after the end: taken, and nothing happens
    assert rig.writer.close(1)


def test_a_source_silent_after_the_end_closes_by_the_clock(rig: Rig) -> None:
    rig.show("gate", 0, 5)
    rig.alarm("gate", ID_1, 5, 7)
    rig.settle()
    clip = Path(rig.writer.paths("gate", ID_1)[0])
    assert not clip.exists()
    rig.clock.advance(60)
    rig.writer.observe("yard", tuple(previews(0, 1)))  # any news wakes the thread before its own half second is over
    rig.settle()
    assert read_back(clip)[1][-1] == 6


def test_alarm_before_the_first_picture(rig: Rig) -> None:
    rig.writer.start("gate", ID_1, 1.0, 0.5)
    rig.writer.start("gate", ID_2, 1.0, 0.5)
    rig.writer.end("gate", ID_2, 1.5)
    rig.show("gate", 2, 4)
    rig.writer.flush_camera("gate")
    rig.writer.start("yard", ID_1, 1.0, 0.5)  # never a picture: no file, no error
    rig.writer.flush_camera("yard")
    rig.settle()
    clip, snapshot = map(Path, rig.writer.paths("gate", ID_1))
    assert set(read_back(clip)[1]) == {2, 3} and snapshot.exists()
    assert rig.errors == [] and not Path(rig.writer.paths("yard", ID_1)[0]).exists()


def test_odd_and_changing_sizes(rig: Rig) -> None:
    for n in range(16):
        size = (97, 55) if n < 8 else (40, 31)
        rig.writer.observe("gate", (Preview(n / FPS, picture(n, size)),))
        if n == 4:
            rig.writer.start("gate", ID_1, n / FPS, 0.5)
    rig.writer.flush_camera("gate")
    rig.settle()
    assert read_back(Path(rig.writer.paths("gate", ID_1)[0]))[1] == list(range(16))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Encoding stands still until the event is set."""
    go, real = threading.Event(), clip_file.ClipFile._write

    def slow(self: clip_file.ClipFile) -> None:
        assert go.wait(20)
        real(self)

    monkeypatch.setattr(clip_file.ClipFile, "_write", slow)
    yield go
    go.set()


def test_a_slow_disk_never_blocks_and_losses_are_counted(tmp_path: Path, held: threading.Event) -> None:
    rig = Rig(tmp_path)
    rig.writer._backlog_bytes = 20 * previews(0, 1)[0].image.nbytes
    rig.show("gate", 0, 1)
    rig.settle()
    rig.writer.start("gate", ID_1, 1, 0.5)
    rig.show("gate", 1, 20)  # 152 pictures, of which 20 or a few more find room
    lost = rig.writer.lost_previews
    assert 100 < lost < 152 and sum(n for _, n in rig.losses) == lost and {c for c, _ in rig.losses} == {"gate"}
    assert len(rig.errors) == 1 and "'gate'" in rig.errors[0]  # said once, not 130 times
    rig.writer.end("gate", ID_1, 20)  # an end always gets through
    held.set()
    rig.settle()
    rig.writer.flush_camera("gate")
    rig.settle()
    assert read_back(Path(rig.writer.paths("gate", ID_1)[0]))[1]
    assert rig.writer.close(20)


def test_close_is_bounded_when_encoding_hangs(tmp_path: Path, held: threading.Event) -> None:
    rig = Rig(tmp_path)
    rig.show("gate", 0, 1)
    rig.writer.start("gate", ID_1, 1, 0.5)
    rig.show("gate", 1, 3)
    assert rig.writer.close(0.2) is False
    assert "incomplete" in rig.errors[-1]
    held.set()
    rig.writer._thread.join(20)
    assert not rig.writer._thread.is_alive()
    assert clip_file.is_complete(Path(rig.writer.paths("gate", ID_1)[0]))  # late, with fewer pictures, but whole


def test_unwritable_folder_is_told_once_and_nothing_stops(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    rig = Rig(blocked)
    for n, alarm_id in enumerate((ID_1, ID_2)):
        rig.show("gate", 20 * n, 20 * n + 5)
        rig.alarm("gate", alarm_id, 20 * n + 5, 20 * n + 8)
    rig.writer.flush_camera("gate")
    rig.settle()
    assert len(rig.errors) == 1 and "cannot be written" in rig.errors[0] and "detection continues" in rig.errors[0]
    assert rig.writer.close(20)


def test_a_clip_cut_off_by_a_full_disk_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    real: Callable[[Path], bool] = clip_file.is_complete

    def cut(path: Path) -> bool:
        os.truncate(path, path.stat().st_size - 100)  # what a full disk leaves behind
        return real(path)

    monkeypatch.setattr(clip_file, "is_complete", cut)
    rig.show("gate", 0, 5)
    rig.alarm("gate", ID_1, 5, 7)
    rig.writer.flush_camera("gate")
    rig.settle()
    assert not Path(rig.writer.paths("gate", ID_1)[0]).exists() and not parts(tmp_path)
    assert Path(rig.writer.paths("gate", ID_1)[1]).exists()
    assert len(rig.errors) == 1 and "is the disk full?" in rig.errors[0]


def test_any_other_failure_is_told_and_survived(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(evidence_module, "write_snapshot", broken)
    rig.show("gate", 0, 5)
    rig.alarm("gate", ID_1, 5, 7)
    rig.settle()
    assert any("no such thing" in e for e in rig.errors)
    monkeypatch.undo()
    rig.alarm("gate", ID_2, 7, 9)
    rig.writer.flush_camera("gate")
    rig.settle()
    assert Path(rig.writer.paths("gate", ID_2)[0]).exists()


def test_temporaries_of_dead_processes_go_and_others_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder = tmp_path / "gate"
    folder.mkdir()
    stale = [folder / f".{ID_1}.{ended.pid}.part.webm", folder / f".{ID_1}.{os.getpid()}.part.webm"]
    alive = folder / f".{ID_2}.{os.getppid()}.part.webm"
    strange = folder / "notes.part.txt"
    for path in (*stale, alive, strange):
        path.write_bytes(b"half")
    rig = Rig(tmp_path)
    rig.show("gate", 0, 1)
    rig.settle()
    assert rig.writer.close(20)
    assert not any(p.exists() for p in stale) and alive.exists() and strange.exists()


def test_retention_by_size_touches_only_its_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    folder.mkdir()
    now = FakeClock().utc()
    names = [f"{n:032x}.webm" for n in range(6)] + ["holiday.jpg"]
    for age_days, name in enumerate(names):
        (folder / name).write_bytes(b"x" * 1000)
        os.utime(folder / name, (now - age_days * 86400, now - age_days * 86400))
    rig = Rig(tmp_path, keep_days=4.5, max_bytes=3500)
    rig.settle()
    assert rig.writer.close(20)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*names[:3], "holiday.jpg"])


def test_a_rerun_leaves_the_clip_of_the_former_run(tmp_path: Path) -> None:
    """The same alarm of the same file, played by two processes, and files of an earlier version beside them."""
    of_old = tmp_path / "gate" / f"{ID_1}.webm"
    of_old.parent.mkdir()
    of_old.write_bytes(b"x" * 100)
    clips = []
    for epoch in ("a" * 16, "b" * 16):
        rig = Rig(tmp_path, epoch=epoch)
        rig.show("gate", 0, 3)
        rig.alarm("gate", ID_1, 3, 4)
        rig.writer.flush_camera("gate")
        rig.settle()
        clips += map(Path, rig.writer.paths("gate", ID_1))
        assert rig.writer.close(20)
    assert len({path.name for path in clips}) == 4 and all(path.is_file() for path in clips)
    assert of_old.stat().st_size == 100
    assert Rig(tmp_path, max_bytes=1).writer.close(20)  # retention knows the names of every version
    assert [path.name for path in (tmp_path / "gate").iterdir()] == []


def test_zero_means_no_limit(tmp_path: Path) -> None:
    old = tmp_path / "gate" / f"{ID_1}.jpg"
    old.parent.mkdir()
    old.write_bytes(b"x")
    os.utime(old, (1, 1))
    assert Rig(tmp_path, keep_days=0, max_bytes=0).writer.close(20)
    assert old.exists()


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rig = Rig(tmp_path)
    rig.show("gate", 0, 3)
    rig.alarm("gate", ID_1, 3, 4)
    rig.writer.flush_camera("gate")
    rig.settle()
    assert rig.writer.close(20)
    assert capfd.readouterr() == ("", "")


def test_standard_error_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirecting descriptor 2 would swallow what other threads, and crashes, print meanwhile."""
    moved: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "dup2", lambda *args: moved.append(args))
    clip = clip_file.ClipFile(tmp_path / "a.webm", 8.0, 10.0)
    for preview in previews(0, 2):
        clip.add(preview)
    assert clip.close() and not moved


def test_a_clip_is_what_browsers_play(tmp_path: Path) -> None:
    clip = clip_file.ClipFile(tmp_path / "a.webm", 7.5, 10.0)
    for preview in previews(0, 4):
        clip.add(preview)
    assert clip.close()
    with av.open(str(tmp_path / "a.webm")) as container:
        (stream,) = container.streams.video
        context = stream.codec_context
        assert (container.format.name.split(",")[-1], context.name, context.pix_fmt) == ("webm", "vp8", "yuv420p")
        stamps = [float(frame.time or 0.0) for frame in container.decode(stream)]
    assert stamps == pytest.approx([k / 7.5 for k in range(len(stamps))], abs=0.001)


def test_a_build_without_the_encoder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_file, "_ENCODER", "no-such-encoder")
    clip = clip_file.ClipFile(tmp_path / "a.webm", 8.0, 10.0)
    with pytest.raises(OSError, match="install av from PyPI"):
        clip.add(previews(0, 1)[0])
    assert not list(tmp_path.iterdir())


def test_ring_is_bounded_over_all_cameras(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    one = previews(0, 1)[0].image.nbytes
    monkeypatch.setattr(evidence_module, "_RING_BYTES", 30 * one)
    for camera in ("a", "b", "c"):
        rig.show(camera, 0, 10)
    rig.settle()
    state = rig.writer._state
    held = sum(p.image.nbytes for ring in state.rings.values() for p in ring)
    assert held == state.ring_bytes <= 30 * one
    assert all(len(ring) >= 5 for ring in state.rings.values())
    for camera in ("a", "b", "c"):
        rig.writer.flush_camera(camera)
    rig.settle()
    assert state.ring_bytes == 0 and not state.rings
