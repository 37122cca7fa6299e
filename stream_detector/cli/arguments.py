"""The parser of the command line: argparse, whose errors do not repeat an address.

argparse quotes what it does not understand ("unrecognized arguments: …"). An address among that is replaced by its name
to show.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from stream_detector.config.source import Source
from stream_detector.errors import SourceError

_OPTION = re.compile(r"--[\w-]+")
_PLAIN = re.compile(r"-{0,2}[\w.-]+")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows no secret of its arguments; its subparsers are of the same class."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; the arguments are kept for `error`."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(_apart(self._given), namespace)

    def error(self, message: str) -> NoReturn:
        """Print usage and the message without secrets, exit with 2."""
        super().error(shown(message, self._given))


def _apart(arguments: Sequence[str]) -> list[str]:
    """`--option=a value` as two arguments. argparse takes one word that holds a space for a positional, a source here,
    so a slip in the option's name would become the name of a camera."""
    found: list[str] = []
    for place, word in enumerate(arguments):
        if word == "--":
            return [*found, *arguments[place:]]
        option, equals, value = word.partition("=")
        split = equals and " " in value and _OPTION.fullmatch(option)
        found += [option, value] if split else [word]
    return found


def shown(message: str, arguments: Sequence[str]) -> str:
    """`message`, in which arguments may be quoted, without the secrets of any."""
    words = {part for word in arguments for part in (word, word.partition("=")[2]) if part}
    for word in sorted(words, key=len, reverse=True):
        if word.strip() and not _PLAIN.fullmatch(word):
            for form in (repr(word), word):
                message = message.replace(form, _name(word))
    return message


def _name(word: str) -> str:
    """What may be shown of an argument."""
    option, equals, text = word.partition("=")
    if not equals or not re.fullmatch(r"-{0,2}[\w-]+", option):
        option = equals = ""
        text = word
    try:
        return f"{option}{equals}{Source.parse(text).shown}"
    except SourceError:
        return "(an argument that is not shown)"
