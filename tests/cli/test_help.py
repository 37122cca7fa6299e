"""Help texts: they appear without loading the libraries that a run needs."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from stream_detector.cli.main import COMMANDS, whole_parser

HEAVY = {"av", "cv2", "matplotlib", "openvino", "ray", "torch"}


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_loads_no_heavy_library(command: str | None) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    code = f"""
import sys
from stream_detector.cli.main import main
try:
    main({arguments!r})
except SystemExit as leaving:
    print("exit code", leaving.code)
print("loaded", sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, code_line, loaded = done.stdout.strip().splitlines()
    assert text[0].startswith(f"usage: stream-detector {command or ''}".rstrip())
    assert (code_line, loaded) == ("exit code 0", "loaded []")


def test_every_command_has_one_summary_and_a_description_and_every_option_a_help() -> None:
    (listed,) = (a for a in whole_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert {a.dest: a.help for a in listed._choices_actions} == COMMANDS
    assert _without_help("", listed) == []
    for name, command in listed.choices.items():
        text = command.description or ""
        assert text[:1].isupper() and text.endswith("."), f"{name}: {text!r}"


def _without_help(path: str, parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> list[str]:
    found: list[str] = []
    for name, parser in parts.choices.items():
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += _without_help(f"{path}{name} ", action)
            elif not action.help:
                found.append(f"{path}{name} {action.dest}")
    return found
