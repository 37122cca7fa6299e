"""Logging for people or for machines that neither blocks nor ends a run.

No record can contain a password of a source, because loggers only know the shown name of a source
(`config.source.Source`). A run logs through a bounded queue and a separate thread. A reader that stands still, a full
disk or a closed descriptor causes the loss of lines, which are counted and reported, and nothing else.

Fields of the JSON lines: docs/logging.md. A caller adds fields with `extra=fields(event="…", camera="…")`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import stat
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from stream_detector.errors import UsageError

LOGGER = "stream_detector"
QUEUE_LINES = 2000
# the beginning of a line of either style
_OURS = re.compile(rb'\{"time": ?"\d{4}-|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z]+ ')


def fields(**values: Any) -> dict[str, Any]:
    """Return `extra=` for a logging call: fields of the JSON line besides the message."""
    return {"fields": values}


class TextFormatter(logging.Formatter):
    """`2026-11-28 12:00:01 WARNING stream_detector.run: gate: stalled`, local time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Format the line; a line break in a message does not begin another line."""
        if not record.exc_info:
            record.msg, record.args = " ".join(record.getMessage().splitlines()), None
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, message, the caller's fields, and a traceback if
    there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in getattr(record, "fields", {}).items():
            if value is not None:
                entry.setdefault(name, value)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the present sys.stderr, or to the given stream; failures are ignored."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream or sys.stderr)
        self._given = stream

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = self._given or sys.stderr
        if self.stream is not None:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: no place is left to report an error of the log."""


class LogFile:
    """A file to which lines are appended. Raises UsageError if that is impossible, or if the file holds something
    else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            if path.exists():
                self._check(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._open()
        except OSError as error:
            raise UsageError(
                f"log file {str(path)!r} cannot be written ({error.strerror or error}); give another"
            ) from None

    @staticmethod
    def _check(path: Path) -> None:
        mode = path.stat().st_mode
        if stat.S_ISCHR(mode):
            return
        if not stat.S_ISREG(mode):
            raise UsageError(f"log file {str(path)!r} is not a file that can be appended to; give another")
        with path.open("rb") as file:
            beginning = file.read(64)
        if beginning and not _OURS.match(beginning):
            raise UsageError(f"file {str(path)!r} is not a log of this program; give another name for the log")

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)

    def write(self, line: str) -> bool:
        """Append one line; return False if the disk refused it."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            return os.write(self._descriptor, data) == len(data)
        except OSError:
            return False

    def reopen(self) -> None:
        """Continue in a new file of the same name after a rename; keep the old file if that is impossible."""
        with contextlib.suppress(OSError):
            fresh = self._open()
            os.close(self._descriptor)
            self._descriptor = fresh

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Log(logging.Handler):
    """The log of a run: a bounded queue, and a thread that writes to standard error or to a file."""

    def __init__(self, formatter: logging.Formatter, path: Path | None = None) -> None:
        super().__init__()
        self._formatter = formatter
        self._file = LogFile(path) if path else None
        self._queue: queue.Queue[logging.LogRecord | Literal["reopen", "end"]] = queue.Queue(QUEUE_LINES)
        self._left_out = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record; never waits."""
        try:
            record.msg, record.args = record.getMessage(), None  # with the present values of its arguments
            self._queue.put_nowait(record)
        except queue.Full:
            with self._counting:
                self._left_out += 1
        except Exception:  # a message that does not fit its arguments must not end the run
            self._left_out += 1

    @property
    def left_out(self) -> int:
        """The number of lines that could not be written and were not reported yet."""
        with self._counting:
            return self._left_out

    def reopen(self) -> None:
        """Reopen the file (SIGHUP, logrotate). Returns immediately."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait("reopen")

    def finish(self, timeout_s: float = 1.0) -> None:
        """Write the queued lines, for at most this long. Later records go to standard error directly."""
        with contextlib.suppress(queue.Full):
            self._queue.put("end", timeout=timeout_s)
            self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while (item := self._queue.get()) != "end":
            if item == "reopen":
                if self._file:
                    self._file.reopen()
                    self._note("the log file was reopened", event="log_reopened")
            elif isinstance(item, logging.LogRecord):
                good = self._write(item)
                with self._counting:
                    self._left_out += not good
                    count = self._left_out
                told = good and count > 0
                if told and self._note(f"{count} lines of the log were lost", event="lines_left_out", count=count):
                    with self._counting:
                        self._left_out -= count

    def _note(self, text: str, **values: Any) -> bool:
        record = logging.LogRecord(f"{LOGGER}.logs", logging.WARNING, __file__, 0, text, None, None)
        record.fields = values
        return self._write(record)

    def _write(self, record: logging.LogRecord) -> bool:
        """Write one line; return False if that failed."""
        try:
            line = self._formatter.format(record)
            if self._file is not None and self._file.write(line):
                return True
            if sys.stderr is None:
                return False
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except Exception:  # the disk is full and standard error is closed
            return False
        return True


def set_up_logging(
    style: Literal["text", "json"],
    *,
    level: int = logging.INFO,
    stream: TextIO | None = None,
) -> None:
    """Send this package's log to `stream` (stderr by default). Loggers of other libraries stay unchanged."""
    handler = _Handler(stream)
    handler.setFormatter(_formatter(style))
    _use(handler, level)


@contextlib.contextmanager
def run_log(style: Literal["text", "json"], *, level: int, path: Path | None = None) -> Iterator[Log]:
    """Set up the log of a run: through a queue, to standard error or the file `path`. Yields the Log.

    Raises UsageError if the file cannot be written or holds something else.
    """
    log = Log(_formatter(style), path)
    _use(log, level)
    try:
        yield log
    finally:
        log.finish()
        set_up_logging(style, level=level)


def _formatter(style: str) -> logging.Formatter:
    return JsonFormatter() if style == "json" else TextFormatter()


def _use(handler: logging.Handler, level: int) -> None:
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
