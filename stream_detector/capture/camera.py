"""Sources → Frames: one thread a camera that always drains, and one watchdog thread for all of them.

    connecting ──first frame──▶ online ──no frame for stall_after_s──▶ stalled ──a frame──▶ online
        │                         │                                      │
        └──cannot be opened──▶ offline ◀──────────connection lost────────┘      files: online ──▶ ended | failed
                                  └──back-off, open again, for ever──▶ online

A stall is found by the age of the last frame, from the watchdog's thread, because a blocked `read()` says nothing and a
stalled server's socket goes on delivering old frames for a while. A reader that is stuck beyond `abandon_after_s` is
left to itself: its thread's generation number is outdated, so whatever it still brings is thrown away; it closes its
own connection when it wakes up; and a new thread takes the camera over.

Live frames are stamped with the monotonic time after the grab, relative to `start()`, their own stamps keeping those of
a burst apart (`mediaclock.LiveClock`); file frames with their PTS.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Literal, TypeVar

from stream_detector.capture.admission import Admission
from stream_detector.capture.counters import CaptureCounters, FrameSampler
from stream_detector.capture.framing import Framer, Views
from stream_detector.capture.media_clock import LiveClock
from stream_detector.capture.pacing import Backoff, FilePacer
from stream_detector.capture.picture import Picture, UnreadablePictureError, as_picture
from stream_detector.capture.readers import GrabResult, Reader, make_reader
from stream_detector.capture.slow_sources import SlowSourceDetector
from stream_detector.capture.taps import CameraTap, TapConnection
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.errors import SourceError
from stream_detector.types import CameraCounters, CameraState, CameraStatus, CapturedBy, Clock, Frame

T = TypeVar("T")

_BURST_S = 0.5  # pictures of a live source may be handed on so much ahead of their time; then they are spread out
_CLEAN_WAIT_S = 2.0  # after a reconnect: flat pictures are skipped for so long, then taken for what the camera sees
_CLOCKS_S = 5.0  # a camera's clock that is further from ours than this is not believed
_MAX_ABANDONED = 3  # threads of one camera left stuck at a time; beyond that the stuck reader is waited for


class _Outdated(Exception):
    """Raised in a thread whose camera was taken over by another one."""


class Capture:
    """One camera being read.

    resize: a picture → its views, uint8 (H, W, 3) RGB each, at least one; called once a frame, in this thread.
    frame_fps: frames a second that the recipe wants; frames much closer to each other are grabbed but not decoded.
    pace: files only; "realtime" waits for each frame's time, "max" does not.
    on_frame: called in the capture thread; for files it may block (that is the back-pressure), for live sources it must
    not.  on_status: called in the capture or the watchdog thread, one call at a time.
    on_end: called once with (camera, reason), reason being "ended", "stopped", "truncated: …", "damaged: …" or "failed:
    …"; a live source ends only by `stop`, or with `exit_on_error` when its first opening fails.
    on_error: called instead of on_end when a callback, `resize` or the reader raised what it should not have.
    max_gap_s: a source whose pictures are all further apart is told as too slow.
    share: gives the share of a live camera's packets that may be decoded; None: all are.
    previews: whether frames carry pictures for people.  wait: stands in for `stop.wait`.  jitter: in [0, 1).
    """

    def __init__(
        self,
        camera: CameraConfig,
        config: CaptureConfig,
        *,
        resize: Callable[[Picture], Views],
        frame_fps: float,
        pace: Literal["realtime", "max"],
        on_frame: Callable[[Frame], None],
        on_status: Callable[[CameraStatus], None],
        on_end: Callable[[str, str], None],
        on_error: Callable[[Exception], None],
        clock: Clock,
        stop: threading.Event,
        previews: bool = True,
        max_gap_s: float = 2.0,
        open_reader: Callable[[CameraConfig, CaptureConfig], Reader] = make_reader,
        share: Callable[[], float] | None = None,
        tap: CameraTap | None = None,
        wait: Callable[[float], bool] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = camera.name
        self.source = camera.source.shown
        self.live = camera.source.live
        self.state: CameraState = "connecting"
        self.duration_s: float | None = None  # of a file, as its container says
        self._camera = camera
        self._config = config
        self._framer = Framer(camera, config, resize, previews)
        self._sampler = FrameSampler(frame_fps)
        self._slow = SlowSourceDetector(max_gap_s, frame_fps)
        self._stamps = LiveClock()
        self._paced = pace == "realtime" and not self.live
        self._on_frame = on_frame
        self._on_status = on_status
        self._on_end = on_end
        self._on_error = on_error
        self._clock = clock
        self._stop = stop
        self._open_reader = open_reader
        self._admission = Admission(camera.name, share) if share is not None and self.live else None
        self._tap = tap
        self._connection: TapConnection | None = None
        self._wait = wait or stop.wait
        self._jitter = jitter

        self._counters = CaptureCounters(clock)
        self._lock = threading.Lock()  # the fields down to _left; never held while calling out
        self._generation = 0
        self._busy_since_s: float | None = None  # the reader has been in a call since then
        self._finished = False
        self._thread: threading.Thread | None = None
        self._left: list[threading.Thread] = []
        self._status_lock = threading.RLock()  # orders state changes and their telling

        self._zero_s = 0.0  # media time 0 of a live source, monotonic
        self._index = -1  # of the last frame grabbed
        self._was_online = False
        self._over = False  # a pipe has come to its end
        self._pending: set[str] = set()  # causes for the next frame handed on
        self._clean_by_s: float | None = None  # media time until which flat pictures are skipped

    # -- from outside ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; returns at once, whether or not the source can be opened."""
        self._zero_s = self._clock.monotonic()
        self._set_state("connecting")
        with self._lock:
            self._spawn()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False when it is still stuck in its reader (it is a daemon: leave it)."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def counters(self) -> CameraCounters:
        """What was counted so far. Causes of drops: "corrupt" (no picture to be had), "unclean" (after a connect),
        "skipped" (not decoded, for there is no time to score it)."""
        return self._counters.counters()

    def last_frame_age(self) -> float | None:
        """Seconds since the last frame was grabbed; None before the first."""
        last_s = self._counters.last_s()
        return None if last_s is None else max(0.0, self._clock.monotonic() - last_s)

    @property
    def fps(self) -> float:
        """Frames a second lately grabbed; 0 when none came for longer than `stall_after_s`."""
        return self._counters.rate(self._config.stall_after_s)

    @property
    def abandoned(self) -> int:
        """Threads that were given up and still have not come back from their reader."""
        with self._lock:
            self._left = [thread for thread in self._left if thread.is_alive()]
            return len(self._left)

    def close(self) -> None:
        """Let go of the thread without waiting: nothing is called back any more, not even `on_end`. Safe to repeat."""
        with self._lock:
            self._finished = True
            self._generation += 1

    def check(self) -> None:
        """Look for a stall; called by the watchdog, any number of times a second."""
        try:
            self._check()
        except Exception as error:  # a callback's
            self._on_error(error)

    def _check(self) -> None:
        now_s = self._clock.monotonic()
        with self._lock:
            busy_s, finished = self._busy_since_s, self._finished
        # A file's frames may be old because it is paced or held back; its reader must not be slow.
        since_s = self._counters.last_s() if self.live else busy_s
        if finished or self._stop.is_set():
            return
        if since_s is not None and now_s - since_s > self._config.stall_after_s:
            self._set_state("stalled", f"no frame for {now_s - since_s:.1f} s", only_from="online")
        stuck = busy_s is not None and now_s - busy_s > self._config.abandon_after_s
        if self.live and stuck and self.abandoned < _MAX_ABANDONED:
            self._replace(busy_s)

    def _replace(self, busy_s: float | None) -> None:
        with self._lock:
            if self._busy_since_s != busy_s or self._thread is None or self._finished:
                return  # it came back in this very moment
            self._left.append(self._thread)
            self._busy_since_s = None
            self._spawn()
        self._set_state("offline", f"the reader is stuck for {self._config.abandon_after_s:.0f} s and more; replaced")

    # -- the thread -----------------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        self._generation += 1
        self._thread = threading.Thread(
            target=self._run, args=(self._generation,), name=f"capture-{self.name}", daemon=True
        )
        self._thread.start()

    def _run(self, generation: int) -> None:
        try:
            reason = self._play_live(generation) if self.live else self._play_file(generation)
            with self._lock:
                if generation != self._generation:
                    return
                self._finished = True
            told = "" if reason == "ended" else reason.removeprefix("failed: ")
            self._set_state("failed" if reason.startswith("failed: ") else "ended", told)
            self._on_end(self.name, reason)
        except _Outdated:
            return  # its late frame is thrown away
        except Exception as error:
            with self._lock:
                if generation != self._generation:
                    return
                self._finished = True
            self.state = "failed"
            self._on_error(error)

    def _play_file(self, generation: int) -> str:
        reader: Reader | None = None
        if self._stop.is_set():
            return "stopped"
        try:
            reader = self._new_reader()
            self._call(generation, reader.open)
            self.duration_s = getattr(reader, "duration_s", None)
            pace = FilePacer(self._clock, self._wait)
            while not self._stop.is_set():
                grabbed = self._call(generation, reader.grab)
                if grabbed.status in ("end", "lost"):
                    return self._slow.ending(self.source, reader.detail or "ended")
                if not self._count(grabbed):
                    continue
                media_s = grabbed.media_s or 0.0
                self._place(grabbed, media_s)
                if not self._sampler.wanted(media_s):
                    continue
                if self._paced and pace.stopped(media_s):
                    break
                self._hand_on(generation, reader, media_s, self._clock.monotonic(), grabbed)
            return "stopped"
        except SourceError as error:
            return f"failed: {error}"
        finally:
            self._close(generation, reader)

    def _play_live(self, generation: int) -> str:
        backoff = Backoff(self._config, self._jitter)
        while not self._stop.is_set():
            opened_s = self._clock.monotonic()
            frames = 0
            reader: Reader | None = None
            try:
                reader = self._new_reader()
                if self._admission is not None and hasattr(reader, "admission"):
                    self._admission.begin()
                    reader.admission = self._admission
                self._call(generation, reader.open)
                frames = self._drain(generation, reader)
                if self._over:
                    return "ended"
                detail = reader.detail or "the connection was lost"
            except SourceError as error:
                if self._config.exit_on_error and not self._was_online:
                    return f"failed: {error}"
                detail = str(error)
            finally:
                self._close(generation, reader)
            if self._stop.is_set():
                break
            self._set_state("offline", detail)
            if self._wait(backoff.next_s(self._clock.monotonic() - opened_s if frames else 0.0)):
                break
        return "stopped"

    def _drain(self, generation: int, reader: Reader) -> int:
        """Read an opened live source until it is lost or the run stops; returns the number of frames grabbed."""
        frames = 0
        while not self._stop.is_set():
            grabbed = self._call(generation, reader.grab)
            if grabbed.status in ("lost", "end"):
                self._over = grabbed.status == "end"
                break
            counted = self._count(grabbed)
            now_s = self._clock.monotonic()
            media_s = now_s - self._zero_s
            if self._admission is not None and grabbed.media_s is not None:
                self._admission.late(self._stamps.late_s(grabbed.media_s, media_s), now_s)
            if not counted:
                continue
            if grabbed.media_s is not None:
                media_s = self._stamps.time(grabbed.media_s, media_s)
                if self._stamps.lead_s > _BURST_S and self._wait(self._stamps.lead_s - _BURST_S):
                    break
            self._place(grabbed, media_s)
            if frames == 0:
                self._clean_by_s = media_s + _CLEAN_WAIT_S
                if self._was_online:
                    self._pending.add("reconnect")
                    self._counters.reconnect()
            frames += 1
            if self._sampler.wanted(media_s, self.fps):
                self._hand_on(generation, reader, media_s, now_s, grabbed)
        return frames

    def _new_reader(self) -> Reader:
        reader = self._open_reader(self._camera, self._config)
        if self._tap is not None:
            self._connection = self._tap.connection()
            attach = getattr(reader, "attach", None)
            if attach is not None:
                attach(self._connection)
        return reader

    def _place(self, grabbed: GrabResult, media_s: float) -> None:
        if self._connection is not None:
            self._connection.place(grabbed.stamp_s, media_s)

    def _call(self, generation: int, call: Callable[[], T]) -> T:
        """Call into the reader under the watchdog's eyes. Raises _Outdated when this thread was replaced meanwhile."""
        with self._lock:
            if generation != self._generation:
                raise _Outdated
            self._busy_since_s = self._clock.monotonic()
        fault: Exception
        try:
            return call()
        except Exception as error:
            fault = self._camera.source.fault(error)  # raised below, where the library's own is not its context
        finally:
            with self._lock:
                if generation != self._generation:
                    raise _Outdated
                self._busy_since_s = None
        try:
            raise fault
        finally:
            del fault  # its traceback holds this frame, and this frame would hold it

    def _close(self, generation: int, reader: Reader | None) -> None:
        """Close under the watchdog's eyes (hanging up can block, too); an outdated thread closes just the same."""
        if reader is None:
            return
        with self._lock:
            outdated = generation != self._generation
        if outdated:
            reader.close()
        else:
            self._call(generation, reader.close)

    # -- one frame ------------------------------------------------------------------------------------------------

    def _count(self, grabbed: GrabResult) -> bool:
        """Enter a grab into the books; whether there is a frame."""
        if grabbed.status == "skipped":
            self._index = self._counters.frame()
            self._counters.drop("skipped")
            self._pending.add("dropped")
            return False
        if grabbed.status != "frame":
            self._drop("corrupt")
            return False
        for _ in range(grabbed.missed):
            self._counters.drop("corrupt")
        self._index = self._counters.frame()
        if grabbed.cause is not None:
            self._pending.add(grabbed.cause)
        return True

    def _drop(self, cause: str) -> None:
        self._counters.drop(cause)
        if cause == "corrupt":
            self._pending.add(cause)

    def _hand_on(self, generation: int, reader: Reader, media_s: float, captured_s: float, grabbed: GrabResult) -> None:
        found = self._call(generation, reader.retrieve)
        if found is None:
            self._drop("corrupt")
            return
        try:
            flat = self._clean_by_s is not None and media_s < self._clean_by_s
            shot = self._framer.process(found, media_s, refuse_flat=flat)
        except UnreadablePictureError:
            self._drop("corrupt")
            return
        if shot is None:
            self._drop("unclean")
            return
        self._clean_by_s = None
        causes = tuple(sorted(self._pending))
        self._pending.clear()
        self._sampler.taken(media_s)
        self._was_online = True
        self._slow.see(media_s, grabbed.key)
        if slow := self._slow.slow:
            self._set_state("stalled", slow)
        elif self.state != "online":
            self._set_state("online", media_s=media_s)
        utc, captured_by = self._utc(grabbed.wall_utc)
        frame = Frame(
            self.name,
            self._index,
            media_s,
            captured_s,
            utc,
            shot.views[0],
            shot.preview,
            causes,
            shot.views[1:],
            captured_by,
        )
        self._on_frame(frame)
        if self._connection is not None:
            self._connection.picture(media_s, as_picture(found))

    def _utc(self, wall_utc: float | None) -> tuple[float, CapturedBy]:
        """When the picture was taken: by the camera's own clock where that is near ours, else when it arrived."""
        utc = self._clock.utc()
        if wall_utc is None or abs(wall_utc - utc) > _CLOCKS_S:
            return utc, "arrival"
        return wall_utc, "sender_report"

    def _set_state(
        self, state: CameraState, detail: str = "", *, media_s: float | None = None, only_from: str | None = None
    ) -> None:
        with self._status_lock:
            if only_from is not None and self.state != only_from:
                return
            if self.state == state and state != "connecting":
                return
            self.state = state
            detail = self._camera.source.hide(detail)  # a reader of another author may quote its address
            self._on_status(CameraStatus(self.name, self.source, state, detail, media_s, self._clock.monotonic()))
