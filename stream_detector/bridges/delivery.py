"""Delivers the notices in the outbox to one target: in order in each lane, with back-off; a blocked lane does not block
others.

A lane holds the notices of one camera. Its first notice is tried until it is delivered or set aside
(`kinds.DeliveryError` defines what each failure means); meanwhile the other lanes continue, unless the receiver is
unreachable. A failure of unknown cause ("unknown") is set aside only after another notice was delivered since its first
try; if no other lane has a notice, the second notice of the lane is sent as this probe.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stream_detector.bridges.kinds import DeliveryError, Target, TargetSettings
from stream_detector.bridges.notice import SUMMARY_LANE, Notice
from stream_detector.bridges.outbox import Item, Outbox
from stream_detector.errors import LedgerError
from stream_detector.events.protocol import rfc3339
from stream_detector.types import Clock

log = logging.getLogger(__name__)

_PICTURE_STEP_S = 0.02
_FRESH_S = 60.0  # an older alarm has its picture already, or never gets one
_IDLE_S = 1.0
DEAD_FILE_BYTES = 16 << 20


@dataclass(slots=True)
class _Lane:
    """due_s: monotonic time before which the lane waits.  fails: failed tries of its first notice in a row.

    seen_s: (row, time of the first look at it): limits the wait for its picture.
    """

    busy: bool = False
    due_s: float = float("-inf")
    fails: int = 0
    seen: tuple[int, float] = (0, 0.0)


@dataclass(slots=True)
class Counts:
    """Numbers of notices by result. repeats: delivered after an interrupted try, so the receiver may have them
    twice.
    """

    delivered: int = 0
    failed_tries: int = 0
    dropped: int = 0
    folded: int = 0
    set_aside: int = 0
    repeats: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)


class DeadLetters:
    """Appends notices that cannot be delivered to a file, one JSON object per line; at DEAD_FILE_BYTES it becomes
    `NAME.1`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def add(self, target: str, notice: Notice, reason: str, now_utc: float) -> None:
        """Write one line. Raises OSError."""
        entry = {
            "schema": "stream-detector.dead-letter/1",
            "target": target,
            "reason": reason,
            "set_aside_utc": rfc3339(now_utc),
            "topic": notice.topic,
            "attempts": notice.attempts,
            "event": notice.body,
        }
        with self._lock:
            if self.path.exists() and self.path.stat().st_size > DEAD_FILE_BYTES:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


