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


SLOW_SUMMARY = """
import os, signal, threading
from stream_detector.system import signals
signals.LAST_S = 0.5
signals.install()
stopped = threading.Event()
with signals.on_stop(stopped.set):
    os.kill(os.getpid(), signal.SIGTERM)
    stopped.wait(60)
    threading.Event().wait(0.4)  # the run needs most of its time, and so does its summary
threading.Event().wait(0.4)
print("summary")
"""


def test_the_summary_of_a_stopped_run_has_time_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", SLOW_SUMMARY], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0 and done.stdout == "summary\n"
