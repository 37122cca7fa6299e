"""Measures what a source sends and what reading it costs on this machine, for `stream-detector probe`."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from stream_detector.capture.picture import UnreadablePictureError, as_picture
from stream_detector.capture.readers import Reader, make_reader
from stream_detector.capture.slow_sources import SlowSourceDetector
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.errors import SourceError
from stream_detector.models.recipe import Recipe

PERSON_M = 1.8  # metres; height of the person whose size is computed
PERSON_AT_M = 20.0  # metres; distance of that person
TRIES = 50  # grabs in a row without a picture that end a probe
MAX_GAP_S = 2.0  # seconds; as `window.max_gap_s`: a longer step begins a new window


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Facts about one source, measured in a few seconds.

    camera, source: names without secrets.  kind: kind of source.  codec: FFmpeg's name, "" if unknown. width, height:
    pixels, upright.  fps_announced: declared by the source.  fps_measured: from the times of the pictures.
    key_interval_s: median time between key frames; None with fewer than two, or if all pictures are key frames.
    bit_rate: bits of video per second of media time; None if bytes are not counted.  pictures, damaged: number of
    decoded and of damaged pictures.  cpu_ms: CPU time of this process to decode and scale one picture.  cores: CPU
    cores that reading such a camera needs on this machine.  slow: a sentence for people, or "".
    """

    camera: str
    source: str
    kind: str
    codec: str
    width: int
    height: int
    fps_announced: float
    fps_measured: float
    key_interval_s: float | None
    bit_rate: float | None
    pictures: int
    damaged: int
    cpu_ms: float
    cores: float
    slow: str


def probe(
    camera: CameraConfig,
    config: CaptureConfig,
    recipe: Recipe,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    cpu: Callable[[], float] = time.thread_time,
    stopped: Callable[[], bool] = lambda: False,
) -> SourceFacts:
    """Read a source for some seconds as the detector would, with one decoder thread.

    seconds: of real time for a live source, of media time for a recording.  clock: monotonic seconds.  cpu: CPU seconds
    of this thread.  Raises SourceError if the source cannot be opened or gives no picture.
    """
    reader = make_reader(camera, config.model_copy(update={"decoder_threads": 1}))
    seen = _Seen(recipe)
    try:
        reader.open()
        announced = reader.fps
        begun_s = clock()
        failed = 0
        while not stopped() and failed < TRIES:
            spent_s = cpu()
            grabbed = reader.grab()
            if grabbed.status in ("end", "lost"):
                break
            if grabbed.status != "frame" or not seen.take(reader):
                failed += 1
                continue
            failed = 0
            media_s = clock() - begun_s if grabbed.media_s is None else grabbed.media_s
            seen.note(media_s, grabbed.key, grabbed.cause is not None, cpu() - spent_s)
            passed_s = clock() - begun_s if camera.source.live else seen.length_s
            if passed_s >= seconds:
                break
        codec, size = reader.stream() if hasattr(reader, "stream") else ("", 0)
    finally:
        reader.close()
    if not seen.times_s:
        raise SourceError(f"source {camera.source.shown!r} gave no picture; check that it sends video")
    return seen.facts(camera, announced, codec, size)


class _Seen:
    """Collects the measurements of a probe."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._slow = SlowSourceDetector(MAX_GAP_S, recipe.fps)
        self._cpu_s: list[float] = []
        self._keys_s: list[float] = []
        self._all_keys = True
        self._damaged = 0
        self._width = self._height = 0
        self.times_s: list[float] = []

    @property
    def length_s(self) -> float:
        """The media time from the first picture to the newest, in seconds."""
        return self.times_s[-1] - self.times_s[0] if self.times_s else 0.0

    def take(self, reader: Reader) -> bool:
        """Convert the grabbed picture as the network needs it; return False if that is impossible."""
        found = reader.retrieve()
        if found is None:
            return False
        picture = as_picture(found)
        try:
            for view in self._recipe.input_views:
                picture.rgb(view, self._recipe.filter)
        except UnreadablePictureError:
            return False
        self._width, self._height = picture.width, picture.height
        return True

    def note(self, media_s: float, key: bool | None, damaged: bool, cpu_s: float) -> None:
        """Add the measurements of one picture."""
        self._slow.see(media_s, key)
        self.times_s.append(media_s)
        self._cpu_s.append(cpu_s)
        self._damaged += damaged
        if key:
            self._keys_s.append(media_s)
        self._all_keys &= key is not False

    def facts(self, camera: CameraConfig, announced: float, codec: str, size: int) -> SourceFacts:
        """Return the summary."""
        count = len(self.times_s)
        steps_s = [b - a for a, b in zip(self.times_s, self.times_s[1:], strict=False)]
        fps = (count - 1) / self.length_s if self.length_s > 0 else 0.0
        between_s = [b - a for a, b in zip(self._keys_s, self._keys_s[1:], strict=False)]
        cpu_s = statistics.median(self._cpu_s)
        length_s = self.length_s + (statistics.median(steps_s) if steps_s else 0.0)
        return SourceFacts(
            camera=camera.name,
            source=camera.source.shown,
            kind=camera.source.kind,
            codec=codec,
            width=self._width,
            height=self._height,
            fps_announced=round(announced, 3),
            fps_measured=round(fps, 3),
            key_interval_s=round(statistics.median(between_s), 3) if between_s and not self._all_keys else None,
            bit_rate=round(8 * size / length_s) if size and length_s > 0 else None,
            pictures=count,
            damaged=self._damaged,
            cpu_ms=round(cpu_s * 1e3, 3),
            cores=round(cpu_s * min(fps, announced if fps == 0 else fps), 4),
            slow=self._slow.slow,
        )


def person_pixels(
    facts: SourceFacts, recipe: Recipe, angle_deg: float, height_m: float = PERSON_M, distance_m: float = PERSON_AT_M
) -> float:
    """Return how many rows of the network's input a standing person fills.

    angle_deg: horizontal angle of view of the lens, between 0 and 180.  height_m, distance_m: of the person, in metres.
    Pixels are assumed to be square, and the person to stand near the optical axis.
    """
    across_m = 2.0 * distance_m * math.tan(math.radians(angle_deg) / 2.0)
    rows = height_m / across_m * facts.width  # rows of the source's picture
    view = recipe.input_views[0]
    shown = facts.height * (view.box[3] - view.box[1])
    if view.fit == "crop":
        shown = min(shown, facts.width * (view.box[2] - view.box[0]) * view.size[0] / view.size[1])
    return rows * view.size[0] / shown