class Delivery:
    """The threads of one target."""

    def __init__(
        self,
        name: str,
        target: Target,
        outbox: Outbox,
        dead: DeadLetters,
        clock: Clock,
        on_error: Callable[[Exception], None],
        dice: random.Random | None = None,
    ) -> None:
        self.name, self.target, self.counts = name, target, Counts()
        self._outbox, self._dead, self._clock, self._on_error = outbox, dead, clock, on_error
        self._settings: TargetSettings = target.settings
        self._max_age_s = self._settings.max_age_s or target.max_age_s
        self._dice = dice or random.Random()
        self._lanes: dict[str, _Lane] = {}
        self._away_fails, self._away_until_s = 0, float("-inf")
        self._delivered_utc = float("-inf")  # time of the last successful delivery
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Open the target and begin to deliver."""
        self.target.open()
        for number in range(self._settings.parallel):
            thread = threading.Thread(target=self._run, name=f"deliver-{self.name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the deliveries that are under way."""
        self._stop.set()
        self._outbox.wake()
        for thread in self._threads:
            thread.join(timeout_s)
        self.target.close()

    def came_back(self) -> None:
        """The receiver is reachable again: end the back-off."""
        with self._outbox.changed:
            self._away_fails, self._away_until_s = 0, float("-inf")
            self._outbox.changed.notify_all()

    # -- the loop -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                item, wait_s = self._take()
                if item is not None:
                    try:
                        self._handle(item)
                    finally:
                        with self._outbox.changed:
                            lane = self._lane(item.lane)
                            lane.busy = False
                            if not lane.fails:  # an idle lane without failures is removed; it holds nothing to remember
                                self._lanes.pop(item.lane, None)
                            self._outbox.changed.notify_all()
                else:
                    with self._outbox.changed:
                        if not self._stop.is_set():
                            self._outbox.changed.wait(wait_s)
        except LedgerError as error:
            self._on_error(error)

    def step(self) -> bool:
        """Deliver one notice in this thread, if one is due; for tests."""
        item, _ = self._take()
        if item is None:
            return False
        try:
            self._handle(item)
        finally:
            self._lane(item.lane).busy = False
        return True

    def _lane(self, name: str) -> _Lane:
        return self._lanes.setdefault(name, _Lane())

    def _take(self) -> tuple[Item | None, float]:
        """Return the next notice to deliver, with its lane marked as busy; else the longest time to wait for one."""
        with self._outbox.changed:
            now_s, utc = self._clock.monotonic(), self._clock.utc()
            wait_s = _IDLE_S
            if now_s < self._away_until_s:
                return None, min(wait_s, self._away_until_s - now_s)
            for n in self._outbox.heads(self.name):
                item = self._outbox.item(n)
                if item is None:
                    continue
                lane = self._lane(item.lane)
                left_s = max(lane.due_s - now_s, item.due_utc - utc)
                if lane.busy:
                    continue
                if left_s > 0:
                    wait_s = min(wait_s, left_s)
                    continue
                if self._waits_for_picture(lane, item, now_s, utc):
                    wait_s = min(wait_s, _PICTURE_STEP_S)
                    continue
                lane.busy = True
                return item, 0.0
            return None, wait_s

    def _waits_for_picture(self, lane: _Lane, item: Item, now_s: float, utc: float) -> bool:
        notice = item.notice
        if not self._settings.snapshot or notice.kind != "alarm" or notice.what != "start":
            return False
        evidence = self.target.context.evidence
        if utc - notice.utc > _FRESH_S or evidence.named(notice) is None or evidence.there(notice):
            return False
        if lane.seen[0] != item.n:
            lane.seen = (item.n, now_s)
        return now_s - lane.seen[1] < self._settings.snapshot_wait_s

    def _handle(self, item: Item) -> None:
        utc = self._clock.utc()
        if self._max_age_s and item.notice.kind in ("alarm", "camera") and utc - item.notice.utc > self._max_age_s:
            others = [name for name, lane in self._lanes.items() if lane.busy and name != item.lane]
            self.counts.folded += self._outbox.fold(self.name, "age", utc - self._max_age_s, utc, busy=others)
            return
        admission = self.target.admit(item.notice)
        if admission.act == "deliver":
            self._deliver(item)
        elif admission.act == "wait":
            self._outbox.put_off(item.n, admission.until_utc)
        elif admission.act == "fold":
            self.counts.folded += self._outbox.fold(
                self.name, admission.reason, utc, utc, admission.until_utc, only=item.n
            )
        else:
            self.counts.dropped += 1
            self._outbox.finish(item.n, utc, self.name, admission.memory)

    def _deliver(self, item: Item) -> None:
        self._outbox.begin(item.n, self._clock.utc())
        error = self._try(item)
        now_s, utc = self._clock.monotonic(), self._clock.utc()
        lane = self._lane(item.lane)
        if error is None:
            return
        self.counts.failed_tries += 1
        self.counts.by_reason[str(error)] += 1
        if error.verdict == "refused":
            self._set_aside(item, str(error))
        elif error.verdict == "unreachable":
            with self._outbox.changed:
                self._away_fails += 1
                self._away_until_s = now_s + self._backoff_s(self._away_fails, error.retry_after_s)
            self._tell(self._away_fails, f"{self.name}: {error}; {self._outbox.waiting(self.name)} notices wait")
        else:
            lane.fails += 1
            lane.due_s = now_s + self._backoff_s(lane.fails, error.retry_after_s)
            self._tell(lane.fails, f"{self.name}: {item.notice.key}: {error} (try {lane.fails})")
            if lane.fails >= self._settings.tries:
                first_utc = item.first_try_utc if item.first_try_utc is not None else utc
                if error.verdict == "failed" or self._delivered_utc >= first_utc or self._probe(item):
                    self._set_aside(item, str(error))

    def _probe(self, item: Item) -> bool:
        """Try the notice behind this one; return whether it was delivered."""
        second = self._outbox.after(self.name, item.lane, item.n)
        if second is None or self.target.admit(second.notice).act != "deliver":
            return False
        self._outbox.begin(second.n, self._clock.utc())
        return self._try(second) is None

    def _try(self, item: Item) -> DeliveryError | None:
        """Try one delivery; return the failure, or None when it is delivered and marked."""
        try:
            facts = self.target.deliver(item.notice)
        except DeliveryError as error:
            return error
        except LedgerError:
            raise
        except Exception as error:  # an error of a library or of a third party's target: its text may hold a secret
            log.debug("delivery", exc_info=True)
            return DeliveryError("unknown", f"failed with {type(error).__name__}")
        utc = self._clock.utc()
        self._outbox.finish(item.n, utc, self.name, facts)
        with self._outbox.changed:
            if self._away_fails > 1:
                log.info("%s: delivered again; %d notices wait", self.name, self._outbox.waiting(self.name))
            self._away_fails, self._delivered_utc = 0, utc
            self._lane(item.lane).fails = 0
            self.counts.delivered += 1
            self.counts.repeats += item.notice.attempts > 0
        return None

    def _set_aside(self, item: Item, reason: str) -> None:
        utc = self._clock.utc()
        try:
            self._dead.add(self.name, item.notice, reason, utc)
        except OSError as error:
            raise LedgerError(
                f"the dead-letter file {str(self._dead.path)!r} cannot be written ({error.strerror}); free the disk"
            ) from None
        self._outbox.finish(item.n, utc)
        lane = self._lane(item.lane)
        lane.fails, lane.due_s = 0, float("-inf")
        self.counts.set_aside += 1
        log.error("%s: %s was set aside (%s), see %s", self.name, item.notice.key, reason, self._dead.path)

    def _backoff_s(self, fails: int, least_s: float) -> float:
        """Doubled with every failure, with a quarter of jitter; at least the time that the receiver asked for, within
        the limit.
        """
        given = self._settings
        plain_s = min(given.backoff_max_s, given.backoff_min_s * 2.0 ** min(fails - 1, 30))
        return min(given.backoff_max_s, max(least_s, plain_s * self._dice.uniform(0.75, 1.25)))

    @staticmethod
    def _tell(fails: int, sentence: str) -> None:
        if fails & (fails - 1) == 0:  # at 1, 2, 4, 8 …: an outage must not fill the log
            log.warning("%s", sentence)


def lanes_waiting(outbox: Outbox, name: str) -> bool:
    """Return whether a notice other than a summary waits for a target."""
    return any((item := outbox.item(n)) is not None and item.lane != SUMMARY_LANE for n in outbox.heads(name))
