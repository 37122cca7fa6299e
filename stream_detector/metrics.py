"""The HTTP endpoint of a run: /metrics for Prometheus, /healthz for whoever restarts it.

A snapshot is taken when somebody asks, so counting costs nothing in between. Served on loopback unless told otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stream_detector.errors import EndpointError
from stream_detector.views import BUCKETS, PER_OCTAVE, Histogram, TelemetrySnapshot, bound_ms


class SnapshotSource(Protocol):
    """What `telemetry.Telemetry` is to this module."""

    def snapshot(self) -> TelemetrySnapshot:
        """The run at this moment."""
        ...


class _Collector(Collector):
    """Turns a snapshot into Prometheus metrics."""

    def __init__(self, telemetry: SnapshotSource) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        snapshot = self._telemetry.snapshot()
        prefix = "stream_detector"
        simple = {
            "frames": "Frames captured",
            "windows": "Windows completed",
            "scored": "Windows scored",
            "reconnects": "Sources that came back",
            "alarms": "Alarms started",
            "evidence_lost": "Clips and snapshots that could not be written",
        }
        for name, text in simple.items():
            counter = CounterMetricFamily(f"{prefix}_{name}", text, labels=["camera"])
            for camera in snapshot.cameras:
                counter.add_metric([camera.name], getattr(camera, name))
            yield counter
        for name, attribute, text in (
            ("dropped", "dropped", "Frames and windows dropped"),
            ("degraded_windows", "degraded_windows", "Windows scored in spite of a discontinuity or a poor picture"),
        ):
            counter = CounterMetricFamily(f"{prefix}_{name}", text, labels=["camera", "cause"])
            for camera in snapshot.cameras:
                for cause, number in sorted(getattr(camera, attribute).items()):
                    counter.add_metric([camera.name, cause], number)
            yield counter
        for name, attribute, text in (
            ("fps", "fps", "Frames a second"),
            ("score_raw", "raw", "Newest raw score"),
            ("score_smoothed", "smoothed", "Newest smoothed score"),
            ("score_threshold", "threshold", "Threshold"),
            ("window_age_seconds", "window_age_s", "Since the newest window was scored"),
            ("alarmed", "alarmed", "1 during an alarm"),
        ):
            gauge = GaugeMetricFamily(f"{prefix}_{name}", text, labels=["camera"])
            for camera in snapshot.cameras:
                value = getattr(camera, attribute)
                if value is not None:
                    gauge.add_metric([camera.name], float(value))
            yield gauge
        gauge = GaugeMetricFamily(f"{prefix}_camera_state", "1 for the state it is in", labels=["camera", "state"])
        for camera in snapshot.cameras:
            gauge.add_metric([camera.name, camera.state], 1.0)
        yield gauge
        latency = HistogramMetricFamily(f"{prefix}_stage_latency_seconds", "Latency by stage", labels=["stage"])
        for name, stage in {**snapshot.stages, "total": snapshot.total}.items():
            latency.add_metric([name], _cumulative(stage), stage.sum_ms / 1e3)
        yield latency
        yield CounterMetricFamily(f"{prefix}_batches", "Batches closed", value=snapshot.batches)
        yield CounterMetricFamily(f"{prefix}_batched_windows", "Windows in them", value=snapshot.batched_windows)
        yield GaugeMetricFamily(f"{prefix}_uptime_seconds", "Since the start", value=snapshot.elapsed_s)


def _cumulative(stage: Histogram) -> list[tuple[str, float]]:
    """Prometheus buckets, one per octave: (upper bound in seconds, how many are not above it)."""
    counts = stage.counts or (0,) * BUCKETS
    buckets: list[tuple[str, float]] = []
    seen = 0
    for bucket, number in enumerate(counts[:-1]):
        seen += number
        if bucket % PER_OCTAVE == 0:
            buckets.append((repr(bound_ms(bucket) / 1e3), float(seen)))
    return [*buckets, ("+Inf", float(stage.count))]


def make_registry(telemetry: SnapshotSource) -> CollectorRegistry:
    """The metrics of a run, for `prometheus_client.exposition`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(telemetry))
    return registry


def is_healthy(snapshot: TelemetrySnapshot, max_age_s: float) -> bool:
    """Whether a window was scored in the last `max_age_s` seconds, or every file has ended."""
    done = bool(snapshot.cameras) and all(camera.state == "ended" for camera in snapshot.cameras)
    return done or (snapshot.scored_age_s is not None and snapshot.scored_age_s <= max_age_s)


class MetricsServer:
    """The HTTP endpoint; runs in its own thread until `close`."""

    def __init__(self, telemetry: SnapshotSource, port: int, host: str, max_age_s: float) -> None:
        registry = make_registry(telemetry)

        class Handler(BaseHTTPRequestHandler):
            timeout = 5.0  # a client that sends nothing does not hold its thread

            def do_GET(self) -> None:
                path = self.path.split("?", 1)[0]
                if path == "/metrics":
                    encode, kind = choose_encoder(self.headers.get("Accept") or "")
                    self._answer(200, kind, encode(registry))
                elif path == "/healthz":
                    snapshot = telemetry.snapshot()
                    healthy = is_healthy(snapshot, max_age_s)
                    body = json.dumps({"healthy": healthy, "max_age_s": max_age_s, **snapshot.health()})
                    self._answer(200 if healthy else 503, "application/json", body.encode())
                else:
                    self._answer(404, "text/plain; charset=utf-8", b"here are /metrics and /healthz\n")

            def _answer(self, code: int, kind: str, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Scrapes are no news."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise EndpointError(
                f"metrics cannot be served on {host}:{port} ({getattr(error, 'strerror', None) or error}); "
                "choose a free port with --metrics-port, or 0 for none"
            ) from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port. Safe to call twice."""
        self._server.shutdown()
        self._thread.join(timeout=2.0)
        self._server.server_close()


def serve_metrics(
    telemetry: SnapshotSource, port: int, host: str = "127.0.0.1", *, max_age_s: float = 10.0
) -> MetricsServer:
    """Serve /metrics and /healthz until the result is closed. port 0 takes a free one (see `MetricsServer.port`).

    /healthz answers 200 while the newest scored window is at most `max_age_s` old (or every file has ended), else 503.
    Raises EndpointError when the port cannot be bound.
    """
    return MetricsServer(telemetry, port, host, max_age_s)
