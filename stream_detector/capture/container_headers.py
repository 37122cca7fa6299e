"""What FFmpeg does not tell of a file: how long it says it is, and the name of a codec that nobody here knows."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD = 1 << 16  # bytes that are looked at, at the front
_TAIL = 1 << 20  # and at the end, where MP4 may have its index
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MATROSKA_CODEC = re.compile(rb"V_[A-Z0-9_/]{2,30}")
_PRINTABLE = re.compile(rb"[ -~]{4}")


def declared_bytes(path: Path) -> int:
    """The size that a Matroska or AVI file says it has, in bytes; 0 where it does not say, and for other formats."""
    head = _read(path)[:64]
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return 8 + int.from_bytes(head[4:8], "little")
    at = head.find(_SEGMENT)  # then its length, in as many bytes as the first of them has leading zeros, and one
    if head[:4] != _EBML or at < 0 or at + 5 > len(head) or not head[at + 4]:
        return 0
    length = 9 - head[at + 4].bit_length()
    value = int.from_bytes(head[at + 4 : at + 4 + length], "big") & ((1 << 7 * length) - 1)
    return 0 if value == (1 << 7 * length) - 1 else at + 4 + length + value  # all ones: not known, as in a recording


def declared_codec(path: Path) -> str:
    """How an AVI, MP4 or Matroska file names its first video codec ("XYZ7", "V_SNOW"); "" where it is not found."""
    data = _read(path)
    if data[:4] == _EBML:
        found = _MATROSKA_CODEC.search(data)
        return found[0].decode() if found else ""
    if data[:4] == b"RIFF":
        at = data.find(b"strf", data.find(b"vids"))
        tag = data[at + 24 : at + 28] if at >= 0 else b""
    else:
        film = data.find(b"vide")  # the handler of the video's track, and behind it the table of its formats
        at = data.find(b"stsd", film) if film >= 0 else -1
        tag = data[at + 16 : at + 20] if at >= 0 else b""
    return tag.decode() if _PRINTABLE.fullmatch(tag) else ""


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            size = file.seek(0, 2)
            file.seek(max(len(head), size - _TAIL))
            return head + file.read(_TAIL)
    except OSError:
        return b""
