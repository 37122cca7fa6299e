"""The first module of a process: signals and standard streams are taken care of before anything heavy is imported."""

from __future__ import annotations

from stream_detector.system import signals, stdio


def entry(first: str | None = None) -> None:
    """The command line as a process; does not return. first: a command put before the arguments (run_stream.py)."""
    stdio.mend_descriptors()
    signals.install()
    stdio.mend_streams()
    from stream_detector.cli import main

    main.leave(first)
