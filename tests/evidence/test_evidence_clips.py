"""Clips: the camera's own packets, from before an alarm to after it, and nothing else."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from evidence_rig import ID_1, ID_2, WAIT_S, Deadline, Rig
from video_rig import coded_units, fill, make_video, picture, read_back, second_of

from stream_detector.capture.packets import Connection
from stream_detector.capture.picture import ArrayPicture
from stream_detector.evidence.messages import EvidenceProblem
from stream_detector.evidence.part_files import rescue_parts, whole_fragments


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part" in path.name]


def stream_of(path: Path) -> tuple[str, str]:
    with av.open(str(path)) as container:
        return container.format.name, container.streams.video[0].codec_context.codec.canonical_name


@pytest.mark.parametrize(
    ("codec", "form", "name", "suffix"),
    [
        ("libx264", "mpegts", "h264", "ts"),
        ("libx264", "mp4", "h264", "mp4"),
        ("libx264", "matroska", "h264", "mkv"),
        ("libx265", "mpegts", "hevc", "ts"),
        ("libx265", "mp4", "hevc", "mp4"),
    ],
)
def test_a_clip_holds_the_nal_units_that_the_camera_sent(
    codec: str, form: str, name: str, suffix: str, rig: Callable[..., Rig], tmp_path: Path
) -> None:
    """Acceptance 6: equal after conversion, parameter sets and delimiters aside; B-frames and all."""
    source = tmp_path / f"source.{suffix}"
    make_video(source, 20, codec, form)
    evidence = rig()
    evidence.fill(source)
    evidence.alarm(8.0, 12.0)
    evidence.close()
    clip = evidence.clip()
    assert stream_of(clip)[1] == name and evidence.errors == []
    sent, kept = coded_units(source, name), coded_units(clip, name)
    place = next(at for at in range(len(sent)) if sent[at : at + 4] == kept[:4])
    assert kept == sent[place : place + len(kept)] and len(kept) > 200


@pytest.mark.parametrize("group", [5, 25, 100])
def test_a_clip_reaches_from_pre_to_post_to_within_a_group(group: int, rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "source.ts"
    make_video(source, 30, group=group, options={"preset": "veryfast", "sc_threshold": "0"})
    evidence = rig()
    evidence.fill(source)
    begin_s = evidence.tap().ring.after(0)[0].media_s
    evidence.alarm(begin_s + 14.0, begin_s + 18.5)
    evidence.close()
    times, seconds = read_back(evidence.clip())
    assert 3.0 + 4.5 + 2.0 - 0.1 <= times[-1] - times[0] <= 3.0 + 4.5 + 2.0 + group / 25 + 0.1
    assert 11 - group / 25 - 1 <= seconds[0] <= 11 and seconds[-1] in (20, 21) and seconds == sorted(seconds)


@pytest.mark.parametrize("late_s", [0.0, 1.5, 6.0])
def test_how_late_a_decision_comes_does_not_matter(late_s: float, rig: Callable[..., Rig], tmp_path: Path) -> None:
    """All packets have come long before the events that ask for them, and the clip ends where it ought to."""
    source = tmp_path / "source.ts"
    make_video(source, 30, group=10)
    evidence = rig()
    evidence.fill(source)
    begin_s = evidence.tap().ring.after(0)[0].media_s
    evidence.writer.start("gate", ID_1, begin_s + 13.0, 0.5, begin_s + 12.0)
    for moment in range(14, 18):
        evidence.writer.peak("gate", ID_1, begin_s + moment, 0.6)
        assert evidence.recorder.wait_idle(WAIT_S)
    assert not evidence.clip().exists()
    evidence.writer.end("gate", ID_1, begin_s + 17.0)
    evidence.close()
    times, _ = read_back(evidence.clip())
    assert times[-1] - times[0] == pytest.approx(3 + 5 + 2, abs=0.6)


def test_sound_is_left_out(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "source.mp4"
    make_video(source, 12, sound="aac")
    evidence = rig()
    evidence.fill(source)
    evidence.alarm(5.0, 7.0)
    evidence.close()
    with av.open(str(evidence.clip())) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_a_clip_is_fragmented_and_nothing_but_it_remains(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "source.ts"
    make_video(source, 20)
    evidence = rig("a" * 16)
    evidence.fill(source)
    evidence.alarm(8.0, 12.0)
    evidence.close()
    clip = evidence.clip()
    assert clip.name == f"{ID_1}-{'a' * 16}.mp4"
    assert clip.read_bytes().count(b"moof") >= 8 and whole_fragments(clip) > 0.9 * clip.stat().st_size
    assert not parts(tmp_path)


def test_a_form_that_changes_ends_the_clip_whole(rig: Callable[..., Rig], tmp_path: Path) -> None:
    small, large = tmp_path / "a.ts", tmp_path / "b.ts"
    make_video(small, 8)
    make_video(large, 8, size=(320, 192))
    evidence = rig()
    evidence.fill(small)
    evidence.fill(large, shift_s=8.0)
    evidence.alarm(6.0, 12.0)
    evidence.close()
    times, seconds = read_back(evidence.clip())
    assert seconds[-1] == 7 and times[-1] < 6


def test_a_camera_that_reconnects_leaves_its_hole_in_the_clip(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 6)
    evidence = rig()
    evidence.fill(source)
    evidence.fill(source, shift_s=10.0)
    evidence.alarm(5.0, 13.0)
    evidence.close()
    times, _ = read_back(evidence.clip())
    assert max(late - early for early, late in itertools.pairwise(times)) == pytest.approx(4.0, abs=0.3)
    assert times[-1] == pytest.approx(13, abs=1.2)


def test_cameras_do_not_mix_and_two_alarms_have_their_own_clips(rig: Callable[..., Rig], tmp_path: Path) -> None:
    a, b = tmp_path / "a.ts", tmp_path / "b.ts"
    make_video(a, 25)
    make_video(b, 6, first=27 * 25)
    evidence = rig()
    evidence.fill(a, "gate")
    evidence.fill(b, "yard")
    evidence.alarm(8.0, 10.0)
    evidence.alarm(11.0, 13.0, ID_2)
    evidence.alarm(3.0, 4.0, ID_1, "yard")
    evidence.close()
    first, second = read_back(evidence.clip())[1], read_back(evidence.clip(ID_2))[1]
    other = read_back(evidence.clip(ID_1, "yard"))[1]
    assert first[0] in (3, 4, 5) and second[0] in (6, 7, 8) and set(first) & set(second)
    assert set(other) <= set(range(26, 34)) and not set(other) & {*first, *second}


def test_a_clip_has_a_greatest_length(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 20)
    evidence = rig(max_clip_s=6)
    evidence.fill(source)
    evidence.writer.start("gate", ID_1, 6.0, 0.5, 5.0)
    for moment in range(6, 19):
        evidence.writer.peak("gate", ID_1, float(moment), 0.5)
    assert evidence.recorder.wait_idle(WAIT_S)
    evidence.close()
    times, _ = read_back(evidence.clip())
    assert times[-1] - times[0] == pytest.approx(6, abs=1.1)


def test_a_source_that_falls_silent_after_the_end_closes_by_the_clock(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 8)
    evidence = rig()
    evidence.fill(source)
    evidence.alarm(5.0, 7.5)
    assert evidence.recorder.wait_idle(WAIT_S) and not evidence.clip().exists()
    evidence.clock.advance(60)
    deadline = Deadline()
    while not evidence.clip().exists():
        deadline.check()
    assert read_back(evidence.clip())[1][-1] == 7


def test_pictures_without_packets_become_h264(rig: Callable[..., Rig]) -> None:
    evidence = rig()
    connection: Any = evidence.tap().connection()
    for number in range(20 * 25):
        connection.picture(number / 25, ArrayPicture(picture(number, (161, 97))))
    evidence.alarm(8.0, 12.0)
    evidence.close()
    assert stream_of(evidence.clip())[1] == "h264"
    times, seconds = read_back(evidence.clip())
    assert times[-1] - times[0] == pytest.approx(3 + 4 + 2, abs=0.3)
    assert seconds[0] in (4, 5) and seconds[-1] in (13, 14) and seconds == sorted(seconds)


def test_jpegs_of_a_camera_are_kept_as_they_came(rig: Callable[..., Rig]) -> None:
    evidence = rig()
    connection: Connection = evidence.tap().connection()
    sent = []
    for number in range(20 * 5):
        sent.append(cv2.imencode(".jpg", picture(number, fps=5))[1].tobytes())
        connection.add_jpeg(sent[-1], 160, 96, 1000.0 + number / 5)
        connection.place(1000.0 + number / 5, number / 5)
    evidence.alarm(8.0, 12.0)
    evidence.close()
    with av.open(str(evidence.clip())) as container:
        kept = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert stream_of(evidence.clip())[1] == "mjpeg" and kept == sent[25:71]


@pytest.mark.parametrize("masked", [False, True])
def test_a_mask_is_painted_before_anything_is_stored(masked: bool, rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 15, size=(320, 192))
    mask = [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]]
    evidence = rig(camera={"mask": mask} if masked else {})
    evidence.fill(source)
    evidence.connections["gate"].picture(6.0, ArrayPicture(picture(150, (320, 192))))
    evidence.alarm(5.0, 8.0)
    evidence.close()
    with av.open(str(evidence.clip())) as container:
        images = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    shot = cv2.imread(str(evidence.snapshot()))
    assert shot is not None and len(images) > 150
    for image in [*images[::10], shot[:192]]:
        hidden = image[:, 164:].astype(int)
        assert (np.ptp(hidden) < 30) == masked  # the bar moves there
        assert second_of(image) in range(16)


def test_a_transcoder_that_is_slow_leaves_out_pictures_and_not_the_time(
    rig: Callable[..., Rig], tmp_path: Path
) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 60)
    evidence = rig(camera={"mask": [[0, 0], [0.1, 0], [0.1, 0.1]]}, pre_s=5)
    evidence.fill(source)
    evidence.alarm(25.0, 36.0)
    evidence.close()
    times, _ = read_back(evidence.clip())
    assert times[-1] - times[0] == pytest.approx(5 + 11 + 2, abs=1.2)
    gaps = [round(late - early, 2) for early, late in itertools.pairwise(times)]
    assert 0.07 <= min(gaps) <= 0.09 and 0.15 <= max(gaps) <= 0.17


def test_unwritable_folder_is_told_once_and_nothing_stops(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    source = tmp_path / "a.ts"
    make_video(source, 25)
    evidence = Rig(blocked)
    evidence.fill(source)
    evidence.connections["gate"].picture(6.0, ArrayPicture(picture(1)))
    evidence.alarm(6.0, 8.0)
    evidence.alarm(12.0, 14.0, ID_2)
    evidence.close()
    assert len(evidence.errors) == 1 and "cannot be written" in evidence.errors[0]
    assert "detection continues" in evidence.errors[0]


def test_any_other_failure_is_told_and_survived(
    rig: Callable[..., Rig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such thing")

    source = tmp_path / "a.ts"
    make_video(source, 25)
    evidence = rig()
    evidence.fill(source)
    monkeypatch.setattr("stream_detector.evidence.alarm_snapshot.write_snapshot", broken)
    evidence.connections["gate"].picture(7.0, ArrayPicture(picture(1)))
    evidence.alarm(6.0, 8.0)
    evidence.close()
    assert any("no such thing" in error for error in evidence.errors) and evidence.clip().exists()


KILLED = """
import json, os, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[1])
from evidence_rig import ID_1, Rig, WAIT_S
rig = Rig(Path(sys.argv[2]))
rig.fill(Path(sys.argv[3]))
rig.writer.start("gate", ID_1, 9.0, 0.5, 8.0)
for moment in range(10, 17):
    rig.writer.peak("gate", ID_1, float(moment), 0.5)
