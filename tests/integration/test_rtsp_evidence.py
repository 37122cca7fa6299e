"""A real RTSP camera: its packets become a clip, and its sender reports say when a picture was taken."""

from __future__ import annotations

import time
from pathlib import Path

import av
import pytest
from evidence_rig import ID_1, Rig

from benchmarks.rtsp_faults import RtspServer, missing_server
from stream_detector.capture.media_clock import LiveClock
from stream_detector.capture.network_readers import NetworkReader
from stream_detector.config import CameraConfig, CaptureConfig

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _server_is_there() -> None:
    why = missing_server()
    if why:
        pytest.skip(f"no RTSP server on this machine ({why}); .ci/install-rtsp.sh installs one")


def test_packets_become_a_clip_and_sender_reports_tell_the_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "evidence", pre_s=1, post_s=1)
    with RtspServer(fps=20) as server:
        reader = NetworkReader(CameraConfig(name="gate", source=server.url), CaptureConfig())
        connection = rig.tap().connection()
        reader.attach(connection)
        reader.open()
        clock, zero_s, late_s = LiveClock(), time.monotonic(), []
        while (now_s := time.monotonic() - zero_s) < 8.0:
            grabbed = reader.grab()
            assert grabbed.status == "frame" and grabbed.media_s is not None
            connection.place(grabbed.stamp_s, clock.time(grabbed.media_s, now_s))
            if grabbed.wall_utc is not None:
                late_s.append(time.time() - grabbed.wall_utc)
        reader.close()
    assert len(late_s) > 40 and -0.5 < sorted(late_s)[len(late_s) // 2] < 2.0
    assert rig.tap().ring.wall_offset() is not None
    rig.alarm(3.0, 5.0)
    rig.close()
    with av.open(str(rig.clip(ID_1))) as container:
        stream = container.streams.video[0]
        times = [float(frame.time or 0.0) for frame in container.decode(stream)]
        assert stream.codec_context.name == "h264" and stream.width == 320
    assert times[-1] - times[0] == pytest.approx(1 + 2 + 1, abs=1.1) and rig.errors == []


def test_a_main_stream_is_read_as_packets_and_never_decoded(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "evidence")
    with RtspServer(fps=20) as server:
        reader = NetworkReader(CameraConfig(name="gate", source=server.url), CaptureConfig())
        reader.attach(rig.tap().connection())
        reader.open_packets()
        seen = [reader.next_packet() for _ in range(60)]
        assert reader._flow is not None and getattr(reader._flow, "pictures", None) == 0
        server.kill()
        rest = [reader.next_packet() for _ in range(200)]
        reader.close()
    rig.close()
    stamps = [packet.stamp_s for packet in seen if packet is not None and packet.stamp_s is not None]
    assert len(stamps) > 50 and stamps == sorted(stamps) and rest[-1] is None
