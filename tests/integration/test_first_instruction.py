"""Nothing is imported before signals are handled."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


def test_little_is_imported_before_the_handlers_are_set() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "from stream_detector.cli import start\n"
        "print(*sorted(name for name in set(sys.modules) - before if name.startswith('stream_detector')))\n"
        "print(*sorted({'json', 're', 'typing', 'logging', 'argparse'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    own, others = done.stdout.split("\n")[:2]
    assert own.split() == [
        "stream_detector",
        "stream_detector.cli",
        "stream_detector.cli.start",
        "stream_detector.system",
        "stream_detector.system.descriptors",
        "stream_detector.system.signals",
    ]
    assert others == ""
