"""The page's own files, read once and kept compressed; no request reads the disk."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file, plain and compressed. tag: its entity tag."""

    kind: str
    plain: bytes
    packed: bytes
    tag: str


class Pages:
    """All files of `static/`, by their path below it."""

    def __init__(self) -> None:
        self._pages: dict[str, Page] = {}
        self._read(resources.files("stream_detector").joinpath("web", "static"), "")

    def _read(self, folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                self._read(entry, f"{prefix}{entry.name}/")
                continue
            kind = TYPES.get(entry.name.rpartition(".")[2])
            if kind:
                plain = entry.read_bytes()
                tag = f'"{hashlib.sha256(plain).hexdigest()[:20]}"'
                self._pages[prefix + entry.name] = Page(kind, plain, gzip.compress(plain, 9, mtime=0), tag)

    def total_bytes(self) -> tuple[int, int]:
        """The (plain, compressed) size of all files in bytes."""
        pages = self._pages.values()
        return sum(len(p.plain) for p in pages), sum(len(p.packed) for p in pages)

    def answer(self, request: Request, path: str) -> Response:
        """Return the file at `path`, or 404. The look-up uses a dictionary, so no path can leave the folder."""
        page = self._pages.get(path)
        if page is None:
            return PlainTextResponse("not found", 404)
        headers = {"etag": page.tag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == page.tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(page.packed, media_type=page.kind, headers={**headers, "content-encoding": "gzip"})
        return Response(page.plain, media_type=page.kind, headers=headers)
