"""Shared fixtures. Nothing here needs the network, a display or a GPU."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read when NumPy and PyTorch are loaded, here and in every process that a test starts. Tests compute little, and
# several run at the same time: threads of one computation would mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from capture_rig import rigs  # noqa: F401 - a fixture
from event_bench import Bench, MakeBench
from hypothesis import HealthCheck, settings

# A busy machine is no fault of what is tested: no example has a deadline, and none is too slow to be drawn.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Files that take longest, which begin first, so that no worker is left alone with one at the end.
LONG = (
    *("test_one_score", "test_stops", "test_embed", "test_ray", "test_cli", "test_standard", "test_bundle"),
    *("test_demo", "test_recipe_training", "test_gate", "test_capture_hosts", "test_events", "test_recipe_accurate"),
    *("test_site", "test_recipe_embedded", "test_secret_process", "test_odd_places", "test_fetch_stops"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, every other one in its place."""
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips (`index.csv` and one folder per set); skips where there is none."""
    root = os.environ.get("STREAM_DETECTOR_DATA")
    if root and (Path(root) / "clips" / "index.csv").is_file():
        return Path(root) / "clips"
    pytest.skip("real clips are not here: set STREAM_DETECTOR_DATA to the folder that holds clips/index.csv")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of weights instead of the user's."""
    monkeypatch.setenv("STREAM_DETECTOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that draw for a terminal mean an ordinary one, wherever they run."""
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[MakeBench]:
    """Makes a publisher with its journal in this test's folder, from options of PublishConfig; closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Bench:
            made = Bench(tmp_path, **options)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    """One with the usual options."""
    return make_bench()


@pytest.fixture(autouse=True)
def one_thread_of_torch() -> None:
    """A test that asks PyTorch for more threads changes nothing for the next one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
