"""The command line.

Exit codes: 0 done, 1 ran and failed, 2 usage or bad input, 130 or 143 (128 + signal) interrupted, 141 the reader of
standard output closed it. An error is one sentence on standard error.

Every command is a module `cli/<name>.py` with `add_parser(subparsers)` and `main(args) -> int`. Only the module of the
requested command is imported, so that `subscribe` starts without loading a network.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Collection, Sequence

from stream_detector import __version__
from stream_detector.cli.arguments import Parser
from stream_detector.errors import OutputError, StreamDetectorError
from stream_detector.system import signals
from stream_detector.system.malloc import configure_malloc

_BAD_NAMES = (errno.ENAMETOOLONG, errno.ELOOP)  # the user wrote this name, wherever it was used
COMMANDS = {
    "run": "watch cameras and recordings, publish alarms",
    "demo": "watch the rendered demo",
    "cluster": "run on the machines of a Ray cluster",
    "score": "score recordings as fast as possible, write a table",
    "subscribe": "print the events of a running detector",
    "verdict": "record whether an alarm was true, false, benign; or a missed incident",
    "control": "set the mode, mute alarms, or change a threshold of a running detector",
    "reload": "make a running detector read its configuration again",
    "bridge": "deliver alarms to a webhook, MQTT, people or a program",
    "adapt": "fit an overlay to the memory of a site, and test it in the gate",
    "site": "show the memory of a site and its model in service; promote, roll back",
    "calibrate": "choose a threshold from footage in which nothing happens",
    "models": "list, show, add, fetch and verify models",
    "report": "make an HTML page from scores and events",
    "probe": "measure what a camera sends and what reading it costs",
    "doctor": "check the installation and show what a run would use",
    "keys": "make CURVE keys for encrypted subscribers",
    "init": "write a first cameras.toml, step by step, and try it",
    "completion": "print the completion script of a shell",
}


def build_parser(command: str | None = None) -> Parser:
    """Build the parser; only the options of the named command are loaded, the other commands are only listed."""
    return _parser(() if command is None else (command,))


def whole_parser() -> Parser:
    """Build the parser with the options of every command, for completion and for the manual page."""
    return _parser(COMMANDS)


def _parser(loaded: Collection[str]) -> Parser:
    parser = Parser(
        prog="stream-detector",
        description="Watches live cameras and recorded footage and raises an alarm when something abnormal happens.",
        epilog="COMMAND --help shows its options. Exit codes: 0 done, 1 ran and failed, 2 usage or bad input, "
        "130 or 143 interrupted. An error is one sentence; --debug shows where it came from.",
    )
    parser.add_argument("--version", action="version", version=f"stream-detector {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name in loaded:
            importlib.import_module(f"stream_detector.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code. Usage errors of argparse raise SystemExit(2)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if not word.startswith("-")), None)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        args = build_parser(command).parse_args(arguments)
        args.debug = debug
        module = importlib.import_module(f"stream_detector.cli.{args.command}")
        with signals.phase("command"):
            return int(module.main(args))
    except OutputError as error:
        return _print_error(error) if error.gone else _print_error(error, str(error))
    except BrokenPipeError:  # the same, if standard output is not the one that `stdio` wraps
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OutputError("", gone=True).exit_code
    except StreamDetectorError as error:
        if debug:
            traceback.print_exception(error)  # without the values of variables
        return _print_error(error, str(error))
    except signals.Interrupted as error:
        return _print_error(error, "interrupted")
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        place = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        advice = "" if isinstance(error, OSError) else "; --debug shows where it came from"
        print(f"stream-detector: {reason + place}{advice}", file=sys.stderr)
        return 2 if isinstance(error, OSError) and error.errno in _BAD_NAMES else 1


def _print_error(error: StreamDetectorError | signals.Interrupted, sentence: str = "") -> int:
    if sentence:
        print(f"stream-detector: {sentence}", file=sys.stderr)
    return error.exit_code


def leave(first: str | None = None) -> None:
    """Run `main` and end the process.

    The process ends without cleaning up, because unloading the inference libraries takes seconds and a capture thread
    that is stuck in a dead camera's read must not delay the exit. By then everything is closed.

    first: a command that is put before the arguments of the process.
    """
    configure_malloc()
    try:
        code = main(sys.argv[1:] if first is None else [first, *sys.argv[1:]])
    except SystemExit as leaving:  # argparse: --help, usage errors
        code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 2
    try:
        sys.stdout.flush()
    except OutputError as error:
        code = code or _print_error(error, "" if error.gone else str(error))
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(signals.final_code(code))
