"""A source, parsed once: the address that a reader opens, and the name that everything else sees.

    rtsp://admin:secret@10.0.0.7:554/live?key=1   → shown as rtsp://10.0.0.7:554
    /video/night.mp4, demo:seed=3, usb:0          → shown unchanged

Passwords occur in the user part of an address, in its path (`/user=admin_password=…_channel=1`) and in its query.
Therefore only scheme, host and port of an address are ever shown. A pydantic `SecretStr` holds the rest, and
`Source.reveal` is the only way to it; only code that opens a source may call it (a test lists those modules).

A pickle contains the address: that is how a camera reaches the process that reads it.
"""

from __future__ import annotations

import glob
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pydantic import GetCoreSchemaHandler, SecretStr
from pydantic_core import core_schema

from stream_detector.config.kinds import SOURCE_KINDS
from stream_detector.errors import SourceError, StageError, StreamDetectorError

NETWORK: dict[str, str] = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}
# the schemes that errors name
_OTHERS = ("ftp", "sftp", "srt", "rtmp", "rtmps", "rtp", "udp", "tcp", "mms", "onvif", "hls", "smb")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_KIND = re.compile(r"([a-z0-9][a-z0-9_.-]{1,63}):(?!$)")  # at least two characters: "c:" begins a Windows path
_USB = re.compile(r"(?:usb:)?(\d{1,3})")
_DEVICE = re.compile(r"/dev/(?:video\d{1,3}|v4l/by-(?:id|path)/[^/]+)")
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_AUTHORITY = re.compile(r"(?P<user>.*@)?(?P<host>\[[^\[\]@]*\]|[^\[\]@:]*)(?::(?P<port>\d{1,5}))?", re.DOTALL)
_HOST = re.compile(r"[\w.-]{1,253}")
_PLAIN_PATH = re.compile(r"(?:[A-Za-z]:[\\/])?[^@:=&#%;]*")
_MARK = "\ue000"  # stands for a reference while the address is taken apart
_FORBIDDEN = re.compile(rf"[\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff{_MARK}]")
_IN_PATH = "/?#[]:;,=&!$'()*+-._~"  # characters that stay unescaped in a path and a query
_IN_VALUE = "!$'()*,-._~"  # the same, in a value that is inserted into one
_HIDE_FROM = 4  # characters; shorter parts occur in any text by chance


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """The source of a camera.

    kind: the kind of reader, a name in `SOURCE_KINDS`.  shown: the name for people, logs, events and files; it contains
    no secret.
    """

    kind: str
    shown: str
    _address: SecretStr

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] | None = None, *, references: bool = True) -> Source:
        """Parse the text that a user wrote.

        `${NAME}` stands for an environment variable (default: of the process), unless `references` is False. Its value
        is used unchanged; in a URL it is percent-encoded, so a password may contain any character. A value that is the
        whole source may be any source. Raises SourceError, whose text contains nothing that may be secret.
        """
        return _parse(text, (os.environ if environment is None else environment) if references else None)

    @classmethod
    def of_file(cls, path: str | Path) -> Source:
        """Return the Source of an existing file; nothing in its name is interpreted."""
        return cls("file", printable(path), SecretStr(str(path)))

    def reveal(self) -> str:
        """Return the address with its secrets, user and password percent-encoded. Only code that opens it may call
        this.
        """
        return self._address.get_secret_value()

    @property
    def live(self) -> bool:
        """Whether frames arrive on their own (camera) and are not read on demand (file, demo)."""
        if SOURCE_KINDS.is_builtin(self.kind):
            return self.kind in ("rtsp", "http", "usb", "pipe")
        return bool(getattr(SOURCE_KINDS.get(self.kind), "live", False))

    @property
    def rest(self) -> str:
        """The text after the kind and its colon in a source of a registered kind: `folder/` in `jpegs:folder/`."""
        return self.reveal().partition(":")[2]

    @property
    def path(self) -> Path:
        """The path of a file, `~` expanded. Raises SourceError if this is not a file."""
        if self.kind != "file":
            raise SourceError(f"source {self.shown!r} is not a file; give the path of a video file")
        try:
            return Path(self.reveal()).expanduser()
        except RuntimeError:  # HOME is not set, or there is no such user
            raise SourceError(
                f"source {self.shown!r}: the home folder of '~' is not known; write the whole path"
            ) from None

    @property
    def usb_device(self) -> str:
        """The device file of a USB camera, for instance '/dev/video0'. Raises SourceError if this is not a USB
        camera.
        """
        if self.kind != "usb":
            raise SourceError(f"source {self.shown!r} is not a USB camera; write its index, for instance 'usb:0'")
        return self.reveal()

    @property
    def usb_index(self) -> int:
        """The index of a USB camera; links of /dev/v4l are resolved now. Raises SourceError if there is none."""
        number = re.fullmatch(r"/dev/video(\d+)", os.path.realpath(self.usb_device))
        if number is None:
            raise SourceError(f"USB camera {self.shown!r} does not exist; check that it is plugged in")
        return int(number[1])

    def with_password(self, password: str) -> Source:
        """Return the source with this password for the user that the address names. Raises SourceError."""
        if self.kind not in ("rtsp", "http"):
            raise SourceError("a password belongs to an rtsp:// or http:// address; leave it out here")
        scheme, rest = self.reveal().split("://", 1)
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        user, at, _ = authority.rpartition("@")
        if not at or not user or ":" in user:
            raise SourceError(
                "the password needs an address that names a user and no password, for instance rtsp://admin@10.0.0.7/1"
            )
        address = f"{scheme}://{user}:{_quote(password, '')}{rest[len(user) :]}"
        return Source(self.kind, self.shown, SecretStr(address))

    def fault(self, error: Exception) -> Exception:
        """Return a publishable form of an exception that a library raised while reading: its type and place, not its
        text.

        An exception of this package, or about a file, is returned unchanged.
        """
        if not self._hidden or isinstance(error, StreamDetectorError):
            return error
        told = StageError(f"reading {self.shown} failed with {type(error).__name__}")
        return told.with_traceback(error.__traceback__)

    def hide(self, text: str) -> str:
        """Return `text` of foreign code without this address and its parts."""
        if not self._hidden:
            return text
        if self.kind not in ("rtsp", "http"):
            for part in (self.reveal(), self.rest):
                text = text.replace(part, "…") if len(part) >= _HIDE_FROM else text
            return text
        for form in (self.reveal(), unquote(self.reveal())):
            text = text.replace(form, self.shown)
            rest = form.split("://", 1)[1]
            user, _, place = rest.rpartition("@")
            parts = [rest, user, *user.split(":", 1), place[len(self.shown.split("://", 1)[1]) :].strip("/?#")]
            for part in sorted(parts, key=len, reverse=True):
                if len(part) >= _HIDE_FROM:
                    text = text.replace(part, "…")
        return text

    @property
    def _hidden(self) -> bool:
        """Whether the address may hold a secret, so that a part of it is never shown."""
        return self.kind in ("rtsp", "http") or (self.shown.endswith(":…") and not SOURCE_KINDS.is_builtin(self.kind))

    def __repr__(self) -> str:
        return f"Source({self.shown!r})"

    def __str__(self) -> str:
        return self.shown

    @classmethod
    def __get_pydantic_core_schema__(cls, source_type: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Define the pydantic field: it takes a Source or a text, and is dumped as the shown name."""
        return core_schema.no_info_plain_validator_function(
            _validated, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="always")
        )


def printable(path: str | Path) -> str:
    """Return a path for people: bytes that are not UTF-8 become \\xNN, so that it can be written anywhere."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _validated(value: object) -> Source:
    if isinstance(value, Source):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError('it must be a text, for instance "rtsp://10.0.0.7/live"')
    try:
        return Source.parse(value)
    except SourceError as error:
        message = str(error)
    raise ValueError(message)


def expand(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace `${NAME}` in `text` with the environment variables, unchanged. Raises SourceError."""
    variables = os.environ if environment is None else environment
    return _REFERENCE.sub(lambda found: _variable(found[1], variables), text)


def _parse(text: str, environment: Mapping[str, str] | None) -> Source:
    if not _is_device_or_demo(text) and not _SCHEME.match(text) and path_exists(text):
        return Source.of_file(text)
    text = text.strip()
    whole = _REFERENCE.fullmatch(text) if environment is not None else None
    values: list[str] = []
    template = text
    if environment is not None and whole:
        text = template = _variable(whole[1], environment).strip()
    elif environment is not None:
        values = [_variable(name, environment) for name in _REFERENCE.findall(text)]
        template = _REFERENCE.sub(_MARK, text)
    if any(_FORBIDDEN.search(part) for part in (text, *values)):
        raise SourceError("the source holds a control character; remove it")
    if not text:
        raise SourceError("an empty source was given; give a file, a directory, a URL, a USB index or 'demo'")
    kind = _KIND.match(template)
    if kind and not SOURCE_KINDS.is_builtin(kind[1]) and kind[1] in SOURCE_KINDS.names():
        return _registered(kind[1], template, values)
    scheme = _SCHEME.match(template)
    if scheme is None:
        return _local(_filled(template, values))
    name = scheme[1].lower()
    if name in NETWORK:
        return _network(name, template[scheme.end() :], values)
    if name == "file":
        machine, _, path = _filled(template, values)[scheme.end() :].partition("/")
        if machine.lower() not in ("", "localhost"):
            raise SourceError("a file:// address names another machine; write file:///path/to/the/file.mp4")
        return _file("/" + unquote(path))
    scheme_name = f" {name!r}" if name in _OTHERS else ""
    raise SourceError(
        f"the source has a scheme{scheme_name} that is not supported; "
        "give a file, a directory, a glob, rtsp://, http://, a USB index or 'demo'"
    )


def _variable(name: str, environment: Mapping[str, str]) -> str:
    if not _VARIABLE.fullmatch(name):
        raise SourceError("'${' must be followed by the name of a variable and '}'; write a '$' of a password as %24")
    value = environment.get(name)
    if value is None:
        raise SourceError(f"the environment variable {name} is not set; set it, or write a '$' of a password as %24")
    if not value.strip():
        raise SourceError(f"the environment variable {name} is empty; set it")
    return value


def _filled(template: str, values: list[str], safe: str | None = None) -> str:
    """Insert the values at the marks of `template`, percent-encoded except for `safe`, or unchanged (None)."""
    given = iter(values)
    return re.sub(_MARK, lambda _: next(given) if safe is None else _quote(next(given), safe), template)


def _is_device_or_demo(text: str) -> bool:
    return (
        text == "demo" or text.startswith(("demo:", "pipe:")) or bool(_USB.fullmatch(text) or _DEVICE.fullmatch(text))
    )


def _local(text: str) -> Source:
    usb = _USB.fullmatch(text)
    if usb:
        return Source("usb", f"usb:{int(usb[1])}", SecretStr(f"/dev/video{int(usb[1])}"))
    if _DEVICE.fullmatch(text):
        return Source("usb", text, SecretStr(text))
    if text.startswith("pipe:"):
        return Source("pipe", text, SecretStr(text))
    if _is_device_or_demo(text):
        return Source("demo", text, SecretStr(text))
    return _file(text)


def _registered(kind: str, template: str, values: list[str]) -> Source:
    """Return a source of a registered kind: it is shown if it looks like a plain path; otherwise only its kind is."""
    text = _filled(template, values)
    plain = not values and _PLAIN_PATH.fullmatch(template.partition(":")[2]) is not None
    return Source(kind, printable(text) if plain else f"{kind}:…", SecretStr(text))


def _file(text: str) -> Source:
    """Return a source that is a path. A path is shown; a text that is no existing path and may be an address is not."""
    if _PLAIN_PATH.fullmatch(text) or path_exists(text):
        return Source.of_file(text)
    raise SourceError(
        "the source does not exist, and is not shown because its '@', ':', '=' or '%' may belong to an address with a "
        "password; write rtsp:// or http:// before an address, or give an existing file"
    )


def path_exists(text: str) -> bool:
    """Return whether such a file or directory exists, or one that matches the pattern."""
    try:
        path = Path(text).expanduser()
        return path.exists() or any(True for _ in glob.iglob(str(path)))
    except (OSError, ValueError, RuntimeError, re.error):  # too long, a NUL, an unknown user, an invalid pattern
        return False


def _network(scheme: str, rest: str, values: list[str]) -> Source:
    end = re.search(r"[/?#]", rest)
    authority, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    if "@" in tail:
        raise SourceError(
            f"the {scheme}:// address has an '@' behind its host; in a user name or password write '/' as %2F, '?' as "
            "%3F and '#' as %23, and further back write '@' as %40"
        )
    if "\\" in authority:  # what follows may be a password, or a host, depending on who reads it
        raise SourceError(f"the {scheme}:// address has a backslash before its path; in a password write it as %5C")
    user, at, place = authority.rpartition("@")
    here = user.count(_MARK)
    hosts = place.count(_MARK)
    place = _filled(place, values[here : here + hosts])
    parts = _AUTHORITY.fullmatch(place)
    if parts is None or parts["user"] or not _is_host(parts["host"]):
        raise SourceError(f"the {scheme}:// address names no host; write for instance {scheme}://10.0.0.7/live")
    if parts["port"] is not None and not 0 < int(parts["port"]) < 65536:
        raise SourceError(f"the {scheme}:// address has a port that is not between 1 and 65535; correct it")
    name, colon, password = user.partition(":")
    login = _filled(_encoded(name, "") + colon + _encoded(password, ""), values[:here], safe="")
    if "%3A" in login.partition(":")[0].upper():
        raise SourceError(f"the user name of the {scheme}:// address contains a ':', which cannot be sent; change it")
    shown = f"{scheme}://{place}"
    tail = _filled(_encoded(tail, _IN_PATH), values[here + hosts :], safe=_IN_VALUE)
    return Source(NETWORK[scheme], shown, SecretStr(f"{scheme}://{login}{at}{place}{tail}"))


def _encoded(text: str, safe: str) -> str:
    """Percent-encode once: encoded parts stay as they are, a '%' that encodes nothing is encoded. Marks stay."""
    parts = re.split(rf"(%[0-9A-Fa-f]{{2}}|{_MARK})", text)
    return "".join(part if number % 2 else _quote(part, safe) for number, part in enumerate(parts))


def _quote(text: str, safe: str) -> str:
    return quote(text, safe=safe, errors="surrogateescape")  # bytes that are not UTF-8 stay unchanged


def _is_host(host: str) -> bool:
    if host.startswith("["):
        try:
            return isinstance(ipaddress.ip_address(host[1:-1].replace("%25", "%")), ipaddress.IPv6Address)
        except ValueError:
            return False
    return _HOST.fullmatch(host) is not None
