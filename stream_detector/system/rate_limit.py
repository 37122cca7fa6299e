"""A rate limit per peer: one token bucket each, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class RateLimiter:
    """Token buckets, one per peer: `rate` requests per second, bursts of `burst`. Keeps the newest `peers` buckets."""

    def __init__(self, rate: float = 50.0, burst: float = 20.0, peers: int = 1000) -> None:
        self._rate, self._burst, self._peers = rate, burst, peers
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def spent(self, peer: Hashable, now_s: float) -> bool:
        """Return whether `allow` would refuse `peer` at monotonic time `now_s`; takes no token."""
        tokens, then_s = self._buckets.get(peer, (self._burst, now_s))
        return min(self._burst, tokens + (now_s - then_s) * self._rate) < 1.0

    def allow(self, peer: Hashable, now_s: float) -> bool:
        """Take a token of `peer` at monotonic time `now_s`; return whether there was one."""
        tokens, then_s = self._buckets.pop(peer, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - then_s) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[peer] = (tokens - 1.0 if allowed else tokens, now_s)
        if len(self._buckets) > self._peers:
            self._buckets.popitem(last=False)
        return allowed
