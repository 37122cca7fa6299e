"""Where Ray is not installed, one sentence says what to do; and what a cluster cannot do is refused in one, too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stream_detector.cli import main
from trainer.__main__ import main as trainer_main

PIP = "pip install 'stream-detector[ray]'"


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("command", [["cluster", "demo"], ["score", "{film}", "--out", "{out}", "--ray"]])
def test_without_ray_one_sentence_names_the_pip_command(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"anything")
    words = [word.format(film=film, out=tmp_path / "s.csv") for word in command]
    assert main.main(words) == 2
    err = capsys.readouterr().err
    assert PIP in err and err.count("\n") == 1


@pytest.mark.usefixtures("without_ray")
def test_without_ray_the_trainer_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.csv").write_text("path,label\na.mp4,normal\n", encoding="utf-8")
    words = ["extract", "--ray", "--list", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out")]
    assert trainer_main(words) == 2
    assert PIP in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--shards", "0"], "--shards"),
        (["--ledger", "none"], "--ledger"),
        (["--web", "127.0.0.1:0"], "--web"),
        (["--near", "nobody=site"], "--near"),
        (["--near", "demo"], "--near"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(options: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'stream-detector[ray]'")
    assert main.main(["cluster", "demo", *options]) == 2
    err = capsys.readouterr().err
    assert word in err and err.count("\n") == 1
