"""How much of the live cameras is decoded and scored when the machine cannot do all: the share, and the sentence on it.

    scored, dropped, waiting, busy ──▶ share ──▶ capture hosts decode no more (`capture.admission`)

Windows that are dropped were decoded for nothing, at the cost of those that could have been scored. So the share falls
to what was scored, and rises again as long as the engine has time left. What it changes shows only after some seconds
(cameras decode whole groups of pictures), so it is changed at such steps.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from stream_detector.types import Clock

log = logging.getLogger(__name__)

PERIOD_S = 2.0
HOLD_PERIODS = 3  # after a change: what was decoded before is still being scored
LASTING, CALM_S = 2, 120.0  # after so long without an overload, it must have lasted for two periods
LEAST = 0.02
HEADROOM = 0.97  # of what was scored
DROPS = 0.02  # of what was scored; fewer are chance
LONG_QUEUE_S, SHORT_QUEUE_S, NO_QUEUE_S = 1.0, 0.5, 0.1
BUSY = 0.98  # the engine's share of time that is aimed at
FASTEST_FALL, SLOWEST_FALL = 0.4, 0.95
FASTEST_RISE, SLOWEST_RISE = 1.5, 1.01
NEAR = 0.88  # of the share at which windows were dropped last; from there on it rises slowly
FORGOTTEN = 1.005  # at each rise
IDLE, IDLE_RISES, FORGOTTEN_IDLE = 0.3, 3, 1.2  # an engine idle for so many rises has more time than then
TOLD_BELOW, TOLD_AGAIN = 0.95, 0.1
TOLD_AFTER_S = 6.0
TOLD_EVERY_S = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is counted since the start, but for `waiting`: windows in the buffer now.

    offered: windows that all pictures of live cameras would give, decoded or not.  scored, dropped: windows of live
    cameras.  busy_s: seconds that the engine worked.
    """

    offered: float
    scored: int
    dropped: int
    busy_s: float
    waiting: int


class LoadController:
    """Chooses the share. cameras: live ones.  For one thread; call `observe` a few times a second."""

    def __init__(self, cameras: int, clock: Clock) -> None:
        self.share = 1.0
        self._cameras, self._clock = cameras, clock
        self._since_s = clock.monotonic()
        self._before = Load(0.0, 0, 0, 0.0, 0)
        self._hold = 0
        self._queue_s = 0.0
        self._behind = 0  # periods in a row
        self._fell_s = -CALM_S
        self._rises = 0  # since it fell last
        self._too_much = 1.0 / NEAR  # the share at which windows were dropped last
        self._low_since_s: float | None = None
        self._told: tuple[float, float] | None = None  # (share, when)

    def set_cameras(self, cameras: int) -> None:
        """So many live cameras are there now."""
        self._cameras = cameras

    def observe(self, load: Load) -> float:
        """The share, at present."""
        now_s = self._clock.monotonic()
        span_s = now_s - self._since_s
        if span_s < PERIOD_S or not self._cameras:
            return self.share
        before, self._before, self._since_s = self._before, load, now_s
        scored, dropped = load.scored - before.scored, load.dropped - before.dropped
        offered = load.offered - before.offered
        queue_s = load.waiting * span_s / max(1, scored)
        busy = (load.busy_s - before.busy_s) / span_s
        grows, self._queue_s = queue_s > 0.9 * self._queue_s, queue_s
        self._hold = max(0, self._hold - 1)
        behind = (dropped > DROPS * scored or (queue_s > LONG_QUEUE_S and grows)) and load.waiting + dropped > 1
        self._behind = self._behind + 1 if behind else 0
        if self._hold:
            pass
        elif behind and self._behind < LASTING and now_s - self._fell_s > CALM_S:
            pass  # a moment's stall is no overload
        elif behind:
            self._fell_s = now_s
            target = HEADROOM * scored / max(offered, 1e-9)
            if self._rises:  # else it falls a second time, and the first fall was too little: nothing new is known
                self._too_much = self.share
            self._rises = 0
            self.share *= min(SLOWEST_FALL, max(FASTEST_FALL, target / self.share))
            self._hold = HOLD_PERIODS
        elif self.share < 1.0 and (queue_s < NO_QUEUE_S or (queue_s < SHORT_QUEUE_S and busy < BUSY)):
            fast = self.share * min(FASTEST_RISE, max(SLOWEST_RISE, BUSY / max(busy, 0.01)))
            self.share = max(self.share * SLOWEST_RISE, min(fast, NEAR * self._too_much))
            self._too_much *= FORGOTTEN if busy > IDLE or self._rises < IDLE_RISES else FORGOTTEN_IDLE
            self._rises += 1
            self._hold = HOLD_PERIODS
        self.share = min(1.0, max(LEAST, self.share))
        self._tell(now_s)
        return self.share

    def _tell(self, now_s: float) -> None:
        """Say it when it lasts, when it changes much, and when it is over."""
        if self.share >= TOLD_BELOW:
            self._low_since_s = None
            if self._told is not None and self.share >= 1.0:
                self._told = None
                log.warning("the overload is over: all %d live cameras are scored in full", self._cameras)
            return
        if self._low_since_s is None:
            self._low_since_s = now_s
        due = now_s - self._low_since_s >= TOLD_AFTER_S
        if self._told is not None:
            changed = abs(self.share - self._told[0]) > TOLD_AGAIN
            due = due and (changed or now_s - self._told[1] >= TOLD_EVERY_S)
        if due:
            self._told = (self.share, now_s)
            log.warning(
                "overload: this machine scores %d of %d cameras' worth, each camera in turn; use fewer cameras, a "
                "larger stride, a faster engine or more cores",
                self.worth,
                self._cameras,
            )

    @property
    def worth(self) -> int:
        """So many cameras could be scored in full."""
        return round(self.share * self._cameras)
