"""The teachers' outputs for view k: computed in the training step, or stored in files.

    Online   views are drawn and rendered, teachers run, in every step     on CUDA
    Kept     ANSWERS/<key>/<stream>-<file>.npz, computed when needed       on a CPU

The key covers the clips, the teachers' weights and everything that determines a view. Files are written atomically, so
a kill costs at most one file, and several processes may fill one folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.errors import DataError
from stream_detector.types import WINDOW_FRAMES, UInt8Array
from trainer.recipes.labelfree.settings import Settings
from trainer.recipes.labelfree.teachers import Answer, Ask
from trainer.recipes.labelfree.views import Drawer, Frames, render, shrunk

Ints = NDArray[np.int64]
ASKED_TOGETHER = 8  # views per batch where a CPU's memory is the limit


@dataclass(frozen=True, slots=True)
class Asked:
    """B views and the teachers' outputs. views: uint8 (B, 16, S, S, 3) RGB.  answers: by teacher: the positions in the
    batch that it scored, and its outputs for those.
    """

    views: Tensor
    answers: Mapping[str, tuple[Tensor, Answer]]


class Answers(Protocol):
    """The source of the views of a training step."""

    def batch(self, numbers: Sequence[int]) -> Asked:
        """Return the views of these numbers."""
        ...


class Online:
    """Draws and renders views and runs the teachers. askers: by teacher; the first one scores all views."""

    def __init__(self, drawer: Drawer, frames: Frames, askers: Mapping[str, Ask], settings: Settings) -> None:
        self.drawer, self.frames, self.askers, self.settings = drawer, frames, dict(askers), settings

    def batch(self, numbers: Sequence[int]) -> Asked:
        """Return the views of these numbers, at the size of the teachers."""
        views = render([self.drawer.draw(k) for k in numbers], self.frames, self.settings.view_side)
        answers = {}
        for rank, (name, ask) in enumerate(self.askers.items()):
            places = [i for i, k in enumerate(numbers) if rank == 0 or k % self.settings.second_every == 0]
            if places:
                where = torch.tensor(places, device=views.device)
                answers[name] = (where, ask(views[where]))
        return Asked(views, answers)


class Kept:
    """The same, stored in files. folder: of this key.  side: size in pixels of the stored views of the student."""

    def __init__(self, online: Online, folder: Path, name: str, side: int) -> None:
        self.online, self.folder, self.name, self.side = online, Path(folder), name, side
        self.shard = online.settings.shard
        self.folder.mkdir(parents=True, exist_ok=True)
        self._read = lru_cache(maxsize=2 * online.settings.window)(self._load)

    def batch(self, numbers: Sequence[int]) -> Asked:
        """Return the views of these numbers; missing files are computed."""
        views: list[Tensor] = []
        parts: dict[str, list[tuple[int, Answer]]] = {}
        for place, number in enumerate(numbers):
            shard = self._read(number // self.shard)
            row = number % self.shard
            views.append(_decode(shard["views"][row], self.side))
            for name in self.online.askers:
                rows = shard[f"{name}/rows"]
                at = int(np.searchsorted(rows, row))
                if at < len(rows) and rows[at] == row:
                    logits = f"{name}/logits"
                    said = Answer(
                        _tensor(shard[f"{name}/features"][at]),
                        _tensor(shard[f"{name}/map"][at]),
                        _tensor(shard[logits][at]) if logits in shard else None,
                    )
                    parts.setdefault(name, []).append((place, said))
        return Asked(torch.stack(views), {name: _together(said) for name, said in parts.items()})

    def done(self, views: int) -> int:
        """Return how many of the first `views` views are stored."""
        return sum(self.shard for number in range(views // self.shard) if self._file(number).exists())

    def fill(self, views: int) -> Iterator[int]:
        """Compute all files of the first `views` views; yields the number of stored views."""
        for number in range(views // self.shard):
            if not self._file(number).exists():
                self._make(number)
            yield (number + 1) * self.shard

    def _file(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:05}.npz"

    def _load(self, number: int) -> dict[str, Any]:
        file = self._file(number)
        if not file.exists():
            self._make(number)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files if name not in ("bytes", "lengths")}
                ends = np.cumsum(arrays["lengths"])
                found["views"] = np.split(arrays["bytes"], ends[:-1])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{str(file)!r} is damaged ({error}); delete it, it is made again") from None
        return found

    def _make(self, number: int) -> None:
        first = number * self.shard
        pictures: list[NDArray[np.uint8]] = []
        arrays: dict[str, list[NDArray[Any]]] = {}
        for begin in range(first, first + self.shard, ASKED_TOGETHER):
            numbers = range(begin, min(begin + ASKED_TOGETHER, first + self.shard))
            asked = self.online.batch(numbers)
            small = shrunk(asked.views, self.side).cpu().numpy()
            pictures += [_encode(view, self.online.settings.quality) for view in small]
            for name, (where, said) in asked.answers.items():
                arrays.setdefault(f"{name}/rows", []).append(where.cpu().numpy() + begin - first)
                for key, part in zip(Answer._fields, said, strict=True):
                    if part is not None:
                        arrays.setdefault(f"{name}/{key}", []).append(part.half().cpu().numpy())
        whole: Any = {name: np.concatenate(parts) for name, parts in arrays.items()}
        whole |= {"bytes": np.concatenate(pictures), "lengths": np.array([len(data) for data in pictures])}
        partial = self._file(number).with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as out:
            np.savez(out, **whole)
        os.replace(partial, self._file(number))


def answers_key(pack: str, teachers: str, side: int, s: Settings) -> str:
    """Return the key of everything that the views and the teachers' outputs depend on."""
    drawn = [s.seed, s.set_power, s.fast, s.slow, s.crop, s.least_area, s.mixed, s.visit, s.second_every]
    text = json.dumps([pack, teachers, s.teachers, s.view_side, side, s.quality, s.shard, s.rows, s.columns, drawn, 1])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def numbers_of(step: int, s: Settings, *, kept: bool) -> list[int]:
    """Return the numbers of the views of a step. Online: always new views. Kept: every view once per epoch, shuffled
    among `window` files, which are read together.
    """
    first = step * s.batch
    if not kept:
        return list(range(first, first + s.batch))
    places = range(first, first + s.batch)
    return [int(_order(s.seed, p // s.views, s.views, s.shard, s.window)[p % s.views]) for p in places]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, views: int, shard: int, window: int) -> Ints:
    rng = np.random.default_rng([seed, 7, epoch])
    files = rng.permutation(views // shard)
    parts = []
    for first in range(0, len(files), window):
        mine = np.concatenate([np.arange(f * shard, (f + 1) * shard) for f in files[first : first + window].tolist()])
        parts.append(rng.permutation(mine))
    return np.concatenate(parts).astype(np.int64)


def _encode(view: UInt8Array, quality: int) -> NDArray[np.uint8]:
    """uint8 (16, s, s, 3) RGB → JPEG bytes of one picture with the frames below each other."""
    tall = np.ascontiguousarray(view.reshape(-1, view.shape[2], 3)[:, :, ::-1])
    good, data = cv2.imencode(".jpg", tall, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not good:
        raise DataError("a view cannot be written as JPEG; check the installation of OpenCV")
    result: NDArray[np.uint8] = np.asarray(data, dtype=np.uint8).reshape(-1)
    return result


def _decode(data: NDArray[np.uint8], side: int) -> Tensor:
    tall = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if tall is None or tall.shape != (WINDOW_FRAMES * side, side, 3):
        raise DataError("a kept view is damaged; delete the folder of answers, it is made again")
    return torch.from_numpy(np.ascontiguousarray(tall[:, :, ::-1])).reshape(WINDOW_FRAMES, side, side, 3)


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _together(said: Sequence[tuple[int, Answer]]) -> tuple[Tensor, Answer]:
    places = torch.tensor([place for place, _ in said])
    logits = [answer.logits for _, answer in said if answer.logits is not None]
    return places, Answer(
        torch.stack([answer.features for _, answer in said]),
        torch.stack([answer.map for _, answer in said]),
        torch.stack(logits) if logits else None,
    )
