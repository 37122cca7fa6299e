"""Makes standard output and error safe: closed, full, unread, or with another encoding, they neither end nor block a
run.

Characters that the encoding lacks are written as escapes (`\\u2192`). Standard output raises OutputError, which the
command line turns into one sentence. Standard error drops what it cannot write: there is no place to report it, and no
run may wait for the reader of its log.
"""

from __future__ import annotations

import errno
import io
import json
import select
import sys
from typing import Any

from stream_detector.errors import OutputError

_PIPE_BYTES = 4096  # bytes that a pipe accepts when it is reported as writable
_WAIT_S = 1.0  # seconds to wait, once, for a reader of standard error that stands still


def mend_streams() -> None:
    """Replace sys.stdout and sys.stderr. Call it once, at the start of a process."""
    out, err = sys.stdout, sys.stderr
    closed = out is None
    raw_out: io.RawIOBase = _ClosedOut() if closed else _Out(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw_out),
        encoding="utf-8" if closed else out.encoding,
        errors="backslashreplace",
        line_buffering=not closed and bool(out.line_buffering),
        write_through=bool(getattr(out, "write_through", False)),
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Err(2, "w", closefd=False)),
        encoding="utf-8" if err is None else err.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


class _Out(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(error.strerror or str(error), gone=error.errno == errno.EPIPE) from None


class _ClosedOut(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        raise OutputError("it is closed")


class _Err(io.FileIO):
    stuck = False

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        try:
            for at in range(0, len(view), _PIPE_BYTES):
                if not select.select((), (2,), (), 0.0 if self.stuck else _WAIT_S)[1]:
                    self.stuck = True
                    break
                self.stuck = False
                super().write(view[at : at + _PIPE_BYTES])
        except (OSError, ValueError):
            pass
        return len(view)


def json_text(values: object, *, indent: int | None = 2) -> str:
    """Format JSON for standard output, with characters beyond ASCII only if its encoding has them."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return json.dumps(values, indent=indent, allow_nan=False, ensure_ascii=not encoding.lower().startswith("utf"))