assert rig.recorder.wait_idle(WAIT_S)
print("half", flush=True)
sys.stdin.read()
"""


def test_kill_9_in_the_middle_of_a_clip_leaves_one_that_plays(tmp_path: Path) -> None:
    source, folder = tmp_path / "a.ts", tmp_path / "evidence"
    make_video(source, 20)
    path = json.dumps([str(Path(__file__).parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, path, str(folder), str(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT_S)
    process.stdout.close()
    process.stdin.close()
    assert len(parts(folder)) == 1 and not (folder / "gate" / f"{ID_1}.mp4").exists()
    assert Rig(folder).writer.close(WAIT_S)  # the next life
    times, seconds = read_back(folder / "gate" / f"{ID_1}.mp4")
    assert not parts(folder) and times[-1] > 8 and seconds == sorted(seconds)


def test_what_a_dead_process_left_is_cut_behind_its_last_whole_fragment(
    rig: Callable[..., Rig], tmp_path: Path
) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 20)
    evidence = rig()
    evidence.fill(source)
    evidence.alarm(8.0, 12.0)
    evidence.close()
    whole = evidence.clip().read_bytes()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder = tmp_path / "other"
    for number, length in enumerate((len(whole), len(whole) * 2 // 3, len(whole) // 3, 900, 20, 0)):
        part = folder / "gate" / f".{number:032x}.{ended.pid}.part.mp4"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(whole[:length])
    alive = folder / "gate" / f".{ID_2}.{os.getppid()}.part.mp4"
    strange = folder / "gate" / "notes.part.txt"
    for path in (alive, strange):
        path.write_bytes(b"half")
    rescued = rescue_parts(folder)
    assert sorted(path.name for path in rescued) == [f"{number:032x}.mp4" for number in range(3)]
    assert [len(read_back(path)[0]) > 30 for path in rescued] == [True] * 3
    assert sorted(path.name for path in (folder / "gate").iterdir() if path not in rescued) == sorted(
        [alive.name, strange.name]
    )


def test_what_the_disk_was_too_slow_for_is_counted_and_told_once(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 60)
    evidence = rig(max_clip_s=1000)
    tap = evidence.tap()
    evidence.fill(source)
    evidence.writer.start("gate", ID_1, 50.0, 0.5, 49.0)
    assert evidence.recorder.wait_idle(WAIT_S)
    tap.ring._max_bytes = 40_000
    fill(tap.ring, source, shift_s=60.0, connection=tap.connection())
    fill(tap.ring, source, shift_s=120.0, connection=tap.connection())
    evidence.writer.end("gate", ID_1, 175.0)
    evidence.close()
    assert evidence.losses and evidence.losses[0][0] == "gate" and sum(lost for _, lost in evidence.losses) > 500
    assert len([error for error in evidence.errors if "too slow" in error]) == 1
    assert not any(isinstance(report, EvidenceProblem) and report.kind == "bug" for report in evidence.reports)
    assert read_back(evidence.clip())[0]
