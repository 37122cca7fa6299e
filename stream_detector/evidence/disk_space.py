"""Room on the disk: recordings stop first, then evidence; a reserve stays for the journal and the events.

free ≥ 3 reserves      everything is written
free < 3 reserves      a warning: "… recording stops below …"
free < 2 reserves      recordings stop
free < 1 reserve       clips and snapshots stop too; the rest is for the journal
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DiskLevel = Literal["ample", "low", "no_recording", "no_evidence"]
LEVELS: tuple[DiskLevel, ...] = ("ample", "low", "no_recording", "no_evidence")
_AGAIN = 1.1  # what stopped starts again when there is this much more room
_LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class DiskState:
    """What may be written. free: bytes on the fullest disk.  changed: the level differs from the one before."""

    level: DiskLevel
    free: int
    changed: bool

    @property
    def recording(self) -> bool:
        """Whether recordings may be written."""
        return self.level in ("ample", "low")

    @property
    def evidence(self) -> bool:
        """Whether clips and snapshots may be written."""
        return self.level != "no_evidence"


class DiskSpace:
    """Checks the disks of some folders. reserve: bytes; 0: never stop.  free_of: a folder → bytes free."""

    def __init__(
        self,
        folders: Sequence[Path],
        reserve: int,
        free_of: Callable[[Path], int] = lambda at: shutil.disk_usage(at).free,
    ) -> None:
        self._folders, self._reserve, self._free_of = folders, reserve, free_of
        self._state = DiskState("ample", 0, False)
        self._looked_s = float("-inf")

    def look(self, now_s: float) -> DiskState:
        """Return the state, checked again every few seconds. now_s: monotonic."""
        if now_s - self._looked_s < _LOOK_S:
            return DiskState(self._state.level, self._state.free, False)
        self._looked_s = now_s
        free = min((self._free(folder) for folder in self._folders), default=1 << 62)
        level = self._level(free)
        self._state = DiskState(level, free, level != self._state.level)
        return self._state

    def sentence(self, state: DiskState) -> str:
        """Return the log sentence for a change of the level."""
        left = f"{state.free / 1e9:.1f} GB are free on the disk of {str(self._folders[0])!r}"
        unit = self._reserve / 1e9
        if state.level == "ample":
            return f"{left}: recordings and evidence are written again"
        if state.level == "low":
            return (
                f"{left}: recordings stop below {2 * unit:.1f} GB, clips and snapshots below {unit:.1f} GB; make room, "
                "or lower recording.max_bytes"
            )
        if state.level == "no_recording":
            return f"{left}: recordings stopped; clips and snapshots stop below {unit:.1f} GB; make room"
        return f"{left}: no clips and snapshots are written, the rest is kept for journal and events; make room"

    def _level(self, free: int) -> DiskLevel:
        fall = sum(free < factor * self._reserve for factor in (3, 2, 1))
        rise = sum(free < factor * self._reserve * _AGAIN for factor in (3, 2, 1))
        now = LEVELS.index(self._state.level)
        return LEVELS[fall if fall > now else min(now, rise)]

    def _free(self, folder: Path) -> int:
        while True:
            try:
                return self._free_of(folder)
            except OSError:
                if folder.parent == folder:
                    return 1 << 62
                folder = folder.parent  # the folder does not exist yet
