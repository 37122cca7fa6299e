"""Figures belong to the code that they were measured on: what counts as the same code, and which code that is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import codehash, gpu

ROOT = Path(__file__).parents[2]

CODE = '''"""A module."""

import os


def twice(x: int) -> str:
    """Docstring."""
    # why
    return f"{x + x}" if x else (
        "none"
    )
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"""A module."""\n', "", True),
        ('    """Docstring."""\n', '    """Another,\n    longer one."""\n', True),
        ("    # why\n", "", True),
        ('(\n        "none"\n    )', '("none")', True),
        ("    return", "        return", True),
        ("x + x", "x + 1", False),
        ('"none"', '"some"', False),
        ("import os\n", "", False),
    ],
)
def test_a_hash_is_of_what_code_does(old: str, new: str, same: bool) -> None:
    changed = CODE.replace(old, new)
    if "        return" in changed:
        changed = (
            changed.replace("    #", "        #")
            .replace('    """Docs', '        """Docs')
            .replace("    )", "        )")
        )
    assert changed != CODE
    assert (codehash.essence(changed) == codehash.essence(CODE)) == same


def test_the_record_depends_on_all_code_that_the_device_runs() -> None:
    """What the engine imports of the models is hashed, but for reading bundles and weights."""
    used: set[str] = set()
    for name in ("network", "cuda_engine", "gpu_runner", "fold"):
        tree = ast.parse((ROOT / "stream_detector" / "engines" / f"{name}.py").read_text(encoding="utf-8"))
        froms = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        used |= {module.replace(".", "/") for module in froms if module.startswith("stream_detector.models")}
    used -= {"stream_detector/models/bundle"}
    assert used and all(any(f"{module}.py".startswith(code) for code in gpu.CODE) for module in used), used
