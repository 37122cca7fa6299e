"""Recordings in segments, main streams beside sub-streams, and what stays on the disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from evidence_rig import ID_1, WAIT_S, Deadline, Rig
from video_rig import coded_units, make_video, read_back

from stream_detector.capture.main_stream import MainStream
from stream_detector.capture.network_readers import SeenPacket
from stream_detector.config import CameraConfig, CaptureConfig, build_config
from stream_detector.errors import ConfigError, SourceError
from stream_detector.evidence.recorder import ClipRecorder
from stream_detector.evidence.retention import Retention
from stream_detector.testing import FakeClock

MASK = [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]]


def recorded(rig: Callable[..., Rig], tmp_path: Path, **camera: Any) -> tuple[Rig, Path]:
    folder = tmp_path / "recordings"
    more = {"recording": {"directory": folder, "segment_s": 4}}
    return rig(camera={"record": "always", **camera}, more=more), folder


def test_segments_follow_each_other_and_hold_everything(rig: Callable[..., Rig], tmp_path: Path) -> None:
    """Each begins with a key frame; together they are what the camera sent."""
    source = tmp_path / "a.ts"
    make_video(source, 15)
    evidence, folder = recorded(rig, tmp_path)
    evidence.fill(source)
    deadline = Deadline()
    while len(list(folder.glob("gate/*.mp4"))) < 3:
        deadline.check()
    evidence.close()
    files = sorted(folder.glob("gate/*.mp4"), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == 4 and all(path.stat().st_size for path in files)
    kept = [unit for path in files for unit in coded_units(path, "h264")]
    assert kept == coded_units(source, "h264")
    lengths = [read_back(path)[0][-1] for path in files]
    assert all(3.5 <= length <= 5.1 for length in lengths[:3])
    assert evidence.errors == [] and not list(folder.glob("gate/.*part*"))


def test_a_masked_recording_is_refused_unless_it_may_be_encoded(tmp_path: Path) -> None:
    camera: dict[str, Any] = {"source": "rtsp://host/a", "record": "always", "mask": MASK}
    with pytest.raises(ConfigError, match="transcode = true"):
        build_config({"cameras": {"gate": camera}})
    assert build_config({"cameras": {"gate": {**camera, "transcode": True}}}).cameras[0].transcode
    with pytest.raises(ConfigError, match="record_source must be an rtsp:// or http:// address"):
        build_config({"cameras": {"gate": {"source": "rtsp://host/a", "record_source": "clip.mp4"}}})


def test_a_masked_recording_is_painted(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 9, size=(320, 192))
    evidence, folder = recorded(rig, tmp_path, mask=MASK, transcode=True)
    evidence.fill(source)
    deadline = Deadline()
    while not list(folder.glob("gate/*.mp4")):
        deadline.check()
    evidence.close()
    for path in folder.glob("gate/*.mp4"):
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            for frame in container.decode(video=0):
                assert frame.to_ndarray(format="bgr24")[:, 164:].std() < 6


def test_recordings_stop_where_the_disk_fills_and_clips_go_on(
    rig: Callable[..., Rig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 15)
    evidence, folder = recorded(rig, tmp_path)
    free = [700_000_000]  # less than two reserves of 500 MB
    evidence.recorder._disk._free_of = lambda _folder: free[0]
    evidence.clock.advance(10)
    evidence.writer.flush_camera("yard")  # wakes the thread
    deadline = Deadline()
    while evidence.recorder._may_record:
        deadline.check()
    evidence.fill(source)
    evidence.alarm(5.0, 8.0)
    evidence.close()
    assert evidence.clip().exists() and not list(folder.glob("gate/*.mp4"))
    assert any("recordings stopped" in error for error in evidence.errors)


def test_recordings_give_way_to_evidence_within_one_budget(tmp_path: Path) -> None:
    clock = FakeClock()
    evidence, recordings = tmp_path / "evidence", tmp_path / "recordings"
    for number in range(3):
        for folder, name in ((evidence, f"{number:032x}.mp4"), (recordings, f"2026112{number}T120000Z.mp4")):
            path = folder / "gate" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 1000)
            os.utime(path, (1000.0 + number, 1000.0 + number))
    (recordings / "gate" / "holiday.mp4").write_bytes(b"x" * 5000)
    values: dict[str, Any] = {
        "evidence": {"directory": evidence},
        "recording": {"directory": recordings},
        "storage": {"max_bytes": 4500},
    }
    retention = Retention(build_config(values), clock)
    retention.apply()
    retention.close()
    assert len(list(evidence.glob("gate/*.mp4"))) == 3
    assert sorted(path.name for path in recordings.glob("gate/*.mp4")) == ["20261122T120000Z.mp4", "holiday.mp4"]


# -- main streams ------------------------------------------------------------------------------------------------------


class Packets:
    """A reader whose packets are those of a file, one for each second of the clock that is let go."""

    def __init__(self, path: Path, clock: FakeClock, walls: float | None = None) -> None:
        self._path, self._clock, self._walls = path, clock, walls
        self.opened = 0
        self.ended = threading.Event()

    def attach(self, tap: Any) -> None:
        self._tap = tap

    def open_packets(self) -> None:
        self.opened += 1
        if self.opened > 1:
            self.ended.set()
            raise SourceError("source 'rtsp://host' cannot be opened: it refused the connection")
        self._container = av.open(str(self._path))
        self._tap.begin(self._container.streams.video[0])
        self._demuxed = self._container.demux(video=0)

    def next_packet(self) -> SeenPacket | None:
        for packet in self._demuxed:
            if packet.size:
                self._tap.add(packet)
                stamp_s = float(packet.pts * packet.time_base)
                self._clock.advance(0.04)
                return SeenPacket(stamp_s, None if self._walls is None else self._walls + stamp_s)
        return None

    def close(self) -> None:
        if self.opened == 1:
            self._container.close()


def main_camera() -> CameraConfig:
    values = {"source": "rtsp://host/sub", "record_source": "rtsp://host/main"}
    return build_config({"cameras": {"gate": values}}).cameras[0]


@pytest.mark.parametrize(("walls", "offset", "wanted"), [(None, None, 0.04), (5000.0, -4998.0, 2.0)])
def test_a_main_stream_lies_on_the_media_time_of_the_scored_one(
    walls: float | None, offset: float | None, wanted: float, rig: Callable[..., Rig], tmp_path: Path
) -> None:
    """By arrival; by the sender reports of both streams where they have them."""
    source = tmp_path / "main.ts"
    make_video(source, 8, options={"preset": "veryfast", "bf": "0"})
    evidence = rig(camera={"record_source": "rtsp://host/main"})
    clock, stop = FakeClock(), threading.Event()
    clock.advance(7.0)
    reader = Packets(source, clock, walls)
    tap = evidence.tap(main=True)
    told: list[str] = []
    main = MainStream(
        main_camera(),
        CaptureConfig(backoff_min_s=0.0),
        tap=tap,
        clock=clock,
        stop=stop,
        offset=lambda: offset,
        on_problem=told.append,
        open_reader=lambda *_: reader,
    )
    main.start()
    assert reader.ended.wait(WAIT_S)
    stop.set()
    assert main.join(WAIT_S)
    packets = tap.ring.after(0)
    first, last = packets[0], packets[-1]
    begins_s = wanted + (first.stamp_s or 0.0 if walls else 0.0)
    assert first.media_s == pytest.approx(begins_s, abs=0.05) and (last.media_s or 0) - (first.media_s or 0) > 7.9
    assert len(told) == 1 and "main stream (record_source)" in told[0] and "kept instead" in told[0]


def with_main(rig: Callable[..., Rig], tmp_path: Path, main_s: float) -> Rig:
    """A camera whose sub-stream has 15 s, and whose main stream has `main_s` of them."""
    sub, large = tmp_path / "sub.ts", tmp_path / "main.ts"
    make_video(sub, 15)
    make_video(large, max(main_s, 1.0), size=(640, 384))
    evidence = rig(camera={"record_source": "rtsp://host/main"})
    evidence.fill(sub)
    if main_s:
        evidence.fill_main(large)
        deadline = Deadline()
        while not evidence.recorder._main_is_there(evidence.recorder._cameras["gate"]):
            evidence.writer.flush_camera("yard")
            deadline.check()
    return evidence


def test_a_clip_is_of_the_main_stream_and_the_snapshot_of_its_key_frame(
    rig: Callable[..., Rig], tmp_path: Path
) -> None:
    evidence = with_main(rig, tmp_path, 15.0)
    evidence.alarm(6.0, 9.0)
    evidence.close()
    with av.open(str(evidence.clip())) as container:
        assert container.streams.video[0].width == 640
    with av.open(str(evidence.snapshot())) as container:
        assert container.streams.video[0].width == 640 and container.streams.video[0].height > 384
    times, _ = read_back(evidence.clip())
    assert times[-1] - times[0] == pytest.approx(3 + 3 + 2, abs=1.1)


def test_without_its_main_stream_the_scored_one_is_kept(rig: Callable[..., Rig], tmp_path: Path) -> None:
    evidence = with_main(rig, tmp_path, 0.0)
    evidence.alarm(6.0, 9.0)
    evidence.close()
    with av.open(str(evidence.clip())) as container:
        assert container.streams.video[0].width == 160
    assert ID_1 in evidence.clip().name


def test_a_recorder_is_made_for_a_host_of_its_own(tmp_path: Path) -> None:
    from stream_detector.capture.host_process import make_taps
    from stream_detector.evidence.recorder import RECORDER

    config = build_config({"evidence": {"directory": tmp_path}, "cameras": {"gate": {"source": "rtsp://host/a"}}})
    made = make_taps(RECORDER, config, lambda _report: None)
    assert isinstance(made, ClipRecorder) and made.close(WAIT_S)
    assert make_taps("", config, lambda _report: None) is None


def test_a_rerun_leaves_the_clip_of_the_former_run(tmp_path: Path) -> None:
    """The same alarm of the same file, played by two processes, and files of an earlier version beside them."""
    source = tmp_path / "a.ts"
    make_video(source, 8)
    of_old = tmp_path / "evidence" / "gate" / f"{ID_1}.webm"
    of_old.parent.mkdir(parents=True)
    of_old.write_bytes(b"x" * 100)
    clips = []
    for epoch in ("a" * 16, "b" * 16):
        rig = Rig(tmp_path / "evidence", epoch)
        rig.fill(source)
        rig.alarm(4.0, 5.0)
        clips.append(rig.clip())
        rig.close()
    assert len({path.name for path in clips}) == 2 and all(path.is_file() for path in clips)
    assert of_old.stat().st_size == 100
    Rig(tmp_path / "evidence", max_bytes=1).close()  # retention knows the names of every version
    assert [path.name for path in of_old.parent.iterdir()] == []


@pytest.mark.parametrize(("age_days", "limit", "left"), [(0, 3500, 3), (10, 0, 0)])
def test_retention_touches_only_its_own_files(age_days: int, limit: int, left: int, tmp_path: Path) -> None:
    clock = FakeClock()
    folder = tmp_path / "evidence" / "gate"
    folder.mkdir(parents=True)
    values = {"evidence": {"directory": folder.parent, "keep_days": 4, "max_bytes": limit}}
    retention = Retention(build_config({**values, "recording": {"directory": tmp_path / "none"}}), clock)
    for number, suffix in enumerate(("mp4", "webm", "jpg", "h264.mp4", "mp4", "mp4")):
        path = folder / f"{number:032x}.{suffix}"
        path.write_bytes(b"x" * 1000)
        os.utime(path, (1000.0 + number, 1000.0 + number))
    for name in ("holiday.jpg", "notes.mp4", ".lock"):
        (folder / name).write_bytes(b"x" * 1000)
    retention.apply()
    clock.advance(age_days * 86_400.0)
    retention.apply()
    retention.close()
    names = {path.name for path in folder.iterdir()}
    assert {"holiday.jpg", "notes.mp4", ".lock"} <= names and len(names) == 3 + left


def test_all_rings_of_a_process_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_detector.evidence.recorder.ALL_RINGS_BYTES", 60_000)
    source = tmp_path / "a.ts"
    make_video(source, 20)
    evidence = Rig(tmp_path / "evidence")
    for name in ("gate", "yard"):
        evidence.fill(source, name)
    evidence.tap("yard")
    assert sum(evidence.tap(name).ring.held_bytes for name in ("gate", "yard")) <= 60_000
    assert all(evidence.tap(name).ring.held_bytes > 10_000 for name in ("gate", "yard"))
    evidence.close()
