"""The teacher's outputs, computed once and stored: I3D features and class logits of chosen windows.

    [Clip] ──plan──▶ [Job(item, start)] ──answer──▶ targets-*.npy (memory-mapped, filled in place, resumable)

One row per job: features float32 (1024,), logits float32 (400,), done uint8, and on request the maps of
`compiled_teacher.Answer` in float16: middle (832, 2, 5, 5), last (1024, 1, 5, 5). A run that was stopped continues
where it stopped. The order of the jobs is fixed by the seed: train first, so that training can start before the teacher
is finished.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.errors import DataError
from stream_detector.models.backbones.i3d import CLASSES, FEATURE_DIM, I3D
from stream_detector.types import WINDOW_FRAMES, UInt8Array
from trainer.data.clips import Clip, window_at
from trainer.evaluation.compiled_teacher import GRID, Answer, Teacher, ask

FrameSource = Callable[[int], UInt8Array]


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One window for the teacher. item: index of the clip.  start: first frame."""

    item: int
    start: int


def plan(
    clips: Sequence[Clip], frames: Sequence[int], *, per_clip: int = 2, per_set: int = 250, seed: int = 0
) -> list[Job]:
    """Choose the windows: evenly spread, at most `per_set` of a set, every clip once before any clip twice.

    frames: number of frames of each clip.
    """
    order = random.Random(seed)
    ranked: list[tuple[int, bool, float, Job]] = []
    for item, (clip, count) in enumerate(zip(clips, frames, strict=True)):
        room = max(0, count - WINDOW_FRAMES)
        starts = [round(room * (2 * k + 1) / (2 * per_clip)) for k in range(per_clip)]
        order.shuffle(starts)
        for rank, start in enumerate(dict.fromkeys(starts)):
            ranked.append((rank, clip.split == "val", order.random(), Job(item, start)))
    jobs: list[Job] = []
    used: dict[str, int] = {}
    for *_, job in sorted(ranked):
        name = clips[job.item].set
        if used.get(name, 0) < per_set:
            used[name] = used.get(name, 0) + 1
            jobs.append(job)
    return jobs


MAPS = {"middle": (832, 2, GRID, GRID), "last": (FEATURE_DIM, 1, GRID, GRID)}


class Targets:
    """The teacher's outputs on disk. features (n, 1024), logits (n, 400): float32; done (n,): bool; jobs: the rows.

    maps: store the maps as well, by name, float16 (n, *shape); {} otherwise.
    """

    def __init__(self, path: Path, jobs: Sequence[Job], key: str, *, maps: bool = False) -> None:
        self.path, self.jobs = Path(path), list(jobs)
        text = json.dumps([key, [(job.item, job.start) for job in jobs]])
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path.mkdir(parents=True, exist_ok=True)
        stamp = self.path / "key.txt"
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != digest:
            parts: dict[str, tuple[type, tuple[int, ...]]] = {
                "features": (np.float32, (FEATURE_DIM,)),
                "logits": (np.float32, (CLASSES,)),
                "done": (np.uint8, (1,)),
                **{name: (np.float16, shape) for name, shape in MAPS.items() if maps},
            }
            for name, (kind, shape) in parts.items():
                np.lib.format.open_memmap(
                    self.path / f"{name}.npy", mode="w+", dtype=kind, shape=(len(jobs), *shape)
                ).flush()
            (self.path / "jobs.json").write_text(text, encoding="utf-8")
            stamp.write_text(digest, encoding="utf-8")
        self.features = self._map("features")
        self.logits = self._map("logits")
        self._done = self._map("done")
        self.maps = {name: self._map(name) for name in MAPS} if maps else {}

    @classmethod
    def open(cls, path: Path) -> Targets:
        """Open targets of an earlier run. Raises DataError if there are none."""
        try:
            key, rows = json.loads((Path(path) / "jobs.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{str(path)!r} holds no teacher targets ({error}); run the teacher first") from None
        return cls(path, [Job(*row) for row in rows], key, maps=(Path(path) / "last.npy").exists())

    def _map(self, name: str) -> NDArray[np.float32]:
        loaded: NDArray[np.float32] = np.load(self.path / f"{name}.npy", mmap_mode="r+")
        return loaded

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which rows are filled."""
        filled: NDArray[np.bool_] = np.asarray(self._done[:, 0] != 0)
        return filled

    def put(
        self,
        rows: Sequence[int],
        features: Tensor,
        logits: Tensor,
        middle: Tensor | None = None,
        last: Tensor | None = None,
    ) -> None:
        """Fill rows; `done` is set last, so that a run that was killed in between repeats them.

        Raises DataError if maps are stored and not given.
        """
        index = list(rows)
        self.features[index] = features.float().cpu().numpy()
        self.logits[index] = logits.float().cpu().numpy()
        for (name, kept), part in zip(self.maps.items(), (middle, last), strict=False):
            if part is None:
                raise DataError(f"these targets keep maps, but the teacher gave no {name!r}; ask it with maps=True")
            kept[index] = part.half().cpu().numpy()
        self._done[index] = 1


@torch.no_grad()
def answer(
    model: I3D | Teacher, targets: Targets, source: FrameSource, *, batch: int = 4, device: str = "cpu"
) -> Iterator[tuple[int, int]]:
    """Run the teacher on every window that has no row yet; yields (done, all) for a progress bar.

    model: the network, or the result of `compiled_teacher`.  source: item → uint8 (n, S, S, 3) RGB at the teacher's
    size.  On CUDA the forward pass runs in bfloat16.
    """
    teacher = _network(model, device, bool(targets.maps)) if isinstance(model, I3D) else model
    open_rows = np.flatnonzero(~targets.done)
    for first in range(0, len(open_rows), batch):
        rows = open_rows[first : first + batch].tolist()
        windows = np.stack([window_at(source(targets.jobs[r].item), targets.jobs[r].start) for r in rows])
        said = teacher(windows)
        if not all(bool(torch.isfinite(part).all()) for part in said if part is not None):
            raise DataError("the teacher gave a value that is not finite; check its weights file")
        targets.put(rows, *said)
        yield len(targets.jobs) - len(open_rows) + min(first + batch, len(open_rows)), len(targets.jobs)


def _network(model: I3D, device: str, maps: bool) -> Teacher:
    model = model.eval().to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def answers(windows: UInt8Array) -> Answer:
        clip = torch.from_numpy(windows).to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
        clip = clip.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.startswith("cuda")):
            return ask(model, clip, maps=maps)

    return answers
