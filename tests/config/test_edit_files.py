"""The file that settings are written into: links, modes and owners stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stream_detector.config import load_config
from stream_detector.config.edit import write_camera_settings
from stream_detector.errors import ConfigError

TEXT = "# mine\n[cameras.gate]\nsource = 'rtsp://10.0.0.7/live'  # the gate\nthreshold = 0.5\n"


def threshold(path: Path) -> float | None:
    return load_config(path).cameras[0].threshold


def test_a_link_stays_and_its_file_changes(tmp_path: Path) -> None:
    real = tmp_path / "repo" / "cameras.toml"
    real.parent.mkdir()
    real.write_text(TEXT)
    real.chmod(0o640)
    link = tmp_path / "etc.toml"
    link.symlink_to("repo/cameras.toml")
    write_camera_settings(link, "gate", {"threshold": 0.7})
    assert link.is_symlink() and threshold(real) == threshold(link) == 0.7
    assert real.stat().st_mode & 0o777 == 0o640 and "# the gate" in real.read_text()
    assert sorted(path.name for path in tmp_path.rglob("*.toml")) == ["cameras.toml", "etc.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_stays(tmp_path: Path) -> None:
    path = tmp_path / "cameras.toml"
    path.write_text(TEXT)
    os.chown(path, 65534, 65534)
    write_camera_settings(path, "gate", {"threshold": 0.7})
    found = path.stat()
    assert (found.st_uid, found.st_gid) == (65534, 65534) and threshold(path) == 0.7


def test_a_value_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cameras.toml"
    path.write_text(TEXT)
    with pytest.raises(ConfigError):
        write_camera_settings(path, "gate", {"threshold": 7})
    assert path.read_text() == TEXT and [entry.name for entry in tmp_path.iterdir()] == ["cameras.toml"]
