"""The import direction (its contracts stand in pyproject.toml), and what a fresh reader may expect of the packages."""

from __future__ import annotations

import ast
import re
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
def test_a_package_says_what_goes_in_what_comes_out_and_what_it_imports(path: Path) -> None:
    lines = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()
    said = {line.partition(":")[0]: line.partition(":")[2] for line in lines}
    assert said.get("In") and said.get("Out") and said.get("Imports"), f"{path} lacks In:, Out: or Imports:"
    if "every package" in said["Imports"]:
        return
    named = set(re.findall(r"[a-z]+", re.sub(r"\(.*?\)|;.*", "", said["Imports"])))
    assert imported(path.parent) - {"__version__"} <= named, f"{path} imports more than it says"


def imported(package: Path) -> set[str]:
    """The other packages of stream_detector that a package imports, also inside functions."""
    found = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                names = [f"{module}.{alias.name}" for alias in node.names] if module == PACKAGE.name else [module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found |= {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE.name}.")}
    return found - {package.name}


def test_every_path_on_the_architecture_page_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = re.findall(r"^\| (`[a-z]+`(?:, `[a-z]+`)*)(?: \([a-z ]+\))? \|", text.partition("## Threads")[0], re.M)
    named = {PACKAGE / name for row in packages for name in re.findall(r"`([a-z]+)`", row)}
    present = {path.parent for path in PACKAGE.glob("*/__init__.py")} | {PACKAGE / name for name in FLAT}
    without_suffix = {path.with_suffix("") for path in present}
    assert named and named <= without_suffix, sorted(str(path) for path in named - without_suffix)
    assert {path for path in present if path.is_dir()} - {PACKAGE / "testing"} <= named, "a package is not on the page"
    paths = set(re.findall(r"`([\w/]+(?:/|\.py))`", text))
    assert len(paths) > 20
    for path in paths:
        assert any((base / path).exists() for base in (ROOT, PACKAGE)), f"docs/architecture.md names {path}"


def test_no_two_test_files_share_a_name() -> None:
    """Pytest imports test files by their base name where their folder is no package."""
    root = Path(__file__).parent
    loose = [path for path in root.rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    names = [path.name for path in loose]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
