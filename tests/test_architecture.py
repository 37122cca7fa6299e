"""The import direction (its contracts stand in pyproject.toml), and what a fresh reader may expect of the packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stream_detector"
FLAT = {"__init__", "__main__", "api", "errors", "types"}  # modules that belong to no package


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_every_module_belongs_to_a_package() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == FLAT


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/__init__.py")), ids=lambda p: p.parent.name)
def test_a_package_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_no_two_test_files_share_a_name() -> None:
    """Pytest imports test files by their base name where their folder is no package."""
    root = Path(__file__).parent
    loose = [path for path in root.rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    names = [path.name for path in loose]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
