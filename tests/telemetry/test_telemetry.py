"""Telemetry: counts, histograms, snapshots, and the endpoint."""

from __future__ import annotations

import json
import random
import socket
import threading
import tracemalloc
import urllib.error
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from stream_detector.errors import EndpointError
from stream_detector.telemetry.collector import HISTORY, MAX_CAUSES, RECENT_ALARMS, RECENT_LOG_ENTRIES, Telemetry
from stream_detector.telemetry.prometheus import serve_metrics
from stream_detector.telemetry.snapshot import BUCKETS, GROWTH, LOW_MS, Histogram, bound_ms, bucket_of
from stream_detector.types import CameraStatus, Decision, Score, Timing, WindowRef


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def utc(self) -> float:
        return 1.7e9 + self.now_s


def decision(clock: Clock, camera: str = "gate", index: int = 0, *, smoothed: float = 0.3, **extra: object) -> Decision:
    ref = WindowRef(
        camera=camera,
        source=f"{camera}.mp4",
        index=index,
        start_frame=16 * index,
        end_frame=16 * index + 15,
        start_s=0.64 * index,
        end_s=0.64 * index + 0.6,
        captured_s=clock.monotonic() - 0.040,
        captured_utc=clock.utc() - 0.040,
        completed_s=clock.monotonic() - 0.039,
        degraded=tuple(extra.get("degraded", ())),  # type: ignore[arg-type]
    )
    timing = Timing(window=1.0, queue=5.0, preprocess=2.0, forward=30.0)
    score = Score(ref=ref, raw=smoothed / 2, scored_s=clock.monotonic() - 0.002, timing=timing)
    return Decision(score=score, smoothed=smoothed, alarmed=bool(extra.get("alarmed", False)))


def event(type_: str, id_: str = "a1", camera: str = "gate", **extra: object) -> dict[str, object]:
    return {
        "id": id_,
        "camera": camera,
        "type": type_,
        "reason": "normal" if type_ == "end" else None,
        "start_s": 3.0,
        "end_s": 9.0 if type_ == "end" else None,
        "start_utc": "2026-01-01T00:00:03.000Z",
        "peak_score": 0.9,
        "threshold": 0.5,
        "evidence": None,
        **extra,
    }


@given(st.floats(min_value=LOW_MS * 1.001, max_value=1e6))
def test_a_latency_lies_within_its_bucket(value: float) -> None:
    bucket = bucket_of(value)
    assert value <= bound_ms(bucket) * (1 + 1e-9)
    assert value >= bound_ms(bucket - 1) * (1 - 1e-9)


@pytest.mark.parametrize("value", [float("nan"), -1.0, 0.0, LOW_MS])
def test_what_is_below_the_range_counts_in_the_first_bucket(value: float) -> None:
    assert bucket_of(value) == 0


def test_what_is_above_the_range_counts_in_the_last_bucket() -> None:
    assert bucket_of(1e12) == bucket_of(float("inf")) == BUCKETS - 1


def test_quantiles_are_within_half_a_bucket_of_the_truth() -> None:
    random.seed(3)
    values = sorted(random.lognormvariate(2.0, 1.0) for _ in range(5000))
    telemetry = Telemetry([], Clock())
    for value in values:
        telemetry.stage("forward", value)
    histogram = telemetry.snapshot().stages["forward"]
    for share in (0.5, 0.95, 0.99):
        truth = values[int(share * len(values)) - 1]
        measured = histogram.quantile(share)
        assert measured is not None
        assert abs(measured / truth - 1) <= GROWTH**0.5 - 1 + 1e-6
    assert histogram.quantile(1.0) == values[-1]
    assert histogram.mean_ms == pytest.approx(sum(values) / len(values))


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram().to_dict()["p95_ms"] is None


def test_a_single_value_is_every_quantile() -> None:
    telemetry = Telemetry([], Clock())
    telemetry.stage("queue", 7.25)
    histogram = telemetry.snapshot().stages["queue"]
    assert {histogram.quantile(share) for share in (0.0, 0.5, 0.99, 1.0)} == {7.25}


