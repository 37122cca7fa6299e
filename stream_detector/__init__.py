"""stream-detector: watch cameras and recordings, raise an alarm when something abnormal happens.

    import stream_detector as sd

    for event in sd.watch("clip.mp4", pace="max"):           # alarms of recordings or cameras, as they are decided
        print(event.type, event.camera, event.start_s, event.peak_score)

    for row in sd.score("recordings/"):                      # one row a window of 16 frames
        print(row.source, row.start_s, row.raw)

    with sd.Session() as session:                            # frames that your program already has
        for frame in sd.read_frames("clip.mp4"):
            for decision in session.push("clip", frame.image, frame.media_s):
                print(decision.score.ref.end_s, decision.smoothed, decision.alarmed)

    for message in sd.Subscriber("tcp://127.0.0.1:5555"):    # what a running detector publishes
        print(message.topic, message.body)

Names are loaded when they are first used: `import stream_detector` loads neither PyTorch nor OpenCV, and
`sd.Subscriber` never does. Errors: see `stream_detector.errors`; all derive from `StreamDetectorError`.
"""

from __future__ import annotations

import sys

if sys.argv[:1] == ["-m"]:
    # `python -m stream_detector` imports the package first: Ctrl-C ends it without a traceback until `signals.install`
    _signal = __import__("_signal")  # `signal` takes longer to import than all before it
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

TYPE_CHECKING = False  # `typing` takes a while, and nothing here needs it
if TYPE_CHECKING:
    from typing import Any

    from stream_detector.api import Detector, Model, load_bundle, read_frames, score, watch
    from stream_detector.client.subscriber import Subscriber
    from stream_detector.config import CameraConfig, Config
    from stream_detector.errors import (
        AccessError,
        BundleError,
        CheckpointError,
        ConfigError,
        DataError,
        EndpointError,
        EngineError,
        LedgerError,
        MissingExtraError,
        OutputError,
        ProtocolError,
        RunError,
        SourceError,
        StageError,
        StreamDetectorError,
        UsageError,
    )
    from stream_detector.events.curve import KeyPair
    from stream_detector.events.protocol import Message
    from stream_detector.events.published_alarm import PublishedAlarm
    from stream_detector.reports.scores_file import ScoreRow
    from stream_detector.runtime.pipeline import RunResult
    from stream_detector.runtime.session import Session
    from stream_detector.types import AlarmEvent, Decision, Frame

__version__ = "0.1.0"

_MODULES = {
    "AccessError": "stream_detector.errors",
    "AlarmEvent": "stream_detector.types",
    "BundleError": "stream_detector.errors",
    "CameraConfig": "stream_detector.config",
    "CheckpointError": "stream_detector.errors",
    "Config": "stream_detector.config",
    "ConfigError": "stream_detector.errors",
    "DataError": "stream_detector.errors",
    "Decision": "stream_detector.types",
    "Detector": "stream_detector.api",
    "EndpointError": "stream_detector.errors",
    "EngineError": "stream_detector.errors",
    "Frame": "stream_detector.types",
    "KeyPair": "stream_detector.events.curve",
    "LedgerError": "stream_detector.errors",
    "Message": "stream_detector.events.protocol",
    "MissingExtraError": "stream_detector.errors",
    "Model": "stream_detector.api",
    "OutputError": "stream_detector.errors",
    "ProtocolError": "stream_detector.errors",
    "PublishedAlarm": "stream_detector.events.published_alarm",
    "RunError": "stream_detector.errors",
    "RunResult": "stream_detector.runtime.pipeline",
    "ScoreRow": "stream_detector.reports.scores_file",
    "Session": "stream_detector.runtime.session",
    "SourceError": "stream_detector.errors",
    "StageError": "stream_detector.errors",
    "StreamDetectorError": "stream_detector.errors",
    "Subscriber": "stream_detector.client.subscriber",
    "UsageError": "stream_detector.errors",
    "load_bundle": "stream_detector.api",
    "read_frames": "stream_detector.api",
    "score": "stream_detector.api",
    "watch": "stream_detector.api",
}

__all__ = [
    "AccessError",
    "AlarmEvent",
    "BundleError",
    "CameraConfig",
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "Decision",
    "Detector",
    "EndpointError",
    "EngineError",
    "Frame",
    "KeyPair",
    "LedgerError",
    "Message",
    "MissingExtraError",
    "Model",
    "OutputError",
    "ProtocolError",
    "PublishedAlarm",
    "RunError",
    "RunResult",
    "ScoreRow",
    "Session",
    "SourceError",
    "StageError",
    "StreamDetectorError",
    "Subscriber",
    "UsageError",
    "__version__",
    "load_bundle",
    "read_frames",
    "score",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
