"""Harmful cameras on loopback (silent, unreachable, slow, hostile), to measure their effect on other cameras."""

from __future__ import annotations

import contextlib
import http.server
import io
import itertools
import re
import socket
import threading
import time
from collections.abc import Callable

import numpy as np

SILENT, UNREACHABLE = 12, 12
BOUNDARY = b"--frame\r\n"
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def bad_cameras(stack: contextlib.ExitStack, scale: float = 1.0) -> dict[str, dict[str, str]]:
    """Crowds of them: name → {camera: source}. Their servers live as long as `stack` is open."""
    silent = _listener(stack, accepts=True)
    lost = _listener(stack, accepts=False)
    site = _site(stack)

    def several(number: int, prefix: str, *addresses: str) -> dict[str, str]:
        turns = itertools.cycle(addresses)
        return {f"{prefix}{n}": next(turns) for n in range(max(1, round(number * scale)))}

    quiet = several(SILENT, "silent", f"rtsp://127.0.0.1:{silent}/live", f"http://127.0.0.1:{silent}/live")
    gone = several(UNREACHABLE, "lost", f"rtsp://127.0.0.1:{lost}/live", f"http://127.0.0.1:{lost}/live")
    names = {path: re.sub("[^a-z0-9]+", "-", path.strip("/")) for path in _ANSWERS}
    hostile = {f"bad-{name}": f"http://127.0.0.1:{site}{path}" for path, name in names.items()}
    return {"silent and unreachable": quiet | gone, "hostile": hostile}


def _listener(stack: contextlib.ExitStack, accepts: bool) -> int:
    """A port where connections are taken and never answered, or (a full queue) not even taken."""
    server = socket.socket()
    stack.callback(server.close)
    server.bind(("127.0.0.1", 0))
    server.listen(512 if accepts else 0)
    port = int(server.getsockname()[1])
    if not accepts:
        for _ in range(3):  # fill the queue: from now on the system drops what asks
            client = socket.socket()
            client.setblocking(False)
            stack.callback(client.close)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", port))
    return port


def _site(stack: contextlib.ExitStack) -> int:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = _ANSWERS.get(self.path)
            with contextlib.suppress(OSError):
                if answer is not None:
                    answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return int(server.server_address[1])


def _head(handler: http.server.BaseHTTPRequestHandler, kind: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.end_headers()


def _mjpeg_of_2_gb(handler: http.server.BaseHTTPRequestHandler) -> None:
    _head(handler, "multipart/x-mixed-replace; boundary=frame")
    handler.wfile.write(BOUNDARY + b"Content-Type: image/jpeg\r\nContent-Length: 2000000000\r\n\r\n")
    block = bytes(1 << 20)
    for _ in range(2000):
        handler.wfile.write(block)


def _mjpeg_without_end(handler: http.server.BaseHTTPRequestHandler) -> None:
    _head(handler, "multipart/x-mixed-replace; boundary=frame")
    block = b"\xff\xd8" + bytes(1 << 20)
    for _ in range(2000):
        handler.wfile.write(block)


def _jpeg_16384(handler: http.server.BaseHTTPRequestHandler) -> None:
    _head(handler, "image/jpeg")
    handler.wfile.write(_large_jpeg())


def _drips(handler: http.server.BaseHTTPRequestHandler) -> None:
    _head(handler, "video/mp2t")
    for _ in range(600):
        handler.wfile.write(b"G")
        time.sleep(0.2)


def _rubbish(handler: http.server.BaseHTTPRequestHandler) -> None:
    _head(handler, "video/mp2t")
    dice = np.random.default_rng(3)
    for _ in range(600):
        handler.wfile.write(dice.bytes(200_000))
        time.sleep(0.02)


def _hangs_up(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def _playlist_of_playlists(handler: http.server.BaseHTTPRequestHandler) -> None:
    _head(handler, "application/vnd.apple.mpegurl")
    handler.wfile.write(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n" + b"#EXTINF:1,\nrings.m3u8\n" * 20_000)


def _redirects(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.end_headers()


def _large_jpeg() -> bytes:
    """A JPEG whose header says 16,384 × 16,384, from a small one."""
    import cv2

    small = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    at = small.index(b"\xff\xc0") + 5
    out = io.BytesIO(small)
    out.seek(at)
    out.write((16384).to_bytes(2, "big") * 2)
    return out.getvalue()


_ANSWERS: dict[str, Answer] = {
    "/mjpeg_2_gb": _mjpeg_of_2_gb,
    "/mjpeg_without_end": _mjpeg_without_end,
    "/jpeg_16384": _jpeg_16384,
    "/drips": _drips,
    "/rubbish": _rubbish,
    "/hangs_up": _hangs_up,
    "/rings.m3u8": _playlist_of_playlists,
    "/redirects": _redirects,
}
