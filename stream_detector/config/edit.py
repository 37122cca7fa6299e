"""Changes the settings of one camera in a configuration file and keeps everything else as written."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array, InlineTable, Table

from stream_detector.config import load_config
from stream_detector.errors import ConfigError
from stream_detector.system.user_files import read_named

BYTE_ORDER_MARK = "\ufeff"  # Windows editors begin a file with it


def set_camera(text: str, camera: str, settings: Mapping[str, Any]) -> str:
    """Return `text` with `settings` in the camera's table; comments and layout stay.

    settings: key → number, text, list, flat table, or list of flat tables; None takes the key out. Raises ConfigError
    if the text is not valid TOML, does not name the camera, or is laid out so that the change cannot be made.
    """
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise ConfigError(f"the configuration file is not valid TOML ({error}); mend that line") from None
    table = _table_of(document, camera)
    if table is None:
        raise ConfigError(
            f"camera {camera!r} is not in the configuration file; add a table [cameras.{camera}] with its source first"
        )
    for key, value in settings.items():
        old = table.get(key)
        if value is None:
            table.pop(key, None)
        elif isinstance(value, list):
            table[key] = _array(value)
        elif isinstance(value, Mapping) and isinstance(old, Table):
            for name in [name for name in old if name not in value]:
                old.remove(name)
            for name, entry in value.items():
                old[name] = entry
        elif isinstance(value, Mapping):
            inline = tomlkit.inline_table()
            inline.update(value)
            table[key] = inline
        else:
            table[key] = value
    new = tomlkit.dumps(document)
    if _read_back(new, camera, settings) != {key: value for key, value in settings.items() if value is not None}:
        raise ConfigError(f"the layout of camera {camera!r} in the configuration file allows no change of it")
    return new


def _array(values: list[Any]) -> Array:
    """An array as a person would write it: rules one a line, points in one line."""
    array = tomlkit.array()
    for value in values:
        if isinstance(value, Mapping):
            inline = tomlkit.inline_table()
            inline.update(value)
            array.append(inline)
        else:
            array.append(value)
    return array.multiline(any(isinstance(value, Mapping) for value in values))


def _read_back(text: str, camera: str, keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a text says of these keys of a camera; None where it cannot be read."""
    try:
        cameras = tomllib.loads(text)["cameras"]
        entry = cameras[camera] if isinstance(cameras, dict) else next(c for c in cameras if c["name"] == camera)
    except (tomllib.TOMLDecodeError, KeyError, StopIteration):
        return None
    return {key: entry[key] for key in keys if key in entry}


def write_camera_settings(path: Path, camera: str, settings: Mapping[str, Any]) -> None:
    """Apply `set_camera` to a file. The new text is parsed and checked before it replaces the old file atomically.

    A link stays, and what it names is replaced. Mode and owner stay as they are.

    Raises ConfigError; the file is then unchanged.
    """
    by_hand = f"write it by hand into [cameras.{camera}]: {_written(settings)}"
    try:
        text = read_named(path, "configuration file", ConfigError).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path.name!r} cannot be read ({error}); {by_hand}") from None
    old = text.removeprefix(BYTE_ORDER_MARK)
    new = text[: len(text) - len(old)] + set_camera(old, camera, settings)
    try:
        with _part(path.parent, path.name, new) as part:
            load_config(part)
        place = path.resolve()  # a link stays a link
        before = place.stat()
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with _part(place.parent, place.name, new) as part:
            os.chmod(part, before.st_mode & 0o777)
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(part, before.st_uid, before.st_gid)
            os.replace(part, place)
    except OSError as error:
        raise ConfigError(f"configuration file {path.name!r} cannot be written ({error.strerror}); {by_hand}") from None


@contextlib.contextmanager
def _part(folder: Path, name: str, text: str) -> Iterator[Path]:
    """A file beside another one that holds a text, on the disk; removed at the end, unless it was renamed."""
    handle, part = tempfile.mkstemp(prefix=f".{name}.", suffix=".toml", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield Path(part)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def _table_of(document: tomlkit.TOMLDocument, camera: str) -> Any:
    """Return the camera's table; `gate = "rtsp://…"` below [cameras] becomes a table. None if the camera is not
    named.
    """
    cameras: Any = document.get("cameras")
    if isinstance(cameras, list):
        return next((entry for entry in cameras if entry.get("name") == camera), None)
    if not isinstance(cameras, Mapping) or camera not in cameras:
        return None
    entry = cameras[camera]
    if isinstance(entry, Mapping):
        return entry
    comment = entry.trivia.comment
    table: InlineTable = tomlkit.inline_table()
    table["source"] = entry
    cameras[camera] = table  # type: ignore[index]
    cameras[camera].trivia.comment = comment  # comments that the assignment drops
    return cameras[camera]


def _written(settings: Mapping[str, Any]) -> str:
    document = tomlkit.document()
    for key, value in settings.items():
        if isinstance(value, Mapping):
            inline = tomlkit.inline_table()
            inline.update(value)
            document[key] = inline
        elif isinstance(value, list):
            document[key] = _array(value).multiline(False)
        elif value is None:
            document.add(tomlkit.comment(f"without {key}"))
        else:
            document[key] = value
    return ", ".join(tomlkit.dumps(document).splitlines())
