"""Shared memory for windows between a capture host's process and the main process: one slot per window, no copy.

    states, one byte a slot │ share │ slot 0: view 0, view 1, … │ slot 1 │ …

The host takes a free slot, writes the pixels, and sends the slot's number over the pipe. After the window was scored,
the main process marks the slot as free and notifies the host. The memory has no name (a memfd, or a file already
unlinked), so it disappears with the last process that uses it.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stream_detector.types import WINDOW_FRAMES, UInt8Array

PAGE = mmap.PAGESIZE
FREE, TAKEN = 0, 1
SHARE_STEPS = 255
MEMORY_SHARE = 0.5  # largest share of the available memory


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """size: (height, width) of every view.  views: how many.  slots: windows."""

    size: tuple[int, int]
    views: int
    slots: int

    @property
    def window_shape(self) -> tuple[int, int, int, int]:
        """Of one view of a window: (16, height, width, 3)."""
        return (WINDOW_FRAMES, *self.size, 3)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one window in whole pages."""
        return -(-self.views * math.prod(self.window_shape) // PAGE) * PAGE

    @property
    def header_bytes(self) -> int:
        """Bytes of the states and the share in whole pages."""
        return -(-(self.slots + 1) // PAGE) * PAGE

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole segment."""
        return self.header_bytes + self.slots * self.slot_bytes


class SharedSlots:
    """A mapped segment. descriptor: of the memory; it stays open until `close`."""

    def __init__(self, descriptor: int, layout: SlotLayout) -> None:
        self.descriptor, self.layout = descriptor, layout
        self._memory = mmap.mmap(descriptor, layout.total_bytes)
        whole = np.frombuffer(self._memory, np.uint8)
        self._states = whole[: layout.slots]
        self._share = whole[layout.slots : layout.slots + 1]
        self._slots = [self._views(whole, slot) for slot in range(layout.slots)]

    @classmethod
    def create(cls, layout: SlotLayout) -> SharedSlots:
        """Create new memory with free slots. Raises OSError if the system has none."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("stream-detector-windows", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        try:
            os.truncate(descriptor, layout.total_bytes)
            made = cls(descriptor, layout)
        except (OSError, ValueError):
            os.close(descriptor)
            raise
        made.share = 1.0
        return made

    def _views(self, whole: UInt8Array, slot: int) -> tuple[UInt8Array, ...]:
        shape = self.layout.window_shape
        length = math.prod(shape)
        begin = self.layout.header_bytes + slot * self.layout.slot_bytes
        return tuple(
            whole[begin + view * length : begin + (view + 1) * length].reshape(shape)
            for view in range(self.layout.views)
        )

    def views(self, slot: int) -> tuple[UInt8Array, ...]:
        """Return the views of the window in a slot: uint8 (16, H, W, 3) each, without a copy."""
        return self._slots[slot]

    def take(self, slots: Iterable[int]) -> int | None:
        """Take a free slot of these; None if there is none. For the host, one thread at a time."""
        for slot in slots:
            if self._states[slot] == FREE:
                self._states[slot] = TAKEN
                return slot
        return None

    def set_free(self, slot: int) -> None:
        """Let the host use a slot again. For the main process."""
        self._states[slot] = FREE

    @property
    def share(self) -> float:
        """The share of the windows that will be scored, 0 to 1; the host decodes no more than that. See `admission`."""
        return float(self._share[0]) / SHARE_STEPS

    @share.setter
    def share(self, share: float) -> None:
        self._share[0] = round(min(1.0, max(0.0, share)) * SHARE_STEPS)

    def close(self) -> None:
        """Close the descriptor; the mapping ends with the last window that uses it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def available_bytes() -> int | None:
    """Return the memory that is available: free memory, or the rest of the control group's limit; None: unknown."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    if not hasattr(os, "memfd_create"):
        room = os.statvfs(tempfile.gettempdir())
        found.append(room.f_bavail * room.f_frsize)
    return max(0, min(found)) if found else None


def slots_each(cameras: int, wanted: int, slot_bytes: int, available: int | None) -> int:
    """Return the slots per camera: as many as wanted, or fewer if memory is short; 0: not even two."""
    if available is None or not cameras:
        return wanted
    fits = int(available * MEMORY_SHARE) // (cameras * slot_bytes)
    return min(wanted, fits) if fits >= 2 else 0
