"""The routes about the site: what is remembered, promised and in service, the gate's reports, and commands."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from stream_detector.adaptation.memory import Memory
from stream_detector.adaptation.service import FINGERPRINT, Service
from stream_detector.errors import DataError, StreamDetectorError
from stream_detector.runtime.build import Run
from stream_detector.runtime.site import MEMORY_FILE
from stream_detector.web.filters import Filter
from stream_detector.web.history import History

log = logging.getLogger(__name__)

MOST_REPORT_BYTES = 32 << 20
RECENT = 50  # alarms and overlays shown of a camera
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
_REPORT = re.compile(r"[0-9a-f]{16}")


class SiteRoutes:
    """Reads files in worker threads; commands go the way of all writes. take: hands a command to the write routes."""

    def __init__(
        self,
        run: Run,
        history: History,
        camera: Callable[[Request], str],
        take: Callable[[Request, dict[str, Any]], Awaitable[Response]],
    ) -> None:
        self._run, self._history, self._camera, self._take = run, history, camera, take
        self._reading = asyncio.Lock()

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [
            Route("/api/site/{name}", self._site),
            Route("/api/reports/{id}", self._report),
            Route("/api/site/{name}/command", self._command, methods=["POST"]),
        ]

    async def _site(self, request: Request) -> Response:
        name = self._camera(request)
        site = self._run.site
        alarms, _ = self._history.page(Filter(camera=name), None, RECENT)
        body: dict[str, Any] = {
            "camera": name,
            "alarms": [alarm.summary() for alarm in alarms],
            "kept": bool(site and site.keeper),
            "rate": site.rates().get(name) if site else None,
            "in_service": None,
            "shadow": None,
            "overlays": [],
            "memory": None,
        }
        if site is not None:
            async with self._reading:  # one at a time: it is the detector's processor
                body |= await asyncio.to_thread(look, site.directory, name)
        return JSONResponse(body)

    async def _report(self, request: Request) -> Response:
        name = str(request.path_params["id"])
        site = self._run.site
        if site is None or not _REPORT.fullmatch(name):
            return JSONResponse({"error": "no such report"}, 404)
        page = await asyncio.to_thread(_read, site.directory / "overlays" / f"{name}.html")
        if page is None:
            return JSONResponse({"error": "no such report"}, 404)
        return Response(page, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})

    async def _command(self, request: Request) -> Response:
        return await self._take(request, {"kind": "command", "camera": self._camera(request)})


def look(directory: Path, camera: str) -> dict[str, Any]:
    """What the files of a site say of one camera. Blocks; for a worker thread."""
    found: dict[str, Any] = {}
    try:
        service = Service.load(directory)
        found["in_service"] = service.of(camera) or None
        place = service.places.get(camera)
        if place is not None:
            found["shadow"] = place.shadow or None
            found["shadow_until_utc"] = place.shadow_until_utc
        mine = [overlay for overlay in service.overlays() if overlay.camera in ("", camera)][-RECENT:]
        found["overlays"] = [
            {
                "overlay": overlay.fingerprint,
                "camera": overlay.camera,
                "threshold": overlay.threshold,
                "accepted": bool(overlay.facts.get("gate", {}).get("accepted")),
                "sentence": str(overlay.facts.get("gate", {}).get("sentence", "")),
                "made_utc": overlay.facts.get("made_utc"),
                "report": (directory / "overlays" / f"{overlay.fingerprint}.html").is_file(),
            }
            for overlay in reversed(mine)
            if FINGERPRINT.fullmatch(overlay.fingerprint)
        ]
        if (directory / MEMORY_FILE).is_file():
            memory = Memory(directory / MEMORY_FILE, read_only=True)
            try:
                for held in memory.cameras():
                    if held.camera == camera:
                        hours = {"hours": round(held.hours, 2), "windows": held.windows, "thinned": held.thinned}
                        found["memory"] = {**hours, "bytes": held.bytes, "verdicts": held.verdicts}
            finally:
                memory.close()
    except StreamDetectorError as error:
        found["error"] = str(error)
    return found


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= MOST_REPORT_BYTES else None
    except OSError:
        return None


def command_of(body: dict[str, Any], camera: str) -> dict[str, Any]:
    """The write that a page's command means; a promotion names its overlay. Raises DataError."""
    unknown = sorted(set(body) - {"command", "overlay", "hours", "by"})
    if unknown:
        raise DataError(f"a command does not take {json.dumps(unknown[0])[:80]}; send command, overlay, hours, by")
    return {"kind": "command", "camera": camera, **body}
