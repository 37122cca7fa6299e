"""Runs beside the decoders: rings of packets → clips, snapshots and recordings, on the decision side's commands.

    capture threads ─packets, pictures─▶ CameraTap ─▶ thread "clips"      remuxes, snapshots         ─▶ files
    decision side ───Command───────────▶ ClipRecorder  thread "transcode"  masks, JPEGs of pictures   ─▶ files
                  ◀──Report────────────

A recorder serves the cameras of one capture host, in that host's process; only commands and reports cross processes. No
capture thread waits for a disk: packets that a thread did not take out of a ring in time are lost, and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stream_detector.capture.bgr import MaskPainter
from stream_detector.capture.stream_form import StreamForm
from stream_detector.config import CameraConfig, Config
from stream_detector.evidence.alarm_snapshot import AlarmSnapshot
from stream_detector.evidence.camera_tap import CameraTap
from stream_detector.evidence.clip import PacketCursor, RemuxedVideo, TranscodedVideo
from stream_detector.evidence.disk_space import DiskSpace
from stream_detector.evidence.messages import (
    CloseClip,
    Command,
    ContinueClip,
    EvidenceProblem,
    FileWritten,
    FlushCamera,
    OpenClip,
    PacketsLost,
    Report,
)
from stream_detector.evidence.mp4_file import takes
from stream_detector.evidence.segments import SegmentRecorder
from stream_detector.evidence.transcode import UPRIGHT, CpuBudget
from stream_detector.system.thread_priority import lower_priority
from stream_detector.types import Clock, SystemClock

log = logging.getLogger(__name__)

ALL_RINGS_BYTES = 400_000_000  # per process: less than half of what a capture host may use (host_memory_mb)
_TICK_S = 0.25  # interval of looking at the rings while something is written
_IDLE_S = 1.0
_SILENCE_S = 5.0  # beyond post_s without a packet, an ended alarm's clip is closed
_STALE_S = 10.0  # a main stream whose newest packet is older than this has failed
_THIN_S = 8.0  # beyond pre_s: with a larger delay, fewer pictures are encoded


@dataclass(eq=False)
class _Camera:
    """One camera's taps. main: of the stream named by record_source."""

    config: CameraConfig
    tap: CameraTap
    main: CameraTap | None = None
    segments: SegmentRecorder | None = None
    painters: tuple[MaskPainter, MaskPainter] | None = None  # of the thread "clips", of the thread "transcode"
    main_s: float = float("-inf")  # monotonic time at which the main stream's last packet was seen
    main_serial: int = 0
    gone: bool = False  # dropped: what is open is finished


@dataclass(eq=False)
class _Clip:
    camera: _Camera
    opened: OpenClip
    snapshot: AlarmSnapshot
    until_s: float  # media time up to which packets may be written
    video: RemuxedVideo | TranscodedVideo | None = None
    encoded: bool = False  # in the thread "transcode"
    end_s: float | None = None
    silent_at_s: float = float("inf")
    flushed: bool = False
    over: bool = False


@dataclass
class _Work:
    """The work of one of the two threads. segments: cameras that are recorded there."""

    clips: list[_Clip] = field(default_factory=list)
    segments: list[_Camera] = field(default_factory=list)


