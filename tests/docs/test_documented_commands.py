"""Every command that the documentation shows is one that the program takes, with these options."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from benchmarks.__main__ import names
from stream_detector.cli.main import whole_parser

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("**/*.md")])
STARTS = ("stream-detector ", "python run_stream.py ", "python -m benchmarks ", "python -m stream_detector ")
END = re.compile(r"\s(?:\||>|<|&&|;|2>|&)(?:\s|$).*")


def shown(text: str) -> Iterator[str]:
    """Lines of code blocks, fenced or indented, and texts between backquotes, that begin like a command."""
    text = text.replace("\\\n", " ")
    yield from re.findall(r"^(?:    |\t)?\s*(?:\$ )?((?:stream-detector|python) .+)$", text, re.MULTILINE)
    yield from re.findall(r"`((?:stream-detector|python) [^`\n]+)`", text)


def commands() -> Iterator[tuple[Path, list[str]]]:
    """(page, words) of every command that is whole: without `…` for what is left out, and not in a sentence."""
    for page in PAGES:
        if "reference" in page.parts:  # generated from the parser
            continue
        for line in shown(page.read_text(encoding="utf-8")):
            line = END.sub("", re.sub(r"\s#.*", "", line)).strip()
            if not line.startswith(STARTS) or "…" in line or "..." in line or line.endswith((".", ",", ":")):
                continue
            with contextlib.suppress(ValueError):
                words = shlex.split(line)
                if not any(re.fullmatch(r"\S+\\?\|\S+|COMMAND|is|and|or|the|reads?", word) for word in words):
                    yield page, words


ALL = list(commands())
BENCHMARKS = {*names(), "NAME"}


def test_there_are_many() -> None:
    assert len(ALL) > 40 and len({page for page, _ in ALL}) > 8


def refusal(words: list[str], parser: argparse.ArgumentParser) -> str:
    """Why the program would not take a command; empty where it would. Arguments may be left out in a sentence."""
    if words[:3] == ["python", "-m", "benchmarks"]:
        return "" if words[3].replace("-", "_") in BENCHMARKS else "no such benchmark"
    arguments = words[1:] if words[0] == "stream-detector" else ["run", *words[2:]]
    if words[:3] == ["python", "-m", "stream_detector"]:
        arguments = words[3:]
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        try:
            parser.parse_args([each for each in arguments if each != "--debug"])
        except SystemExit as leaving:
            text = told.getvalue()
            return "" if leaving.code == 0 or "arguments are required" in text else text[-300:]
    return ""


def test_commands_are_taken() -> None:
    parser = whole_parser()
    refused = [(page.name, " ".join(words), why) for page, words in ALL if (why := refusal(words, parser))]
    assert refused == []


def test_a_wrong_command_is_found() -> None:
    parser = whole_parser()
    assert refusal(["stream-detector", "run", "--tresholds", "1"], parser)
    assert refusal(["stream-detector", "watch"], parser)
    assert refusal(["python", "-m", "benchmarks", "nothing"], parser)
