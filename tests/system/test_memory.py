from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading
import numpy as np, psutil
from stream_detector.system.malloc import configure_malloc
if sys.argv[1] == "flat":
    assert configure_malloc()
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


SCATTERED = """
import psutil
from stream_detector.system.malloc import trim_malloc
process = psutil.Process()
blocks = [bytearray(20_000) for _ in range(10_000)]
full = process.memory_info().rss
kept = blocks[::50]  # what is in use lies between what is free, up to the very end of the heap
del blocks
before = process.memory_info().rss
assert trim_malloc()
print((full - before) / 1e6, (full - process.memory_info().rss) / 1e6)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")
def test_free_memory_between_blocks_in_use_is_given_back_when_asked() -> None:
    run = subprocess.run([sys.executable, "-c", SCATTERED], capture_output=True, text=True, check=True)
    by_itself, when_asked = map(float, run.stdout.split())
    assert by_itself < 50.0 and when_asked > 130.0, "megabytes returned, of 200 that were in use"
