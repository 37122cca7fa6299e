"""The commands of `python -m trainer`: each one can be asked for help, a former name gives the new one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.__main__ import COMMANDS, HELP, RENAMED, main


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = f"trainer.{COMMANDS[command]}"
    assert importlib.util.find_spec(module), f"{command}: there is no module {module}"
    if command == "audit":
        pytest.importorskip("scipy", reason="scipy is not installed (extra: train)")
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0 and f"trainer {command}" in capsys.readouterr().out


def test_the_help_lists_every_command_once() -> None:
    listed = [line.split()[0] for line in HELP.splitlines() if line.startswith("    ") and "python" not in line]
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_a_former_name_is_an_error_that_gives_the_new_one(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert old not in COMMANDS and RENAMED[old] in COMMANDS
    assert main([old, "--help"]) == 2
    error = capsys.readouterr().err.strip()
    assert repr(old) in error and repr(RENAMED[old]) in error and "\n" not in error


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not installed (extra: train)")
def test_train_uses_pytorch_and_needs_no_tensorflow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"{kind}{i:03}" for kind in ("Fight", "Normal") for i in range(6)]
    np.savez(tmp_path / "features.npz", features=rng.normal(size=(12, 8, 16)).astype(np.float32), names=names)
    words = ["train", str(tmp_path / "features.npz"), "--out", str(tmp_path / "head"), "--set", "steps=2"]
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"  # as if it were not installed
        "from trainer.__main__ import main\n"
        f"code = main({words!r})\n"
        "import keras; assert keras.backend.backend() == 'torch'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "head" / "head.safetensors").is_file()
