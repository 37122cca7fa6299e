"""The batches of training: windows of clips in fixed shares, with the teacher's outputs where they are known.

    packs (clips, rendered, long_normal) ──▶ Pool ──batch(step)──▶ Drawn: windows, labels, teacher features and logits

A set's share of the batch does not depend on its size, so that 800 hockey clips do not outweigh 74 crashes; inside a
set the two labels are equally frequent. A batch is a function of (seed, step) only, so a resumed run gets the same
batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from stream_detector.errors import DataError
from stream_detector.types import WINDOW_FRAMES, Float32Array
from trainer.data.clips import Clip, PackedFrames
from trainer.recipes.embedded.augment import Augmentation, augment, degrade_view, shrink
from trainer.recipes.embedded.teacher import Targets

SHARES: Mapping[str, float] = {
    "cctv_fights": 0.27,
    "cctv_crashes": 0.16,
    "hockey_fights": 0.15,
    "ucf101": 0.13,
    "arid_dark": 0.07,
    "rendered": 0.15,
    "long_normal": 0.04,
    "intel_samples": 0.03,
}
DEFAULT_SHARE = 0.1  # of a set that is not named above
MAP_SAMPLE = 300  # windows of a pack from which the mean and deviation of the teacher's maps are measured
# share of the draws from the clips that the teacher has scored; the others are draws from all clips
ANSWERED_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Pack:
    """One packed file. clips: of its items.  targets: the teacher's outputs for it, if any.

    views: each item is one window whose time and crop are fixed (see `views`).  labels: (n,) of each item, in [0, 1],
    if they are better known than by the clips' labels.
    """

    frames: PackedFrames
    clips: tuple[Clip, ...]
    targets: Targets | None = None
    views: bool = False
    labels: Float32Array | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """One batch of B windows, on the CPU.

    windows: uint8 (B, 16, s, s, 3) RGB.  labels: float32 (B,), 1 abnormal.  known: bool (B,), the teacher's output is
    known. features (B, 1024), logits (B, 400): float32, zeros where not known.  maps: by name, float16 (B, C, T, H, W),
    of batches whose windows all have maps.
    """

    windows: Tensor
    labels: Tensor
    known: Tensor
    features: Tensor
    logits: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)

    def part(self, number: int, parts: int) -> Drawn:
        """Every `parts`-th window, from `number` on."""
        return self._each(lambda values: values[number::parts])

    def to(self, device: str) -> Drawn:
        """The same batch on a device."""
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Drawn:
        maps = {name: change(values) for name, values in self.maps.items()}
        windows, labels, known = change(self.windows), change(self.labels), change(self.known)
        return Drawn(windows, labels, known, change(self.features), change(self.logits), maps)


@dataclass(frozen=True, slots=True)
class _Place:
    pack: int
    item: int
    rows: tuple[int, ...] = field(default=())


class Pool:
    """Draws batches from the train split of several packs. Raises DataError if there is nothing to draw from."""

    def __init__(
        self,
        packs: Sequence[Pack],
        *,
        seed: int,
        shares: Mapping[str, float] = SHARES,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.packs, self.seed = list(packs), seed
        self.augmentation = augmentation or Augmentation()
        self._cells: dict[tuple[str, bool], list[_Place]] = {}
        for number, pack in enumerate(packs):
            rows = _rows_by_item(pack.targets)
            for item, clip in enumerate(pack.clips):
                if clip.split == "train":
                    place = _Place(number, item, tuple(rows.get(item, ())))
                    self._cells.setdefault((clip.set, clip.abnormal), []).append(place)
        if not self._cells:
            raise DataError("no clip of the train split was found; check the column 'split' of index.csv")
        self._answered = {cell: [p for p in places if p.rows] for cell, places in self._cells.items()}
        self._sets = sorted({name for name, _ in self._cells})
        weights = np.array([shares.get(name, DEFAULT_SHARE) for name in self._sets])
        self._weights = weights / weights.sum()

    def counts(self) -> dict[str, int]:
        """Return the number of clips of each set and label, for the log and the model card."""
        return {f"{s}/{'abnormal' if a else 'normal'}": len(places) for (s, a), places in sorted(self._cells.items())}

    @property
    def has_maps(self) -> bool:
        """Whether all packs are of views with maps of the teacher."""
        return all(pack.views and pack.targets is not None and bool(pack.targets.maps) for pack in self.packs)

    def moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return mean and deviation over the train split of the teacher's "features" (1024,) and of its maps (C, 1, 1,
        1).

        Maps from a sample of a few hundred windows.  Raises DataError if the teacher has scored nothing.
        """
        found: dict[str, list[Tensor]] = {}
        for number, pack in enumerate(self.packs):
            rows = sorted({r for cell in self._cells.values() for p in cell for r in p.rows if p.pack == number})
            if pack.targets is None or not rows:
                continue
            found.setdefault("features", []).append(torch.from_numpy(np.array(pack.targets.features[rows])))
            for name, kept in pack.targets.maps.items():
                sample = torch.from_numpy(np.array(kept[rows[:: max(1, len(rows) // MAP_SAMPLE)]])).float()
                found.setdefault(name, []).append(sample.transpose(0, 1).flatten(1).T)
        if not found:
            raise DataError("the teacher has scored nothing of the train split; run the teacher first")
        result = {}
        for name, blocks in found.items():
            values = torch.cat(blocks)
            shape = (-1,) if name == "features" else (-1, 1, 1, 1)
            result[name] = (values.mean(dim=0).view(shape), values.std(dim=0, correction=0).view(shape) + 1e-3)
        return result

    def batch(self, step: int, count: int, size: int) -> Drawn:
        """`count` windows of `size` pixels for one step."""
        rng = np.random.default_rng([self.seed, step])
        windows = np.empty((count, WINDOW_FRAMES, size, size, 3), dtype=np.uint8)
        labels = torch.zeros(count)
        known = torch.zeros(count, dtype=torch.bool)
        features, logits = torch.zeros(count, 1024), torch.zeros(count, 400)
        maps: dict[str, list[Tensor]] = {}
        for k in range(count):
            place, abnormal = self._draw(rng)
            pack = self.packs[place.pack]
            frames = pack.frames.frames(place.item)
            start = int(rng.integers(0, max(1, len(frames) - WINDOW_FRAMES + 1)))
            if place.rows and pack.targets is not None:
                row = place.rows[int(rng.integers(len(place.rows)))]
                start, known[k] = pack.targets.jobs[row].start, True
                features[k] = torch.from_numpy(np.array(pack.targets.features[row]))
                logits[k] = torch.from_numpy(np.array(pack.targets.logits[row]))
            if pack.views:
                turned = bool(rng.random() < 0.5)
                seen = shrink(frames, size)
                windows[k] = degrade_view(seen[:, :, ::-1] if turned else seen, rng, self.augmentation)
                for name, kept in pack.targets.maps.items() if pack.targets is not None and known[k] else ():
                    told = torch.from_numpy(np.array(kept[row]))  # the maps of a mirrored view are mirrored as well
                    maps.setdefault(name, []).append(told.flip(-1) if turned else told)
            else:
                windows[k] = augment(frames, start, size, rng, self.augmentation)
            labels[k] = float(abnormal if pack.labels is None else pack.labels[place.item])
        stacked = {name: torch.stack(values) for name, values in maps.items() if len(values) == count}
        return Drawn(torch.from_numpy(windows), labels, known, features, logits, stacked)

    def _draw(self, rng: np.random.Generator) -> tuple[_Place, bool]:
        name = self._sets[int(rng.choice(len(self._sets), p=self._weights))]
        labels = [abnormal for abnormal in (False, True) if (name, abnormal) in self._cells]
        abnormal = labels[int(rng.integers(len(labels)))]
        places = self._cells[(name, abnormal)]
        answered = self._answered[(name, abnormal)]
        if answered and rng.random() < ANSWERED_SHARE:
            places = answered
        return places[int(rng.integers(len(places)))], abnormal


def _rows_by_item(targets: Targets | None) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    if targets is not None:
        done = targets.done
        for row, job in enumerate(targets.jobs):
            if done[row]:
                rows.setdefault(job.item, []).append(row)
    return rows
