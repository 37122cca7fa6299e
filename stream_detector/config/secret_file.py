"""A secret in its own file: `source_file` and `password_file` of a camera.

The file holds one line. Its path may begin with `~` and contain `${NAME}` for an environment variable
(`${CREDENTIALS_DIRECTORY}/gate` under systemd). No message shows the path before the file is found: a user who writes
the password in place of the path must not read it in a log.
"""

from __future__ import annotations

import contextlib
import logging
import stat
from pathlib import Path
from typing import Any

from stream_detector.config.source import Source, expand
from stream_detector.errors import SourceError

log = logging.getLogger(__name__)

_MOST = 16_384  # bytes; no address is longer
_OTHERS_MAY = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP


def with_files(camera: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a camera with the content of its source_file and password_file in its source. Raises
    SourceError.
    """
    source, holder, password = (camera.get(key) for key in ("source", "source_file", "password_file"))
    who = f"camera {camera.get('name', '')}: "
    if holder is not None:
        if source is not None:
            raise SourceError("source and source_file exclude each other; leave one out")
        source = _only_line(read_secret(holder, "source_file", who))
    if password is not None:
        if not isinstance(source, str | Source):
            raise SourceError("password_file needs a source; add it, for instance rtsp://admin@10.0.0.7/live")
        secret = read_secret(password, "password_file", who)
        parsed = Source.parse(source) if isinstance(source, str) else source
        source = parsed.with_password(secret)
        main = camera.get("record_source")
        if isinstance(main, str):  # the same user, and so the same password
            with contextlib.suppress(SourceError):
                camera = {**camera, "record_source": Source.parse(main).with_password(secret)}
    return camera if source is None else {**camera, "source": source}


def _only_line(text: str) -> Source:
    try:
        return Source.parse(text, references=False)
    except SourceError as error:
        message = f"source_file: {error}"
    raise SourceError(message)


def read_secret(path: object, key: str, who: str = "") -> str:
    """Read the line in the file that `path` names. key: its name in messages.  who: the beginning of a warning.

    A file that others may read or write is used, with a warning in the log. Raises SourceError if the file is missing,
    unreadable, empty, or not one line of UTF-8 text.
    """
    if not isinstance(path, str | Path) or not str(path).strip():
        raise SourceError(f"{key} must be the path of a file")
    file = Path(expand(str(path)))
    problem = ""
    try:
        file = file.expanduser()
        if not file.is_file():
            raise SourceError(f"{key} names a file that does not exist; write it, or correct the path")
        mode = file.stat().st_mode
        with file.open("rb") as stream:
            content = stream.read(_MOST + 1)
    except (OSError, ValueError, RuntimeError) as error:  # the last error: '~' of an unknown user
        reason = error.strerror if isinstance(error, OSError) else "no path"
        problem = f"{key} names a file that cannot be read ({reason}); give the user read permission"
    if problem:
        raise SourceError(problem)
    if mode & _OTHERS_MAY:
        log.warning("%s%s %s may be read or changed by other users; run: chmod 600 %s", who, key, file, file)
    if len(content) > _MOST:
        raise SourceError(f"{key} names a file of more than {_MOST} bytes; write one line into it")
    try:
        text = content.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError:
        problem = f"{key} names a file that is not UTF-8 text; write one line of text into it"
    if problem:
        raise SourceError(problem)
    if not text.strip():
        raise SourceError(f"{key} names a file that is empty; write one line into it")
    if "\n" in text or "\r" in text:
        raise SourceError(f"{key} names a file with more than one line; leave only the first")
    return text
