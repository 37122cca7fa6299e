"""Signals, from the first instruction of a process to its last. Imports nothing heavy: it must be there first.

    phase        what the first SIGINT, SIGTERM or hang-up does
    ───────────  ──────────────────────────────────────────────────────────────────────────────────────────
    start        the process ends at once: nothing is open while modules are imported
    command      `Interrupted` is raised in the main thread; `with` and `finally` clean up
    opening      it is kept; the next `check` raises `Interrupted`, so that nothing is left half made
    running      the function given to `on_stop` is called, in the watching thread

The second signal ends the process at once, in every phase. So does the first one where the main thread does not come
to an end within GRACE_S (an inference library that compiles for half a minute), or within LAST_S where a stop was
called: a run that stops writes what it has first, and its summary has as long again. The exit code is 128 + the
signal's number: 130, 143, 129.

A thread of its own reads the signals from a pipe that the interpreter's C handler writes to. It needs no bytecode of
the main thread, which may be inside a library, and it may take any lock.

SIGHUP: ignored where it was ignored at the start (nohup). In a process with a controlling terminal it means that the
terminal went away, and ends the process like SIGTERM. Without one (a service) it means: open the files anew that others
may have rotated away; see `on_reopen`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GRACE_S = 5.0
LAST_S = 9.0  # less than the 10 s after which systemd and Docker kill
_INTERRUPTED = "stream-detector: interrupted\n"
_STOPPING = "stream-detector: stopping; a second signal ends it immediately\n"
_TOO_LONG = f"stream-detector: something hangs; ended {LAST_S:g} s after the signal\n"
_AT_ONCE = "stream-detector: interrupted again; ended immediately\n"
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_NUMBERS = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))
_HUP = int(getattr(signal, "SIGHUP", 0))


class Interrupted(KeyboardInterrupt):
    """A stop was requested before the run could take it. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + signal number, as shells report it."""
        return 128 + self.number


class _State:
    """The shared state of the handlers.

    `lock` is never held during a callback, and never taken in a Python signal handler.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.installed = False
        self.phase = "start"
        self.received = 0
        self.raised = False  # Interrupted is on its way through the main thread, which says so itself
        self.stops: list[Callable[[], None]] = []
        self.reopens: list[Callable[[], None]] = []
        self.hup_reopens = False
        self.patience: threading.Timer | None = None
        self.last: threading.Timer | None = None  # ends the process LAST_S after a stop was called


_state = _State()


def install() -> None:
    """Watch SIGINT, SIGTERM and SIGHUP for the rest of the process. Call it once, first, in the main thread."""
    if _state.installed:
        return
    _state.installed = True
    _state.hup_reopens = not _has_terminal()
    reader, writer = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _NUMBERS:
        if number == _HUP and signal.getsignal(number) is signal.SIG_IGN:
            continue
        signal.signal(number, _in_main_thread)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def received() -> int:
    """Return the number of the first stop signal of this process, 0 if there was none."""
    return _state.received


def check() -> None:
    """Raise Interrupted if a stop was requested. The steps of a set-up call it, so that nothing more is opened."""
    if _state.received:
        raise Interrupted(_state.received)


def final_code(code: int) -> int:
    """Return the exit code of a process that ended with `code`: 128 + signal number after a stop, unless it failed."""
    return 128 + _state.received if _state.received and code == 0 else code


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Set another phase within the block; raises Interrupted immediately if a stop was requested before."""
    with _state.lock:
        before, _state.phase = _state.phase, name
    try:
        if not _state.stops:
            check()
        yield
    finally:
        with _state.lock:
            _state.phase = before


@contextlib.contextmanager
def on_stop(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block, a stop calls `stop`, from any thread; immediately if it was requested before. It may be called
    twice.

    In a process that did not call `install` (a test, a library's user) the handlers are set for the block only.
    """
    before = _borrow()
    with _state.lock:
        _state.stops.append(stop)
        if not _state.installed:
            _state.received = 0
        pending, patience = _state.received, _state.patience
    if patience is not None:
        patience.cancel()
    if pending:
        stop()
    try:
        yield
    finally:
        with _state.lock:
            _state.stops.remove(stop)
            last, _state.last = _state.last, None
        if last is not None:  # what was stopped has ended; what is written of it has as long again
            last.cancel()
            _after(LAST_S, lambda: _leave(_TOO_LONG, _state.received))
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def on_reopen(reopen: Callable[[], None]) -> Iterator[None]:
    """Within the block, a SIGHUP to a service calls `reopen`, in the watching thread."""
    with _state.lock:
        _state.reopens.append(reopen)
    try:
        yield
    finally:
        with _state.lock:
            _state.reopens.remove(reopen)


def _borrow() -> dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None]:
    """Set handlers for the time of a block in a process of another owner; return the former ones."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    if _state.installed:  # a library may have set its own in the meantime
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _in_main_thread)
        return {}
    before = {number: signal.getsignal(number) for number in _NUMBERS}

    def handle(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process
        _state.received = number
        for stop in list(_state.stops[-1:]):
            stop()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    return before


def _in_main_thread(number: int, _frame: FrameType | None) -> None:
    """Python's own handler: only the work that needs the main thread. `_watch` does the rest."""
    if number == _HUP and _state.hup_reopens:
        return
    _state.received = _state.received or number  # without the lock: the main thread may hold it
    if _state.phase == "command" and not _state.stops:
        _state.raised = True
        raise Interrupted(number)


def _watch(reader: int) -> None:
    seen = 0
    while True:
        for number in os.read(reader, 64):
            if number == _HUP and _state.hup_reopens:
                with _state.lock:
                    reopens = list(_state.reopens)
                for reopen in reopens:
                    reopen()
            elif number in _NUMBERS:
                seen += 1
                _take(number, again=seen > 1)


def _take(number: int, *, again: bool) -> None:
    with _state.lock:
        first = _state.received or number
        _state.received = first
        now, stop = _state.phase, _state.stops[-1] if _state.stops else None
    if again:
        _leave(_AT_ONCE, number)
    elif stop is not None:
        _say(_STOPPING)
        _state.last = _after(LAST_S, lambda: _leave(_TOO_LONG, number))
        stop()
    elif now == "start" and not _state.raised:
        _leave(_INTERRUPTED, number)
    else:
        if now != "command" and not _state.raised:
            _say(_STOPPING)
        _state.patience = _after(GRACE_S, lambda: _too_late(number))


def _after(seconds: float, act: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer


def _too_late(number: int) -> None:
    if not _state.stops:
        _leave(_INTERRUPTED, number)


def _leave(sentence: str, number: int) -> None:
    _say(sentence)
    os._exit(128 + number)


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        if select.select((), (2,), (), 0)[1]:  # a reader that stands still must not delay the end
            os.write(2, sentence.encode())


def _forget() -> None:
    """Restore the default signals in a forked child, because the pipe belongs to its parent."""
    global _state
    _state = _State()
    signal.set_wakeup_fd(-1)
    for number in _NUMBERS:
        if signal.getsignal(number) is _in_main_thread:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _has_terminal() -> bool:
    """Return whether the process has a controlling terminal, whose end SIGHUP would report."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
