"""What the user may call a source, turned into cameras.

    clip.mp4                     a video file                        → camera "clip"
    footage/                     every video in a directory          → one camera each
    'night*.mp4'                 a glob                              → one camera each
    rtsp://user:secret@host/1    RTSP, also rtsps://                 → camera "host"
    http://host/video            HTTP: MJPEG or MPEG-TS, also https  → camera "host"
    0, usb:0                     a USB camera by index               → camera "usb-0"
    pipe:, pipe:/run/camera.fifo standard input, or a named pipe that a program writes video to → camera "pipe"
    demo, demo:seed=3,duration=60,incident=0    the rendered scene   → camera "demo"
    gate=<any of these>          the same under a name               → camera "gate"

`address.Source` is what becomes of each: an address to open, and a name to show without its secrets.
"""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from stream_detector.config import CAMERA_NAME, CameraConfig, slug
from stream_detector.config.source import Source, path_exists, printable
from stream_detector.errors import ConfigError, SourceError

VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv"}
    | {".dav", ".mxf", ".dv", ".m2v", ".mpv", ".divx", ".3g2", ".ogg", ".nut", ".y4m", ".av1", ".ivf", ".obu", ".m3u8"}
    | {".f4v", ".3gp", ".ogv", ".vob", ".mjpeg", ".mjpg", ".h264", ".264", ".h265", ".265", ".hevc"}
)
log = logging.getLogger(__name__)
_NAMED = re.compile(r"^([^=/\\:*?\[\]]+)=(.+)$", re.DOTALL)
_DEMO_KEYS: dict[str, type] = {"seed": int, "duration": float, "incident": bool}


LONGEST_DEMO_S = 300.0  # placing its people takes time that grows with the square of it: 11 s here


def demo_options(source: Source) -> dict[str, int | float | bool]:
    """Parse the options of "demo:seed=3,duration=60,incident=0": seed int, duration in seconds, incident bool.

    Raises SourceError for an unknown or malformed option.
    """
    options: dict[str, int | float | bool] = {}
    too_long = False
    for part in filter(None, source.shown.partition(":")[2].split(",")):
        key, _, text = part.partition("=")
        try:
            kind_of = _DEMO_KEYS[key.strip()]
            number = float(text)
            if not 0 <= number < 1e6 or (key.strip() == "duration" and number == 0):
                raise ValueError
            options[key.strip()] = kind_of(number)
            if key.strip() == "duration" and number > LONGEST_DEMO_S:
                too_long = True
        except (KeyError, ValueError):
            raise SourceError(
                f"demo option {part!r} is not understood; write for instance 'demo:seed=3,duration=60,incident=0'"
            ) from None
    if too_long:
        raise SourceError(f"a demo has at most {LONGEST_DEMO_S:g} s, as its people are placed before it begins")
    return options


def parse_sources(args: Sequence[str]) -> tuple[CameraConfig, ...]:
    """Return the cameras for arguments `SOURCE` or `NAME=SOURCE`, in order; directories and globs are sorted by name.

    `${NAME}` in a source stands for an environment variable. Raises SourceError (missing file, nothing to play, unknown
    scheme) or ConfigError (a name that is not allowed or used twice); neither error shows a secret.
    """
    found: list[tuple[str | None, Source]] = []
    for number, arg in enumerate(args, 1):
        named = None if path_exists(arg) else _NAMED.match(arg)
        name, text = (named[1], named[2]) if named else (None, arg)
        if name is not None and not CAMERA_NAME.fullmatch(name):
            raise ConfigError(
                f"camera name {name!r} is not allowed: use 1 to 64 of a-z, 0-9, '_' and '-', "
                f"for instance {slug(name)!r}"
            )
        try:
            sources = resolve(Source.parse(text))
        except SourceError as error:
            which = f"camera {name}: " if name else f"source {number}: " if len(args) > 1 else ""
            message = f"{which}{error}"
        else:
            many = len(sources) > 1
            found += [(f"{name}-{slug(s.path.stem)}"[:64] if name and many else name, s) for s in sources]
            continue
        raise SourceError(message)
    return _with_names(found)


def expand_cameras(cameras: Iterable[CameraConfig]) -> tuple[CameraConfig, ...]:
    """Expand the directories and globs among the cameras of a configuration file; other settings are kept.

    A camera with a single source keeps its name; a camera for many files becomes one camera `name-stem` per file.
    """
    result: list[CameraConfig] = []
    for camera in cameras:
        try:
            sources = resolve(camera.source)
        except SourceError as error:
            raise SourceError(f"camera {camera.name}: {error}") from None
        names = [camera.name]
        if len(sources) > 1:
            named = _with_names([(f"{camera.name}-{slug(source.path.stem)}"[:64], source) for source in sources])
            names = [one.name for one in named]
        result += [camera.model_copy(update={"name": n, "source": s}) for n, s in zip(names, sources, strict=True)]
    for name in [c.name for c in result]:
        if sum(c.name == name for c in result) > 1:
            raise ConfigError(f"camera name {name!r} is used twice; every camera needs its own")
    return tuple(result)


def resolve(source: Source) -> list[Source]:
    """Return the single sources that `source` stands for: the videos of a directory or glob. Raises SourceError."""
    if source.kind == "demo":
        demo_options(source)
    if source.kind != "file":
        return [source]
    path = source.path
    if path.is_dir():
        files = _videos(sorted(path.iterdir()))
        if not files:
            raise SourceError(f"directory {source.shown!r} holds no video; give one with files such as .mp4 or .avi")
        return [Source.of_file(p) for p in files]
    if path.is_file():
        return [Source.of_file(path)]
    if path.exists():
        raise SourceError(f"source {source.shown!r} is neither a file nor a directory; give a video file")
    if re.search(r"[*?\[]", source.shown):
        files = _videos([Path(p) for p in sorted(glob.glob(str(path), recursive=True))])
        if not files:
            raise SourceError(f"glob {source.shown!r} matches no video; give one that matches files such as .mp4")
        return [Source.of_file(p) for p in files]
    raise SourceError(
        f"source {source.shown!r} does not exist; give a video file, a directory, a URL, a USB index or 'demo'"
    )


def _videos(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that are videos by their names. AppleDouble files of macOS are skipped with a log line."""
    found = [p for p in paths if p.suffix.lower() in VIDEO_EXTENSIONS and p.is_file()]
    beside = [p for p in found if p.name.startswith("._")]
    if beside:
        log.warning(
            "skipped %d macOS files without video, such as %s",
            len(beside),
            repr(printable(beside[0])),
        )
    return [p for p in found if p not in beside]


def _default_name(source: Source) -> str:
    if source.kind == "file":
        return slug(source.path.stem)
    if source.kind == "usb":
        return slug(source.shown.removeprefix("/dev/").removeprefix("v4l/"))
    if source.kind in ("demo", "pipe"):
        return source.kind
    return slug(urlsplit(source.shown).hostname or source.kind)


def _with_names(found: Sequence[tuple[str | None, Source]]) -> tuple[CameraConfig, ...]:
    """Keep the names given by the user (a name used twice is an error); give the others the first free name."""
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
