"""The first module of a process: it sets up signals and standard streams before any large library is imported."""

from __future__ import annotations

from stream_detector.system import descriptors, signals


def entry(first: str | None = None) -> None:
    """Run the command line as a process; does not return. first: a command put before the arguments (run_stream.py)."""
    descriptors.mend_descriptors()
    signals.install()  # before any other import
    import os

    os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")  # its lines about absent USB cameras; the run tells of them
    from stream_detector.system import stdio

    stdio.mend_streams()
    from stream_detector.cli import main

    main.leave(first)
