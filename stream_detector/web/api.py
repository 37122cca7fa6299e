"""The routes: small JSON, pictures, clips, exports. Every input of a viewer is checked here."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from stream_detector.errors import AccessError, ConfigError, DataError, EndpointError, StreamDetectorError
from stream_detector.reports.read_back import stage_times
from stream_detector.runtime.build import Run
from stream_detector.telemetry.health import PATHS as HEALTH
from stream_detector.telemetry.health import check
from stream_detector.telemetry.prometheus import exposition
from stream_detector.web import openapi
from stream_detector.web.auth import COOKIE, SESSION_S, VIEWER, AccessControl
from stream_detector.web.clips import MEDIA_TYPES, EvidenceFiles, TooManyCopies
from stream_detector.web.export import export_csv, export_json
from stream_detector.web.filters import Filter, make_filter
from stream_detector.web.history import Alarm, History
from stream_detector.web.inputs import settings_of, whole_number
from stream_detector.web.live_state import LiveState
from stream_detector.web.middleware import TOO_MANY_GUESSES, answer, read_json
from stream_detector.web.pages import Pages
from stream_detector.web.replay import Recordings
from stream_detector.web.score_history import ScoreHistory
from stream_detector.web.settings_routes import SettingsRoutes
from stream_detector.web.site_routes import SiteRoutes
from stream_detector.web.streams import Hub, encode_picture
from stream_detector.web.timeline_routes import Timeline
from stream_detector.web.tune import downsample, tune, write_camera
from stream_detector.web.write_routes import WriteRoutes

log = logging.getLogger(__name__)

ALARM_KEY = re.compile(r"[0-9a-f]{32}(?:-[0-9a-f]{16})?")  # an id alone: the newest of it
PAGES = (
    "/",
    "/alarms",
    "/alarms/{id}",
    "/camera/{name}",
    "/camera/{name}/edit",
    "/replay",
    "/timeline",
    "/tune",
    "/site/{name}",
)


@dataclass(frozen=True, slots=True)
class WebContext:
    """The objects that the routes use."""

    run: Run
    live_state: LiveState
    history: History
    hub: Hub
    access: AccessControl
    pages: Pages
    recordings: Recordings
    registry: CollectorRegistry
    config_path: Path | None
    tls: bool
    tuning: asyncio.Lock
    scores: ScoreHistory


class Api:
    """Answers every route; see `routes`."""

    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._files = EvidenceFiles(context.run.config.evidence)
        self.timeline = Timeline(context.run, context.history, context.live_state, context.scores, self._camera)
        self._writing = WriteRoutes(context.run, context.history, context.hub, self._known, self._camera)

    def app(self) -> Starlette:
        """Return the application without its middleware."""
        routes: list[BaseRoute] = [
            Route("/login", self._login_page, methods=["GET"]),
            Route("/login", self._login, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/static/{path:path}", self._static),
            *(Route(path, self._health) for path in HEALTH),
            Route("/metrics", self._metrics),
            Route("/api/run", self._run),
            Route("/api/stream", _Stream(self._context), methods=["GET"]),
            Route("/api/picture/{name}.jpg", self._picture),
            Route("/api/alarms", self._alarms),
            Route("/api/alarms.json", self._export_json),
            Route("/api/alarms.csv", self._export_csv),
            Route("/api/alarms/{id}", self._alarm),
            Route("/api/alarms/{id}/around", self._around),
            Route("/api/alarms/{id}/clip.mp4", self._clip),
            Route("/api/alarms/{id}/clip.webm", self._clip),  # its former name
            Route("/api/alarms/{id}/snapshot.jpg", self._snapshot),
            *self._writing.routes(),
            *SiteRoutes(self._context.run, self._context.history, self._camera, self._writing.command).routes(),
            *self.timeline.routes(),
            *SettingsRoutes(self._context.run, self._context.config_path, self._camera).routes(),
            Route("/api/replay/{name}", self._replay),
            Route("/api/replay/{name}/frame.jpg", self._frame),
            Route("/api/tune/{name}", self._tune, methods=["POST"]),
            Route("/api/tune/{name}/write", self._write, methods=["POST"]),
            *(Route(path, self._page) for path in PAGES),
        ]
        routes.append(openapi.route_of(routes))
        handlers = {StreamDetectorError: _refused, TimeoutError: _too_slow}
        return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]

    # -- pages and sign-in ------------------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        return self._context.pages.answer(request, "index.html")

    async def _static(self, request: Request) -> Response:
        return self._context.pages.answer(request, request.path_params["path"])

    async def _login_page(self, request: Request) -> Response:
        return self._context.pages.answer(request, "login.html")

    async def _login(self, request: Request) -> Response:
        token = (await read_json(request.receive, request.scope)).get("token")
        now_s, access = time.monotonic(), self._context.access
        needed = access.closed or access.has_operators
        right = not needed or request.scope["state"]["guess"](token if isinstance(token, str) else "")
        if right is None:
            return JSONResponse({"error": TOO_MANY_GUESSES}, 429)
        if not right:
            return JSONResponse({"error": "the token is wrong"}, 401)
        response = JSONResponse({"ok": True})
        response.set_cookie(
            COOKIE,
            access.open_session(now_s, access.identify(token if isinstance(token, str) else "") or VIEWER),
            max_age=int(SESSION_S),
            httponly=True,
            samesite="strict",
            secure=self._context.tls,
        )
        return response

    async def _logout(self, request: Request) -> Response:
        self._context.access.close_session(request.scope["state"]["cookie"])
        response = JSONResponse({"ok": True})
        response.delete_cookie(COOKIE)
        return response

    # -- the run ----------------------------------------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:
        run = self._context.run
        names = bool(request.scope["state"]["admitted"])
        status, body = check(request.scope["path"], run.telemetry.snapshot(), run.config.telemetry, names=names)
        return JSONResponse(body, status)

    async def _metrics(self, request: Request) -> Response:
        text, content = exposition(self._context.registry, request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content})

    async def _run(self, request: Request) -> Response:
        run = self._context.run
        engine = run.engine
        recorded = set(self._context.recordings.names)
        return JSONResponse(
            {
                "engine": f"{engine.name} · {engine.device} · {engine.precision}",
                "bundle": run.bundle.name,
                "fingerprint": run.bundle.fingerprint,
                "rendered": any(camera.source.kind == "demo" for camera in run.cameras),
                "closed": self._context.access.closed,
                "may_write": request.scope["state"]["principal"].operator,
                "can_sign_in": self._context.access.has_operators,
                "unseen": self._context.history.unseen(),
                "epoch": run.ledger.epoch,
                "roster": run.pipeline.roster.version,
                "config": self._context.config_path.name if self._context.config_path else None,
                "alarm": run.config.alarm.model_dump(exclude={"threshold"}),
                "cameras": [
                    {
                        "name": plan.name,
                        "source": plan.source,
                        "live": plan.live,
                        "recorded": plan.name in recorded,
                        "threshold": plan.threshold,
                        "smoothing": plan.smoothing.model_dump(),
                    }
                    for plan in run.plans
                ],
            }
        )

    async def _picture(self, request: Request) -> Response:
        newest = self._context.live_state.picture(self._camera(request))
        if newest is None:
            return _no("no picture yet")
        jpeg = await asyncio.to_thread(encode_picture, newest[1].image)
        return Response(jpeg, media_type="image/jpeg")

    # -- alarms -----------------------------------------------------------------------------------------------------

    async def _alarms(self, request: Request) -> Response:
        values = dict(request.query_params)
        before = whole_number(values.get("before", ""), "before", 1, 2**53)
        limit = whole_number(values.get("limit", ""), "limit", 1, 200) or 50
        alarms, more = self._context.history.page(make_filter(values), before, limit)
        history = self._context.history
        body = {"alarms": [a.summary() for a in alarms], "more": more, "unseen": history.unseen(), **history.words()}
        return JSONResponse(body)

    async def _around(self, request: Request) -> Response:
        """The selected alarms before and after one: what a review goes to next."""
        alarm = self._known(request)
        if alarm is None:
            return _no("no such alarm")
        found = self._context.history.around(alarm, make_filter(dict(request.query_params)))
        return JSONResponse(
            {
                "newer": found.newer and found.newer.key,
                "older": found.older and found.older.key,
                "newer_count": found.newer_count,
                "older_count": found.older_count,
            }
        )

    async def _alarm(self, request: Request) -> Response:
        alarm = self._known(request)
        if alarm is None:
            return _no("no such alarm")
        bodies = self._context.history.bodies(alarm) or await asyncio.to_thread(
            self._context.history.read_bodies, alarm
        )
        windows = [w for body in bodies for w in body.get("windows") or ()]
        timing = next((stage_times(body["timing"]) for body in bodies if body.get("timing")), None)
        clip = self._files.clip(alarm)
        return JSONResponse(
            {
                **alarm.summary(),
                "windows": windows[-1000:],
                "timing": timing,
                "where": next((b["where"] for b in reversed(bodies) if b.get("where")), None),
                "events": [{k: b.get(k) for k in ("type", "reason", "emitted_utc", "score", "seq")} for b in bodies],
                "clip": clip is not None,
                "playable": clip is None or await self._files.playable(clip),
                "snapshot": self._files.find(alarm, ".jpg") is not None,
            }
        )

    async def _clip(self, request: Request) -> Response:
        """A clip that browsers play; with ?original=1 what the camera sent, as a download."""
        alarm = self._known(request)
        if alarm is None:
            return _no("no such alarm")
        original = request.query_params.get("original") == "1"
        try:
            path = self._files.clip(alarm) if original else await self._files.for_browser(alarm)
        except TooManyCopies:
            headers = {"retry-after": "10"}
            return JSONResponse({"error": "other clips are being copied; try again soon"}, 503, headers)
        extra = _download(path.name) if original and path is not None else {}
        return self._file(path, extra)

    async def _snapshot(self, request: Request) -> Response:
        alarm = self._known(request)
        return self._file(self._files.find(alarm, ".jpg") if alarm else None)

    @staticmethod
    def _file(path: Path | None, headers: dict[str, str] | None = None) -> Response:
        if path is None:
            return _no("the file does not exist yet, or was deleted")
        headers = {"cache-control": "no-cache", **(headers or {})}
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=headers)

    async def _export_json(self, request: Request) -> Response:
        parts = export_json(self._context.history, make_filter(dict(request.query_params)))
        return StreamingResponse(parts, media_type="application/json", headers=_download("alarms.json"))

    async def _export_csv(self, request: Request) -> Response:
        parts = export_csv(self._context.history, make_filter(dict(request.query_params)))
        return StreamingResponse(parts, media_type="text/csv; charset=utf-8", headers=_download("alarms.csv"))

    # -- replay and tuning ------------------------------------------------------------------------------------------

    async def _replay(self, request: Request) -> Response:
        name = self._camera(request)
        rows = self._context.live_state.rows(name)
        alarms, _ = self._context.history.page(Filter(camera=name), None, 200)
        body = {
            "camera": name,
            "recorded": name in self._context.recordings.names,
            "threshold": next(plan.threshold for plan in self._context.run.plans if plan.name == name),
            "rows": [[round(v, 4) for v in (r.start_s, r.end_s, r.raw, r.smoothed)] for r in rows[-20_000:]],
            "degraded": [[r.start_s, r.end_s, list(r.degraded)] for r in rows if r.degraded][-2000:],
            "alarms": [alarm.summary() for alarm in alarms],
        }
        return JSONResponse(body)

    async def _frame(self, request: Request) -> Response:
        try:
            media_s = float(request.query_params.get("t", ""))
        except ValueError:
            media_s = math.nan
        if not 0.0 <= media_s < 1e7:
            raise DataError("t must be a time in seconds")
        jpeg = await self._context.recordings.frame(self._camera(request), media_s)
        return _no("no picture at that time") if jpeg is None else Response(jpeg, media_type="image/jpeg")

    async def _tune(self, request: Request) -> Response:
        name = self._camera(request)
        threshold, smooth = settings_of(await read_json(request.receive, request.scope))
        alarm = self._context.run.config.alarm
        async with self._context.tuning:  # one at a time, because the detector needs the processor
            rows = self._context.live_state.rows(name)
            tuned = await asyncio.to_thread(tune, rows, smooth, threshold, alarm)
        return JSONResponse(
            {
                "windows": len(rows),
                "alarms": [[a.start_s, a.raised_s, a.end_s, round(a.peak_score, 4)] for a in tuned.alarms],
                "points": [
                    [round(t, 3), round(raw, 4), round(s, 4), int(on)] for t, raw, s, on in downsample(tuned.points)
                ],
            }
        )

    async def _write(self, request: Request) -> Response:
        name = self._camera(request)
        threshold, smooth = settings_of(await read_json(request.receive, request.scope))
        path = self._context.config_path
        if path is None:
            raise ConfigError("this run has no configuration file; start it with --config FILE.toml")
        await asyncio.to_thread(write_camera, path, name, threshold, smooth)
        return JSONResponse({"written": path.name})

    def _camera(self, request: Request) -> str:
        name = str(request.path_params["name"])
        if name not in {plan.name for plan in self._context.run.plans}:
            raise DataError("no such camera")
        return name

    def _known(self, request: Request) -> Alarm | None:
        name = str(request.path_params["id"])
        return self._context.history.get(name) if ALARM_KEY.fullmatch(name) else None


class _Stream:
    """The route of live data; an ASGI application of its own, because it does not end by itself."""

    def __init__(self, context: WebContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if request.method == "HEAD":  # a stream has no end, but its request has
            await Response(media_type="text/event-stream")(scope, receive, send)
            return
        try:
            rate = float(request.query_params.get("rate", "0"))
        except ValueError:
            raise DataError("rate must be a number from 0 to 5") from None
        names = request.query_params.get("cameras", "").split(",")
        try:
            viewer = self._context.hub.viewer(names, rate if math.isfinite(rate) else 0.0, scope["state"]["peer"])
        except EndpointError as error:
            await answer(send, 503, str(error))
            return
        await self._context.hub.serve(viewer, scope, receive, send)


async def _refused(_request: Request, error: StreamDetectorError) -> Response:
    status = 503 if error.exit_code == 1 else 403 if isinstance(error, AccessError) else 400
    return JSONResponse({"error": str(error)}, status)


async def _too_slow(_request: Request, _error: TimeoutError) -> Response:
    return JSONResponse({"error": "the request was too slow"}, 408, headers={"connection": "close"})


def _no(why: str) -> Response:
    return JSONResponse({"error": why}, 404)


def _download(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
