"""Temporary names of files that are being written, and what to do with those that a dead process left behind.

A file is written as `.NAME.PID.part.SUFFIX` beside its place. What a killed process left of a video holds whole
fragments: it is cut behind the last one and gets its real name, so that the event that names it finds it.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

_PART = re.compile(r"\.(.+)\.(\d+)\.part(\.(?:mp4|webm|jpg))")
_ABANDONED_S = 3600.0  # where one cannot ask for a process: a temporary file this old is nobody's
_being_written: set[Path] = set()  # temporary names of this process; the set is changed by one operation at a time


def part_name(path: Path) -> Path:
    """The temporary name of a file that this process writes."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


def new_part(path: Path) -> Path:
    """An empty temporary file for `path`, whose folder is made. Raises OSError, which says why it cannot be written."""
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
    """Give a complete file its name. Raises OSError."""
    os.replace(part, path)
    _being_written.discard(part)


def forget_part(part: Path) -> None:
    """Delete a temporary file. Never raises."""
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)
    _being_written.discard(part)


def rescue_parts(directory: Path) -> list[Path]:
    """Deal with the temporary files of processes that are no more, in directory/*/; returns the videos rescued.

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
    """Bytes of a fragmented MP4 file up to the end of its last whole fragment; 0 without one. Raises OSError."""
    size = path.stat().st_size
    whole = 0
    started = False  # a fragment's index (moof) was read; its data (mdat) follow
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
    if pid == os.getpid():  # or an earlier process of the same number, as in containers
        return path in _being_written
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
