"""Network cameras of every shape, decent and hostile, on loopback."""

from __future__ import annotations

import contextlib
import http.server
import os
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_detector.capture.picture import as_picture
from stream_detector.capture.readers import NetworkReader
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.errors import SourceError
from stream_detector.testing import FakeCamera, numbered_image

pytestmark = pytest.mark.integration
CONFIG = CaptureConfig(open_timeout_s=3.0, read_timeout_s=1.5)
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]
with_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not here: apt-get install ffmpeg")


class Site:
    """A web server whose paths are answered by functions."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                with contextlib.suppress(OSError):
                    site.answers[self.path](self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def sends(kind: str, *parts: bytes, then: Callable[[], object] = lambda: None) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.end_headers()
        for part in parts:
            request.wfile.write(part)
        request.wfile.flush()
        then()

    return answer


def jpeg(index: int = 0, size: tuple[int, int] = (96, 128)) -> bytes:
    return bytes(cv2.imencode(".jpg", numbered_image(index, size))[1].tobytes())


def reader(url: str, **camera: object) -> NetworkReader:
    return NetworkReader(CameraConfig(name="cam", source=url, **camera), CONFIG)  # type: ignore[arg-type]


def frames(made: NetworkReader, count: int) -> int:
    """Frames until there are `count` of them or the source is lost."""
    found = 0
    while found < count:
        status = made.grab().status
        if status in ("lost", "end"):
            break
        found += status == "frame"
    return found


def refused(made: NetworkReader) -> str:
    """The sentence with which it cannot be opened, or is lost at once."""
    try:
        made.open()
    except SourceError as error:
        return str(error)
    assert frames(made, 1) == 0
    made.close()
    return made.detail


@pytest.fixture
def silent() -> Iterator[list[str]]:
    """Addresses of six servers that accept and say nothing."""
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
    kinds = ["rtsp", "http", "rtsp", "http", "rtsp", "http"]
    yield [f"{kind}://127.0.0.1:{s.getsockname()[1]}/live" for kind, s in zip(kinds, listening, strict=True)]
    for s in listening:
        s.close()


def test_silent_cameras_delay_nobody(silent: list[str]) -> None:
    """Each in a thread of its own, as capture threads are; the healthy one comes as if it were alone."""
    slow = CONFIG.model_copy(update={"open_timeout_s": 10.0})
    waiting = [NetworkReader(CameraConfig(name="cam", source=url), slow) for url in silent]
    told: list[str] = []
    threads = [threading.Thread(target=lambda r=r: told.append(refused(r)), daemon=True) for r in waiting]
    with FakeCamera() as camera:
        for thread in threads:
            thread.start()
        began_s = time.monotonic()
        healthy = reader(camera.url)
        healthy.open()
        assert frames(healthy, 10) == 10
        assert not told, f"after {time.monotonic() - began_s:.1f} s"  # all of them still wait
        healthy.close()
    for thread in threads:
        thread.join(30.0)
    assert len(told) == 6 and all("did not answer in time" in text for text in told)


def test_a_snapshot_address_is_asked_again_and_again(site: Site) -> None:
    count = iter(range(1000))
    site.answers["/snap.jpg"] = lambda request: sends("image/jpeg", jpeg(next(count)))(request)
    made = reader(site.url("/snap.jpg"), snapshot_fps=50.0)
    made.open()
    began_s = time.monotonic()
    assert frames(made, 10) == 10
    assert time.monotonic() - began_s > 8 / 50
    picture = made.retrieve()
    assert picture is not None and as_picture(picture).bgr().shape == (96, 128, 3)
    assert len(site.asked) >= 10
    made.close()


@pytest.mark.parametrize("digest", [False, True])
def test_user_and_password_are_used_and_never_told(site: Site, digest: bool) -> None:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        given = request.headers.get("Authorization") or ""
        if not given.startswith("Digest" if digest else "Basic YWRtaW46cEBzcy93MHJk"):
            request.send_response(401)
            scheme = 'Digest realm="cam", nonce="abc", qop="auth", algorithm=MD5' if digest else 'Basic realm="cam"'
            request.send_header("WWW-Authenticate", scheme)
            request.end_headers()
            return
        sends("image/jpeg", jpeg())(request)

    site.answers["/snap.jpg"] = answer
    made = reader(site.url("/snap.jpg", "admin:p%40ss%2Fw0rd@127.0.0.1"))
    made.open()
    assert frames(made, 2) == 2
    made.close()
    told = refused(reader(site.url("/snap.jpg", "nobody:hunter22@127.0.0.1"))) if not digest else ""
    assert "hunter22" not in told and (digest or "answered 401" in told)


def test_redirects_stay_on_the_camera_s_host_unless_allowed(site: Site) -> None:
    def go(place: str) -> Answer:
        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("Location", place)
            request.end_headers()

        return answer

    site.answers["/snap.jpg"] = sends("image/jpeg", jpeg())
    site.answers["/near"] = go("/snap.jpg")
    site.answers["/far"] = go(site.url("/snap.jpg", "localhost"))
    site.answers["/file"] = go("file:///etc/passwd")
    near = reader(site.url("/near"))
    near.open()
    assert frames(near, 1) == 1
    near.close()
    assert "another host" in refused(reader(site.url("/far")))
    assert refused(reader(site.url("/file")))
    far = reader(site.url("/far"), allow_hosts=("localhost",))
    far.open()
    assert frames(far, 1) == 1
    far.close()


def make(path: Path, *options: str, seconds: float = 3.0) -> Path:
    subprocess.run(
        [
            "ffmpeg",
            "-v",
            "error",
            "-y",
            "-f",
            "lavfi",
            "-i",
            f"testsrc2=s=160x120:r=25:d={seconds}",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
            "-g",
            "25",
            *options,
            str(path),
        ],
        check=True,
    )
    return path


@with_ffmpeg
@pytest.mark.parametrize(("name", "kind"), [("a.ts", "video/mp2t"), ("a.flv", "video/x-flv"), ("a.mkv", "")])
def test_streams_over_http(site: Site, tmp_path: Path, name: str, kind: str) -> None:
    data = make(tmp_path / name).read_bytes()
    site.answers["/live"] = sends(kind, data)
    made = reader(site.url("/live"))
    made.open()
    assert frames(made, 1000) >= 20  # what was read while probing is skipped as old
    made.close()


@with_ffmpeg
def test_hls_gives_every_frame_in_order_and_asks_no_other_host(site: Site, tmp_path: Path) -> None:
    make(tmp_path / "live.m3u8", "-hls_time", "1", "-hls_list_size", "0", "-f", "hls", seconds=4.0)
    for path in tmp_path.iterdir():
        kind = "application/vnd.apple.mpegurl" if path.suffix == ".m3u8" else "video/mp2t"
        site.answers[f"/{path.name}"] = sends(kind, path.read_bytes())
    made = reader(site.url("/live.m3u8"))
    made.open()
    stamps = []
    while (grabbed := made.grab()).status == "frame":
        assert grabbed.media_s is not None
        stamps.append(grabbed.media_s)
    made.close()
    assert len(stamps) >= 20 and np.diff(stamps) == pytest.approx([0.04] * (len(stamps) - 1), abs=0.002)
    playlist = (tmp_path / "live.m3u8").read_text().replace("live0", site.url("/live0", "localhost"))
    site.answers["/elsewhere.m3u8"] = sends("application/vnd.apple.mpegurl", playlist.encode())
    before = len(site.asked)
    refused(reader(site.url("/elsewhere.m3u8")))
    assert not [path for path in site.asked[before:] if path.endswith("live0.ts")]


@with_ffmpeg
def test_a_named_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    data = make(tmp_path / "a.ts").read_bytes()
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), (tmp_path / "pipe").open("wb") as file:
            file.write(data)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    made = reader(f"pipe:{tmp_path / 'pipe'}")
    made.open()
    assert frames(made, 1000) == 75
    assert made.grab().status == "end"
    made.close()
    writer.join(5.0)


MULTIPART = "multipart/x-mixed-replace; boundary=frame"
HUGE_JPEG = (
    b"\xff\xd8\xff\xc0\x00\x11\x08" + (16384).to_bytes(2, "big") * 2 + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
)


def pours(head: bytes, closing: threading.Event) -> Answer:
    """After `head`, megabyte after megabyte for as long as anybody listens."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        sends(MULTIPART, head)(request)
        while not closing.is_set():
            request.wfile.write(bytes(1 << 20))

    return answer


