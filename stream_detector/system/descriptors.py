"""Standard descriptors that are closed. Imports nothing heavy: it runs before signals are handled."""

from __future__ import annotations

import os


def mend_descriptors() -> None:
    """Open /dev/null where a standard descriptor is closed; otherwise the next opened file, a journal, would be
    "stdout".
    """
    for wanted in (0, 1, 2):
        try:
            os.fstat(wanted)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # uses the lowest free number, which is this one