def test_counts_and_newest_values_of_a_camera() -> None:
    clock = Clock()
    telemetry = Telemetry(["gate", "yard"], clock)
    telemetry.status(CameraStatus("gate", "gate.mp4", "online"))
    telemetry.duration("gate", 60.0)
    for _ in range(50):
        clock.now_s += 0.04
        telemetry.frame("gate")
    telemetry.window("gate")
    telemetry.batch(1)
    telemetry.dropped("gate", "buffer", 2)
    telemetry.dropped("gate", "corrupt")
    telemetry.reconnected("gate")
    telemetry.evidence_lost("gate")
    telemetry.decision(decision(clock, smoothed=0.6, alarmed=True, degraded=("gap",)), 0.5)
    clock.now_s += 3.0
    gate, yard = telemetry.snapshot().cameras
    assert (gate.name, gate.state, gate.source, gate.frames, gate.windows, gate.scored) == (
        "gate",
        "online",
        "gate.mp4",
        50,
        1,
        1,
    )
    assert (gate.dropped, gate.drops, gate.reconnects, gate.evidence_lost) == ({"buffer": 2, "corrupt": 1}, 3, 1, 1)
    assert (gate.raw, gate.smoothed, gate.threshold, gate.alarmed, gate.history) == (0.3, 0.6, 0.5, True, (0.6,))
    assert (gate.degraded, gate.degraded_windows, gate.duration_s) == (("gap",), {"gap": 1}, 60.0)
    assert gate.window_age_s == pytest.approx(3.0)
    assert gate.lag_ms == pytest.approx(40.0)
    assert (yard.state, yard.frames, yard.window_age_s) == ("connecting", 0, None)


def test_fps_follows_the_last_second_and_falls_to_nothing_in_a_stall() -> None:
    clock = Clock()
    telemetry = Telemetry(["gate"], clock)
    for _ in range(100):
        clock.now_s += 0.04
        telemetry.frame("gate")
    assert telemetry.snapshot().cameras[0].fps == pytest.approx(25.0, rel=0.05)
    clock.now_s += 60.0
    assert telemetry.snapshot().cameras[0].fps < 0.5


def test_every_stage_gets_its_latency_from_a_decision_and_an_event() -> None:
    clock = Clock()
    telemetry = Telemetry(["gate"], clock)
    telemetry.decision(decision(clock), 0.5)
    telemetry.event(event("start", timing={"publish": 0.1}))  # before journalling; the stage is told apart, below
    telemetry.stage("publish", 0.4)
    snapshot = telemetry.snapshot()
    medians = {name: stage.quantile(0.5) for name, stage in snapshot.stages.items()}
    assert medians == pytest.approx(
        {"window": 1.0, "queue": 5.0, "preprocess": 2.0, "forward": 30.0, "decide": 2.0, "publish": 0.4}
    )
    assert snapshot.total.quantile(0.5) == pytest.approx(40.0)


def test_alarms_are_kept_by_id_newest_last_and_counted_once() -> None:
    telemetry = Telemetry(["gate"], Clock())
    telemetry.event(event("start"))
    assert telemetry.snapshot().cameras[0].alarmed
    telemetry.event(event("update"))
    telemetry.event(event("end", evidence={"clip": "c.webm", "snapshot": "s.jpg"}))
    snapshot = telemetry.snapshot()
    (alarm,) = snapshot.alarms
    assert (alarm.type, alarm.end_s, alarm.clip, alarm.snapshot) == ("end", 9.0, "c.webm", "s.jpg")
    assert (snapshot.cameras[0].alarms, snapshot.cameras[0].alarmed) == (1, False)
    assert [entry.kind for entry in snapshot.log_entries] == ["start", "end"]


def test_notes_tell_changes_of_state_once() -> None:
    telemetry = Telemetry(["gate"], Clock())
    for state in ("online", "online", "stalled"):
        telemetry.status(CameraStatus("gate", "x", state, "no frame" if state == "stalled" else ""))  # type: ignore[arg-type]
    assert [(entry.seq, entry.text) for entry in telemetry.snapshot().log_entries] == [
        (1, "online"),
        (2, "stalled: no frame"),
    ]


def test_an_alarm_of_a_camera_of_a_former_run_is_noted_and_counts_for_nobody() -> None:
    telemetry = Telemetry(["gate"], Clock())
    telemetry.event(event("end", camera="yard", reason="restart", end_s=None))
    snapshot = telemetry.snapshot()
    assert [camera.name for camera in snapshot.cameras] == ["gate"]
    assert [(entry.camera, entry.kind) for entry in snapshot.log_entries] == [("yard", "end")]


