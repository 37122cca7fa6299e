"""Threads that give way to others."""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger(__name__)


def lower_priority(niceness: int = 5) -> None:
    """Let this thread, on Linux, give way to the ones that detect. Only for work that leaves the interpreter's lock
    alone, as encoders do: a thread that is put aside while it holds the lock stops all others."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        except OSError:
            log.debug("thread %s keeps its priority", threading.current_thread().name)
