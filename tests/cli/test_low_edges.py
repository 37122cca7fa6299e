"""Small mistakes of the command line: one sentence each that names what is wrong, and nothing is left behind."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from stream_detector.cli.main import main
from stream_detector.config import build_config
from stream_detector.errors import ConfigError, RunError
from stream_detector.events import curve
from stream_detector.reports.scores_file import ScoresFile


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "x.mp4", "--web-token-file", "t"], "--web-token-file needs the page"),
        (["run", "x.mp4", "--web-cert", "c", "--web-key", "k"], "--web-cert needs the page"),
        (["run", "--config", "empty.toml"], "has no camera"),
        (["score", "x.mp4", "--out", "-"], "cannot go to standard output"),
    ],
)
def test_what_cannot_work_is_refused(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.mp4").touch()
    Path("empty.toml").touch()
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(words) == 2
    assert says in said.getvalue() and said.getvalue().count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.toml", "x.mp4"]


def test_a_time_that_is_none_is_named() -> None:
    camera = {"source": "0", "schedule": [{"from": "25:00", "mute": True}]}
    with pytest.raises(ConfigError, match='must be written as "07:30"'):
        build_config({"cameras": {"gate": camera}})


def test_a_full_disk_names_the_table_of_scores() -> None:
    with pytest.raises(RunError, match="/dev/full"):
        ScoresFile(Path("/dev/full"))


def test_half_a_pair_of_keys_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "ann.key").write_text("another")
    with pytest.raises(ConfigError, match="already exists"):
        curve.new_pair(tmp_path, "ann")
    assert [path.name for path in tmp_path.iterdir()] == ["ann.key"]
