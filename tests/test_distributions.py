"""What a user's site-packages get: `stream-detector` brings one package, `stream-detector-trainer` another."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpuproduct import rendered_footage

ROOT = Path(__file__).parents[1]
TRAINER = ROOT / "packaging" / "trainer"


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


def test_all_takes_every_extra_that_a_run_can_need() -> None:
    extras = settings(ROOT)["project"]["optional-dependencies"]
    (text,) = extras["all"]
    taken = set(text.partition("[")[2].rstrip("]").split(","))
    assert taken == set(extras) - {"all", "int8", "train", "test", "dev", "docs"}


def test_the_lock_file_fits_what_is_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "packaging" / "lock.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def missing_tool() -> str:
    """What is not installed of what a release is built with (extra: test)."""
    tools = ("build", "twine", "setuptools")
    missing = [name for name in tools if importlib.util.find_spec(name) is None]
    if missing:
        return ", ".join(missing)
    return "" if int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77 else "setuptools >= 77"


needs_tools = pytest.mark.skipif(bool(missing_tool()), reason=f"{missing_tool()} is not installed (extra: test)")


def run(*command: str | Path, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command that must succeed."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=600, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, the wheel built from it, and the trainer's wheel, as a release makes them."""
    tree = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", tree / "dist")
    run(*build, ".", cwd=tree)
    run(*build, "--wheel", "packaging/trainer", cwd=tree)
    return tree / "dist"


@pytest.mark.integration
@needs_tools
def test_the_wheels_hold_what_they_should(dist: Path) -> None:
    held = {}
    for wheel in dist.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
            held[wheel.name.partition("-")[0]] = {name for name in names if ".data/data/share/" not in name}
    assert set(held) == {"stream_detector", "stream_detector_trainer"}
    for name, top in (("stream_detector", "stream_detector"), ("stream_detector_trainer", "trainer")):
        sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / top).rglob("*.py")}
        assert sources <= held[name] and {file.partition("/")[0] for file in held[name]} == {top}
    assert {"stream_detector/py.typed", "stream_detector/models/bundles/embedded/bundle.json"} <= held[
        "stream_detector"
    ]
    assert {"trainer/assets/report.html.j2", "trainer/recipes/labelfree/recipe.toml"} <= held["stream_detector_trainer"]


@pytest.mark.integration
@needs_tools
def test_an_index_would_take_them_and_the_sdist_holds_the_tests(dist: Path) -> None:
    files = sorted(dist.iterdir())
    assert len(files) == 3
    assert run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=dist).stdout.count("PASSED") == 3
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "CHANGELOG.md", "Makefile", "run_stream.py", "docs/architecture.md", "tests/conftest.py"}
    assert wanted | {"trainer/__init__.py", "benchmarks/gpu.sh", "packaging/trainer/pyproject.toml"} <= names
    assert not any(name.endswith(".pyc") or "/.venv/" in name for name in names)


@pytest.mark.integration
@needs_tools
def test_the_wheel_alone_watches_scores_and_serves_the_page(dist: Path, tmp_path: Path) -> None:
    """In an environment outside of the checkout, with nothing of it on any path: its dependencies are shared."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python, (site,) = tmp_path / "venv" / "bin" / "python", (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (wheel,) = dist.glob("stream_detector-*.whl")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    shared = [path for path in sys.path if path.endswith("-packages")]
    (site / "shared.pth").write_text("\n".join(shared), encoding="utf-8")  # an editable install below it has no effect
    command, home = tmp_path / "venv" / "bin" / "stream-detector", tmp_path / "home"
    home.mkdir()
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(home)}

    def installed(*arguments: str | Path) -> str:
        return run(command, *arguments, cwd=home, env=clean).stdout

    where = run(python, "-c", "import stream_detector; print(stream_detector.__file__)", cwd=home, env=clean).stdout
    assert Path(where.strip()).is_relative_to(site)
    assert installed("--version").split()[1] == settings(ROOT)["project"]["version"]
    assert json.loads(installed("doctor", "--json", "--bind", "none"))["can_run"]
    video = rendered_footage(home / "street.mp4", (160, 120), 8.0)
    installed("score", video, "--out", "scores.csv", "--engine", "torch")
    assert len((home / "scores.csv").read_text(encoding="utf-8").splitlines()) > 10

    with subprocess.Popen(
        [command, "demo", "--pace=max", "--no-dashboard", "--bind=none", "--web=127.0.0.1:0", "--web-stay"],
        cwd=home,
        env=clean,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        try:
            assert watching.stderr is not None
            told, url = "", ""
            for line in watching.stderr:
                told += line
                found = re.search(r"the page is at (http://\S+)", line)
                url = found[1] if found else url
                if "the page stays at" in line:
                    break
            assert url and "ALARM" in told, told
            with urllib.request.urlopen(url, timeout=30) as page:
                assert "stream-detector" in page.read().decode()
            watching.terminate()
            watching.communicate(timeout=300)  # the summary draws the scene again, which is slow on a busy machine
            assert watching.returncode == 143
        finally:
            watching.kill()
    assert {path.name for path in (home / "runs" / "demo").iterdir()} >= {"events.jsonl", "scores.csv"}
