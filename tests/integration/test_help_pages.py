"""Help answers immediately: no command line needs PyTorch, TensorFlow, OpenCV or Ray to describe itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "tensorflow", "keras", "cv2", "ray", "openvino", "matplotlib", "scipy", "sklearn")

# One process for all: a help page that loads a heavy library is named, because the libraries are counted after each.
ALL_PAGES = """
import contextlib, io, json, sys
import benchmarks.__main__ as benchmarks
import trainer.__main__ as trainer
from stream_detector.cli import main as detector

HEAVY, pages = set(json.loads(sys.argv[1])), {}

def show(name, command, words):
    before, text = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            code = command(words)
        except SystemExit as exit:
            code = exit.code
    loaded = sorted({module.partition('.')[0] for module in set(sys.modules) - before} & HEAVY)
    pages[name] = {'code': code or 0, 'text': text.getvalue(), 'loaded': loaded}

for name in trainer.COMMANDS:
    show(f'trainer {name}', trainer.main, [name, '--help'])
for name in benchmarks.names():
    show(f'benchmarks {name}', benchmarks.main, [name, '--help'])
show('stream-detector', detector.main, ['--help'])
for name in detector.COMMANDS:
    show(f'stream-detector {name}', detector.main, [name, '--help'])
print(json.dumps(pages))
"""


@pytest.fixture(scope="module")
def pages() -> dict[str, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", ALL_PAGES, json.dumps(HEAVY)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, dict[str, object]] = json.loads(done.stdout)
    return found


def test_every_help_page_is_shown(pages: dict[str, dict[str, object]]) -> None:
    assert len(pages) > 50
    for name, page in pages.items():
        assert page["code"] == 0 and "usage:" in str(page["text"]), (name, page)


def test_no_help_page_loads_a_large_library(pages: dict[str, dict[str, object]]) -> None:
    assert {name: page["loaded"] for name, page in pages.items() if page["loaded"]} == {}
