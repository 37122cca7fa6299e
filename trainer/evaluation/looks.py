"""Networks that are evaluated, and the store of what they say of each file.

    name ──look_named──▶ Look ──Store.features(file)──▶ float32 (n, D), a row a window, kept by content

A store is a folder: `<look>/<pixels>/<digest of the file>.npy`. It may be deleted at any time and is filled again; a
run that is stopped goes on where it was, and two runs may fill one store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from stream_detector.config import build_config
from stream_detector.engines import load_engine
from stream_detector.errors import DataError
from stream_detector.models.backbones.i3d import load_i3d
from stream_detector.models.bundle import Bundle
from stream_detector.types import Float32Array, UInt8Array
from trainer.data.clips import Size, named
from trainer.evaluation import pixels
from trainer.evaluation.compiled_teacher import compiled_teacher

Answer = Callable[[UInt8Array], Float32Array]


@dataclass(frozen=True, slots=True)
class Look:
    """A frozen network. name: of the store's folder; it changes with the weights.  size: of its windows, in pixels.

    make: loads it; the result takes uint8 (B, 16, rows, columns, 3) RGB and gives float32 (B, D).
    """

    name: str
    size: Size
    make: Callable[[], Answer]


def i3d_look(weights: Path, size: Size) -> Look:
    """The Kinetics-400 I3D at a size: compiled in bfloat16 where the CPU has it, else PyTorch."""

    def make() -> Answer:
        network = load_i3d(weights)
        compiled = compiled_teacher(network, size)
        if compiled is not None:
            return lambda windows: compiled(windows).features.numpy()

        @torch.no_grad()
        def plain(windows: UInt8Array) -> Float32Array:
            clip = torch.from_numpy(windows).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
            answer: Float32Array = network.features(clip).numpy()
            return answer

        return plain

    return Look(f"i3d-{named(size)}-{pixels.file_digest(weights)[:8]}", size, make)


def bundle_look(bundle: Bundle) -> Look:
    """The backbone of a bundle, in the engine that the detector would choose here."""
    size = bundle.manifest.preprocess.size

    def make() -> Answer:
        engine = load_engine(bundle, build_config({}).engine)
        return lambda windows: engine.infer(windows).features

    weights = bundle.manifest.backbone.weights_sha256
    return Look(f"{bundle.manifest.backbone.arch}-{named((size[0], size[1]))}-{weights[:8]}", (size[0], size[1]), make)


class Store:
    """Features of files under one look. root: folder.  samples: files that name the decoder (`pixels.probe`)."""

    def __init__(self, root: Path, look: Look, samples: Sequence[Path]) -> None:
        self.look = look
        self.folder = Path(root) / look.name / pixels.probe(samples, look.size)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._answer: Answer | None = None

    def features(self, file: Path, batch: int = 8, most: int | None = None) -> Float32Array:
        """float32 (n, D) of the file's windows in order, at most the first `most`.

        Raises DataError for a value that is not finite.
        """
        kept = self.folder / f"{pixels.file_digest(file)}{'' if most is None else f'-{most}'}.npy"
        if kept.exists():
            found: Float32Array = np.load(kept)
            return found
        if self._answer is None:
            self._answer = self.look.make()
        windows = islice(pixels.windows(file, self.look.size), most)
        rows = np.concatenate([self._answer(np.stack(part)) for part in _batches(windows, batch)])
        if not np.isfinite(rows).all():
            raise DataError(f"{self.look.name} gave a value that is not finite for {str(file)!r}; check its weights")
        partial = kept.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as out:
            np.save(out, rows)
        os.replace(partial, kept)
        return rows

    def fill(self, files: Sequence[Path]) -> Iterator[tuple[int, int]]:
        """Make all that is not there; yields (done, all)."""
        for number, file in enumerate(files, start=1):
            self.features(file)
            yield number, len(files)


def _batches(items: Iterable[UInt8Array], size: int) -> Iterator[list[UInt8Array]]:
    waiting: list[UInt8Array] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
