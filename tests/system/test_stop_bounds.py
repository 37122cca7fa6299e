"""The last resort of a stop: the process ends, with the code of the signal."""

from __future__ import annotations

import subprocess
import sys

HANGING = """
import os, signal, threading
from stream_detector.system import signals
signals.LAST_S = 0.1
signals.install()
with signals.on_stop(lambda: None):
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(60)
"""


def test_a_stop_that_hangs_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 143 and "something hangs" in done.stderr
