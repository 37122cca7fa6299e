"""Evidence: a clip from before an alarm to after it, and a snapshot of its peak, as files beside the events.

    <directory>/<camera>/<alarm id>-<epoch>.webm    pre_s before … post_s after, at most max_clip_s
    <directory>/<camera>/<alarm id>-<epoch>.jpg     the preview nearest the highest score so far, with a caption

A replay repeats the ids of its alarms. The epoch in the file names keeps a replay from replacing the files of the
former run. Earlier versions wrote <alarm id>.webm; retention treats both forms alike.

One thread writes; callers only pass references. If it falls behind by more than `backlog_bytes` of pictures, further
pictures are left out of the clips and counted; starts and ends are never left out. All decisions use media time. Only a
source that falls silent after the end of an alarm is detected by the monotonic clock.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from stream_detector.config import EvidenceConfig
from stream_detector.evidence.clip_file import ClipFile, remove_stale, write_snapshot
from stream_detector.evidence.file_order import EvidenceIndex
from stream_detector.types import Clock, Preview

log = logging.getLogger(__name__)

_OWN_FILE = re.compile(r"[0-9a-f]{32}(?:-[0-9a-f]{16})?\.(?:webm|jpg)")  # names of the files that retention may delete
_USUAL_FPS, _MIN_FPS, _MAX_FPS = 8.0, 1.0, 60.0
_RING_BYTES = 256_000_000  # bytes of all cameras together; beyond it, the part before an alarm becomes shorter
# seconds from the beginning of an alarm to the picture at which it is decided: a window and its smoothing
_DECIDED_S = 4.0
_SILENCE_S = 5.0  # seconds beyond post_s without a picture after which the clip of an ended alarm is closed
_LOSS_REPORT_S = 10.0
_DAY_S = 86400.0
_LOOK_S = 60.0  # seconds between two checks of age and size
_RETENTION_S = 600.0

T = TypeVar("T")
Kind = Literal["observe", "start", "peak", "end", "flush"]


@dataclass
class _Recording:
    """An alarm whose evidence is being written. end_s: media time of its end.  silent_at_s: monotonic deadline."""

    camera: str
    id: str
    clip: ClipFile | None = None
    best: float = -1.0
    wanted: tuple[float, float] | None = None  # media time and score of a snapshot that still waits for its picture
    last_s: float = float("-inf")
    end_s: float | None = None
    silent_at_s: float = float("inf")


@dataclass(frozen=True)
class _Item:
    kind: Kind
    camera: str
    alarm_id: str = ""
    media_s: float = 0.0
    score: float = 0.0
    previews: tuple[Preview, ...] = ()
    size: int = 0
    begins_s: float = 0.0


@dataclass
class _State:
    """The state of the writer thread."""

    rings: dict[str, deque[Preview]] = field(default_factory=dict)
    ring_bytes: int = 0
    recordings: list[_Recording] = field(default_factory=list)
    reported: set[str] = field(default_factory=set)


class EvidenceWriter:
    """Writes clips and snapshots in its own thread. All methods except close() return immediately and never raise.

    epoch: part of all file names; empty: the names of earlier versions.  on_error: called with one sentence when
    writing fails (once for each kind of failure until writing works again) or when pictures are lost (at most every 10
    s). on_loss: called in the caller's thread with the camera and the number of pictures left out.
    """

    def __init__(
        self,
        config: EvidenceConfig,
        *,
        clock: Clock,
        epoch: str = "",
        on_error: Callable[[str], object],
        on_loss: Callable[[str, int], object] | None = None,
        backlog_bytes: int = 128_000_000,
    ) -> None:
        self._config, self._clock, self._on_error, self._on_loss = config, clock, on_error, on_loss
        self._backlog_bytes = backlog_bytes
        self._suffix = f"-{epoch}" if epoch else ""
        self._changed = threading.Condition()
        self._items: deque[_Item] = deque()
        self._pending_bytes = 0
        self._busy = False
        self._closing = False
        self._give_up_at = float("inf")  # time.monotonic(): this limits real time, independent of `clock`
        self._lost = 0
        self._loss_reported_s = float("-inf")
        self._state = _State()
        self._retention_s = clock.monotonic() + _RETENTION_S
        self._order = EvidenceIndex(config.directory, clock)
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._thread.start()

    @property
    def lost_previews(self) -> int:
        """The number of pictures left out so far."""
        with self._changed:
            return self._lost

    def paths(self, camera: str, alarm_id: str) -> tuple[str, str]:
        """Return the paths of the clip and the snapshot of an alarm."""
        stem = str(self._config.directory / camera / f"{alarm_id}{self._suffix}")
        return f"{stem}.webm", f"{stem}.jpg"

    def observe(self, camera: str, previews: tuple[Preview, ...]) -> None:
        """Take the newest previews of a camera, in order of media time."""
        if not previews:
            return
        item = _Item("observe", camera, previews=previews, size=sum(p.image.nbytes for p in previews))
        with self._changed:
            full = self._pending_bytes + item.size > self._backlog_bytes
            if full:
                self._lost += len(previews)
        if not full:
            self._put(item)
            return
        if self._on_loss:
            self._on_loss(camera, len(previews))
        now = self._clock.monotonic()
        if now - self._loss_reported_s >= _LOSS_REPORT_S:
            self._loss_reported_s = now
            self._report(f"evidence of camera {camera!r}: writing clips is too slow, pictures are left out of them")

    def start(self, camera: str, alarm_id: str, at_media_s: float, score: float, begins_s: float | None = None) -> None:
        """Start an alarm: open its clip with the previews before it, and write its first snapshot.

        begins_s: media time of the beginning of the alarm, which the clip precedes by pre_s; None: at_media_s, that of
        the score.
        """
        begins_s = at_media_s if begins_s is None else begins_s
        self._put(_Item("start", camera, alarm_id, at_media_s, score, begins_s=begins_s))

    def peak(self, camera: str, alarm_id: str, at_media_s: float, score: float) -> None:
        """Update an alarm with a new score; a score higher than before replaces the snapshot."""
        self._put(_Item("peak", camera, alarm_id, at_media_s, score))

    def end(self, camera: str, alarm_id: str, end_media_s: float) -> None:
        """End an alarm; its clip continues for post_s of media time."""
        self._put(_Item("end", camera, alarm_id, end_media_s))

    def flush_camera(self, camera: str) -> None:
        """Close the clips of a camera whose source ended."""
        self._put(_Item("flush", camera))

    def close(self, timeout_s: float = 10.0) -> bool:
        """Finish all open clips, with fewer pictures if time is short. Returns whether all was finished in time."""
        with self._changed:
            self._give_up_at = min(self._give_up_at, time.monotonic() + 0.7 * timeout_s)
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._report(
                f"evidence was still being written {timeout_s:g} s after the end; the last clips are incomplete"
            )
            return False
        return True

    def wait_idle(self, timeout_s: float) -> bool:
        """Block until everything passed so far is processed; for tests and tools."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._items and not self._busy, timeout_s)

    # ── the writer thread ───────────────────────────────────────────────────────────────────────────────────────────

    def _put(self, item: _Item) -> None:
        with self._changed:
            if self._closing:
                return
            self._items.append(item)
            self._pending_bytes += item.size
            self._changed.notify_all()

    def _run(self) -> None:
        lower_priority()
        self._guard(lambda: self._apply_retention(first=True), "the evidence folder cannot be tidied")
        while True:
            with self._changed:
                waits = any(r.end_s is not None for r in self._state.recordings)
                self._changed.wait_for(lambda: self._items or self._closing, 0.5 if waits else _LOOK_S)
                item = self._items.popleft() if self._items else None
                if item is not None:
                    self._pending_bytes -= item.size
                    self._busy = True
                elif self._closing:
                    break
            try:
                if item is not None:
                    self._handle(item)
                self._close_silent()
                self._apply_retention_when_due()
            except Exception as error:  # a failure of the evidence must never end the detection
                log.debug("evidence", exc_info=True)
                self._report_once("bug", f"evidence could not be written ({type(error).__name__}: {error})")
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
        self._finish(list(self._state.recordings))
        self._order.close()

    def _handle(self, item: _Item) -> None:
        if item.kind == "observe":
            self._take(item.camera, item.previews)
        elif item.kind == "flush":
            self._finish([r for r in self._state.recordings if r.camera == item.camera])
            self._state.ring_bytes -= sum(p.image.nbytes for p in self._state.rings.pop(item.camera, ()))
        elif item.kind == "start":
            self._begin(item)
        else:
            for recording in self._state.recordings:
                if (recording.camera, recording.id) != (item.camera, item.alarm_id) or recording.end_s is not None:
                    continue
                if item.kind == "peak":
                    self._update_snapshot(recording, item.media_s, item.score)
                else:
                    recording.end_s = item.media_s
                    self._extend_deadline(recording)

    def _begin(self, item: _Item) -> None:
        ring = self._state.rings.get(item.camera, ())
        clip, _ = self.paths(item.camera, item.alarm_id)
        recording = _Recording(item.camera, item.alarm_id)
        recording.clip = self._guard(
            lambda: ClipFile(Path(clip), _rate(ring), self._config.max_clip_s), f"clip {clip!r} cannot be written"
        )
        self._state.recordings.append(recording)
        self._update_snapshot(recording, item.media_s, item.score)
        for preview in ring:
            if item.begins_s - self._config.pre_s <= preview.media_s:
                self._record(recording, preview)

    def _take(self, camera: str, previews: Iterable[Preview]) -> None:
        state = self._state
        ring = state.rings.setdefault(camera, deque())
        for preview in previews:
            if ring and preview.media_s < ring[-1].media_s:  # the source started again
                state.ring_bytes -= sum(p.image.nbytes for p in ring)
                ring.clear()
            ring.append(preview)
            state.ring_bytes += preview.image.nbytes
            while preview.media_s - ring[0].media_s > self._config.pre_s + _DECIDED_S and len(ring) > 1:
                state.ring_bytes -= ring.popleft().image.nbytes
            for recording in [r for r in state.recordings if r.camera == camera]:
                self._add_to_recording(recording, preview)
        while state.ring_bytes > _RING_BYTES:
            longest = max(state.rings.values(), key=lambda r: sum(p.image.nbytes for p in r))
            state.ring_bytes -= longest.popleft().image.nbytes

    def _add_to_recording(self, recording: _Recording, preview: Preview) -> None:
        if recording.end_s is not None and preview.media_s > recording.end_s + self._config.post_s:
            self._finish([recording])
            return
        if recording.end_s is not None:
            self._extend_deadline(recording)
        if recording.wanted is not None:
            self._update_snapshot(recording, *recording.wanted)
        self._record(recording, preview)

    def _extend_deadline(self, recording: _Recording) -> None:
        recording.silent_at_s = self._clock.monotonic() + self._config.post_s + _SILENCE_S

    def _record(self, recording: _Recording, preview: Preview) -> None:
        clip = recording.clip
        if clip is None or preview.media_s <= recording.last_s:
            return
        recording.last_s = preview.media_s
        what = f"clip {str(clip.path)!r} cannot be written"
        going_on = self._guard(lambda: clip.add(preview, self._out_of_time), what)
        if going_on is None:
            clip.discard()
            recording.clip = None
        elif not going_on:  # the clip has its full length; the snapshot may still change
            self._close_clip(recording)

    def _update_snapshot(self, recording: _Recording, at_s: float, score: float) -> None:
        """Write the snapshot if this score is the highest so far."""
        if score <= recording.best:
            return
        ring = self._state.rings.get(recording.camera)
        if not ring:
            recording.wanted = (at_s, score)
            return
        recording.best, recording.wanted = score, None
        nearest = min(ring, key=lambda p: abs(p.media_s - at_s))
        _, path = self.paths(recording.camera, recording.id)
        minutes, seconds = divmod(nearest.media_s, 60)
        caption = f"{recording.camera}   {int(minutes):d}:{seconds:04.1f}   score {score:.2f}"
        self._guard(lambda: write_snapshot(Path(path), nearest, caption), f"snapshot {path!r} cannot be written")

    def _finish(self, recordings: list[_Recording]) -> None:
        for recording in recordings:
            self._state.recordings.remove(recording)
            self._close_clip(recording)
        if recordings:
            self._guard(lambda: self._apply_retention(first=False), "the evidence folder cannot be tidied")

    def _close_clip(self, recording: _Recording) -> None:
        clip, recording.clip = recording.clip, None
        if clip is None:
            return
        if self._guard(clip.close, f"clip {str(clip.path)!r} cannot be written"):
            self._state.reported.clear()
            log.debug("clip %s written", clip.path)

    def _close_silent(self) -> None:
        now = self._clock.monotonic()
        self._finish([r for r in self._state.recordings if now >= r.silent_at_s])

    def _apply_retention_when_due(self) -> None:
        """Apply retention; old files are deleted in quiet times as well."""
        now_s = self._clock.monotonic()
        self._order.observe()
        if now_s >= self._retention_s:
            self._guard(lambda: self._apply_retention(first=False), "the evidence folder cannot be tidied")

    def _out_of_time(self) -> bool:
        return time.monotonic() >= self._give_up_at

    def _apply_retention(self, first: bool) -> None:
        """Delete stale temporary files at the start, files older than keep_days, and the oldest beyond max_bytes. 0: no
        limit.

        Age and order are by arrival, see `file_order`: a wrong clock deletes nothing.
        """
        self._retention_s = self._clock.monotonic() + _RETENTION_S
        directory, config = self._config.directory, self._config
        if not directory.is_dir():
            return
        if first:
            remove_stale(directory)
        still_open = {path for r in self._state.recordings for path in self.paths(r.camera, r.id)}
        files: dict[str, tuple[float, int]] = {}
        for path in directory.glob("*/*"):
            if _OWN_FILE.fullmatch(path.name) and str(path) not in still_open:
                about = path.stat()
                files[f"{path.parent.name}/{path.name}"] = (about.st_mtime, about.st_size)
        by_date = sorted(files, key=lambda name: files[name])
        total, keep_s = 0, config.keep_days * _DAY_S or float("inf")
        for seen in reversed(self._order.oldest_first(by_date)):  # newest first
            size = files[seen.name][1]
            total += size
            if seen.age_s > keep_s or (config.max_bytes and total > config.max_bytes):
                (directory / seen.name).unlink(missing_ok=True)
                total -= size

    def _guard(self, action: Callable[[], T], what: str) -> T | None:
        """Run action; an OSError is reported once and becomes None."""
        try:
            return action()
        except OSError as error:
            reason = error.strerror or str(error)
            self._report_once(reason, f"evidence: {what} ({reason}); detection continues without it")
            return None

    def _report_once(self, sort: str, sentence: str) -> None:
        if sort not in self._state.reported:
            self._state.reported.add(sort)
            self._report(sentence)

    def _report(self, sentence: str) -> None:
        try:
            self._on_error(sentence)
        except Exception:
            log.exception("the callback for evidence errors failed")


def _rate(previews: Iterable[Preview]) -> float:
    """Return the rate of a run of previews: the inverse of their usual distance in media time."""
    times = [p.media_s for p in previews]
    gaps = [b - a for a, b in itertools.pairwise(times) if b > a]
    fps = 1 / statistics.median(gaps) if gaps else _USUAL_FPS
    return min(max(round(fps, 2), _MIN_FPS), _MAX_FPS)


def lower_priority() -> None:
    """Give this thread, on Linux, a lower priority than the threads that detect.

    Only for work that does not hold the interpreter's lock, as encoders do: a thread that is suspended while it holds
    the lock stops all others.
    """
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
        except OSError:
            log.debug("thread %s keeps its priority", threading.current_thread().name)
