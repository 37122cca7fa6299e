"""The settings of a run, from cameras.toml and the command line, checked.

In: TOML text, options.
Out: frozen models; every error is one sentence in the words of the file.
Imports: system (registry), errors.
"""

from stream_detector.config.section import Section
from stream_detector.config.settings import (
    CAMERA_NAME,
    DETECTOR,
    AlarmConfig,
    BatchConfig,
    CameraConfig,
    CaptureConfig,
    Config,
    EngineConfig,
    PictureQualityConfig,
    PublishConfig,
    SinkConfig,
    SmoothingConfig,
    TelemetryConfig,
    WebConfig,
    WindowConfig,
    build_config,
    load_config,
    merge,
    slug,
)
from stream_detector.config.site import AccessConfig, SiteConfig
from stream_detector.config.storage import EvidenceConfig, RecordingConfig, StorageConfig

__all__ = [
    "CAMERA_NAME",
    "DETECTOR",
    "AccessConfig",
    "AlarmConfig",
    "BatchConfig",
    "CameraConfig",
    "CaptureConfig",
    "Config",
    "EngineConfig",
    "EvidenceConfig",
    "PictureQualityConfig",
    "PublishConfig",
    "RecordingConfig",
    "Section",
    "SinkConfig",
    "SiteConfig",
    "SmoothingConfig",
    "StorageConfig",
    "TelemetryConfig",
    "WebConfig",
    "WindowConfig",
    "build_config",
    "load_config",
    "merge",
    "slug",
]
