"""Settings of the C allocator that keep resident memory constant.

A run allocates and frees arrays of half a megabyte all day, from dozens of threads. glibc then uses one arena for every
few threads and keeps such blocks in their heaps, so that memory grows for hours without any leak. Two arenas, and
returning freed blocks of 256 KiB and more to the system, avoid that at almost no cost. Video encoders and short-lived
objects leave smaller, scattered blocks; `trim_malloc` returns them, twice a minute.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
MMAP_BYTES = 256 << 10
TRIM_BYTES = 16 << 20
ARENAS = 2


def configure_malloc() -> bool:
    """Configure glibc malloc; call it once, before threads start. Returns False without glibc, and does nothing."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl, for instance
        return False
    wanted = ((_M_ARENA_MAX, ARENAS), (_M_MMAP_THRESHOLD, MMAP_BYTES), (_M_TRIM_THRESHOLD, TRIM_BYTES))
    return all([mallopt(option, value) == 1 for option, value in wanted])


def trim_malloc() -> bool:
    """Return free memory to the system (2 to 5 ms; other threads may wait for memory). Returns False without glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(0))
