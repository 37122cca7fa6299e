"""Reads from file headers what FFmpeg does not report: the declared length, and the name of an unknown codec."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD = 1 << 16  # bytes examined at the start of the file
_TAIL = 1 << 20  # bytes examined at the end, where MP4 may keep its index
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MATROSKA_CODEC = re.compile(rb"V_[A-Z0-9_/]{2,30}")
_PRINTABLE = re.compile(rb"[ -~]{4}")


def declared_bytes(path: Path) -> int:
    """Return the size in bytes that a Matroska or AVI file declares; 0 if it declares none, and for other formats."""
    head = _read(path)[:64]
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return 8 + int.from_bytes(head[4:8], "little")
    at = head.find(_SEGMENT)  # then the length: its first byte has one leading zero per further byte, then a one
    if head[:4] != _EBML or at < 0 or at + 5 > len(head) or not head[at + 4]:
        return 0
    length = 9 - head[at + 4].bit_length()
    value = int.from_bytes(head[at + 4 : at + 4 + length], "big") & ((1 << 7 * length) - 1)
    # all bits set: unknown, as in a recording in progress
    return 0 if value == (1 << 7 * length) - 1 else at + 4 + length + value


def declared_codec(path: Path) -> str:
    """Return the name of the first video codec in an AVI, MP4 or Matroska file ("XYZ7", "V_SNOW"); "" if not found."""
    data = _read(path)
    if data[:4] == _EBML:
        found = _MATROSKA_CODEC.search(data)
        return found[0].decode() if found else ""
    if data[:4] == b"RIFF":
        at = data.find(b"strf", data.find(b"vids"))
        tag = data[at + 24 : at + 28] if at >= 0 else b""
    else:
        film = data.find(b"vide")  # the handler of the video track; the table of its formats follows
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
