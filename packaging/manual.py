"""Writes docs/man/stream-detector.1 from the parser: `python packaging/manual.py`. The wheel holds it as share/man."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ["COLUMNS"] = "100"
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from stream_detector import __version__  # noqa: E402
from stream_detector.cli.main import whole_parser  # noqa: E402

FILES = """\
.TP
.I cameras.toml
Cameras and settings, given with
.BR \\-\\-config .
.TP
.I runs/
Journal, evidence and, for the demo, events and scores, unless the configuration names other places.
"""
STATUS = """\
.TP
.B 0
done
.TP
.B 1
ran and failed
.TP
.B 2
usage or bad input
.TP
.B 130, 143
interrupted by SIGINT or SIGTERM
.TP
.B 141
the reader of standard output went away
"""


def escaped(text: str) -> str:
    """A text for roff."""
    text = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
    return "\\&" + text if text.startswith((".", "'")) else text


def arguments(parser: argparse.ArgumentParser) -> list[str]:
    """A paragraph for each argument and option."""
    lines = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
            continue
        metavar = action.metavar if isinstance(action.metavar, str) else None
        value = metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
        takes = action.nargs != 0
        if action.option_strings:
            head = ", ".join(f"\\fB{escaped(option)}\\fR" for option in action.option_strings)
            head += f" \\fI{escaped(value)}\\fR" if takes else ""
        else:
            head = f"\\fI{escaped(value)}\\fR"
        text = (action.help or "") % (vars(action) | {"prog": parser.prog})
        lines += [".TP", head, escaped(text)]
    return lines


def commands(parser: argparse.ArgumentParser, title: str = "") -> list[str]:
    """A section for each command, and for each action of a command."""
    lines = []
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for name, child in action.choices.items():
            whole = f"{title} {name}".strip()
            lines += [f'.SS "stream\\-detector {escaped(whole)}"', escaped(child.description or "")]
            lines += [*arguments(child), *commands(child, whole)]
    return lines


def page() -> str:
    """The manual page."""
    parser = whole_parser()
    lines = [
        f'.TH STREAM\\-DETECTOR 1 "" "stream\\-detector {__version__}" "User Commands"',
        ".SH NAME",
        "stream\\-detector \\- watch cameras and recordings, and raise an alarm when something abnormal happens",
        ".SH SYNOPSIS",
        ".B stream\\-detector",
        "\\fICOMMAND\\fR [\\fIOPTION\\fR...] [\\fIARGUMENT\\fR...]",
        ".SH DESCRIPTION",
        escaped(parser.description or ""),
        ".SH OPTIONS",
        *arguments(parser),
        ".TP",
        "\\fB\\-\\-debug\\fR",
        "show where an error came from",
        ".SH COMMANDS",
        *commands(parser),
        ".SH FILES",
        FILES.rstrip(),
        '.SH "EXIT STATUS"',
        STATUS.rstrip(),
    ]
    return "\n".join(line for line in lines if line) + "\n"


if __name__ == "__main__":
    target = ROOT / "docs" / "man" / "stream-detector.1"
    target.parent.mkdir(exist_ok=True)
    target.write_text(page(), encoding="utf-8")
    print(f"wrote {target.relative_to(ROOT)}")
