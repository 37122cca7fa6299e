"""Completion scripts, the manual page and the demo command: made from the parser, complete."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_detector.cli import demo, run
from stream_detector.cli.main import COMMANDS, main, whole_parser

MANUAL = Path(__file__).parents[2] / "docs" / "man" / "stream-detector.1"
needs_shtab = pytest.mark.skipif(importlib.util.find_spec("shtab") is None, reason="shtab is not installed")


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every long option of a parser and of its commands."""
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        yield from (option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from options(child)


def test_the_whole_parser_has_every_command_with_its_options() -> None:
    (commands,) = (a for a in whole_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert list(commands.choices) == list(COMMANDS)
    assert len(set(options(whole_parser()))) > 60


@needs_shtab
@pytest.mark.parametrize(("shell", "check"), [("bash", ["-n"]), ("zsh", ["-n"])])
def test_a_completion_script_names_every_option_and_is_valid(
    shell: str, check: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert [option for option in set(options(whole_parser())) if option not in text] == []
    assert [command for command in COMMANDS if command not in text] == []
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(text, encoding="utf-8")
    assert subprocess.run([shell, *check, str(script)], capture_output=True, timeout=60).returncode == 0


@needs_shtab
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["stream-detector", "sco"], "score"),
        (["stream-detector", "run", "--prec"], "--precision"),
        (["stream-detector", "run", "--log-format", "j"], "json"),
    ],
)
def test_bash_completes(words: list[str], wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    quoted = " ".join(words)
    ask = (
        f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        "function=$(complete -p stream-detector | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); "
        f'"$function" stream-detector {words[-1]} {words[-2]}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60)
    assert wanted in done.stdout.split(), done.stderr


def test_the_manual_page_names_every_command_and_option() -> None:
    text = MANUAL.read_text(encoding="utf-8").replace("\\-", "-")
    assert text.startswith(".TH")
    assert [command for command in COMMANDS if not re.search(rf"\b{command}\b", text)] == []
    assert [option for option in set(options(whole_parser())) if option not in text] == [], "run packaging/manual.py"


def test_the_demo_is_a_run_of_the_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr(run, "main", lambda args: seen.append(args) or 0)
    assert main(["demo", "--pace", "max"]) == 0 and main(["demo", "--run-dir", "elsewhere"]) == 0
    assert [args.sources for args in seen] == [["demo"], ["demo"]]
    assert [args.run_dir for args in seen] == [demo.FOLDER, Path("elsewhere")]
    (demo_parser,) = (a.choices["demo"] for a in whole_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert "SOURCE" not in demo_parser.format_usage()
    (run_parser,) = (a.choices["run"] for a in whole_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert set(options(run_parser)) == set(options(demo_parser))
    assert main(["demo", "clip.mp4"]) == 2 and len(seen) == 2
    assert "takes no sources" in capsys.readouterr().err
