"""The first module of a process: it sets up signals and standard streams before any large library is imported."""

from __future__ import annotations

from stream_detector.system import signals, stdio


def entry(first: str | None = None) -> None:
    """Run the command line as a process; does not return. first: a command put before the arguments (run_stream.py)."""
    stdio.mend_descriptors()
    signals.install()
    stdio.mend_streams()
    from stream_detector.cli import main

    main.leave(first)
