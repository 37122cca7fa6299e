"""Temporary names of files that are being written, and what happens to those that a dead process left.

A file is written as `.NAME.PID.part.SUFFIX` in its folder. The video of a killed process holds complete fragments: it
is cut after the last one and renamed, so that the path in the event is valid.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

_PART = re.compile(r"\.(.+)\.(\d+)\.part(\.(?:mp4|webm|jpg))")
_ABANDONED_S = 3600.0  # on systems that cannot tell whether a process runs: a temporary file this old is abandoned
_being_written: set[Path] = set()  # temporary names of this process; each change is one atomic operation


def part_name(path: Path) -> Path:
    """Return the temporary name of a file that this process writes."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


def new_part(path: Path) -> Path:
    """Create an empty temporary file for `path`, and its folder. Raises OSError with the reason."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_name(path)
    _being_written.add(part)
    try:
        part.write_bytes(b"")
    except OSError:
        _being_written.discard(part)
        raise
    return part


def finish_part(part: Path, path: Path) -> None:
    """Rename a complete file to its final name. Raises OSError."""
    os.replace(part, path)
    _being_written.discard(part)


def forget_part(part: Path) -> None:
    """Delete a temporary file. Never raises."""
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)
    _being_written.discard(part)


def rescue_parts(directory: Path) -> list[Path]:
    """Handle the temporary files of processes that have ended, in directory/*/; return the rescued videos.

    Raises OSError.
    """
    rescued = []
    for part in directory.glob("*/.*.part.*"):
        match = _PART.fullmatch(part.name)
        if match is None or _in_use(part, int(match[2])):
            continue
        path = part.with_name(match[1] + match[3])
        whole = whole_fragments(part) if match[3] == ".mp4" and not path.exists() else 0
        if whole:
            os.truncate(part, whole)
            os.replace(part, path)
            rescued.append(path)
        else:
            part.unlink(missing_ok=True)
    return rescued


def whole_fragments(path: Path) -> int:
    """Return the bytes of a fragmented MP4 file up to the end of its last complete fragment; 0 without one. Raises
    OSError.
    """
    size = path.stat().st_size
    whole = 0
    started = False  # a fragment's index (moof) was read; its data (mdat) follows
    with path.open("rb") as file:
        at = 0
        while at + 16 <= size:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8 or at + length > size:
                break
            at += length
            if kind == b"mdat" and started:
                whole = at
            started = kind == b"moof" or (started and kind != b"mdat")
    return whole


def _in_use(path: Path, pid: int) -> bool:
    if os.name != "posix":  # there, os.kill would end the process instead of asking for it
        return time.time() - path.stat().st_mtime < _ABANDONED_S
    if pid == os.getpid():  # or an earlier process with the same number, as in containers
        return path in _being_written
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
