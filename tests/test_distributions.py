"""What a user's site-packages get: `stream-detector` brings one package, `stream-detector-trainer` another."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TRAINER = ROOT / "packaging" / "trainer"
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")


def settings(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def packages(patterns: list[str]) -> set[str]:
    """Packages of the checkout, tests included, that the patterns take."""
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("[!.]*/**/__init__.py")}
    return {name for name in found if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


@pytest.mark.parametrize(
    ("folder", "top"), [(ROOT, "stream_detector"), (TRAINER, "trainer")], ids=["detector", "trainer"]
)
def test_a_distribution_takes_one_package_and_all_of_it(folder: Path, top: str) -> None:
    taken = packages(settings(folder)["tool"]["setuptools"]["packages"]["find"]["include"])
    assert taken == packages([top, f"{top}.*"]) and len(taken) > 3
    for path in (ROOT / top).rglob("*.py"):
        assert ".".join(path.parent.relative_to(ROOT).parts) in taken, f"{path} is in no package: add an __init__.py"


def test_both_distributions_have_the_same_version_and_licence() -> None:
    detector, trainer = settings(ROOT)["project"], settings(TRAINER)["project"]
    assert detector["version"] == trainer["version"]
    assert f"stream-detector=={detector['version']}" in trainer["dependencies"]
    assert detector["optional-dependencies"]["train"] == [f"{trainer['name']}=={trainer['version']}"]
    assert (TRAINER / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_detector_depends_on_nothing_that_only_training_needs() -> None:
    needed = " ".join(settings(ROOT)["project"]["dependencies"])
    assert not any(name in needed for name in ("keras", "tensorflow", "scikit-learn", "scipy", "trainer"))


def has_setuptools() -> bool:
    if importlib.util.find_spec("setuptools") is None:
        return False
    return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77


@pytest.mark.integration
@pytest.mark.skipif(not has_setuptools(), reason="setuptools >= 77 is not installed (extra: test)")
def test_the_wheels_hold_what_they_should(tmp_path: Path) -> None:
    for name in ("stream_detector", "trainer", "benchmarks", "packaging"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=IGNORED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--wheel-dir", "wheels", ".", "./packaging/trainer"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    held = {}
    for wheel in (tmp_path / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            held[wheel.name.partition("-")[0]] = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert set(held) == {"stream_detector", "stream_detector_trainer"}
    for name, top in (("stream_detector", "stream_detector"), ("stream_detector_trainer", "trainer")):
        sources = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / top).rglob("*.py")}
        assert sources <= held[name] and {file.partition("/")[0] for file in held[name]} == {top}
    assert {"stream_detector/py.typed", "stream_detector/models/bundles/embedded/bundle.json"} <= held[
        "stream_detector"
    ]
    assert {"trainer/assets/report.html.j2", "trainer/recipes/labelfree/recipe.toml"} <= held["stream_detector_trainer"]
