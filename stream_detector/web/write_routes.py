"""The routes that write: acknowledgements, verdicts, misses, commands. The middleware has let in operators only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from stream_detector.errors import DataError, ProtocolError, StageError, StreamDetectorError
from stream_detector.events.write_side import WRITE_BURST, WRITE_RATE
from stream_detector.events.writes import Write, parse_write
from stream_detector.runtime.build import Run
from stream_detector.system.rate_limit import RateLimiter
from stream_detector.web.history import Alarm, History
from stream_detector.web.middleware import read_json
from stream_detector.web.site_routes import command_of
from stream_detector.web.streams import Hub

log = logging.getLogger(__name__)

WRITE_S = 5.0
LATE = "the detector is busy and has not stored this yet; look again in a moment"


class WriteRoutes:
    """Takes what an operator writes and hands it to the decision thread, the only one that writes the journal."""

    def __init__(
        self,
        run: Run,
        history: History,
        hub: Hub,
        known: Callable[[Request], Alarm | None],
        camera: Callable[[Request], str],
    ) -> None:
        """known, camera: the alarm and the camera that a request names."""
        self._run, self._history, self._hub = run, history, hub
        self._known, self._camera = known, camera
        self._rate = RateLimiter(WRITE_RATE, WRITE_BURST, 1)

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [
            Route("/api/alarms/{id}/ack", self._ack, methods=["POST"]),
            Route("/api/alarms/{id}/verdict", self._verdict, methods=["POST"]),
            Route("/api/cameras/{name}/miss", self._miss, methods=["POST"]),
            Route("/api/cameras/{name}/control", self._control, methods=["POST"]),
            Route("/api/control", self._control, methods=["POST"]),
            Route("/api/reload", self._reload, methods=["POST"]),
        ]

    async def _ack(self, request: Request) -> Response:
        return await self._of_alarm(request, "ack", ())

    async def _verdict(self, request: Request) -> Response:
        return await self._of_alarm(request, "verdict", ("verdict",))

    async def _of_alarm(self, request: Request, kind: str, names: tuple[str, ...]) -> Response:
        alarm = self._known(request)
        if alarm is None:
            return JSONResponse({"error": "no such alarm"}, 404)
        body = await read_json(request.receive, request.scope)
        place = {"kind": kind, "camera": alarm.camera, "id": alarm.id, "alarm_epoch": alarm.epoch}
        given = {name: body[name] for name in (*names, "note", "by") if name in body}
        return await self._write(request, {**place, **given}, alarm)

    async def _miss(self, request: Request) -> Response:
        camera = self._camera(request)
        body = await read_json(request.receive, request.scope)
        given: dict[str, Any] = {
            name: body[name] for name in ("at_s", "at_utc", "lasting_s", "note", "by") if name in body
        }
        return await self._write(request, {"kind": "miss", "camera": camera, **given}, None)

    async def _control(self, request: Request) -> Response:
        place = {"camera": self._camera(request)} if "name" in request.path_params else {}
        body = await read_json(request.receive, request.scope)
        given: dict[str, Any] = {name: body[name] for name in ("mode", "mute_s", "threshold", "by") if name in body}
        return await self._write(request, {"kind": "control", **place, **given}, None)

    async def _reload(self, request: Request) -> Response:
        body = await read_json(request.receive, request.scope)
        return await self._write(request, {"kind": "reload", **({"by": body["by"]} if "by" in body else {})}, None)

    async def command(self, request: Request, place: dict[str, Any]) -> Response:
        """A command about the models of a camera. place: its kind and camera."""
        body = await read_json(request.receive, request.scope)
        return await self._write(request, command_of(body, str(place["camera"])), None)

    async def _write(self, request: Request, value: dict[str, Any], alarm: Alarm | None) -> Response:
        try:
            write = parse_write(value)
        except ProtocolError as error:
            raise DataError(str(error)) from None
        if not self._rate.allow("all", time.monotonic()):
            return JSONResponse({"error": "too many writes; try again in a moment"}, 429)
        done = await self.hand_over(write, request.scope["state"]["principal"].author)
        if done is None:
            return JSONResponse({"error": LATE}, 504)
        return JSONResponse(alarm.summary() if alarm is not None else done)

    async def hand_over(self, write: Write, author: str) -> dict[str, Any] | None:
        """The journalled body; None where the decision thread has not got to it in time (it will)."""
        loop = asyncio.get_running_loop()
        noted: asyncio.Future[dict[str, Any]] = loop.create_future()
        publisher = self._run.publisher

        def pass_on(done: Future[Any]) -> None:  # by the decision thread, whenever it gets to it
            with contextlib.suppress(RuntimeError):  # the page has closed: the journal has it all the same
                loop.call_soon_threadsafe(self._noted, done, noted)

        self._run.pipeline.decision_queue.submit(lambda: publisher.write(write, author)).add_done_callback(pass_on)
        finished, _ = await asyncio.wait({noted}, timeout=WRITE_S)  # which cancels nothing when the time is over
        return noted.result() if finished else None

    def _noted(self, done: Future[Any], noted: asyncio.Future[dict[str, Any]]) -> None:
        """The decision thread has done with a write: every viewer hears of it, also when its sender left."""
        try:
            body = done.result()
            changed = self._history.apply(body)
        except (Exception, CancelledError) as error:
            if not isinstance(error, StreamDetectorError):
                log.error("a write failed (%s: %s)", type(error).__name__, error)
            reason = str(error) or type(error).__name__
            noted.set_exception(StageError(f"this could not be stored ({reason}); try again"))
            noted.exception()  # it counts as read: its sender may have left
            return
        if changed is not None:
            self._hub.broadcast(changed.summary())
        noted.set_result(body)
