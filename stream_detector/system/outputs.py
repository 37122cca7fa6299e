"""Protects files: output never replaces an input, nor a file that is not a former output of the same kind.

The content of a file decides, through symbolic links; names and extensions do not count. Empty files and character
devices (/dev/null) may be written. Scores of a former run are kept under another name: `scores.csv` becomes
`scores.1.csv`, the next one `scores.2.csv`, and so on.

    kind      recognised by
    ────────  ────────────────────────────────────────────
    scores    the header line of scores.csv
    events    a first line with a schema of this program
    page      the generator in the head of a report
    plot      the software in a PNG
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from stream_detector.errors import UsageError
from stream_detector.system.user_files import check_path

Kind = Literal["scores", "events", "page", "plot"]

SCORE_COLUMNS = (
    "source",
    "camera",
    "window",
    "start_frame",
    "end_frame",
    "start_s",
    "end_s",
    "raw",
    "smoothed",
    "degraded",
)
SOFTWARE = "stream-detector"
_HEADER = ",".join(SCORE_COLUMNS).encode()
_HEAD_BYTES = 2048
_BEGINNINGS: dict[Kind, re.Pattern[bytes]] = {
    "scores": re.compile(re.escape(_HEADER) + rb"\r?\n"),
    "events": re.compile(rb'\{\s*"schema":\s*"stream-detector\.'),
    # The second form belongs to reports of earlier versions.
    "page": re.compile(
        rb'<!doctype html>.{0,200}?(name="generator" content="stream-detector"'
        rb'|http-equiv="Content-Security-Policy" content="default-src &#(x27|39);none)',
        re.DOTALL | re.IGNORECASE,
    ),
    "plot": re.compile(rb"\x89PNG\r\n\x1a\n.{0,1024}?tEXtSoftware\x00stream-detector", re.DOTALL),
}
# the beginning that a kill may leave
_TORN: dict[Kind, bytes] = {"scores": _HEADER, "events": b'{"schema":"stream-detector.'}
_NAMES: dict[Kind, str] = {"scores": "table of scores", "events": "event file", "page": "report", "plot": "plot"}


def check_free(path: Path, kind: Kind) -> None:
    """Raise UsageError unless `path` is free: no file, an empty file, a character device, or an output of this kind."""
    check_path(path, f"the {_NAMES[kind]}")
    if str(path) == "-":
        raise UsageError(f"the {_NAMES[kind]} cannot go to standard output; give the name of a file")
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _unwritable(path, kind, error) from None
    if stat.S_ISCHR(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{str(path)!r} is not a file; give the name of a file for the {_NAMES[kind]}")
    try:
        with path.open("rb") as file:
            beginning = file.read(_HEAD_BYTES)
    except OSError as error:
        raise _unwritable(path, kind, error) from None
    torn = _TORN.get(kind, b"").startswith(beginning)
    if not torn and not _BEGINNINGS[kind].match(beginning):
        raise UsageError(
            f"{str(path)!r} is no {_NAMES[kind]} of this program and stays unchanged; give another name for the "
            f"{_NAMES[kind]}"
        )


def check_apart(outputs: Mapping[str, Path | None], inputs: Iterable[Path] = ()) -> None:
    """Raise UsageError if two outputs are one file, or an output is an input; links of both kinds are followed.

    outputs: by option name, for instance "--scores".
    """
    taken: dict[object, str] = {}
    for path in inputs:
        for identity in _identities(path):
            taken.setdefault(identity, f"the input {str(path)!r}")
    for name, output in outputs.items():
        if output is None or _is_device(output):
            continue
        identities = _identities(output)
        other = next((taken[identity] for identity in identities if identity in taken), None)
        if other is not None:
            raise UsageError(f"{name} {str(output)!r} is the same file as {other}; give another name")
        taken |= dict.fromkeys(identities, name)


def rename_former(path: Path, kind: Kind) -> Path | None:
    """Rename a former output to the next free number; return its new name, or None if there was none.

    A table with only a header is not kept. Raises UsageError, also if `path` is not free.
    """
    check_free(path, kind)
    try:
        path = path.resolve()  # the real file: a link stays, and points to the new file
        if _is_device(path) or not path.exists() or path.stat().st_size <= len(_HEADER) + 2:
            return None
        pattern = re.compile(re.escape(path.stem) + r"\.(\d{1,9})" + re.escape(path.suffix))
        numbers = [int(found[1]) for name in os.listdir(path.parent) if (found := pattern.fullmatch(name))]
        kept = path.with_name(f"{path.stem}.{max(numbers, default=0) + 1}{path.suffix}")
        path.rename(kept)
    except OSError as error:
        raise _unwritable(path, kind, error) from None
    return kept


def replace_file(path: Path, content: bytes, kind: Kind) -> None:
    """Replace the content of `path` atomically: after a kill or on a full disk it holds the old content or the new.

    Raises UsageError.
    """
    check_free(path, kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_device(path):
            path.write_bytes(content)
            return
        path = path.resolve()
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        descriptor, aside = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.chmod(aside, mode)
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
    except (OSError, ValueError) as error:
        raise _unwritable(path, kind, error) from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _identities(path: Path) -> list[object]:
    """Return values that all names of one file share: the file's identity, or its future path."""
    found: list[object] = [os.path.realpath(path)]
    with contextlib.suppress(OSError, ValueError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            found.append((status.st_dev, status.st_ino))
    return found


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISCHR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _unwritable(path: Path, kind: Kind, error: Exception) -> UsageError:
    reason = getattr(error, "strerror", None) or error
    return UsageError(f"the {_NAMES[kind]} {str(path)!r} cannot be written ({reason}); give another name")
