"""Views: parts of clips as another camera might have recorded them; the teacher scores each view.

    clips, rendered, quiet ──ViewSource──┬─small─▶ pack_views ──▶ views.u8 (one window an item) ──┐
                                         └─large─▶ answer ──▶ targets ──▶ soft_labels ────────────┴──▶ Pack

The teacher's output for a whole clip says little about a corner of it at half the speed. So time and crop are fixed
here, before the teacher scores the view ("consistent teaching": Beyer et al., "Knowledge distillation: a good teacher
is patient and consistent", CVPR 2022); light, blur and noise are added afterwards, for the student only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from stream_detector.errors import DataError
from stream_detector.types import WINDOW_FRAMES, Float32Array, UInt8Array
from trainer.data.clips import Clip, PackedFrames, PackWriter
from trainer.data.sizes import Size
from trainer.recipes.embedded.augment import Augmentation, sample_part
from trainer.recipes.embedded.fit_head import Bag, HeadConfig, calibrate, fit_head
from trainer.recipes.embedded.teacher import Targets

Frames = Callable[[int], UInt8Array]
REGRESSION = HeadConfig((), decay=1.0, dropout=0.0)


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """How many views a clip gives, by set: more for small sets.

    mixed: share of the views that combine two clips: a rectangle of the second clip on top, or both blended (CutMix,
    Yun et al. 2019; mixup, Zhang et al. 2018). The teacher scores the combination, so the two need not be alike. taken:
    how time and crop are drawn; a smaller part of the picture than in training without views, because the teacher
    scores that part.
    """

    per_clip: Mapping[str, int]
    default: int = 4
    seed: int = 0
    mixed: float = 0.0
    taken: Augmentation = field(default_factory=lambda: Augmentation(p_crop=0.75, min_area=0.35))

    def count(self, clip: Clip) -> int:
        """Return the number of views of one clip; 0 for clips that are not for training."""
        return self.per_clip.get(clip.set, self.default) if clip.split == "train" else 0


_COUNTS = {
    "cctv_fights": 13,
    "cctv_crashes": 16,
    "hockey_fights": 2,
    "ucf101": 8,
    "arid_dark": 6,
    "intel_samples": 40,
    "rendered": 4,
    "long_normal": 4,
}
_MORE = {"cctv_fights": 16, "cctv_crashes": 24, "hockey_fights": 1, "ucf101": 5, "intel_samples": 20, "long_normal": 2}
# the second plan follows when the first one is learned
ROUNDS = (ViewPlan(_COUNTS), ViewPlan(_MORE, default=2, seed=1, mixed=0.6))


class ViewSource:
    """The views of a plan, drawn on demand; at every size they are the same parts of the same frames.

    sources: clips, and what gives the frames of the i-th: uint8 (n, rows, columns, 3) RGB.  size: of a view. content:
    identifies the frames of the sources, so that views of other recordings are other views.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[Clip], Frames]],
        plan: ViewPlan,
        size: Size,
        content: Sequence[str] = (),
    ) -> None:
        self.plan, self.size, self.content = plan, size, tuple(content)
        self._wanted = [(part, i, clip) for part, (clips, _) in enumerate(sources) for i, clip in enumerate(clips)]
        self._wanted = [entry for entry in self._wanted if plan.count(entry[2])]
        self._places = [(place, n) for place, (*_, clip) in enumerate(self._wanted) for n in range(plan.count(clip))]
        # The views of a clip follow each other; a mixed view has a second clip, the same for all views of the clip.
        self._frames = lru_cache(maxsize=8)(lambda part, i: sources[part][1](i))

    @property
    def clips(self) -> list[Clip]:
        """The clip of each view."""
        return [self._wanted[place][2] for place, _ in self._places]

    @property
    def key(self) -> str:
        """A key that changes when any of the views changes."""
        wanted = [asdict(clip) for *_, clip in self._wanted]
        text = json.dumps([self.size, asdict(self.plan), wanted, self.content, "by share"])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def view(self, number: int) -> UInt8Array:
        """uint8 (16, rows, columns, 3) RGB."""
        place, n = self._places[number]
        part, i, _ = self._wanted[place]
        rng = np.random.default_rng([self.plan.seed, part, i, n])
        view = self._anywhere(part, i, rng)
        if self.plan.mixed and rng.random() < self.plan.mixed:
            other = int(np.random.default_rng([self.plan.seed, part, i]).integers(len(self._wanted)))
            view = mix(view, self._anywhere(*self._wanted[other][:2], rng), rng)
        return view

    def _anywhere(self, part: int, i: int, rng: np.random.Generator) -> UInt8Array:
        frames = self._frames(part, i)
        start = int(rng.integers(0, max(1, len(frames) - WINDOW_FRAMES + 1)))
        return sample_part(frames, start, self.size, rng, self.plan.taken)


