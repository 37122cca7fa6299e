"""Folders that are replaced as a whole: a kill at any moment leaves the older one or the new one readable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stream_detector.models import folders
from stream_detector.models.folders import current_folder, replace_folder


class Killed(BaseException):
    """Stands for the end of the process."""


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("calls", range(6))
def test_a_kill_between_two_calls_of_the_system_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    target = folder(tmp_path / "bundle", "old")
    folder(tmp_path / ".bundle.former", "older")  # left by an earlier kill
    new = folder(tmp_path / "new", "new")
    left = [calls]

    def counted(function):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(folders.os, "replace", counted(os.replace))
    monkeypatch.setattr(folders.shutil, "rmtree", counted(folders.shutil.rmtree))
    try:
        replace_folder(new, target)
        killed = False
    except Killed:
        killed = True
    assert killed == (calls < 4)
    assert (current_folder(target) / "file").read_text() == ("old" if calls < 3 else "new")


def test_a_failed_replacement_brings_the_older_folder_back(tmp_path: Path) -> None:
    target = folder(tmp_path / "bundle", "old")
    with pytest.raises(OSError):
        replace_folder(tmp_path / "missing", target)
    assert (target / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
