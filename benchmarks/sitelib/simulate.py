"""A simulated site: days of ordinary footage with incidents cut in, and an oracle that judges alarms.

Clips are kept apart by group: those of the days for fitting, of the gate's days and of the test never meet. A busy
clip plays between stretches of an empty scene; how much of an hour is busy is drawn per site, so that the shipped
bundle raises some false alarms an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.sitelib.footage import Piece
from stream_detector.adaptation.adapt import seed_of
from stream_detector.adaptation.overlay import Overlay, rounded
from stream_detector.adaptation.site_data import USUAL, Incident, Raised, Rules, Stretch, replay
from stream_detector.types import Float32Array

WINDOW_S = 16 / 25
PARTS = ("fit", "gate", "test")
MISTAKES = 0.05  # of the oracle's verdicts
TOLD_MISSES = 0.3  # share of the missed incidents that somebody tells
INCIDENTS_A_DAY = 6
DAY_S = 3600.0  # of footage in one simulated day
KINDS = {  # what a site's calm footage is drawn from
    "indoor actions": ("ucf101",),
    "shop": ("shop_normal",),
    "streets and rooms": ("wild_clips", "ucf101"),
    "traffic": ("cctv_crashes",),
    "dark": ("arid_dark", "ucf101"),
    "mixed": ("ucf101", "shop_normal", "arid_dark", "wild_clips", "rendered"),
}
BASELINE = (2.0, 20.0)  # false alarms an hour that a site shall have before


@dataclass(frozen=True, slots=True)
class Pools:
    """Pieces by part. calm: ordinary clips.  loud: incidents.  empty: (n, D) windows of an empty scene, by part."""

    calm: dict[str, list[Piece]]
    loud: dict[str, list[Piece]]
    empty: dict[str, Piece]


@dataclass(slots=True)
class Site:
    """One simulated camera. share: of an hour that is busy."""

    seed: int
    kind: str
    pools: Pools
    share: float
    truth: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)  # (camera, day) → incidents


def part_of(piece: Piece, seed: int, single: Sequence[str]) -> str:
    """The part of a piece's group. single: sets that have one group only; there every clip is its own."""
    name = piece.clip.path if piece.clip.set in single else piece.clip.group
    return PARTS[seed_of(f"{seed}/{name}") % 3]


def make_pools(pieces: Sequence[Piece], kind: str, seed: int) -> Pools:
    """Split the clips of a kind of site by group."""
    groups: dict[str, set[str]] = {}
    for piece in pieces:
        groups.setdefault(piece.clip.set, set()).add(piece.clip.group)
    single = [name for name, found in groups.items() if len(found) < 6]
    calm: dict[str, list[Piece]] = {part: [] for part in PARTS}
    loud: dict[str, list[Piece]] = {part: [] for part in PARTS}
    long: list[Piece] = []
    for piece in pieces:
        if piece.clip.set == "long_normal":
            long.append(piece)
        elif piece.clip.label == "abnormal" and piece.clip.split != "train":
            loud[part_of(piece, seed, single)].append(piece)
        elif piece.clip.label == "normal" and piece.clip.set in KINDS[kind]:
            calm[part_of(piece, seed, single)].append(piece)
    return Pools(calm, loud, {part: long[(seed + number) % len(long)] for number, part in enumerate(PARTS)})


def of_day(pieces: Sequence[Piece], number: int, of: int, seed: int) -> list[Piece]:
    """Those of a pool that play on day `number` of `of`: days of a part share no clip."""
    return [piece for piece in pieces if seed_of(f"{seed}/day/{piece.clip.path}") % of == number]


