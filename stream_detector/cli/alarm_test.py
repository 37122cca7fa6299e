"""One alarm on purpose, from a camera to a subscriber, with the engine, journal and evidence of a real run.

For `init`, and for whoever wants to know whether alarms would arrive. Nothing of it stays: journal and clips lie in a
temporary folder, and the sockets have ports of their own.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from stream_detector.config import load_config
from stream_detector.errors import StageError
from stream_detector.system import signals

PATIENCE_S = 60.0  # for the first alarm, the model's first inference included


def try_alarm(path: Path, camera: str, patience_s: float = PATIENCE_S) -> str:
    """Watch one camera of a configuration with a threshold of 0 until its alarm comes to a subscriber.

    Returns a sentence. Raises StageError when no alarm comes within `patience_s`, else what a run raises.
    """
    from stream_detector.client.subscriber import Subscriber
    from stream_detector.runtime.build import build_run

    with tempfile.TemporaryDirectory(prefix="stream-detector-") as name:
        folder = Path(name)
        config = load_config(path, _overrides(folder))
        watched = tuple(each for each in config.cameras if each.name == camera)
        config = config.model_copy(update={"cameras": watched, "sinks": {}})
        with build_run(config) as run, signals.on_stop(run.pipeline.stop):
            begun_s = time.monotonic()
            thread = threading.Thread(target=run.pipeline.run, name="test-run", daemon=True)
            thread.start()
            try:
                with Subscriber(
                    run.publisher.endpoint, kinds=("alarm",), from_start=True, timeout_s=patience_s
                ) as subscriber:
                    event = next((m.body for m in subscriber if m.body["type"] == "start"), None)
                took_s = time.monotonic() - begun_s
            finally:
                run.pipeline.stop()
                thread.join(10.0)
            signals.check()
            if event is None:
                states = ", ".join(each.state for each in run.telemetry.snapshot().cameras)
                raise StageError(
                    f"no alarm came within {patience_s:g} s ({camera} is {states}); run `stream-detector doctor` and "
                    f"`stream-detector probe`"
                )
        clips = [file for file in (folder / "evidence").rglob("*") if file.suffix in (".webm", ".mp4", ".jpg")]
        kept = f"; its evidence was written ({len(clips)} files, removed again)" if clips else ""
        return f"the alarm of {camera} came to a subscriber {took_s:.1f} s after the start{kept}"


def _overrides(folder: Path) -> dict[str, Any]:
    return {
        "events": None,
        "scores": None,
        "alarm": {"threshold": 0.0, "min_length_s": 0.0, "rule": "hysteresis"},
        "smoothing": {"kind": "none"},
        "evidence": {"enabled": True, "directory": folder / "evidence"},
        "publish": {"bind": "tcp://127.0.0.1:*", "ledger": folder / "ledger.sqlite3", "curve_secret": None}
        | {"curve_clients": None},
        "telemetry": {"metrics_port": 0},
        "web": {"bind": "none"},
    }
