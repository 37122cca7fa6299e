"""Which files of evidence and recordings go, and when: by age, by size, and by the room for both together."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from stream_detector.config import Config
from stream_detector.evidence.file_order import EvidenceIndex
from stream_detector.evidence.segments import OWN_SEGMENT
from stream_detector.types import Clock

# Retention deletes nothing else. Earlier versions wrote WebM.
OWN_FILE = re.compile(r"[0-9a-f]{32}(?:-[0-9a-f]{16})?(?:\.h264|\.where)?\.(?:mp4|webm|jpg)")
_DAY_S = 86400.0


class Retention:
    """Used by one thread. The folders are those of the configuration."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._evidence = _Folder(
            config.evidence.directory, OWN_FILE, clock, config.evidence.keep_days, config.evidence.max_bytes
        )
        self._recordings = _Folder(
            config.recording.directory, OWN_SEGMENT, clock, config.recording.keep_days, config.recording.max_bytes
        )

    def observe(self) -> None:
        """Look at the clocks; call it now and then."""
        self._evidence.order.observe()
        self._recordings.order.observe()

    def apply(self, still_open: Collection[str] = ()) -> None:
        """Delete what is too old or too much. still_open: paths that stay whatever their age. Raises OSError."""
        kept = self._evidence.tidy(still_open)
        room = self._config.storage.max_bytes
        self._recordings.tidy(still_open, max(1, room - kept) if room else None)

    def close(self) -> None:
        """Close the indexes. Safe to call twice."""
        self._evidence.order.close()
        self._recordings.order.close()


class _Folder:
    def __init__(self, path: Path, own: re.Pattern[str], clock: Clock, keep_days: float, max_bytes: int) -> None:
        self.order = EvidenceIndex(path, clock)
        self._path, self._own, self._keep_s, self._max = path, own, keep_days * _DAY_S or float("inf"), max_bytes

    def tidy(self, still_open: Collection[str], room: int | None = None) -> int:
        """Delete by age and size; returns the bytes that stay. room: a further limit. Raises OSError.

        Old and oldest by order of arrival, see `file_order`: a clock that is wrong for a while deletes nothing.
        """
        if not self._path.is_dir():
            return 0
        files: dict[str, tuple[float, int]] = {}
        for path in self._path.glob("*/*"):
            if self._own.fullmatch(path.name) and str(path) not in still_open:
                about = path.stat()
                files[f"{path.parent.name}/{path.name}"] = (about.st_mtime, about.st_size)
        limits = [limit for limit in (self._max, room) if limit]
        total = 0
        for seen in reversed(self.order.oldest_first(sorted(files, key=lambda name: files[name]))):  # the newest first
            size = files[seen.name][1]
            total += size
            if seen.age_s > self._keep_s or any(total > limit for limit in limits):
                (self._path / seen.name).unlink(missing_ok=True)
                total -= size
        return total
