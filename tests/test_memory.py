from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading
import numpy as np, psutil
from stream_detector.memory import keep_flat
if sys.argv[1] == "flat":
    assert keep_flat()
process = psutil.Process()
before = process.memory_info().rss
def churn():
    held = []
    for index in range(300):
        held.append(np.ones(602_112 + 997 * (index % 50), np.uint8))
        if len(held) > 20:
            del held[index % 20]
threads = [threading.Thread(target=churn) for _ in range(24)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print((process.memory_info().rss - before) / 1e6)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")
def test_memory_is_given_back_after_many_threads_have_churned() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM, "flat"], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 40.0, "megabytes left behind by arrays that were all freed"