@pytest.mark.parametrize("odd", [{}, {"evidence": None, "timing": None}, {"peak_score": None, "start_s": None}])
def test_an_odd_event_is_no_error(odd: dict[str, object]) -> None:
    Telemetry(["gate"], Clock()).event(odd)


def test_memory_is_bounded_whatever_happens() -> None:
    clock = Clock()
    telemetry = Telemetry(["gate"], clock)

    def load(start: int) -> None:
        for index in range(start, start + 3000):
            telemetry.frame("gate")
            telemetry.dropped("gate", f"cause {index}")
            telemetry.decision(decision(clock, index=index), 0.5)
            telemetry.event(event("start", f"alarm {index}"))

    load(0)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    load(3000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    snapshot = telemetry.snapshot()
    camera = snapshot.cameras[0]
    assert (len(camera.history), len(snapshot.alarms), len(snapshot.log_entries)) == (
        HISTORY,
        RECENT_ALARMS,
        RECENT_LOG_ENTRIES,
    )
    assert len(camera.dropped) == MAX_CAUSES + 1
    assert camera.drops == 6000
    assert after - before < 500_000  # the rings' own turnover; 3,000 kept events would be several MB


def test_reports_of_many_threads_all_count() -> None:
    clock = Clock()
    names = [f"cam{number}" for number in range(4)]
    telemetry = Telemetry(names, clock)
    gate = threading.Barrier(5)

    def work(name: str) -> None:
        gate.wait(timeout=5)
        for _ in range(2000):
            telemetry.frame(name)
            telemetry.dropped("cam0", "buffer")
            telemetry.stage("queue", 1.0)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    gate.wait(timeout=5)
    for _ in range(50):
        telemetry.snapshot()
    for thread in threads:
        thread.join(timeout=10)
    snapshot = telemetry.snapshot()
    assert (snapshot.frames, snapshot.drops, snapshot.stages["queue"].count) == (8000, 8000, 8000)


def test_health_is_json() -> None:
    clock = Clock()
    telemetry = Telemetry(["gate"], clock)
    telemetry.decision(decision(clock), 0.5)
    health = json.loads(json.dumps(telemetry.snapshot().health(), allow_nan=False))
    assert health["scored"] == 1
    assert health["cameras"]["gate"]["window_age_s"] == 0.0
    assert health["latency"]["forward"]["p50_ms"] == 30.0


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_what_prometheus_reads() -> None:
    clock = Clock()
    telemetry = Telemetry(["gate"], clock)
    telemetry.frame("gate")
    telemetry.dropped("gate", 'odd "cause"\n', 3)
    telemetry.decision(decision(clock, smoothed=0.25), 0.5)
    server = serve_metrics(telemetry, 0)
    try:
        code, text = get(server.port, "/metrics")
    finally:
        server.close()
        server.close()
    assert code == 200
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["stream_detector_frames_total", ("camera", "gate")] == 1
    assert samples["stream_detector_dropped_total", ("camera", "gate"), ("cause", 'odd "cause"\n')] == 3
    assert samples["stream_detector_score_smoothed", ("camera", "gate")] == 0.25
    forward = {
        float(dict(labels)["le"]): value
        for (name, *labels), value in samples.items()
        if name == "stream_detector_stage_latency_seconds_bucket" and dict(labels)["stage"] == "forward"
    }
    bounds = sorted(forward)
    assert [forward[bound] for bound in bounds] == sorted(forward.values())
    assert {bound for bound in bounds if forward[bound]} == {bound for bound in bounds if bound >= 0.030}
    assert forward[float("inf")] == samples["stream_detector_stage_latency_seconds_count", ("stage", "forward")] == 1


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=rf"metrics cannot be served on 127\.0\.0\.1:{port} .*--metrics-port"):
            serve_metrics(Telemetry([], Clock()), port)


def test_the_port_is_free_again_and_no_thread_is_left() -> None:
    before = threading.active_count()
    server = serve_metrics(Telemetry([], Clock()), 0)
    port = server.port
    server.close()
    again = serve_metrics(Telemetry([], Clock()), port)
    again.close()
    assert threading.active_count() == before
