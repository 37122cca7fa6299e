"""Change a few values of one camera in a TOML text and leave everything else as its author wrote it.

Lines are edited, then the whole is parsed again and compared with what it should now say: a layout that this does not
understand is refused, never spoilt.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from typing import Any

from stream_detector.errors import ConfigError

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\],=]+?)\s*\]\]?\s*(?:#.*)?")
Values = dict[str, Any]


def set_camera(text: str, camera: str, changes: Values) -> str:
    """`text` with `changes` (key → number, text or flat table) in the camera's section. Raises ConfigError."""
    by_hand = f"write it by hand: [cameras.{camera}] {_by_hand(changes)}"
    try:
        wanted = copy.deepcopy(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the configuration file is not valid TOML ({error}); mend that line") from None
    if not _change(wanted, camera, changes):
        raise ConfigError(f"camera {camera!r} is not in the configuration file; add it there first, or {by_hand}")
    lines = text.splitlines(keepends=True)
    _edit(lines, camera, changes)
    new = "".join(lines)
    try:
        if tomllib.loads(new) == wanted:
            return new
    except tomllib.TOMLDecodeError:
        pass
    raise ConfigError(f"the layout of the configuration file is too unusual to be edited safely; {by_hand}")


def _by_hand(changes: Values) -> str:
    return ", ".join(f"{key} = {_value(value)}" for key, value in changes.items())


def _change(config: Values, camera: str, changes: Values) -> bool:
    cameras = config.get("cameras", {})
    if isinstance(cameras, dict) and camera in cameras:
        entry = cameras[camera]
        cameras[camera] = {**(entry if isinstance(entry, dict) else {"source": entry}), **changes}
        return True
    for entry in cameras if isinstance(cameras, list) else ():
        if isinstance(entry, dict) and entry.get("name") == camera:
            entry.update(changes)
            return True
    return False


def _edit(lines: list[str], camera: str, changes: Values) -> None:
    place = _section(lines, ["cameras", camera])
    if place is None:
        place = _list_section(lines, camera)
    if place is None:
        _edit_short(lines, camera, changes)
        return
    for key, value in changes.items():
        own = _section(lines, ["cameras", camera, key]) if isinstance(value, dict) else None
        if own is None:
            _set(lines, *place, key, value)
        else:  # a table of its own: its lines are replaced
            lines[own[0] : own[1]] = [f"{name} = {_value(item)}\n" for name, item in value.items()] + ["\n"]
        place = _section(lines, ["cameras", camera]) or _list_section(lines, camera) or place


def _section(lines: list[str], wanted: list[str]) -> tuple[int, int] | None:
    """First line after the header [a.b], and the first line of what comes next."""
    for number, line in enumerate(lines):
        header = _HEADER.fullmatch(line.rstrip("\r\n"))
        if header and header[1] == "[" and [part.strip().strip("\"'") for part in header[2].split(".")] == wanted:
            return number + 1, _end(lines, number + 1)
    return None


def _list_section(lines: list[str], camera: str) -> tuple[int, int] | None:
    for number, line in enumerate(lines):
        header = _HEADER.fullmatch(line.rstrip("\r\n"))
        if header and header[1] == "[[" and header[2] == "cameras":
            last = _end(lines, number + 1)
            named = re.compile(rf"\s*name\s*=\s*([\"']){re.escape(camera)}\1\s*(?:#.*)?")
            if any(named.fullmatch(entry.rstrip("\r\n")) for entry in lines[number + 1 : last]):
                return number + 1, last
    return None


def _end(lines: list[str], first: int) -> int:
    return next((i for i in range(first, len(lines)) if _HEADER.fullmatch(lines[i].rstrip("\r\n"))), len(lines))


def _set(lines: list[str], first: int, last: int, key: str, value: Any) -> None:
    line = f"{key} = {_value(value)}\n"
    for number in range(first, last):
        if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", lines[number]):
            comment = re.search(r"\s+#[^\"']*$", lines[number].rstrip("\r\n"))
            lines[number] = line.rstrip("\n") + (comment[0] if comment else "") + "\n"
            return
    if first > 0 and not lines[first - 1].endswith("\n"):
        lines[first - 1] += "\n"
    lines.insert(first, line)


def _edit_short(lines: list[str], camera: str, changes: Values) -> None:
    """`gate = "rtsp://…"` below [cameras] becomes `gate = {source = "rtsp://…", threshold = …}`."""
    place = _section(lines, ["cameras"])
    for number in range(*place) if place else ():
        found = re.fullmatch(
            rf"(\s*[\"']?{re.escape(camera)}[\"']?\s*=\s*)((?:\"(?:[^\"\\]|\\.)*\"|'[^']*'))(\s*(?:#.*)?)\r?\n?",
            lines[number],
        )
        if found:
            lines[number] = f"{found[1]}{{source = {found[2]}, {_by_hand(changes)}}}{found[3].rstrip()}\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value)
    return repr(value)
