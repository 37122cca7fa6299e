"""A whole detector with its page over TLS, behind scripted cameras, for the soak and the memory slopes."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faultlib.detector import PacedReader, Process, ended
from stream_detector.capture.grabs import GrabResult
from stream_detector.config import CameraConfig, Config, WebConfig, build_config
from stream_detector.runtime.build import build_run
from stream_detector.system.malloc import configure_malloc
from stream_detector.testing import ConstantEngine, numbered_image
from stream_detector.types import UInt8Array

SIZE = (240, 320)


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched. kind: of camera, see `reader`.  cert, key: of the page; None: no page."""

    folder: Path
    endpoint: str
    kind: str = "steady"
    cameras: int = 8
    fps: float = 25.0
    cert: Path | None = None
    key: Path | None = None
    events: Path | None = None
    evidence: bool = False

    @property
    def port_file(self) -> Path:
        """Where the page's port is written when it is served."""
        return self.folder / "port"


def picture(index: int) -> UInt8Array:
    """uint8 (240, 320, 3): `index` mod 256 in a corner large enough to outlive scaling, a gradient elsewhere."""
    image = numbered_image(index, SIZE)
    image[:48, :48] = index % 256
    return image


class Flapping(PacedReader):
    """Gives 15 pictures, one too few for a window, and is lost; or (`hole`) goes on after a seek."""

    def __init__(self, fps: float, hole: bool) -> None:
        super().__init__(fps)
        self._hole, self._since = hole, 0

    def grab(self) -> GrabResult:
        """The next picture, the end of the connection, or a picture that does not follow on."""
        self._since += 1
        if self._since <= 15:
            return super().grab()
        self._since = 0
        if not self._hole:
            return GrabResult("lost")
        super().grab()
        self._since = 1
        return GrabResult("frame", cause="seek")

    def retrieve(self) -> UInt8Array:
        """A picture of SIZE."""
        return picture(self._index)


class Steady(PacedReader):
    """A picture of SIZE at every tick."""

    def retrieve(self) -> UInt8Array:
        """A picture of SIZE."""
        return picture(self._index)


def reader(kind: str, fps: float) -> PacedReader:
    """steady; flaps (lost before a window is full); drips (a picture every 2.2 s); holes (never 16 in a row)."""
    if kind == "flaps":
        return Flapping(4 * fps, hole=False)
    if kind == "holes":
        return Flapping(4 * fps, hole=True)
    return Steady(1 / 2.2 if kind == "drips" else fps)


def _config(watch: Watch) -> Config:
    return build_config(
        {
            "cameras": [{"name": f"cam{n}", "source": f"rtsp://127.0.0.1:9/{n}"} for n in range(watch.cameras)],
            "smoothing": {"kind": "none"},
            "alarm": {"threshold": 0.5, "min_length_s": 0.5, "cooldown_s": 0.5},
            "evidence": {"directory": watch.folder / "evidence", "enabled": watch.evidence},
            "events": watch.events,
            "capture": {"backoff_min_s": 0.05, "backoff_max_s": 0.1},
            "publish": {"bind": watch.endpoint, "ledger": watch.folder / "ledger.sqlite3"},
            "picture_quality": {"enabled": False},
        }
    )


def _score(frames: UInt8Array) -> float:
    return 1.0 if 64 <= int(frames[0, 4, 4, 0]) <= 127 else 0.1


def run_watched(watch: Watch) -> None:
    """Run until SIGTERM."""
    from stream_detector.web.live_state import LiveState
    from stream_detector.web.server import WebServer

    configure_malloc()
    config = _config(watch)
    live_state = LiveState(watch.cameras)
    engine = ConstantEngine(score_of=_score)
    with build_run(
        config, engine=engine, on_event=live_state.event, on_decision=live_state.decision, on_preview=live_state.preview
    ) as run:

        def open_reader(_camera: CameraConfig, _config: object) -> PacedReader:
            return reader(watch.kind, watch.fps)

        run.pipeline.open_reader = open_reader
        signal.signal(signal.SIGTERM, lambda *_: run.pipeline.stop())
        if watch.cert is None:
            run.pipeline.run()
            return
        with WebServer(WebConfig(bind="127.0.0.1:0", cert=watch.cert, key=watch.key), run, live_state) as server:
            watch.port_file.write_text(str(server.port), encoding="ascii")
            run.pipeline.run()


def port_of(watch: Watch, process: Process, deadline_s: float = 60.0) -> int:
    """The page's port, when it is served. Raises TimeoutError."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        if watch.port_file.exists() and (text := watch.port_file.read_text(encoding="ascii")):
            return int(text)
        if ended(process, 0.05) is not None:
            raise TimeoutError("the detector ended at its beginning")
    raise TimeoutError("the page was not served in time")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key, by the program openssl. Raises OSError where there is none."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    done = subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], capture_output=True)
    if done.returncode:
        raise OSError("openssl cannot make a certificate here")
    return cert, key
