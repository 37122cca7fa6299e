"""Outputs overwrite no input and nothing that is not a former output of the same kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stream_detector.errors import UsageError
from stream_detector.reports.scores_file import ScoresFile
from stream_detector.system.outputs import SCORE_COLUMNS, Kind, check_apart, check_free, rename_former, replace_file

KINDS: tuple[Kind, ...] = get_args(Kind)
HEADER = ",".join(SCORE_COLUMNS) + "\r\n"
ROW = "a.mp4,a,0,0,15,0.000,0.600,0.1000000,0.1000000,\r\n"
SAMPLES: dict[Kind, bytes] = {
    "scores": (HEADER + ROW).encode(),
    "events": b'{"schema":"stream-detector.alarm/1","id":"x"}\n',
    "page": b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    b'<meta name="generator" content="stream-detector">\n',
    "plot": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0" * 17 + b"\0\0\0\x18tEXtSoftware\x00stream-detector",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_only_the_same_kind_is_free(tmp_path: Path, kind: Kind, other: Kind) -> None:
    path = tmp_path / "x"
    path.write_bytes(SAMPLES[other])
    if kind == other:
        check_free(path, kind)
    else:
        with pytest.raises(UsageError, match="stays unchanged"):
            check_free(path, kind)


@given(content=st.binary(min_size=1, max_size=200), kind=st.sampled_from(KINDS))
def test_nothing_foreign_is_ever_replaced(tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: Kind) -> None:
    """A recording, a document, anything: directly, by a symbolic link, by a hard link."""
    assume(not any(sample.startswith(content) for sample in SAMPLES.values()))  # what a kill leaves of an output
    folder = tmp_path_factory.mktemp("x")
    original = folder / "original"
    original.write_bytes(content)
    (folder / "soft").symlink_to(original)
    (folder / "hard").hardlink_to(original)
    for name in ("original", "soft", "hard"):
        with pytest.raises(UsageError):
            replace_file(folder / name, b"new", kind)
        with pytest.raises(UsageError):
            rename_former(folder / name, kind)
    assert original.read_bytes() == content
    assert sorted(os.listdir(folder)) == ["hard", "original", "soft"]


@pytest.mark.parametrize("kind", ["fifo", "folder", "inside a file", "a name too long"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "inside a file":
        path.write_text("")
        path = path / "y"
    else:
        path = tmp_path / ("x" * 300)
    with pytest.raises(UsageError, match="give"):
        replace_file(path, b"new", "page")
    with pytest.raises(UsageError, match="give"):
        ScoresFile(path)


def test_scores_of_former_runs_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    for number in range(3):
        table = ScoresFile(path)
        table.close()
        assert (table.kept is None) == (number == 0)
        path.write_text(HEADER + ROW.replace("a.mp4", f"{number}.mp4"), newline="")
    assert sorted(os.listdir(tmp_path)) == ["s.1.csv", "s.2.csv", "s.csv"]
    assert [(tmp_path / n).read_text().count(f"{i}.mp4") for i, n in enumerate(("s.1.csv", "s.2.csv", "s.csv"))] == [
        1
    ] * 3


def test_a_table_without_rows_is_not_kept(tmp_path: Path) -> None:
    """Or a service that cannot start would leave a file every two seconds."""
    for _ in range(3):
        ScoresFile(tmp_path / "s.csv").close()
    assert os.listdir(tmp_path) == ["s.csv"]


def test_a_link_stays_and_points_to_the_new_table(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    real = tmp_path / "data" / "s.csv"
    real.write_bytes(SAMPLES["scores"])
    (tmp_path / "s.csv").symlink_to(real)
    ScoresFile(tmp_path / "s.csv").close()
    assert (tmp_path / "s.csv").is_symlink() and real.read_bytes() == HEADER.encode()
    assert (tmp_path / "data" / "s.1.csv").read_bytes() == SAMPLES["scores"]


def test_a_device_is_free(tmp_path: Path) -> None:
    ScoresFile(Path(os.devnull)).close()
    replace_file(Path(os.devnull), b"x", "page")


@pytest.mark.parametrize("link", ["same", "soft", "hard", "dots", "not there yet"])
def test_two_names_of_one_file_are_found(tmp_path: Path, link: str) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    if link != "not there yet":
        first.write_text("x")
    if link == "soft":
        second.symlink_to(first)
    elif link == "hard":
        second.hardlink_to(first)
    elif link == "dots":
        (tmp_path / "c").mkdir()
        second = tmp_path / "c" / ".." / "a"
    else:
        second = first
    with pytest.raises(UsageError, match="same file as --scores"):
        check_apart({"--scores": first, "--events": second})
    with pytest.raises(UsageError, match="same file as the input"):
        check_apart({"--scores": None, "--events": second}, [first])
    check_apart({"--scores": first, "--events": tmp_path / "other"}, [tmp_path / "third"])
    check_apart({"--scores": Path(os.devnull), "--events": Path(os.devnull)})


def test_a_page_keeps_its_mode_and_a_failed_write_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "r.html"
    replace_file(page, SAMPLES["page"], "page")
    page.chmod(0o604)
    replace_file(page, SAMPLES["page"] + b"2", "page")
    assert page.read_bytes().endswith(b"2") and page.stat().st_mode & 0o777 == 0o604

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UsageError, match="No space left on device"):
        replace_file(page, SAMPLES["page"] + b"3", "page")
    assert page.read_bytes().endswith(b"2") and os.listdir(tmp_path) == ["r.html"]
