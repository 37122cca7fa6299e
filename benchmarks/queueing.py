"""A small queueing simulation of one machine and of many, driven by measured service times. No clock, no threads.

One machine, like `pipeline`: N cameras complete a window every `WINDOW_S`, each with its own phase, into a bounded
queue; one engine takes batches (full, or the oldest window has waited long enough) and is slowed by the cores that
decoding takes. Many machines: the same per node, then a network, then shards that decide.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass

FPS = 25.0
WINDOW_S = 16 / FPS


@dataclass(frozen=True, slots=True)
class Machine:
    """Service times of one machine. cores: of the machine.  frame_ms: CPU a frame, all of capture, machine full.

    engine_ms: batch size → wall milliseconds of the whole batch, engine alone.  engine_cores: cores it keeps busy then.
    frame_cold, engine_cold: factors on both while the machine is idle otherwise (caches are cold between two frames);
    they fade as it fills.  base_cores: busy whatever happens (deciding, publishing).  held_cores: what work that takes
    only what is left (evidence clips, other programs) still holds when nothing is left.
    """

    cores: float
    frame_ms: float
    engine_ms: dict[int, float]
    engine_cores: float
    frame_cold: float = 1.0
    engine_cold: float = 1.0
    base_cores: float = 0.0
    held_cores: float = 0.0

    def load(self, cameras: int) -> float:
        """How full so many cameras make the machine, in [0, 1]."""
        frame_s, window_s = self.frame_ms / 1e3, self.engine_ms[min(self.engine_ms)] / 1e3 * self.engine_cores
        load = 0.0
        for _ in range(20):  # a fixed point: costs fall as load rises
            capture = cameras * FPS * frame_s * _faded(self.frame_cold, load)
            engine = cameras / WINDOW_S * window_s * _faded(self.engine_cold, load)
            load = min(1.0, (self.base_cores + capture + engine) / (self.cores - self.held_cores))
        return load

    def batch_s(self, size: int) -> float:
        """Seconds of a batch, the engine alone; linear between the sizes measured, proportional beyond."""
        known = sorted(self.engine_ms)
        if size >= known[-1]:
            return self.engine_ms[known[-1]] * size / known[-1] / 1e3
        low = max((k for k in known if k <= size), default=known[0])
        high = min(k for k in known if k >= size)
        share = (size - low) / (high - low) if high > low else 0.0
        return (self.engine_ms[low] * (1 - share) + self.engine_ms[high] * share) / 1e3


def _faded(factor: float, load: float) -> float:
    return factor + (1.0 - factor) * load


@dataclass(frozen=True, slots=True)
class Told:
    """What a simulated machine did. cores_busy: without what `held_cores` stands for.  p50_ms, p95_ms: window complete
    → scored.
    """

    cameras: int
    windows_per_s: float
    dropped: int
    cores_busy: float
    p50_ms: float
    p95_ms: float
    mean_batch: float

    @property
    def kept_up(self) -> bool:
        return self.dropped == 0 and self.p95_ms < WINDOW_S * 1e3


def simulate(
    machine: Machine,
    cameras: int,
    *,
    seconds: float = 40.0,
    settle_s: float = 4.0,
    max_size: int = 16,
    max_wait_s: float = 0.010,
    lane: int = 4,
    seed: int = 1,
) -> Told:
    """`cameras` live cameras for so long; windows are dropped, oldest first, when a lane is full."""
    dice = random.Random(seed)
    load = machine.load(cameras)
    capture = cameras * FPS * machine.frame_ms / 1e3 * _faded(machine.frame_cold, load)
    ours = machine.cores - machine.base_cores - machine.held_cores
    decoded = min(1.0, ours / capture) if capture else 1.0  # beyond: frames come late
    free = max(0.05, ours - capture * decoded)
    cold = _faded(machine.engine_cold, load)
    speed = min(1.0, free / machine.engine_cores) / cold
    arrivals = [(WINDOW_S / decoded * index / cameras + dice.uniform(0, 0.02), index) for index in range(cameras)]
    heapq.heapify(arrivals)
    lanes: list[deque[float]] = [deque() for _ in range(cameras)]
    turn: deque[int] = deque(range(cameras))
    waiting = dropped = scored = batches = 0
    now_s = busy_s = 0.0
    delays: list[float] = []

    def arrive(until_s: float) -> None:
        nonlocal waiting, dropped
        while arrivals[0][0] <= until_s:
            at_s, index = heapq.heappop(arrivals)
            heapq.heappush(arrivals, (at_s + WINDOW_S / decoded, index))
            if len(lanes[index]) >= lane:
                lanes[index].popleft()
                waiting -= 1
                dropped += at_s > settle_s
            lanes[index].append(at_s)
            waiting += 1

    while now_s < seconds + settle_s:
        arrive(now_s)
        if not waiting:
            now_s = arrivals[0][0]
            continue
        oldest_s = min(entries[0] for entries in lanes if entries)
        if waiting < max_size and now_s < oldest_s + max_wait_s:
            now_s = min(oldest_s + max_wait_s, max(now_s, arrivals[0][0]))
            continue
        batch: list[float] = []
        while len(batch) < max_size and waiting:
            turn.rotate(-1)
            entries = lanes[turn[0]]
            if entries:
                batch.append(entries.popleft())
                waiting -= 1
        took_s = machine.batch_s(len(batch)) / speed
        now_s += took_s
        if now_s > settle_s:
            scored += len(batch)
            batches += 1
            busy_s += took_s
            delays += [now_s - at_s for at_s in batch]
    span_s = now_s - settle_s
    delays.sort()
    engine = busy_s / span_s * speed * cold * machine.engine_cores
    return Told(
        cameras,
        round(scored / span_s, 2),
        dropped,
        round(machine.base_cores + capture * decoded + engine, 3),
        round(delays[len(delays) // 2] * 1e3, 1),
        round(delays[math.ceil(0.95 * len(delays)) - 1] * 1e3, 1),
        round(scored / max(1, batches), 2),
    )


def capacity(machine: Machine, most: int = 4096, share: float = 0.8) -> int:
    """Cameras that one machine keeps up with while its cores are at most `share` busy."""
    low, high = 0, 1
    while high <= most and _fits(machine, high, share):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(machine, middle, share) else (low, middle)
    return low


def _fits(machine: Machine, cameras: int, share: float) -> bool:
    told = simulate(machine, cameras, seconds=10.0)
    return told.kept_up and told.cores_busy <= share * machine.cores


@dataclass(frozen=True, slots=True)
class Shards:
    """Deciding, measured. window_us: CPU of one window.  commit_us: of one write-ahead commit, whatever it holds.

    topics_limit: topics that one heartbeat may name (three a camera).
    """

    window_us: float
    commit_us: float
    topics_limit: int = 4096

    def cameras(self, share: float = 0.7) -> int:
        """That one shard keeps up with, commits shared by eight windows, its one core at most `share` busy."""
        a_window_s = (self.window_us + self.commit_us / 8) / 1e6
        return int(share / a_window_s * WINDOW_S)

    @property
    def cameras_by_protocol(self) -> int:
        """That one heartbeat can name."""
        return self.topics_limit // 3
