"""Sections about the site: who may write, and what of its footage is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from stream_detector.config.section import Seconds, Section


class AccessConfig(Section):
    """Who may write: verdicts, acknowledgements, misses, thresholds, commands about models.

    Over HTTP that takes a token of an operator, over ZeroMQ a CURVE key in the folder `writers`.
    """

    local_writes: bool = False  # allow writes without either from loopback


class SiteConfig(Section):
    """The memory of the site: features (no pictures) and scores, for `stream-detector adapt`."""

    keep: bool | None = None  # None: recordings given by path yes, cameras no
    directory: Path | None = None  # None: the folder `site` beside the journal
    window_hours: Seconds = 72.0  # every window for so long
    alarm_days: Seconds = 90.0  # surroundings of alarms, calm peaks, the sample of the calm
    max_bytes: Annotated[int, Field(ge=1_000_000, le=10**15)] = 2_000_000_000  # of the memory on disk
    coreset: Annotated[int, Field(ge=16, le=20_000)] = 2_000  # windows in the sample of the calm, a camera
