"""The web server: one thread with its own event loop beside the detector.

live_state = LiveState(len(config.cameras))
callbacks = {"on_event": live_state.event, "on_decision": live_state.decision, "on_preview": live_state.preview}
with build_run(config, **callbacks) as run, serve_web(config.web, run, live_state) as server:
    print(server.url)
    run.pipeline.run()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import uvicorn

from stream_detector.config import WebConfig
from stream_detector.errors import EndpointError
from stream_detector.runtime.build import Run
from stream_detector.telemetry.prometheus import make_registry
from stream_detector.web.api import Api, WebContext
from stream_detector.web.auth import AccessControl, parse_bind, read_operators, read_token
from stream_detector.web.connections import IDLE_S, Connection, ConnectionManager, connection_limits
from stream_detector.web.history import History
from stream_detector.web.live_state import LiveState
from stream_detector.web.middleware import BURST, RATE, SecurityMiddleware
from stream_detector.web.pages import Pages
from stream_detector.web.replay import Recordings
from stream_detector.web.score_history import ScoreHistory
from stream_detector.web.streams import Hub

log = logging.getLogger(__name__)

START_S = 20.0
CLOSE_S = 2.0
SEND_BUFFER = 256 << 10  # bytes that the kernel holds for a viewer on a slow link; more would only be older pictures


class WebServer:
    """Serves until `close`; a context manager. url: the address to open."""

    def __init__(
        self,
        config: WebConfig,
        run: Run,
        live_state: LiveState,
        *,
        config_path: Path | None = None,
        rate: float = RATE,
        burst: float = BURST,
    ) -> None:
        """Start the server.

        rate, burst: requests of one address.  Raises EndpointError or ConfigError here, before anything is served.
        """
        place = parse_bind(config)
        token = read_token(config.token_file) if config.token_file else ""
        self._context = _tls(config)
        self._detector_run, self._live_state, self._config_path = run, live_state, config_path
        self._rate, self._burst, self._tls = rate, burst, place.tls
        operators = read_operators(config.operator_token_file) if config.operator_token_file else {}
        local_writes = run.config.access.local_writes
        self._access = AccessControl(
            token, local=place.local, hosts=config.hosts, operators=operators, local_writes=local_writes
        )
        self._socket = _bind(place.host, place.port)
        self.port: int = self._socket.getsockname()[1]
        self.url = place.url(self.port)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hub: Hub | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                interface="asgi3",
                http=Connection,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level="error",  # a warning for every malformed request would let strangers fill the log
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=int(IDLE_S),
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=16 << 10,
            )
        )
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_S) or self._failure is not None:
            self.close()
            raise EndpointError(f"the web server does not start ({self._failure or 'no reason given'}); see --web")

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def viewers(self) -> int:
        """The number of open streams."""
        return self._hub.viewers if self._hub else 0

    def close(self) -> None:
        """Disconnect the viewers and free the port. Safe to call twice."""
        self._live_state.listen(None)
        loop, hub = self._loop, self._hub
        self._server.should_exit = True
        if loop is not None and hub is not None and self._accepting is not None:
            with contextlib.suppress(RuntimeError):  # the loop is already closed
                loop.call_soon_threadsafe(hub.close)
                loop.call_soon_threadsafe(self._accepting.cancel)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(CLOSE_S)
        self._socket.close()

    # -- the server's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            if self._ready.is_set():
                log.error("the page's server ended (%s: %s)", type(error).__name__, error)
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        run = self._detector_run
        loop = self._loop = asyncio.get_running_loop()
        publish = run.config.publish
        history = History(None if run.ledger.degraded else publish.ledger)
        names = lambda: tuple(plan.name for plan in run.plans)  # noqa: E731
        live_age_s = run.config.telemetry.live_age_s
        version = lambda: run.pipeline.roster.version  # noqa: E731
        hub = self._hub = Hub(self._live_state, run.telemetry.snapshot, names, live_age_s, run.ledger.epoch, version)
        history.load()
        recordings = Recordings(lambda: run.cameras)
        journal = None if run.ledger.degraded or publish.ledger is None else publish.ledger
        scores = ScoreHistory(journal and journal.with_name(f"{journal.stem}.timeline.sqlite3"))
        context = WebContext(
            run=run,
            live_state=self._live_state,
            history=history,
            hub=hub,
            access=self._access,
            pages=Pages(),
            recordings=recordings,
            registry=make_registry(run.telemetry),
            config_path=self._config_path,
            tls=self._tls,
            tuning=asyncio.Lock(),
            scores=scores,
        )
        api = Api(context)
        self._middleware = SecurityMiddleware(
            api.app(), self._access, tls=self._tls, rate=self._rate, burst=self._burst
        )

        def take(body: dict[str, Any]) -> None:
            alarm = history.apply(body)
            if alarm is not None:
                hub.broadcast(alarm.summary())

        def listener(body: dict[str, Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, so there are no viewers
                loop.call_soon_threadsafe(take, body)

        self._live_state.listen(listener)
        uvicorn_config = self._server.config
        uvicorn_config.load()
        self._connections = ConnectionManager(
            self._socket,
            lambda: Connection(uvicorn_config, self._server.server_state, {}),
            self._context,
            connection_limits(len(run.plans)),
        )
        ticking = asyncio.create_task(hub.run())
        keeping = asyncio.create_task(api.timeline.keep())
        accepting = self._accepting = asyncio.create_task(self._connections.run())
        accepting.add_done_callback(self._accepting_ended)
        self._ready.set()
        try:
            await self._server.serve(sockets=[])  # `ConnectionManager` listens instead
        finally:
            self._live_state.listen(None)
            hub.close()
            recordings.close()
            accepting.cancel()
            keeping.cancel()
            self._connections.close()
            await asyncio.wait({ticking, accepting, keeping}, timeout=1.0)
            api.timeline.flush()
            scores.close()

    def _accepting_ended(self, accepting: asyncio.Task[None]) -> None:
        """Log that no connection is accepted any more, unless the server closes."""
        self._server.should_exit = True
        if not accepting.cancelled() and accepting.exception() is not None:
            self._failure = accepting.exception()
            log.error("the page's server ended (%s: %s)", type(self._failure).__name__, self._failure)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await self._middleware(scope, receive, send)


def serve_web(config: WebConfig, run: Run, live_state: LiveState, *, config_path: Path | None = None) -> WebServer:
    """Start the page's server; close it, or use it as a context manager. Raises EndpointError and ConfigError."""
    return WebServer(config, run, live_state, config_path=config_path)


def _tls(config: WebConfig) -> ssl.SSLContext | None:
    if config.cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(config.cert, config.key)
    except (OSError, ssl.SSLError) as error:
        raise EndpointError(
            f"the TLS files {str(config.cert)!r} and {str(config.key)!r} cannot be used ({error}); give a PEM "
            "certificate and its key"
        ) from None
    return context


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.bind((host, port))
        listener.listen(512)  # from now on no connection is refused, although answers wait until the server runs
    except OSError as error:
        listener.close()
        raise EndpointError(f"--web {host}:{port} cannot be bound ({error.strerror}); choose another port") from None
    return listener
