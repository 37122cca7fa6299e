"""The command line. Exit codes: 0 done, 1 ran and failed, 2 usage or bad input; errors are one sentence on stderr.

Every command lives in `commands/<name>.py` with `add_parser(subparsers)` and `main(args) -> int`; it is imported only
when it is called for, so that `subscribe` starts without loading a network.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from stream_detector import __version__
from stream_detector.arguments import Parser
from stream_detector.errors import StreamDetectorError
from stream_detector.memory import keep_flat

COMMANDS = {
    "run": "watch cameras and recordings, publish alarms",
    "cluster": "the same as run, on many machines, by Ray",
    "score": "score recordings into a table, as fast as it goes",
    "subscribe": "print events as they come",
    "calibrate": "choose a threshold from your own normal footage",
    "models": "list, show, add, fetch and verify models",
    "report": "one HTML page from scores and events",
    "doctor": "what is installed, and what will be used and why",
    "keys": "make CURVE keys for encrypted subscribers",
}


def build_parser(command: str | None = None) -> Parser:
    """The parser; only the named command's own options are loaded, the others are listed by name."""
    parser = Parser(
        prog="stream-detector",
        description="Watches live cameras and recorded footage and raises an alarm when something abnormal happens.",
        epilog="COMMAND --help tells more. Exit codes: 0 done, 1 ran and failed, 2 usage or bad input. An error is one "
        "sentence; --debug shows where it came from.",
    )
    parser.add_argument("--version", action="version", version=f"stream-detector {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name == command:
            importlib.import_module(f"stream_detector.commands.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (usage errors of argparse leave by SystemExit(2))."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), None)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        args = build_parser(command).parse_args(arguments)
        args.debug = debug
        module = importlib.import_module(f"stream_detector.commands.{args.command}")
        return int(module.main(args))
    except StreamDetectorError as error:
        if debug:
            traceback.print_exception(error)  # without the values of variables
        print(f"stream-detector: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output went away (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 0


def entry() -> None:
    """`main` as a process: leaves at once, because unloading the inference libraries takes seconds, and because a
    capture thread that is stuck in a dead camera's read must not hold the exit up. Everything is closed by then."""
    keep_flat()
    try:
        code = main()
    except SystemExit as leaving:  # argparse: --help, usage errors
        code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 2
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    entry()
