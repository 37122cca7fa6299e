"""`stream-detector completion bash|zsh`: print the shell's completion script, made from the parser itself.

stream-detector completion bash > ~/.local/share/bash-completion/completions/stream-detector
stream-detector completion zsh  > "${fpath[1]}/_stream-detector"
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from stream_detector.errors import MissingExtraError

SHELLS = ("bash", "zsh")
_FOLDERS = ("DIR", "FOLDER")


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "completion",
        help="print the completion script of a shell",
        description="Print the completion script of a shell. bash: write it to "
        "~/.local/share/bash-completion/completions/stream-detector. zsh: write it to a folder of $fpath, "
        "as _stream-detector.",
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell to complete in")


def main(args: argparse.Namespace) -> int:
    """Print the script."""
    print(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The completion script of "bash" or "zsh". Raises MissingExtraError without shtab."""
    from stream_detector.cli.main import whole_parser

    try:
        import shtab
    except ModuleNotFoundError:
        raise MissingExtraError("shell completion", "shtab", "completion") from None
    parser = whole_parser()
    _complete_paths(parser, shtab.FILE, shtab.DIRECTORY)
    return str(shtab.complete(parser, shell))


def _complete_paths(parser: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    """Options and arguments that are paths are completed as such; sources may be files too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _complete_paths(child, file, folder)
        elif action.type is pathlib.Path or "SOURCE" in str(action.metavar) or "VIDEO" in str(action.metavar):
            action.complete = folder if str(action.metavar) in _FOLDERS else file  # type: ignore[attr-defined]
