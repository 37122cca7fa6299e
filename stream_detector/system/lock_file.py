"""Locks that end with their process, so that two detectors never share a journal, an event file or a folder."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stream_detector.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows has no flock; there the operating system does not allow replacing open files
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EMLINK)  # a symbolic link, a folder, a FIFO
_LOCK_TEXT = re.compile(rb"(\d{1,10}\n?)?")  # the number of the process, or nothing yet
_TRIES = 20


class LockFile:
    """Hold `path` exclusively from `acquire` until `release` or the end of the process.

    The file holds the number of the process that has it. `release` deletes it; a process that locked a file which was
    deleted meanwhile notices this and tries again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._target: int | None = None  # the guarded file

    def acquire(self) -> bool:
        """Take the lock; return False if another process holds it.

        Raises OSError if it cannot be created, UsageError if something else has its name.
        """
        for _ in range(_TRIES):
            descriptor, writable = _open(self.path)
            try:
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError:
                os.close(descriptor)
                raise
            if not _is_at(descriptor, self.path):  # deleted by its former holder
                os.close(descriptor)
                continue
            if writable:
                with contextlib.suppress(OSError):  # the number is only for people
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            self._descriptor = descriptor
            return True
        raise OSError(errno.EBUSY, "the lock file is replaced again and again")

    def hold(self, target: Path) -> bool:
        """Lock the guarded file itself as well, under whatever name; return False if another process holds it.

        A hard link is another name of a file, with another lock file beside it. A file that is not there, or on a disk
        without such locks, is guarded by its name alone. The file stays open until `release`: closing it would drop
        the locks of SQLite.
        """
        if fcntl is None:
            return True
        try:
            there = target.stat()
            if self._target is not None:
                mine = os.fstat(self._target)
                if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                    return True
            if not stat.S_ISREG(there.st_mode):
                return True
            descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            return True
        if self._target is not None:
            os.close(self._target)
        self._target = descriptor
        return True

    def held(self) -> bool:
        """Whether the lock is held and its file is still in its place: after a deletion others could take it."""
        return self._descriptor is not None and _is_at(self._descriptor, self.path)

    def renew(self) -> bool:
        """Lock the file that is at the path now; return False if another process has it. Raises OSError."""
        if self.held():
            return True
        old, self._descriptor = self._descriptor, None
        try:
            return self.acquire()
        finally:
            if old is not None:
                os.close(old)

    def holder(self) -> str:
        """Return a description of the holder: "process 123", or "another process"."""
        try:
            text = self.path.read_bytes()[:20].strip().decode("ascii", "replace")
        except OSError:
            text = ""
        return f"process {text}" if text.isdecimal() else "another process"

    def release(self) -> None:
        """Release the lock. Safe to call twice."""
        if self._target is not None:
            os.close(self._target)
            self._target = None
        if self._descriptor is None:
            return
        if self.held():
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None


def _open(path: Path) -> tuple[int, bool]:
    """Open or create a lock file. Raises UsageError for anything that is not one, which stays unchanged; OSError."""
    flags = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        try:
            descriptor, writable = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600), True
        except OSError as error:
            if error.errno not in _READ_ONLY or not path.is_file():
                raise
            descriptor, writable = os.open(path, os.O_RDONLY | flags), False  # on a read-only disk it can be locked
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _foreign(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not _LOCK_TEXT.fullmatch(os.pread(descriptor, 32, 0)):
        os.close(descriptor)
        raise _foreign(path)
    return descriptor, writable


def _foreign(path: Path) -> UsageError:
    return UsageError(
        f"{str(path)!r} is no lock file of this program and stays unchanged; move it away, or use another folder"
    )


def holds_lock_text(path: Path) -> bool:
    """Whether `path` is a lock file of this program that a process left behind, or still has."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        text = os.pread(descriptor, 32, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)
    return bool(text) and _LOCK_TEXT.fullmatch(text) is not None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except OSError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def lock_of(path: Path) -> LockFile:
    """Return the lock of a file: beside the file that its name resolves to."""
    real = path.resolve()
    return LockFile(real.with_name(real.name + ".lock"))


def claim(lock: LockFile, what: str, instead: str, target: Path | None = None) -> LockFile:
    """Take `lock`, or raise UsageError with one sentence; its folder is created.

    what: for instance "the event journal 'x'".  instead: what to do, after "stop that one, or".  target: the file that
    it guards, which may have other names.  Raises OSError if no lock can be created.
    """
    lock.path.parent.mkdir(parents=True, exist_ok=True)
    if not lock.acquire():
        raise UsageError(f"{what} is in use by another detector ({lock.holder()}); stop that one, or {instead}")
    if target is not None and not lock.hold(target):
        lock.release()
        raise UsageError(f"{what} is in use by another detector under another name; stop that one, or {instead}")
    return lock


def claim_journal(path: Path) -> LockFile:
    """The lock of an event journal. Raises UsageError, OSError."""
    return claim(lock_of(path), f"the event journal {str(path)!r}", "give this one another with --ledger", path)


def claim_events(path: Path) -> LockFile:
    """The lock of an event file. Raises UsageError, OSError."""
    return claim(lock_of(path), f"the event file {str(path)!r}", "give this one another with --events", path)


def claim_output(path: Path) -> LockFile:
    """The lock of a subscriber's output, the same as of an event file. Raises UsageError, OSError."""
    return claim(lock_of(path), f"the file {str(path)!r}", "give this one another with --output", path)


def claim_recordings(folder: Path) -> LockFile:
    """The lock of a folder of recordings. Raises UsageError, OSError."""
    what = f"the folder of recordings {str(folder)!r}"
    return claim(LockFile(folder.resolve() / ".lock"), what, "give this one another recording.directory")


def claim_evidence(folder: Path) -> LockFile:
    """The lock of an evidence folder. Raises UsageError, OSError."""
    what = f"the evidence folder {str(folder)!r}"
    return claim(LockFile(folder.resolve() / ".lock"), what, "give this one another with --evidence")


@dataclass(frozen=True, slots=True)
class Claims:
    """Locks of the files that only one detector may write; None: not requested, or no lock can be created there."""

    journal: LockFile | None = None
    events: LockFile | None = None
    evidence: LockFile | None = None
    recordings: LockFile | None = None


@contextlib.contextmanager
def claimed(
    journal: Path | None, events: Path | None, evidence: Path | None, recordings: Path | None = None
) -> Iterator[Claims]:
    """Lock everything that a detector writes, before any of it is opened. Raises UsageError if another has one of them.

    A place where no lock can be created (a read-only disk, no such folder) is left to the code that opens it; that code
    raises the proper error.
    """
    with contextlib.ExitStack() as stack:
        locks: list[LockFile | None] = []
        wanted = (
            (journal, claim_journal),
            (events, claim_events),
            (evidence, claim_evidence),
            (recordings, claim_recordings),
        )
        for path, take in wanted:
            lock = None
            if path is not None:
                try:
                    lock = take(path)
                    stack.callback(lock.release)
                except OSError as error:
                    log.debug("no lock for %s (%s)", path, error)
            locks.append(lock)
        yield Claims(*locks)
