"""Fair queueing of requests: the peer that will have used the least time is served next.

The next request of a peer begins, in virtual time, at the end of its last one but not before now, and ends after its
expected cost; the request that ends first is served. So a peer with few and small requests is served next, however many
others flood the server. All sizes are bounded.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """peers: how many are remembered.  each: requests of one peer that may wait.  most_bytes: of all that waits."""

    def __init__(self, peers: int = 2000, each: int = 4, most_bytes: int = 4 << 20) -> None:
        self._peers, self._each, self._most_bytes = peers, each, most_bytes
        self._now = self._begun = 0.0
        self._ends: OrderedDict[bytes, float] = OrderedDict()
        self._waiting: dict[bytes, deque[tuple[T, int, float]]] = {}
        self._heap: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, peer: bytes, item: T, size: int, cost_s: float) -> bool:
        """Queue a request; False if there is no room. size: bytes.  cost_s: expected time, seconds."""
        mine = self._waiting.get(peer)
        full = len(self._waiting) >= self._peers if mine is None else len(mine) >= self._each
        if full or self._bytes + size > self._most_bytes:
            return False
        self._bytes += size
        if mine is None:
            self._waiting[peer] = deque([(item, size, cost_s)])
            self._push(peer)
        else:
            mine.append((item, size, cost_s))
        return True

    def take(self) -> tuple[bytes, T] | None:
        """(peer, item) to be served now, or None. Call `spent` for the peer before the next `take`."""
        if not self._heap:
            return None
        end, _, peer = heapq.heappop(self._heap)
        item, size, cost_s = self._waiting[peer].popleft()
        self._begun = end - cost_s
        self._now = max(self._now, self._begun)
        self._bytes -= size
        return peer, item

    def spent(self, peer: bytes, seconds: float) -> None:
        """Record the seconds that the last taken request of `peer` used."""
        self._ends.pop(peer, None)
        self._ends[peer] = self._begun + seconds
        while len(self._ends) > self._peers:
            self._ends.popitem(last=False)
        if self._waiting.get(peer):
            self._push(peer)
        else:
            self._waiting.pop(peer, None)

    def _push(self, peer: bytes) -> None:
        self._count += 1
        end = max(self._now, self._ends.get(peer, 0.0)) + self._waiting[peer][0][2]
        heapq.heappush(self._heap, (end, self._count, peer))