def make_day(
    site: Site, part: str, day: str, place: tuple[int, int] = (0, 1), incidents: int = INCIDENTS_A_DAY
) -> Stretch:
    """One day of a part: empty windows, busy clips, incidents at random times; its truth goes into `site.truth`.

    place: (number, of): which share of the part's clips play on this day.
    """
    rng = np.random.default_rng(seed_of(f"{site.seed}/{part}/{day}"))
    total = int(DAY_S / WINDOW_S)
    calm = of_day(site.pools.calm[part], *place, site.seed)
    loud, empty = of_day(site.pools.loud[part], *place, site.seed), site.pools.empty[part]
    blocks: list[tuple[Piece | None, bool]] = []
    busy = 0
    order = rng.permutation(len(calm))
    for number in range(10**6):
        if busy >= site.share * total or not len(calm):
            break
        piece = calm[int(order[number % len(order)])]
        blocks.append((piece, False))
        busy += len(piece.raw)
    for number in rng.permutation(len(loud))[:incidents]:
        blocks.append((loud[int(number)], True))
        busy += len(loud[int(number)].raw)
    rng.shuffle(blocks)  # type: ignore[arg-type]
    gaps = np.diff(
        np.sort(np.concatenate([[0], rng.integers(0, max(1, total - busy), len(blocks)), [max(0, total - busy)]]))
    )
    scene = int(rng.integers(len(empty.raw)))
    features: list[Float32Array] = []
    raw: list[np.ndarray] = []
    cuts: set[int] = set()
    truth: list[tuple[float, float]] = []
    at = 0

    def idle(count: int) -> None:
        nonlocal scene, at
        if count <= 0:
            return
        rows = np.arange(scene, scene + count) % len(empty.raw)
        features.append(empty.features[rows])
        raw.append(empty.raw[rows])
        cuts.add(at)
        scene, at = scene + count, at + count

    for gap, (piece, abnormal) in zip(gaps, blocks, strict=False):
        idle(int(gap) + (20 if abnormal else 0))
        assert piece is not None
        features.append(piece.features)
        raw.append(piece.raw)
        cuts.add(at)
        if abnormal:
            truth.append((at * WINDOW_S, (at + len(piece.raw)) * WINDOW_S))
        at += len(piece.raw)
    idle(max(int(gaps[-1]), 20))
    starts = np.arange(at) * WINDOW_S
    stretch = Stretch(
        "gate",
        day,
        starts,
        starts + WINDOW_S,
        np.concatenate(raw).astype(np.float64),
        rounded(np.concatenate(features)),
        (),
        frozenset(),  # clips of one camera: the smoothing goes on over their edges
    )
    site.truth["gate", day] = truth
    return stretch


def true_at(raised: Raised, truth: Sequence[tuple[float, float]], grace_s: float = 3.0) -> bool:
    """Whether an alarm is of a true incident."""
    return any(start <= raised.start_s <= end + grace_s for start, end in truth)


def judge(site: Site, stretch: Stretch, model: Overlay, mistakes: float = MISTAKES, rules: Rules = USUAL) -> Stretch:
    """The stretch with the alarms that a model raises in it, judged by the oracle, beside what was judged before."""
    truth = site.truth[stretch.camera, stretch.day]
    rng = np.random.default_rng(seed_of(f"{site.seed}/{stretch.day}/verdicts/{model.fingerprint}"))
    incidents = list(stretch.incidents)
    found: set[int] = set()
    for number, raised in enumerate(replay(stretch, model, rules)):
        for index, (start, end) in enumerate(truth):
            if start <= raised.start_s <= end + 3.0:
                found.add(index)
        right = true_at(raised, truth)
        said = right if rng.random() >= mistakes else not right
        key = f"{stretch.day}-{model.fingerprint[:4]}-{number}"
        if not any(i.start_s <= raised.start_s <= i.end_s for i in incidents):
            incidents.append(Incident(key, raised.begun_s, raised.end_s, "true" if said else "false"))
    for index, (start, end) in enumerate(truth):
        known = any(i.near(start) for i in incidents)
        if index not in found and not known and rng.random() < TOLD_MISSES:
            incidents.append(Incident(f"{stretch.day}-miss-{index}", start, end, "missed"))
    return replace(stretch, incidents=tuple(sorted(incidents, key=lambda i: i.start_s)))


@dataclass(frozen=True, slots=True)
class Worth:
    """What a model is worth by the truth."""

    found: int
    of: int
    false: int
    hours: float

    @property
    def recall(self) -> float:
        """Share of the incidents found."""
        return self.found / self.of if self.of else float("nan")

    @property
    def false_per_hour(self) -> float:
        """False alarms an hour."""
        return self.false / self.hours


def worth(site: Site, stretches: Sequence[Stretch], model: Overlay, rules: Rules = USUAL) -> Worth:
    """Measured on the truth, by the rule of `trainer.evaluation.streams`: found between onset and end plus a grace."""
    found = of = false = 0
    hours = 0.0
    for stretch in stretches:
        truth = site.truth[stretch.camera, stretch.day]
        raised = replay(stretch, model, rules)
        of += len(truth)
        found += sum(any(start <= r.start_s <= end + 3.0 for r in raised) for start, end in truth)
        false += sum(not true_at(r, truth) for r in raised)
        hours += stretch.hours
    return Worth(found, of, false, hours)


def make_site(pieces: Sequence[Piece], seed: int, service: Overlay) -> Site:
    """A site whose test hours have a baseline inside BASELINE where some share of busy time gives it."""
    kind = sorted(KINDS)[seed % len(KINDS)]
    pools = make_pools(pieces, kind, seed)
    rng = np.random.default_rng(seed)
    wanted = float(np.exp(rng.uniform(np.log(4.0), np.log(16.0))))
    share = 0.5
    for _ in range(6):  # the share that gives about the wanted rate, found on days of their own
        site = Site(seed, kind, pools, share)
        days = [make_day(site, part, f"probe-{k}") for k in range(2) for part in ("fit", "gate")]
        rate = worth(site, days, service).false_per_hour
        share = float(np.clip(share * (wanted / rate if rate > 0 else 2.0), 0.02, 0.9))
    return Site(seed, kind, pools, share)
