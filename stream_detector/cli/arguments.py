"""The parser of the command line: argparse with error messages that do not repeat an address.

argparse quotes arguments that it does not understand ("unrecognized arguments: …"). This parser replaces a quoted
address by its public form.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from stream_detector.config.source import Source
from stream_detector.errors import SourceError
from stream_detector.system.user_files import is_address

_OPTION = re.compile(r"--[\w-]+")
_PLAIN = re.compile(r"-{0,2}[\w.-]+")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows no secret of its arguments; its subparsers are of the same class."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse like argparse; keep the arguments for `error`."""
        self._given = list(sys.argv[1:] if args is None else args)
        parsed, rest = super().parse_known_args(_apart(self._given), namespace)
        for name, value in vars(parsed).items():
            entries = value if isinstance(value, list) else [value]
            if any(isinstance(entry, Path) and is_address(entry) for entry in entries):
                self.error(f"--{name.replace('_', '-')} is an address; give the path of a file or folder")
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message without secrets; exit with 2."""
        super().error(shown(message, self._given))


def _apart(arguments: Sequence[str]) -> list[str]:
    """Split `--option=a value` into two arguments.

    argparse takes a word with a space for a positional argument, here a source. A typing error in an option's name
    would then become the name of a camera.
    """
    found: list[str] = []
    for place, word in enumerate(arguments):
        if word == "--":
            return [*found, *arguments[place:]]
        option, equals, value = word.partition("=")
        split = equals and " " in value and _OPTION.fullmatch(option)
        found += [option, value] if split else [word]
    return found


def shown(message: str, arguments: Sequence[str]) -> str:
    """Return `message`, which may quote arguments, without their secrets."""
    words = {part for word in arguments for part in (word, word.partition("=")[2]) if part}
    for word in sorted(words, key=len, reverse=True):
        if word.strip() and not _PLAIN.fullmatch(word):
            for form in (repr(word), word):
                message = message.replace(form, _name(word))
    return message


def _name(word: str) -> str:
    """Return the public form of an argument."""
    option, equals, text = word.partition("=")
    if not equals or not re.fullmatch(r"-{0,2}[\w-]+", option):
        option = equals = ""
        text = word
    try:
        return f"{option}{equals}{Source.parse(text).shown}"
    except SourceError:
        return "(an argument that is not shown)"
