"""Evidence, the decision side: names the files of alarms, tells the recorders what to write, and keeps the folder tidy.

    <directory>/<camera>/<alarm id>-<epoch>.mp4    the camera's own video, pre_s before … post_s after the alarm
    <directory>/<camera>/<alarm id>-<epoch>.jpg    the whole picture nearest the highest score so far, with a caption
                                      ….where.jpg  a copy with the place that the alarm looks at (`alarms.where`)

A replay repeats the ids of its alarms; with the epoch in their names its files do not replace those that the events of
the former run name. Earlier versions wrote WebM; retention treats all alike.

The recorders (`recorder.ClipRecorder`) live where the decoders are, possibly in other processes; messages are all that
goes there and comes back. All decisions use media time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from stream_detector.config import Config
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
from stream_detector.evidence.part_files import rescue_parts
from stream_detector.evidence.retention import Retention
from stream_detector.types import Clock, Where

log = logging.getLogger(__name__)

_LOSS_REPORT_S = 10.0
_LOOK_S = 60.0  # between two looks at the clocks
_RETENTION_S = 600.0
_TIDY_S = 60.0  # with thousands of files of recordings, looking at all of them takes a while
_MOST_OPEN = 1000


class EvidenceWriter:
    """What the decider asks for evidence. All methods except close() return immediately and never raise.

    epoch: part of the names of all files; empty: the names of earlier versions.
    on_error: called with one sentence when writing fails (once for each kind of failure, until writing works again) or
    when packets are lost (at most every 10 s).  on_loss: called with the camera and the number of packets left out.
    send: hands a command to the recorder of its camera; see `send_to`.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock,
        epoch: str = "",
        on_error: Callable[[str], object],
        on_loss: Callable[[str, int], object] | None = None,
    ) -> None:
        self._config, self._clock, self._on_error, self._on_loss = config, clock, on_error, on_loss
        self._suffix = f"-{epoch}" if epoch else ""
        self._send: Callable[[Command], object] = lambda _command: None
        self._lock = threading.Lock()  # the next three
        self._reported: set[str] = set()
        self._loss_reported_s = float("-inf")
        self._open: dict[str, None] = {}  # stems of alarms whose files are being written
        self._tidy = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._thread.start()

    def send_to(self, send: Callable[[Command], object]) -> None:
        """Where commands go from now on."""
        self._send = send

    def paths(self, camera: str, alarm_id: str) -> tuple[str, str]:
        """Where the clip and the snapshot of an alarm will lie."""
        stem = self._stem(camera, alarm_id)
        return f"{stem}.mp4", f"{stem}.jpg"

    def start(self, camera: str, alarm_id: str, at_media_s: float, score: float, begins_s: float | None = None) -> None:
        """An alarm starts: open its clip with what lies before, and write its first snapshot.

        begins_s: where the alarm begins, which its clip precedes by pre_s; unless given, at_media_s (of the score).
        """
        stem = self._stem(camera, alarm_id)
        with self._lock:
            self._open[stem] = None
            if len(self._open) > _MOST_OPEN:  # those whose clip never came
                del self._open[next(iter(self._open))]
        begins_s = at_media_s if begins_s is None else begins_s
        self._send(OpenClip(camera, alarm_id, stem, begins_s, at_media_s, score))

    def peak(self, camera: str, alarm_id: str, at_media_s: float, score: float) -> None:
        """The alarm goes on with this score; a higher one than before replaces the snapshot."""
        self._send(ContinueClip(camera, alarm_id, at_media_s, score))

    def end(self, camera: str, alarm_id: str, end_media_s: float, where: Where | None = None) -> None:
        """The alarm ended; its clip goes on for post_s of media time. where: is drawn over a copy of the snapshot."""
        self._send(CloseClip(camera, alarm_id, end_media_s, where))

    def flush_camera(self, camera: str) -> None:
        """The source ended: close its clips with what there is."""
        self._send(FlushCamera(camera))

    def report(self, report: Report | None) -> None:
        """Take what a recorder reports; from any thread. None: a recorder's process is gone."""
        if report is None:
            self.recorder_lost()
        elif isinstance(report, FileWritten):
            with self._lock:
                self._reported.clear()
                self._open.pop(report.path.removesuffix(".mp4"), None)
            self._tidy.set()
        elif isinstance(report, EvidenceProblem):
            with self._lock:
                if report.kind.startswith("disk "):  # a level that came before may come again
                    self._reported -= {
                        kind for kind in self._reported if kind.startswith("disk ") and kind != report.kind
                    }
                known = report.kind in self._reported and not report.kind.startswith("main ")
                self._reported.add(report.kind)
            if not known:
                self._say(report.sentence)
        else:
            self._lost(report)

    def recorder_lost(self) -> None:
        """A recorder's process died: give the files that it left behind their names, as far as they are whole."""
        with self._lock:
            self._open.clear()
        self._guard(lambda: self._rescue(), "the evidence folder cannot be tidied")

    def close(self, timeout_s: float = 10.0) -> bool:
        """Tidy a last time, and end. The recorders were closed before."""
        self._over.set()
        self._tidy.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _stem(self, camera: str, alarm_id: str) -> str:
        return str(self._config.evidence.directory / camera / f"{alarm_id}{self._suffix}")

    def _lost(self, lost: PacketsLost) -> None:
        if self._on_loss:
            self._on_loss(lost.camera, lost.count)
        now_s = self._clock.monotonic()
        with self._lock:
            due = now_s - self._loss_reported_s >= _LOSS_REPORT_S
            self._loss_reported_s = now_s if due else self._loss_reported_s
        if due:
            self._say(f"evidence of camera {lost.camera!r}: the disk is too slow, pictures are left out of clips")

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        retention = Retention(self._config, self._clock)
        self._guard(self._rescue, "the evidence folder cannot be tidied")
        due_s = last_s = float("-inf")
        while True:
            if self._tidy.is_set():
                self._tidy.clear()
                due_s = min(due_s, last_s + _TIDY_S)
            over = self._over.is_set()  # after the event was cleared: `close` sets this one first
            now_s = self._clock.monotonic()
            retention.observe()
            if over or now_s >= due_s:
                last_s, due_s = now_s, now_s + _RETENTION_S
                self._guard(lambda: retention.apply(self._still_open()), "the evidence folder cannot be tidied")
            if over:
                break
            self._tidy.wait(min(_LOOK_S, max(0.1, due_s - now_s)))
        retention.close()

    def _rescue(self) -> None:
        folders = [self._config.evidence.directory, self._config.recording.directory]
        rescued = [path for folder in folders if folder.is_dir() for path in rescue_parts(folder)]
        if rescued:
            log.info("%d clips that an earlier process left unfinished were kept, such as %s", len(rescued), rescued[0])

    def _still_open(self) -> set[str]:
        with self._lock:
            return {f"{stem}{suffix}" for stem in self._open for suffix in (".mp4", ".jpg", ".where.jpg")}

    def _guard(self, action: Callable[[], object], what: str) -> None:
        """Run action; an OSError is reported once."""
        try:
            action()
        except OSError as error:
            reason = error.strerror or str(error)
            self.report(EvidenceProblem(reason, f"evidence: {what} ({reason}); detection continues without it"))
        except Exception as error:
            log.debug("evidence", exc_info=True)
            self.report(EvidenceProblem("bug", f"evidence: {what} ({type(error).__name__}: {error})"))

    def _say(self, sentence: str) -> None:
        try:
            self._on_error(sentence)
        except Exception:
            log.exception("the callback for evidence errors failed")
