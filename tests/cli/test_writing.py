"""What the commands that write to a running detector have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_detector.cli.main import main


@pytest.mark.parametrize("option", ["--key", "--server-key"])
@pytest.mark.parametrize(
    "command", [["control", "--mode", "away"], ["reload"], ["verdict", "abcd", "false"], ["site", "rollback"]]
)
def test_one_key_without_the_other_is_refused(
    command: list[str], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, option, str(tmp_path / "a.key")]) == 2
    assert "--key and --server-key belong together" in capsys.readouterr().err
