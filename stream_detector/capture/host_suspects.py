"""Finds the camera that kills its capture host, so that the other cameras of the host run without it.

a host dies twice, each time soon after its start ─▶ cameras that were never online are added one after the other
it dies again soon after one was added            ─▶ this camera is held back for a while, the others are added
none of them was never online                     ─▶ all of them are added one after the other
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

STAGE_S = 2.0  # from one camera to the next
BLAME_S = 4.0  # a camera that was added within this time before the death is blamed
FIRST_HOLD_S, LONGEST_HOLD_S = 30.0, 600.0
SEARCH_AFTER = 2  # short lives in a row


class Suspects:
    """The cameras of one host. Times are monotonic seconds. For one thread."""

    def __init__(self) -> None:
        self._proven: set[str] = set()  # were online in a host that lived on
        self._online_s: dict[str, float] = {}  # since when others are
        self._queue: deque[str] = deque()
        self._trial: tuple[str, float] | None = None
        self._held: dict[str, tuple[float, int]] = {}  # camera → (until, how often so far)
        self._next_s = 0.0
        self._found = False

    def begin(self, cameras: Sequence[str], short_lives: int, now_s: float) -> list[str]:
        """Return the cameras that a new process runs immediately; `due` names the others later."""
        free = [name for name in cameras if name not in self._held]
        search = short_lives >= SEARCH_AFTER and not self._found
        self._trial = None
        self._next_s = now_s + STAGE_S
        if not search:
            self._queue = deque()
            return free
        unproven = [name for name in free if name not in self._proven]
        self._queue = deque(unproven or free)
        return [name for name in free if name not in self._queue]

    def due(self, now_s: float) -> str | None:
        """Return the camera to add now, if any: the next suspect, or one whose hold has ended."""
        for name in [name for name, since_s in self._online_s.items() if now_s - since_s > BLAME_S]:
            del self._online_s[name]
            self._proven.add(name)
            self._held.pop(name, None)
        if now_s < self._next_s:
            return None
        found = self._queue.popleft() if self._queue else self._released(now_s)
        if found is not None:
            self._trial = (found, now_s)
            self._next_s = now_s + STAGE_S
        return found

    def _released(self, now_s: float) -> str | None:
        for name, (until_s, times) in self._held.items():
            if until_s <= now_s:
                self._held[name] = (float("inf"), times)  # until it is online, or kills again
                return name
        return None

    def online(self, camera: str, now_s: float) -> None:
        """The camera is online. If the host survives this by some time, the camera is no longer a suspect."""
        if camera not in self._proven:
            self._online_s[camera] = now_s

    def died(self, now_s: float) -> str | None:
        """The host died: return the camera to blame, if one was added shortly before; it is held back from now on."""
        trial, self._trial = self._trial, None
        self._online_s.clear()
        self._found = trial is not None and now_s - trial[1] <= BLAME_S
        if trial is None or not self._found:
            return None
        times = self._held.get(trial[0], (0.0, 0))[1]
        self._held[trial[0]] = (now_s + min(LONGEST_HOLD_S, FIRST_HOLD_S * 2.0**times), times + 1)
        self._proven.discard(trial[0])
        return trial[0]

    def held_s(self, camera: str, now_s: float) -> float:
        """Return the seconds for which a camera is still held back."""
        return max(0.0, self._held.get(camera, (0.0, 0))[0] - now_s)
