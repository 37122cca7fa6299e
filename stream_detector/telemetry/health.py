"""Answers two questions about a run: does it decide (liveness), and are enough cameras scored (readiness)?

    /livez    whether the decision thread has run recently; for a service manager that restarts the process
    /readyz   also whether at least `ready_share` of the cameras were scored recently; for routing and alerts
    /healthz  the same as /livez, for older setups

A camera that reboots does not make the process unhealthy, and a live process may score no camera at all.
"""

from __future__ import annotations

import re
from typing import Any

from stream_detector.config import TelemetryConfig
from stream_detector.telemetry.snapshot import CameraView, TelemetrySnapshot

PATHS = ("/livez", "/readyz", "/healthz")
START_S = 300.0  # seconds for which a process that still loads its model counts as alive
NAMES = 64  # cameras named in an answer, at most
_LOCAL_NAMES = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)


def is_local_host(host: str) -> bool:
    """Return whether a Host header names this machine's loopback. Any other name that leads here is DNS rebinding."""
    return bool(_LOCAL_NAMES.fullmatch(host))


def is_live(snapshot: TelemetrySnapshot, max_age_s: float) -> bool:
    """Return whether the decision thread ran in the last `max_age_s` seconds, is still starting, or ended in order."""
    if snapshot.over:
        return True
    if snapshot.decided_age_s is None:
        return snapshot.elapsed_s <= max(START_S, max_age_s)
    return snapshot.decided_age_s <= max_age_s


def is_late(camera: CameraView, max_age_s: float) -> bool:
    """Return whether a camera that should give windows had none scored in the last `max_age_s` seconds."""
    return camera.state != "ended" and (camera.window_age_s is None or camera.window_age_s > max_age_s)


def ready_share(snapshot: TelemetrySnapshot, max_age_s: float) -> float:
    """Return the fraction of the cameras that have not ended with a window scored in the last `max_age_s` seconds; 1 if
    all have ended.
    """
    expected = [camera for camera in snapshot.cameras if camera.state != "ended"]
    if not expected:
        return 1.0
    return sum(not is_late(camera, max_age_s) for camera in expected) / len(expected)


def check(
    path: str, snapshot: TelemetrySnapshot, config: TelemetryConfig, *, names: bool
) -> tuple[int, dict[str, Any]]:
    """Return (HTTP status, body) for one of PATHS. names: whether the client may see camera names and counters."""
    live = is_live(snapshot, config.live_age_s)
    age_s = snapshot.decided_age_s
    body: dict[str, Any] = {
        "healthy": live,
        "live": live,
        "decided_age_s": None if age_s is None else round(age_s, 3),
        "max_age_s": config.live_age_s,
    }
    if path == "/readyz":
        share = ready_share(snapshot, config.ready_age_s)
        body |= {
            "healthy": live and share >= config.ready_share,
            "scored_share": round(share, 4),
            "min_share": config.ready_share,
            "max_age_s": config.ready_age_s,
        }
        if names:
            late = [camera.name for camera in snapshot.cameras if is_late(camera, config.ready_age_s)]
            body["late"] = late[:NAMES]
    if names:
        body |= snapshot.health()
    return (200 if body["healthy"] else 503), body
