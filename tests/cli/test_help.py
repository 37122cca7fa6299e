"""Help texts: they appear without loading the libraries that a run needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stream_detector.cli.main import COMMANDS

HEAVY = {"av", "cv2", "matplotlib", "openvino", "ray", "torch"}


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_loads_no_heavy_library(command: str | None) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    code = f"""
import sys
from stream_detector.cli.main import main
try:
    main({arguments!r})
except SystemExit as leaving:
    print("exit code", leaving.code)
print("loaded", sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, code_line, loaded = done.stdout.strip().splitlines()
    assert text[0].startswith(f"usage: stream-detector {command or ''}".rstrip())
    assert (code_line, loaded) == ("exit code 0", "loaded []")
