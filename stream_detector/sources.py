"""What the user may call a source, turned into cameras.

    clip.mp4                     a video file                        → camera "clip"
    footage/                     every video in a directory          → one camera each
    'night*.mp4'                 a glob                              → one camera each
    rtsp://user:secret@host/1    RTSP, also rtsps://                 → camera "host"
    http://host/video            HTTP: MJPEG or MPEG-TS, also https  → camera "host"
    0, usb:0                     a USB camera by index               → camera "usb-0"
    demo, demo:seed=3,duration=60,incident=0    the rendered scene   → camera "demo"
    gate=<any of these>          the same under a name               → camera "gate"

Credentials belong in a source and nowhere else: whatever is logged, shown or published goes through `redact` first.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from stream_detector.config import CAMERA_NAME, CameraConfig, slug
from stream_detector.errors import ConfigError, SourceError

Kind = Literal["file", "rtsp", "http", "usb", "demo"]

VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv"}
    | {".f4v", ".3gp", ".ogv", ".vob", ".mjpeg", ".mjpg", ".h264", ".264", ".h265", ".265", ".hevc"}
)
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>[^\s\"'<>]*)")
_SECRET_KEY = r"(?:(?:access|auth|api|session)[_-]?)?(?:token|key|password|passwd|pass|pwd|secret|auth|signature|sig)"
_SECRET_QUERY = re.compile(rf"(?i)(?<=[?&;#])({_SECRET_KEY})=[^&;#\s]*")
_NAMED = re.compile(r"^([^=/\\:*?\[\]]+)=(.+)$", re.DOTALL)
_USB = re.compile(r"^(?:usb:)?(\d{1,3})$")
_DEMO_KEYS: dict[str, type] = {"seed": int, "duration": float, "incident": bool}


def redact(text: str) -> str:
    """`text` with user names, passwords and secret query values taken out of every URL in it.

    >>> redact("cannot open rtsp://admin:pw@10.0.0.7/live?token=abc")
    'cannot open rtsp://10.0.0.7/live?token=***'
    """
    return _URL.sub(lambda url: url["scheme"] + _SECRET_QUERY.sub(r"\1=***", _without_user(url["rest"])), text)


def _without_user(rest: str) -> str:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return rest[authority.rindex("@") + 1 :]
    port = authority.rpartition(":")[2] if ":" in authority and not authority.endswith("]") else ""
    if "@" in rest and port and not (port.isdigit() and int(port) < 65536):
        return rest[rest.rindex("@") + 1 :]  # an unescaped "/" in a password: cannot work, must not leak
    return rest


def kind(source: str) -> Kind:
    """What sort of source this is. Raises SourceError for a scheme that is not supported."""
    if _USB.match(source):
        return "usb"
    if source == "demo" or source.startswith("demo:"):
        return "demo"
    scheme = _SCHEME.match(source)
    if scheme is None:
        return "file"
    name = scheme[1].lower()
    if name in ("rtsp", "rtsps"):
        return "rtsp"
    if name in ("http", "https"):
        return "http"
    if name == "file":
        return "file"
    raise SourceError(
        f"source {redact(source)!r} has the scheme {name!r}, which is not supported; "
        "give a file, a directory, a glob, rtsp://, http://, a USB index or 'demo'"
    )


def is_live(source: str) -> bool:
    """Whether frames come when they come (camera) rather than when they are asked for (file, demo)."""
    return kind(source) in ("rtsp", "http", "usb")


def usb_index(source: str) -> int:
    """The index in "0" or "usb:0"."""
    match = _USB.match(source)
    if match is None:
        raise SourceError(f"source {redact(source)!r} is not a USB camera; write its index, for instance 'usb:0'")
    return int(match[1])


def file_path(source: str) -> Path:
    """The path of a file source: `~` expanded, `file://` taken off."""
    scheme = _SCHEME.match(source)
    return Path(unquote(urlsplit(source).path) if scheme else source).expanduser()


def demo_options(source: str) -> dict[str, int | float | bool]:
    """Options of "demo:seed=3,duration=60,incident=0" by name: seed int, duration seconds, incident bool.

    Raises SourceError for an unknown or malformed option.
    """
    options: dict[str, int | float | bool] = {}
    for part in filter(None, source.partition(":")[2].split(",")):
        key, _, text = part.partition("=")
        try:
            kind_of = _DEMO_KEYS[key.strip()]
            number = float(text)
            if not 0 <= number < 1e6 or (key.strip() == "duration" and number == 0):
                raise ValueError
            options[key.strip()] = kind_of(number)
        except (KeyError, ValueError):
            raise SourceError(
                f"demo option {part!r} is not understood; write for instance 'demo:seed=3,duration=60,incident=0'"
            ) from None
    return options


def parse_sources(args: Sequence[str]) -> tuple[CameraConfig, ...]:
    """Cameras for command-line arguments `SOURCE` or `NAME=SOURCE`, in order; directories and globs sorted by name.

    Raises SourceError (missing file, nothing to play, unknown scheme) or ConfigError (name not allowed or used twice).
    """
    found: list[tuple[str | None, str]] = []
    for arg in args:
        if not arg.strip():
            raise SourceError("an empty source was given; give a file, a directory, a URL, a USB index or 'demo'")
        named = None if file_path(arg).exists() else _NAMED.match(arg)
        name, source = (named[1], named[2]) if named else (None, arg)
        if name is not None and not CAMERA_NAME.fullmatch(name):
            raise ConfigError(
                f"camera name {name!r} is not allowed: use 1 to 64 of a-z, 0-9, '_' and '-', "
                f"for instance {slug(name)!r}"
            )
        files = _resolve(source)
        many = len(files) > 1
        found += [(f"{name}-{slug(Path(f).stem)}"[:64] if name and many else name, f) for f in files]
    return _with_names(found)


def expand_cameras(cameras: Iterable[CameraConfig]) -> tuple[CameraConfig, ...]:
    """Cameras of a configuration file with directories and globs expanded; other settings are carried over.

    A camera whose source is one thing keeps its name; one that stands for many files gives `name-stem` each.
    """
    result: list[CameraConfig] = []
    for camera in cameras:
        files = _resolve(camera.source)
        named = parse_sources([f"{camera.name}={camera.source}"]) if len(files) > 1 else None
        names = [c.name for c in named] if named else [camera.name]
        result += [camera.model_copy(update={"name": n, "source": s}) for n, s in zip(names, files, strict=True)]
    for name in [c.name for c in result]:
        if sum(c.name == name for c in result) > 1:
            raise ConfigError(f"camera name {name!r} is used twice; every camera needs its own")
    return tuple(result)


def _resolve(source: str) -> list[str]:
    """The single sources that `source` stands for. Raises SourceError."""
    which = kind(source)
    if which == "demo":
        demo_options(source)
    if which in ("rtsp", "http"):
        try:
            host = urlsplit(source).hostname
        except ValueError:
            host = None
        if not host:
            raise SourceError(f"source {redact(source)!r} names no host; write for instance rtsp://10.0.0.7/live")
    if which != "file":
        return [source]
    path = file_path(source)
    if path.is_dir():
        files = [p for p in sorted(path.iterdir()) if p.suffix.lower() in VIDEO_EXTENSIONS and p.is_file()]
        if not files:
            raise SourceError(f"directory {source!r} holds no video; give one with files such as .mp4, .mkv or .avi")
        return [str(p) for p in files]
    if path.is_file():
        return [str(path)]
    if path.exists():
        raise SourceError(f"source {source!r} is neither a file nor a directory; give a video file")
    if re.search(r"[*?\[]", source):
        matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
        files = [p for p in matches if p.suffix.lower() in VIDEO_EXTENSIONS and p.is_file()]
        if not files:
            raise SourceError(f"glob {source!r} matches no video; give one that matches files such as .mp4 or .avi")
        return [str(p) for p in files]
    raise SourceError(f"source {source!r} does not exist; give a video file, a directory, a URL, a USB index or 'demo'")


def _default_name(source: str) -> str:
    which = kind(source)
    if which == "file":
        return slug(file_path(source).stem)
    if which == "usb":
        return f"usb-{usb_index(source)}"
    return "demo" if which == "demo" else slug(urlsplit(source).hostname or which)


def _with_names(found: Sequence[tuple[str | None, str]]) -> tuple[CameraConfig, ...]:
    """Names given by the user are kept (twice the same is an error); the others get the first free one."""
    taken: set[str] = set()
    for name, _ in found:
        if name in taken:
            raise ConfigError(f"camera name {name!r} is used twice; every camera needs its own")
        if name is not None:
            taken.add(name)
    cameras = []
    for given, source in found:
        name = given
        if name is None:
            base = name = _default_name(source)
            number = 1
            while name in taken:
                number += 1
                name = f"{base[: 63 - len(str(number))]}-{number}"
            taken.add(name)
        cameras.append(CameraConfig(name=name, source=source))
    return tuple(cameras)