class ClipRecorder:
    """Implements the host's side of evidence. All methods but `close` return immediately and never raise.

    config: of the run.  report: called from the recorder's threads.
    """

    def __init__(self, config: Config, *, clock: Clock, report: Callable[[Report], object]) -> None:
        self._config, self._clock, self._report = config, clock, report
        self._lock = threading.Condition()
        self._commands: deque[tuple[_Camera | None, Command]] = deque()
        self._cameras: dict[str, _Camera] = {}
        self._remuxed, self._encoded = _Work(), _Work()
        self._closing = False
        self._give_up_s = float("inf")  # time.monotonic()
        self._busy = False
        self._encoder: threading.Thread | None = None
        self._folders = [config.evidence.directory]
        self._disk = DiskSpace(self._folders, config.storage.reserve_bytes)
        self._may_record = self._may_keep = True
        self._thread = threading.Thread(target=self._run, name="clips", daemon=True)
        self._thread.start()

    # -- from outside ---------------------------------------------------------------------------------------------

    def tap(self, camera: CameraConfig, main: bool = False) -> CameraTap:
        """Return the tap for a camera's packets and pictures; created at the first call.

        main: of its `record_source`.
        """
        with self._lock:
            held = self._cameras.get(camera.name)
            if held is None:
                held = self._cameras[camera.name] = _Camera(camera, self._tap(camera))
                if camera.record_source is not None:
                    held.main = self._tap(camera)
                if camera.mask:
                    held.painters = MaskPainter(camera.mask), MaskPainter(camera.mask)
                if camera.record == "always" and camera.source.live:
                    self._record(held)
                self._share_memory()
            return held.main if main and held.main is not None else held.tap

    def drop(self, camera: str) -> None:
        """See `capture.taps.Taps`."""
        with self._lock:
            held = self._cameras.pop(camera, None)
            if held is None:
                return
            held.gone = True
            self._commands.append((held, FlushCamera(camera)))
            if self._cameras:
                self._share_memory()
            self._lock.notify_all()

    def _tap(self, camera: CameraConfig) -> CameraTap:
        return CameraTap(self._config.evidence, camera.audio, camera.name)

    def _share_memory(self) -> None:
        """Limit the memory of all rings together, since a capture host with too much memory is replaced; under the
        lock.
        """
        taps = [tap for held in self._cameras.values() for tap in (held.tap, held.main) if tap is not None]
        limit = min(self._config.evidence.ring_bytes, ALL_RINGS_BYTES // len(taps))
        for tap in taps:
            tap.ring.set_limit(limit)

    def main_offset(self, camera: str) -> float | None:
        """See `capture.taps.Taps`."""
        held = self._cameras.get(camera)
        # Without the shift: the main stream's own tap adds it.
        offset_s = None if held is None else held.tap.ring.wall_offset()
        return None if held is None or offset_s is None else offset_s - held.tap.shift_s

    def problem(self, camera: str, sentence: str) -> None:
        """See `capture.taps.Taps`."""
        self._report(EvidenceProblem(f"main {camera}", sentence))

    def command(self, command: Command) -> None:
        """Execute a command of the decision side, soon."""
        with self._lock:
            self._commands.append((self._cameras.get(command.camera), command))
            self._lock.notify_all()

    def close(self, timeout_s: float) -> bool:
        """Finish all open files with the data so far; return whether that was done in time."""
        until_s = time.monotonic() + timeout_s
        with self._lock:
            self._give_up_s = until_s - 0.3 * timeout_s
            self._closing = True
            self._lock.notify_all()
        self._thread.join(max(0.0, until_s - time.monotonic()))
        if self._encoder is not None:  # it may have been started only now
            self._encoder.join(max(0.0, until_s - time.monotonic()))
        over = not self._thread.is_alive() and (self._encoder is None or not self._encoder.is_alive())
        for camera in self._cameras.values() if over else ():
            camera.tap.clear()
        return over

    def wait_idle(self, timeout_s: float) -> bool:
        """Block until every command was executed and every file is up to date; for tests, never for capture."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._commands and not self._busy, timeout_s)

    # -- commands, in the thread "clips" --------------------------------------------------------------------------

    def _apply(self, camera: _Camera | None, command: Command) -> None:
        if camera is None:
            return
        if isinstance(command, OpenClip):
            self._open(camera, command)
            return
        for clip in [*self._remuxed.clips, *self._encoded.clips]:
            if clip.camera is not camera or clip.end_s is not None:
                if isinstance(command, FlushCamera) and clip.camera is camera:
                    clip.flushed = True
                continue
            if isinstance(command, FlushCamera):
                clip.flushed = True
            elif clip.opened.alarm_id == command.alarm_id:
                self._go_on(clip, command)

    def _open(self, camera: _Camera, opened: OpenClip) -> None:
        settings = self._config.evidence
        painter = camera.painters[0] if camera.painters else None
        main = camera.main if self._main_is_there(camera) else None
        snapshot = AlarmSnapshot(Path(opened.stem + ".jpg"), camera.config.name, camera.tap, main, painter)
        snapshot.see(opened.at_s, opened.score)
        clip = _Clip(camera, opened, snapshot, opened.at_s + settings.post_s)
        source = main or camera.tap
        clip.encoded = self._needs_encoding(camera, source.ring.form, source)
        with self._lock:
            (self._encoded if clip.encoded else self._remuxed).clips.append(clip)
        if clip.encoded:
            self._start_encoder()
        path = Path(opened.stem + ".mp4")
        cursor = PacketCursor(source.ring, opened.begins_s - settings.pre_s)
        clip.video = self._video(camera, path, cursor, source) if clip.encoded else RemuxedVideo(path, cursor)

    def _go_on(self, clip: _Clip, command: ContinueClip | CloseClip) -> None:
        settings = self._config.evidence
        if isinstance(command, ContinueClip):
            clip.until_s = max(clip.until_s, command.at_s + settings.post_s)
            clip.snapshot.see(command.at_s, command.score)
        else:
            clip.end_s, clip.snapshot.where = command.end_s, command.where
            clip.until_s = command.end_s + settings.post_s
            clip.silent_at_s = self._clock.monotonic() + settings.post_s + _SILENCE_S

    def _needs_encoding(self, camera: _Camera, form: StreamForm | None, tap: CameraTap) -> bool:
        return bool(camera.config.mask) or tap.turned != UPRIGHT or (form is not None and not takes(form))

    def _video(self, camera: _Camera, path: Path, cursor: PacketCursor, tap: CameraTap) -> TranscodedVideo:
        painter = camera.painters[1] if camera.painters else None
        return TranscodedVideo(path, cursor, painter, tap.turned, self._config.evidence.pre_s + _THIN_S)

    def _main_is_there(self, camera: _Camera) -> bool:
        if camera.main is None or camera.main.ring.form is None:
            return False
        return self._clock.monotonic() - camera.main_s < _STALE_S

    def _record(self, camera: _Camera) -> None:
        """Start a recording; under the lock."""
        settings, tap = self._config.recording, camera.main or camera.tap
        if settings.directory not in self._folders:
            self._folders.append(settings.directory)
        encoded = bool(camera.config.mask)

        def make(path: Path, cursor: PacketCursor) -> RemuxedVideo | TranscodedVideo:
            return self._video(camera, path, cursor, tap) if encoded else RemuxedVideo(path, cursor)

        name = camera.config.name
        camera.segments = SegmentRecorder(
            tap.ring,
            settings.directory / name,
            settings.segment_s,
            make=make,
            utc=self._clock.utc,
            written=lambda path: self._written(name, path),
        )
        (self._encoded if encoded else self._remuxed).segments.append(camera)
        if encoded:
            self._start_encoder()

    def _start_encoder(self) -> None:
        if self._encoder is None:
            self._encoder = threading.Thread(target=self._run_encoder, name="transcode", daemon=True)
            self._encoder.start()

    # -- the threads ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        lower_priority()
        while True:
            with self._lock:
                waits = bool(self._remuxed.clips or self._remuxed.segments or self._encoded.clips)
                self._lock.wait_for(lambda: self._commands or self._closing, _TICK_S if waits else _IDLE_S)
                commands = list(self._commands)
                self._commands.clear()
                closing = self._closing
                self._busy = bool(commands)
            self._guarded(self._look_at_disk)
            for camera, command in commands:
                self._guarded(lambda camera=camera, command=command: self._apply(camera, command))  # type: ignore[misc]
            self._see_main_streams()
            self._work(self._remuxed, lambda: None, closing)
            for clip in [*self._remuxed.clips, *self._encoded.clips]:
                self._guarded(lambda clip=clip, last=closing: self._snapshot(clip, last))  # type: ignore[misc]
            with self._lock:
                self._busy = False
                self._lock.notify_all()
            if closing and not self._commands:
                return

    def _run_encoder(self) -> None:
        lower_priority(10)
        budget = CpuBudget(self._config.evidence.transcode_cores)
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closing, 0.0 if self._backlog() else _TICK_S)
                closing = self._closing and not self._commands and not self._busy
            self._work(self._encoded, (lambda: None) if closing else budget.spend, closing)
            if closing and (not self._encoded.clips or time.monotonic() > self._give_up_s):
                return

    def _backlog(self) -> bool:
        return any(clip.video is not None and clip.video.cursor.lag_s() > 2.0 for clip in self._encoded.clips)

    def _work(self, work: _Work, pause: Callable[[], object], closing: bool) -> None:
        for camera in list(work.segments):
            self._guarded(lambda camera=camera: self._advance_segments(camera, pause, closing))  # type: ignore[misc]
            if camera.gone:
                with self._lock:
                    work.segments.remove(camera)
        for clip in list(work.clips):
            if not self._guarded(lambda clip=clip: self._advance(clip, pause, closing)):  # type: ignore[misc]
                clip.over = True
                if clip.video is not None:
                    clip.video.file.discard()
            if clip.over:
                with self._lock:
                    work.clips.remove(clip)
                self._guarded(lambda clip=clip: self._snapshot(clip, True))  # type: ignore[misc]

    def _advance(self, clip: _Clip, pause: Callable[[], object], closing: bool) -> None:
        video = clip.video
        if video is None:
            return
        settings, opened = self._config.evidence, clip.opened
        longest_s = opened.begins_s - settings.pre_s + settings.max_clip_s
        silent = self._clock.monotonic() >= clip.silent_at_s
        final = clip.flushed or closing or silent
        if not self._may_keep:
            final = True
        until_s = min(clip.until_s, longest_s)
        done = video.advance(until_s, final, pause)
        limit_reached = done and until_s == longest_s
        if video.cursor.lost:
            lost, video.cursor.lost = video.cursor.lost, 0
            self._report(PacketsLost(clip.camera.config.name, lost))
        if (done and (clip.end_s is not None or final or limit_reached or video.changed)) or self._out_of_time():
            clip.over = True
            if video.file.close():
                self._written(clip.camera.config.name, video.file.path)

    def _advance_segments(self, camera: _Camera, pause: Callable[[], object], closing: bool) -> None:
        segments = camera.segments
        if segments is None:
            return
        segments.advance(self._may_record, pause)
        if segments.lost:
            lost, segments.lost = segments.lost, 0
            self._report(PacketsLost(camera.config.name, lost))
        if closing or camera.gone:
            segments.close()

    def _snapshot(self, clip: _Clip, last: bool) -> None:
        if self._may_keep:
            clip.snapshot.write(self._clock.monotonic(), last)

    def _see_main_streams(self) -> None:
        now_s = self._clock.monotonic()
        for camera in list(self._cameras.values()):
            if camera.main is not None and camera.main.ring.newest_serial != camera.main_serial:
                camera.main_serial, camera.main_s = camera.main.ring.newest_serial, now_s

    def _look_at_disk(self) -> None:
        state = self._disk.look(self._clock.monotonic())
        self._may_record, self._may_keep = state.recording, state.evidence
        if state.changed:
            self._report(EvidenceProblem(f"disk {state.level}", self._disk.sentence(state)))

    def _out_of_time(self) -> bool:
        return time.monotonic() >= self._give_up_s

    def _written(self, camera: str, path: Path) -> None:
        log.debug("%s written", path)
        size = path.stat().st_size if path.exists() else 0
        self._report(FileWritten(camera, str(path), size))

    def _guarded(self, action: Callable[[], object]) -> bool:
        """Whether the action went well; a failure of the evidence never ends the detection."""
        try:
            action()
            return True
        except OSError as error:
            reason = error.strerror or str(error)
            what = f"{str(error.filename)!r} cannot be written" if error.filename else "a file cannot be written"
            self._report(EvidenceProblem(reason, f"evidence: {what} ({reason}); detection continues without it"))
        except Exception as error:
            log.debug("evidence", exc_info=True)
            self._report(EvidenceProblem("bug", f"evidence could not be written ({type(error).__name__}: {error})"))
        return False


def make_recorder(config: Config, report: Callable[[Report], object]) -> ClipRecorder:
    """A recorder on the machine's clocks, as capture hosts make it (`capture.host_process.HostSetup.taps`)."""
    return ClipRecorder(config, clock=SystemClock(), report=report)


RECORDER = f"{__name__}:{make_recorder.__name__}"