def pack_views(source: ViewSource, path: Path, *, workers: int = 2) -> Iterator[tuple[int, int]]:
    """Write square views once into `path`; yields (views done, all). Does nothing if the file exists.

    Raises DataError for views that are not square.
    """
    if not isinstance(source.size, int):
        raise DataError(f"packed views are square, got {source.size}; give one number of pixels")
    if path.with_suffix(".json").exists() and PackedFrames(path).key == source.key:
        return
    clips = source.clips
    writer = PackWriter(path, source.size)
    with ThreadPoolExecutor(workers) as threads:
        for first in range(0, len(clips), 256):  # a few at a time: all views together do not fit into memory
            block = range(first, min(first + 256, len(clips)))
            for k, view in zip(block, threads.map(source.view, block), strict=True):
                writer.add(view, asdict(clips[k]))
            yield block.stop, len(clips)
    writer.close(source.key)


def mix(view: UInt8Array, other: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Combine two views: `other` in a rectangle of 15 to 60 % of the picture, or blended in by 30 to 60 %."""
    if rng.random() < 0.5:
        share = float(rng.uniform(0.3, 0.6))
        blended: UInt8Array = np.round(view * (1 - share) + other * share).astype(np.uint8)
        return blended
    side = float(rng.uniform(0.15, 0.6)) ** 0.5
    places = [float(rng.uniform(0, 1 - side)) for _ in range(2)]  # shares of the picture: the same at every size
    rows, columns = (
        slice(round(place * size), round((place + side) * size))
        for place, size in zip(places, view.shape[1:3], strict=True)
    )
    pasted = view.copy()
    pasted[:, rows, columns] = other[:, rows, columns]
    return pasted


def soft_labels(
    targets: Targets, clips: Sequence[Clip], shares: Mapping[str, float], *, folds: int = 5, trust: float = 0.5
) -> Float32Array:
    """Return (n,) for each view the probability, by a regression, that it shows what its clip is labelled with.

    A label is for a whole clip; a view of it may show the pavement beside the fight. The regression uses the teacher's
    features and was not fitted on the group of the clip that it scores (`folds`).  trust: weight of the regression; the
    rest is the clip's label.  clips: one per view, as in the pack.
    """
    names = [clip.group or clip.path for clip in clips]
    places: dict[str, list[int]] = {}
    for row, clip in enumerate(clips):
        places.setdefault(clip.path, []).append(row)
    by_clip = list(places.values())
    fold_of = [int(hashlib.sha256(names[rows[0]].encode()).hexdigest(), 16) % folds for rows in by_clip]
    bags = [Bag(np.array(targets.features[rows]), clips[rows[0]].set, clips[rows[0]].abnormal) for rows in by_clip]
    labels = np.array([float(clip.abnormal) for clip in clips], dtype=np.float32)
    result = labels.copy()
    for fold in range(folds):
        known = [bag for bag, f in zip(bags, fold_of, strict=True) if f != fold]
        told = [(bag, rows) for bag, rows, f in zip(bags, by_clip, fold_of, strict=True) if f == fold]
        if len({bag.abnormal for bag in known}) < 2 or len({bag.abnormal for bag, _ in told}) < 2:
            continue
        head = fit_head(known, REGRESSION, shares)
        calibrate(head, [bag for bag, _ in told], shares)
        for bag, rows in told:
            said = head(torch.from_numpy(bag.features)).numpy()
            result[rows] = trust * said + (1 - trust) * labels[rows]
    return result