@pytest.mark.parametrize("what", ["a part of 2 GB", "no length", "an endless header", "a huge picture", "drips"])
def test_a_hostile_camera_is_refused_within_bounds(what: str, site: Site) -> None:
    part = b"--frame\r\nContent-Type: image/jpeg\r\n"
    answers: dict[str, Answer] = {
        "a part of 2 GB": pours(part + b"Content-Length: 2147483648\r\n\r\n", site.closing),
        "no length": pours(part + b"\r\n", site.closing),
        "an endless header": pours(b"--frame\r\nX: ", site.closing),
        "a huge picture": sends(MULTIPART, part + b"Content-Length: 60\r\n\r\n" + HUGE_JPEG.ljust(60, b"\0")),
        "drips": lambda request: drip(request, site.closing),
    }
    site.answers["/live"] = answers[what]
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s = time.monotonic()
    refused(reader(site.url("/live")))
    assert time.monotonic() - began_s < 15.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 200_000


def drip(request: http.server.BaseHTTPRequestHandler, closing: threading.Event) -> None:
    sends(MULTIPART, b"--frame\r\n")(request)
    while not closing.wait(0.1):
        request.wfile.write(b"X")
        request.wfile.flush()


def test_an_rtsp_description_of_2_gb_is_refused_within_bounds() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                while not stop.is_set():
                    asked = client.recv(4096).decode("latin-1")
                    if not asked:
                        return
                    number = asked.partition("CSeq: ")[2].split("\r\n")[0]
                    head = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n"
                    if asked.startswith("OPTIONS"):
                        client.sendall(f"{head}Public: DESCRIBE\r\n\r\n".encode())
                        continue
                    client.sendall(
                        f"{head}Content-Type: application/sdp\r\nContent-Length: 2147480000\r\n\r\n".encode()
                    )
                    while not stop.is_set():
                        client.sendall(b"a=x\r\n" * 200_000)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(reader(f"rtsp://127.0.0.1:{server.getsockname()[1]}/live"))
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    stop.set()
    server.close()
    thread.join(5.0)
    assert grown_kb < 300_000
