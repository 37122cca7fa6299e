"""The HTTP endpoint of a run: /metrics for Prometheus, /livez and /readyz for health checks (see `health`).

Each request takes a snapshot, so nothing is computed in between. The default address is loopback.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stream_detector.config import TelemetryConfig
from stream_detector.errors import EndpointError
from stream_detector.telemetry.health import PATHS, check, is_local_host
from stream_detector.telemetry.snapshot import BUCKETS, PER_OCTAVE, Histogram, TelemetrySnapshot, bound_ms

log = logging.getLogger(__name__)

MOST = 64  # simultaneous connections
CONNECTION_S = 10.0  # seconds from the first byte to the last
RATES = {  # of the cameras whose site is remembered, see docs/adaptation.md
    "false_alarms_wanted_per_day": "Promised false alarms a day",
    "false_alarms_lower_per_day": "Lower bound of the false alarms a day, 95 %, at any time",
    "false_alarms_upper_per_day": "Upper bound of the false alarms a day, 95 %, at any time",
    "false_alarms_broken": "1 once the promise is broken with 95 % confidence",
}
PLAIN = "text/plain; charset=utf-8"


class SnapshotSource(Protocol):
    """The part of `collector.Telemetry` that this module uses."""

    def snapshot(self) -> TelemetrySnapshot:
        """Return the present state of the run."""
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
            "reconnects": "Sources that were reopened",
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
            ("degraded_windows", "degraded_windows", "Windows scored despite a discontinuity or a poor picture"),
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
        gauge = GaugeMetricFamily(f"{prefix}_camera_state", "1 for the present state", labels=["camera", "state"])
        for camera in snapshot.cameras:
            gauge.add_metric([camera.name, camera.state], 1.0)
        yield gauge
        for key, text in RATES.items():
            gauge = GaugeMetricFamily(f"{prefix}_{key}", text, labels=["camera"])
            for name, rate in sorted(snapshot.rates.items()):
                if rate.get(key.removeprefix("false_alarms_")) is not None:
                    gauge.add_metric([name], float(rate[key.removeprefix("false_alarms_")]))
            yield gauge
        latency = HistogramMetricFamily(f"{prefix}_stage_latency_seconds", "Latency by stage", labels=["stage"])
        for name, stage in {**snapshot.stages, "total": snapshot.total}.items():
            latency.add_metric([name], _cumulative(stage), stage.sum_ms / 1e3)
        yield latency
        yield CounterMetricFamily(f"{prefix}_batches", "Batches closed", value=snapshot.batches)
        yield CounterMetricFamily(
            f"{prefix}_batched_windows", "Windows in these batches", value=snapshot.batched_windows
        )
        yield GaugeMetricFamily(f"{prefix}_uptime_seconds", "Since the start", value=snapshot.elapsed_s)


def _cumulative(stage: Histogram) -> list[tuple[str, float]]:
    """Return Prometheus buckets, one per octave: (upper bound in seconds, number of values up to it)."""
    counts = stage.counts or (0,) * BUCKETS
    buckets: list[tuple[str, float]] = []
    seen = 0
    for bucket, number in enumerate(counts[:-1]):
        seen += number
        if bucket % PER_OCTAVE == 0:
            buckets.append((repr(bound_ms(bucket) / 1e3), float(seen)))
    return [*buckets, ("+Inf", float(stage.count))]


def make_registry(telemetry: SnapshotSource) -> CollectorRegistry:
    """Make the registry of a run's metrics, for `prometheus_client.exposition`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(telemetry))
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return (text, content type) for a scrape. accept: its Accept header; an unreadable one counts as none."""
    try:
        encode, kind = choose_encoder(accept)
    except (TypeError, ValueError):  # prometheus_client compares versions that it could not parse
        encode, kind = choose_encoder("")
    return encode(registry), kind


class _BoundedServer(ThreadingHTTPServer):
    """One thread per connection, for few and short connections.

    Beyond MOST the oldest connection is closed, so that idle peers and peers that do not read block nobody.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._held: OrderedDict[int, tuple[Any, float]] = OrderedDict()
        self._held_lock = Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Make room if there is none, and start the connection's thread."""
        with self._held_lock:
            if len(self._held) >= MOST:
                self._disconnect(self._held.popitem(last=False)[1][0])
            self._held[id(request)] = (request, time.monotonic())
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Remove a finished connection."""
        with self._held_lock:
            self._held.pop(id(request), None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that take too long; `serve_forever` calls this several times a second."""
        since_s = time.monotonic() - CONNECTION_S
        with self._held_lock:
            for held, began_s in list(self._held.values()):
                if began_s < since_s:
                    self._disconnect(held)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing about peers that disconnected or were disconnected."""
        if not isinstance(sys.exception(), OSError):
            log.exception("the metrics server failed")

    @staticmethod
    def _disconnect(held: Any) -> None:
        with contextlib.suppress(OSError):  # already gone
            held.shutdown(socket.SHUT_RDWR)


class MetricsServer:
    """The HTTP endpoint; runs in its own thread until `close`."""

    def __init__(self, telemetry: SnapshotSource, port: int, host: str, config: TelemetryConfig) -> None:
        registry = make_registry(telemetry)
        local = host == "localhost" or is_local_host(host) or host == "::1"

        class Handler(BaseHTTPRequestHandler):
            timeout = 5.0  # a client that sends nothing does not hold its thread

            def do_GET(self) -> None:
                path = self.path.split("?", 1)[0]
                asked = self.headers.get_all("Host") or []
                if local and not all(is_local_host(name) for name in asked):
                    self._answer(421, PLAIN, b"this host name is not served; ask 127.0.0.1 or localhost\n")
                elif path == "/metrics":
                    text, kind = exposition(registry, self.headers.get("Accept") or "")
                    self._answer(200, kind, text)
                elif path in PATHS:
                    code, body = check(path, telemetry.snapshot(), config, names=True)
                    self._answer(code, "application/json", json.dumps(body).encode())
                else:
                    self._answer(404, PLAIN, b"the paths are /metrics, /livez and /readyz\n")

            do_HEAD = do_GET

            def _answer(self, code: int, kind: str, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Content-Type-Options", "nosniff")
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def version_string(self) -> str:
                return "stream-detector"

            def log_message(self, format: str, *args: Any) -> None:
                """Log no requests."""

        try:
            self._server = _BoundedServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise EndpointError(
                f"metrics cannot be served on {host}:{port} ({getattr(error, 'strerror', None) or error}); "
                "choose a free port with --metrics-port, or 0 for none"
            ) from None
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
    telemetry: SnapshotSource, port: int, host: str = "127.0.0.1", *, config: TelemetryConfig | None = None
) -> MetricsServer:
    """Serve /metrics, /livez, /readyz and /healthz until the result is closed (see `health`).

    port 0 takes a free one (see `MetricsServer.port`). config: the limits of the health checks. On loopback a request
    that names another host is refused with 421. Raises EndpointError when the port cannot be bound.
    """
    return MetricsServer(telemetry, port, host, config or TelemetryConfig())
