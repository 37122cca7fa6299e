"""A real RTSP server that is stopped, let go on, killed and started again; `benchmarks/rtsp_faults.py` at length."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.rtsp_faults import RtspServer, measure, met, missing_server
from stream_detector.capture.picture import as_picture
from stream_detector.capture.readers import NetworkReader
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.errors import SourceError

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def _server_is_there() -> None:
    why = missing_server()
    if why:
        pytest.skip(f"no RTSP server on this machine ({why}); .ci/install-rtsp.sh installs one")


@pytest.fixture(scope="module")
def cycle() -> dict[str, Any]:
    return measure(cycles=1, stall_s=4.5, baseline_s=4.0)


def test_frames_come_over_tcp() -> None:
    with RtspServer(fps=20) as server:
        reader = NetworkReader(CameraConfig(name="a", source=server.url), CaptureConfig())
        reader.open()
        assert [reader.grab().status for _ in range(10)] == ["frame"] * 10
        found = reader.retrieve()
        assert found is not None
        picture = as_picture(found).bgr()
        assert picture.shape == (240, 320, 3) and picture.std() > 5
        assert reader.fps == pytest.approx(20.0)
        server.kill()
        results = [reader.grab().status for _ in range(200)]
        assert results[-1] == "lost"
        reader.close()
        with pytest.raises(SourceError, match="cannot be opened"):
            reader.open()


def test_a_server_that_speaks_udp_only_is_read_by_itself_or_by_the_camera_s_own_setting() -> None:
    with RtspServer(fps=20, udp=True) as server:
        for transport, works in (("auto", True), ("udp", True), ("tcp", False)):
            camera = CameraConfig.model_validate({"name": "a", "source": server.url, "rtsp_transport": transport})
            reader = NetworkReader(camera, CaptureConfig())
            if not works:
                with pytest.raises(SourceError, match="cannot be opened"):
                    reader.open()
                continue
            reader.open()
            assert [reader.grab().status for _ in range(10)] == ["frame"] * 10
            reader.close()


def test_a_stopped_server_is_reported_as_a_stall_within_5_s(cycle: dict[str, Any]) -> None:
    assert cycle["stall_reported_s"]["worst"] is not None and cycle["stall_reported_s"]["worst"] <= 5.0


def test_frames_come_again_after_the_stop_and_after_a_restart(cycle: dict[str, Any]) -> None:
    assert cycle["frames_after_resume_s"]["worst"] < 15.0
    assert cycle["frames_after_restart_s"]["worst"] < 15.0
    assert cycle["reconnects"] >= 1


def test_the_second_camera_keeps_its_rate(cycle: dict[str, Any]) -> None:
    assert cycle["steady_ratio"]["lowest"] >= 0.95 and cycle["steady_ratio"]["highest"] <= 1.05


def test_no_thread_and_no_descriptor_is_left_behind(cycle: dict[str, Any]) -> None:
    assert cycle["abandoned"] == 0 and not cycle["errors"]
    assert cycle["after"]["threads"] <= cycle["before"]["threads"]
    assert cycle["after"]["descriptors"] <= cycle["before"]["descriptors"]


def test_a_missed_target_is_not_called_met() -> None:
    figures = {"median": 1.0, "worst": 1.0, "missing": 0}
    good: dict[str, Any] = {
        "stall_reported_s": figures,
        "frames_after_resume_s": figures,
        "frames_after_restart_s": figures,
        "steady_ratio": {"lowest": 1.0, "highest": 1.0},
        "before": {"threads": 5, "descriptors": 9},
        "after": {"threads": 5, "descriptors": 9},
        "errors": [],
    }
    assert met(good)
    for key, value in (
        ("stall_reported_s", {**figures, "worst": 5.1}),
        ("frames_after_restart_s", {"median": None, "worst": None, "missing": 1}),
        ("steady_ratio", {"lowest": 0.9, "highest": 1.0}),
        ("after", {"threads": 6, "descriptors": 9}),
    ):
        assert not met({**good, key: value})
