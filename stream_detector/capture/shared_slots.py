"""Windows that cross from a capture host's process to the main one: one slot of shared memory a window, never copied.

    states, one byte a slot │ share │ slot 0: view 0, view 1, … │ slot 1 │ …

The host takes a free slot, writes the pixels, and tells its number over the pipe; whoever has scored the window sets
the state to free again and wakes the host. The memory has no name (a memfd, or a file already unlinked), so nothing is
left behind whoever dies.
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
MEMORY_SHARE = 0.5  # of what the system would give, at most


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
        """Whole pages of one window."""
        return -(-self.views * math.prod(self.window_shape) // PAGE) * PAGE

    @property
    def header_bytes(self) -> int:
        """Whole pages of the states and the share."""
        return -(-(self.slots + 1) // PAGE) * PAGE

    @property
    def total_bytes(self) -> int:
        """Of the whole segment."""
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
        """New memory, all slots free. Raises OSError where the system has none."""
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
        """The views of the window in a slot: uint8 (16, H, W, 3) each, in place."""
        return self._slots[slot]

    def take(self, slots: Iterable[int]) -> int | None:
        """A free slot of these, now taken; None when there is none. For the host, one thread at a time."""
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
        """The share of the windows that will be scored, 0 to 1; the host does not decode more. See `admission`."""
        return float(self._share[0]) / SHARE_STEPS

    @share.setter
    def share(self, share: float) -> None:
        self._share[0] = round(min(1.0, max(0.0, share)) * SHARE_STEPS)

    def close(self) -> None:
        """Close the descriptor; the mapping goes with the last window that lies in it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def available_bytes() -> int | None:
    """What the system would still give: free memory, or what is left of the control group's limit; None: unknown."""
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
    """Slots for each of so many cameras: as many as wanted, or fewer where memory is short; 0: not even two."""
    if available is None or not cameras:
        return wanted
    fits = int(available * MEMORY_SHARE) // (cameras * slot_bytes)
    return min(wanted, fits) if fits >= 2 else 0
