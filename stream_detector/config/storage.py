"""Sections about what is written to disk: clips of alarms, recordings, and the room for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from stream_detector.config.section import Seconds, Section

RecordMode = Literal["always", "alarms", "off"]
Bytes = Annotated[int, Field(ge=0, le=10**15)]


class EvidenceConfig(Section):
    """Clips and snapshots of alarms."""

    enabled: bool = True
    directory: Path = Path("runs/evidence")
    pre_s: Seconds = 5.0
    post_s: Seconds = 3.0
    max_clip_s: Seconds = 60.0
    keep_days: Seconds = 30.0
    max_bytes: Bytes = 10_000_000_000
    ring_bytes: Annotated[int, Field(ge=100_000, le=10**12)] = 32_000_000  # of packets in memory, a camera's stream
    transcode_cores: Annotated[float, Field(gt=0, le=64)] = 0.5  # for cameras whose video must be encoded anew


class RecordingConfig(Section):
    """Recordings of cameras with record = "always"."""

    directory: Path = Path("runs/recordings")
    segment_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0  # of one file
    keep_days: Seconds = 7.0
    max_bytes: Bytes = 50_000_000_000  # the oldest files go first; 0: no limit


class StorageConfig(Section):
    """Room on the disk for recordings and evidence together."""

    max_bytes: Bytes = 0  # recordings give way to evidence; 0: no limit
    reserve_bytes: Bytes = 500_000_000  # left free for journal and events; recordings stop at twice as much
