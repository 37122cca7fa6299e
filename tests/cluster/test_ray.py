"""A real Ray on this machine, two CPUs: the cluster against the single machine, and the archives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.clusterlib import Run, compare, config_for, single
from stream_detector.cli import main
from stream_detector.system.actor_pool import connected
from trainer.__main__ import main as trainer_main

WHY = "Ray is not installed: pip install 'stream-detector[ray]'"
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are not ours to mend


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of this run's own, though the environment names one (as a file left by a killed one would)."""
    pytest.importorskip("ray", reason=WHY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        with connected("the tests", None, cpus=2) as found:
            patch.delenv("RAY_ADDRESS")  # or what these tests run would look there
            yield found


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films of noise that moves, 100 frames each."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(3):
        dice = np.random.default_rng(number)
        picture = dice.integers(0, 256, (120, 160, 3), np.uint8)
        out = cv2.VideoWriter(str(folder / f"film{number}.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (160, 120))
        for index in range(100):
            out.write(np.roll(picture, 3 * index * (number + 1), axis=1))
        out.release()
    return folder


SETTINGS: dict[str, Any] = {
    "alarm": {"threshold": 0.1, "min_length_s": 0.5},
    "engine": {"precision": "fp32"},
}


def test_the_cluster_tells_the_same_story_as_the_single_machine(ray: Any, films: Path, tmp_path: Path) -> None:
    sources = [(path.stem, path) for path in sorted(films.glob("*.mp4"))]
    for name in ("single", "cluster"):
        (tmp_path / name).mkdir()
    single(config_for(tmp_path / "single", sources, **SETTINGS))
    run = Run(ray, config_for(tmp_path / "cluster", sources, **SETTINGS))
    result = run.join(90.0)
    assert (result.exit_code, result.deaths, result.windows) == (0, (), 18)
    told = compare(tmp_path / "single", tmp_path / "cluster")
    assert told["windows_missing_or_extra"] == 0
    assert told["largest_score_difference"] <= 1e-4
    assert told["cameras_whose_events_differ"] == []


def test_score_by_ray_gives_the_same_table_and_sets_bad_files_aside(
    ray: Any, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in sorted(films.glob("*.mp4"))]
    (tmp_path / "bad.mp4").write_bytes(b"not a video" * 100)
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    assert main.main(["score", *paths, "--out", str(one), "--precision", "fp32"]) == 0
    words = ["score", *paths, str(tmp_path / "bad.mp4"), "--out", str(two), "--precision", "fp32", "--ray"]
    assert main.main([*words, "--workers", "2"]) == 2
    assert "bad: " in capsys.readouterr().err
    rows = [{line.split(",")[1] + line.split(",")[2] for line in p.read_text().splitlines()} for p in (one, two)]
    assert rows[0] == rows[1]
    assert [line.split(",")[1] for line in two.read_text().splitlines()[1:]] == [
        f"film{n}" for n in range(3) for _ in range(6)
    ]
    assert not (tmp_path / "two.csv.parts").exists()


def test_extract_by_ray_resumes_and_agrees_with_one_machine(
    ray: Any, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (films / "bad.mp4").write_bytes(b"not a video" * 100)
    listed = tmp_path / "list.csv"
    names = ("film0.mp4", "film1.mp4", "film2.mp4", "bad.mp4")
    listed.write_text("path,label\n" + "".join(f"{name},normal\n" for name in names), encoding="utf-8")
    words = ["extract", "--list", str(listed), "--root", str(films)]
    assert trainer_main([*words, "--out", str(tmp_path / "one")]) == 0
    capsys.readouterr()
    for expected in ({"extracted": 3, "resumed": 0}, {"extracted": 0, "resumed": 3}):
        assert trainer_main([*words, "--out", str(tmp_path / "two"), "--ray", "--workers", "2"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {key: told[key] for key in expected} == expected and told["skipped"] == 1
    for name in ("film0", "film1", "film2"):
        one, two = (np.load(tmp_path / folder / f"{name}.npz") for folder in ("one", "two"))
        assert np.abs(one["features"] - two["features"]).max() < 2e-2
        assert (one["starts"] == two["starts"]).all() and str(one["key"]) == str(two["key"])
