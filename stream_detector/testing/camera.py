"""A network camera on loopback: MJPEG over HTTP, with the standard library, and faults on demand."""

from __future__ import annotations

import base64
import contextlib
import http.server
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from stream_detector.testing.sources import numbered_image
from stream_detector.types import UInt8Array

_BOUNDARY = "frame"


class FakeCamera:
    """Serves `http://127.0.0.1:<port>/live` from `start` (or `with`) to `stop`; a restart keeps the port.

    fps: pictures per second.  picture: number of the picture → uint8 (h, w, 3) BGR.  user, password: if given, the
    camera requires them (HTTP basic), and `url` contains them.

    Faults: `stall` / `resume` (connected, silent), `drop` (disconnect all clients), `corrupt` (truncate the next
    JPEGs), `stop` / `start` (gone, back again).  sent: pictures sent so far.  connections: accepted so far.
    """

    def __init__(
        self,
        *,
        fps: float = 25.0,
        picture: Callable[[int], UInt8Array] | None = None,
        user: str = "",
        password: str = "",
    ) -> None:
        self.fps = fps
        self.sent = 0
        self.connections = 0
        self.port = 0
        self._picture = picture or (lambda index: numbered_image(index, (240, 320)))
        self._secret = (user, password)
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._closing = threading.Event()
        self._corrupt = 0
        self._sockets: set[socket.socket] = set()
        self._server: socketserver.BaseServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address, with user and password if they are required."""
        user, password = self._secret
        return f"http://{f'{user}:{password}@' if user else ''}127.0.0.1:{self.port}/live"

    def __enter__(self) -> FakeCamera:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after `stop`, on the same port as before."""
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera._serve(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True
            block_on_close = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that disconnects is no error here

        self._closing.clear()
        server = Server(("127.0.0.1", self.port), Handler)
        self.port = int(server.server_address[1])
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="fake-camera", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and disconnect all clients. Safe to call twice."""
        self._closing.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self.drop()
            self._server.server_close()
            self._thread.join(5.0)
        self._server = self._thread = None

    def stall(self) -> None:
        """Keep the connections open and send nothing."""
        self._flowing.clear()

    def resume(self) -> None:
        """End a stall."""
        self._flowing.set()

    def drop(self) -> None:
        """Disconnect every client; new ones are accepted."""
        with self._lock:
            sockets = list(self._sockets)
        for client in sockets:
            with contextlib.suppress(OSError):  # already gone
                client.shutdown(socket.SHUT_RDWR)

    def corrupt(self, count: int = 1) -> None:
        """Send the next `count` JPEGs without their last two thirds."""
        with self._lock:
            self._corrupt += count

    def _serve(self, request: http.server.BaseHTTPRequestHandler) -> None:
        user, password = self._secret
        if user:
            wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
            if request.headers.get("Authorization") != wanted:
                request.send_response(401)
                request.send_header("WWW-Authenticate", 'Basic realm="camera"')
                request.end_headers()
                return
        with self._lock:
            self.connections += 1
            self._sockets.add(request.connection)
        try:
            request.send_response(200)
            request.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            request.end_headers()
            self._stream(request)
        except OSError:
            pass  # the client is gone, or `drop` closed the connection
        finally:
            with self._lock:
                self._sockets.discard(request.connection)

    def _stream(self, request: http.server.BaseHTTPRequestHandler) -> None:
        due_s = time.monotonic()
        while not self._closing.is_set():
            if not self._flowing.is_set():
                self._flowing.wait(0.05)
                due_s = time.monotonic()
                continue
            with self._lock:
                index, self.sent = self.sent, self.sent + 1
                cut = self._corrupt > 0
                self._corrupt -= cut
            jpeg = cv2.imencode(".jpg", np.ascontiguousarray(self._picture(index)))[1].tobytes()
            if cut:
                jpeg = jpeg[: len(jpeg) // 3]
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            request.wfile.write(head.encode() + jpeg + b"\r\n")
            due_s += 1.0 / self.fps
            self._closing.wait(max(0.0, due_s - time.monotonic()))
