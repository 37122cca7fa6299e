"""Pictures and clips of alarms, only if they lie in the evidence folder: a path in an event can open no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stream_detector.bridges.notice import Notice

MAX_PICTURE_BYTES = 8 << 20
_SUFFIXES = {"snapshot": (".jpg",), "clip": (".mp4", ".webm")}


class EvidenceFolder:
    """folder: that of the detector; None if this machine cannot reach it.

    A relative path in an event is resolved against the current directory, as the detector wrote it, or else its last
    two parts (camera, file) are resolved in the folder; so the folder may be mounted elsewhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder.resolve() if folder else None

    def named(self, notice: Notice, kind: str = "snapshot") -> Path | None:
        """Return the path where the file of an alarm is or will be; None if the event names no file in the folder."""
        evidence: Any = notice.body.get("evidence") if notice.kind == "alarm" else None
        name = evidence.get(kind) if isinstance(evidence, dict) else None
        if self._folder is None or not isinstance(name, str) or "\0" in name or len(name) > 4096:
            return None
        for path in (Path(name), self._folder.joinpath(*Path(name).parts[-2:])):
            try:
                real = path.resolve()
            except (OSError, RuntimeError):
                continue
            if real.is_relative_to(self._folder) and real.suffix in _SUFFIXES[kind]:
                return real
        return None

    def there(self, notice: Notice, kind: str = "snapshot") -> Path | None:
        """Return the file if it exists."""
        path = self.named(notice, kind)
        try:
            return path if path is not None and path.is_file() else None
        except OSError:
            return None

    def picture(self, notice: Notice) -> bytes | None:
        """Return the snapshot as JPEG; None if there is none, or if it is larger than 8 MiB."""
        path = self.there(notice)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                data = file.read(MAX_PICTURE_BYTES + 1)
        except OSError:
            return None
        return data if 0 < len(data) <= MAX_PICTURE_BYTES else None
