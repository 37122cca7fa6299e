"""Opens files that a user named: never waits, never reads without a bound, never shows an address.

Every error is one sentence with what the file was for. A name with `://` in it is an address that was given where a
path belongs; it may hold a password, so no sentence shows it, and nothing is opened or created by that name.
"""

from __future__ import annotations

import os
import re
import select
import stat
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from stream_detector.errors import StreamDetectorError, UsageError

MOST_BYTES = 1 << 20
_PIPE_S = 10.0
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # one slash: a Path folds two into one
_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def is_address(text: object) -> bool:
    """Whether a text is an address, or was meant to be one, and not a path."""
    return _ADDRESS.search(str(text)) is not None


def check_path(path: str | os.PathLike[str], what: str, error: type[StreamDetectorError] = UsageError) -> None:
    """Raise `error` if an address stands where a path belongs. what: for instance "--events"."""
    if is_address(os.fspath(path)):
        raise error(f"{what} is an address; give the path of a file or folder")


def kind_of(mode: int) -> str:
    """What something is that is not a regular file; "" for a regular file. mode: of `os.stat`."""
    return next((name for test, name in _KINDS if test(mode)), "" if stat.S_ISREG(mode) else "special file")


def check_regular(path: Path, what: str, error: type[StreamDetectorError] = UsageError) -> None:
    """Raise `error` if `path` is an address, or exists and is not a regular file. Links are followed."""
    check_path(path, what, error)
    try:
        kind = kind_of(path.stat().st_mode)
    except (OSError, ValueError):
        return  # whoever opens it says so
    if kind:
        raise error(f"{what} {str(path)!r} is a {kind}; give the name of a regular file")


def open_named(path: Path, what: str, error: type[StreamDetectorError] = UsageError) -> BinaryIO:
    """Open a regular file for reading. what: for instance "the table of scores".

    Raises FileNotFoundError where there is none, and `error` for everything else that keeps it from being read.
    """
    file, kind = _open(path, what, error)
    if kind:
        file.close()
        raise error(f"{what} {str(path)!r} is a {kind}; give the name of a regular file")
    return file


def read_named(
    path: Path,
    what: str,
    error: type[StreamDetectorError] = UsageError,
    *,
    most_bytes: int = MOST_BYTES,
    pipes: bool = False,
) -> bytes:
    """Read a whole file. pipes: whether it may be a pipe (`<(command)`, /dev/stdin).

    Raises as `open_named`, and `error` for a file of more than `most_bytes` and for a pipe that gives nothing.
    """
    file, kind = _open(path, what, error)
    with file:
        if kind and not (pipes and kind == "FIFO"):
            raise error(f"{what} {str(path)!r} is a {kind}; give the name of a regular file")
        try:
            data = _drain(file, most_bytes + 1) if kind else file.read(most_bytes + 1)
        except TimeoutError:
            raise error(f"{what} {str(path)!r} is a pipe that gave nothing for {_PIPE_S:g} s; give a file") from None
        except OSError as problem:
            raise error(f"{what} {str(path)!r} cannot be read ({problem.strerror}); give another") from None
    if len(data) > most_bytes:
        raise error(f"{what} {str(path)!r} has more than {most_bytes} bytes; give another")
    return data


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file: after a kill it holds the old content or the new. Raises OSError.

    It is written beside first, under a name that nothing else has.
    """
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _open(path: Path, what: str, error: type[StreamDetectorError]) -> tuple[BinaryIO, str]:
    check_path(path, what, error)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{what} {str(path)!r} cannot be read ({reason}); give another") from None
    kind = kind_of(os.fstat(descriptor).st_mode)
    if kind == "folder":
        os.close(descriptor)
        raise error(f"{what} {str(path)!r} is a folder; give the name of a regular file")
    return os.fdopen(descriptor, "rb", buffering=0 if kind else -1), kind


def _drain(pipe: BinaryIO, most_bytes: int) -> bytes:
    """Read a pipe to its end, or so much of it. Raises TimeoutError."""
    parts, length, until_s = [], 0, time.monotonic() + _PIPE_S
    while length < most_bytes:
        left_s = until_s - time.monotonic()
        if left_s <= 0 or not select.select((pipe,), (), (), left_s)[0]:
            raise TimeoutError
        part = pipe.read(min(65536, most_bytes - length))
        if part is None:
            continue
        if not part:
            break
        parts.append(part)
        length += len(part)
    return b"".join(parts)
