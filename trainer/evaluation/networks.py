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
from torch import Tensor, nn

from stream_detector.config import build_config
from stream_detector.engines import load_engine
from stream_detector.errors import DataError
from stream_detector.models import weights
from stream_detector.models.backbones.i3d import I3D
from stream_detector.models.backbones.pair import Pair
from stream_detector.models.backbones.tensors import load_strict
from stream_detector.models.backbones.videoresnet import VideoResNet
from stream_detector.models.bundle import Bundle
from stream_detector.types import WINDOW_FRAMES, Float32Array, UInt8Array
from trainer.data.clips import sides
from trainer.data.sizes import Size, named
from trainer.evaluation import pixels
from trainer.evaluation.compiled_teacher import compiled_module

Answer = Callable[[UInt8Array], Float32Array]
KNOWN = {"i3d": "i3d-kinetics400", "mc3": "mc3-18-fights"}  # names for `models fetch`
SEEN = {"mc3": ("cctv_fights",)}  # sets of whose collections a network saw labels: it is not judged on them
COLUMNS = {"i3d": I3D.feature_dim, "mc3": VideoResNet.feature_dim}


@dataclass(frozen=True, slots=True)
class Look:
    """A frozen network. name: of the store's folder; it changes with the weights.  size: of its windows, in pixels.

    make: loads it; the result takes uint8 (B, 16, rows, columns, 3) RGB and gives float32 (B, D).
    """

    name: str
    size: Size
    make: Callable[[], Answer]


class _FromBytes(nn.Module):
    """uint8 (B, 16, rows, columns, 3) RGB → (features,) of a network whose input is [-1, 1]."""

    def __init__(self, ask: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.network, self._ask = network, ask

    def forward(self, windows: Tensor) -> tuple[Tensor]:
        return (self._ask(windows.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0),)


def known_look(name: str, size: Size) -> Look:
    """ "i3d" or "mc3" at a size: as fetched by their pinned checksums, compiled in bfloat16 where the CPU has it.

    The MC3-18 sees its windows as it does in a `Pair`: made smaller from this size inside of the network.
    """
    weights_name = KNOWN[name]
    record = weights.fetch(weights_name)

    def make() -> Answer:
        network = Pair().eval().requires_grad_(False)
        part = network.first if name == "i3d" else network.second
        load_strict(part, weights.load(weights_name), weights_name)
        ask = network.first.features if name == "i3d" else lambda x: network.second.features(network.for_second(x))
        plain = _FromBytes(ask, network)
        shape = (1, WINDOW_FRAMES, *sides(size), 3)
        probe = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        compiled = compiled_module(plain, probe)
        if compiled is not None:
            return lambda windows: compiled(windows)[0].numpy()

        @torch.no_grad()
        def in_torch(windows: UInt8Array) -> Float32Array:
            answer: Float32Array = plain(torch.from_numpy(windows))[0].numpy()
            return answer

        return in_torch

    return Look(f"{name}-{named(size)}-{record.tensors_sha256[:8]}", size, make)


def parts_of(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Columns of each network's features, and of all of them as "both": {"i3d": (0, 1024), …}."""
    found: dict[str, tuple[int, int]] = {}
    end = 0
    for name in names:
        found[name] = (end, end + COLUMNS[name])
        end += COLUMNS[name]
    return {**found, "both": (0, end)} if len(found) > 1 else found


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
        digest = pixels.file_digest(file)
        kept = self.folder / f"{digest}{'' if most is None else f'-{most}'}.npy"
        for longer in (kept, *([] if most is None else sorted(self.folder.glob(f"{digest}*.npy")))):
            limit = longer.stem.partition("-")[2]
            if longer.exists() and (longer == kept or not limit or int(limit) >= (most or 0)):
                found: Float32Array = np.load(longer)[:most]
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


class Stores:
    """Features of several looks at the same files, side by side. stores: at least one."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = tuple(stores)

    @property
    def name(self) -> str:
        """The names of all looks."""
        return "+".join(store.look.name for store in self.stores)

    @property
    def pixels(self) -> str:
        """Names what the decoder and the filter make of a few files, for every look."""
        return "+".join(dict.fromkeys(store.folder.name for store in self.stores))

    def features(self, file: Path, most: int | None = None) -> Float32Array:
        """float32 (n, D) of the file's windows, those of the first look first. Raises DataError."""
        return np.concatenate([store.features(file, most=most) for store in self.stores], axis=1)

    def fill(self, files: Sequence[Path]) -> Iterator[tuple[int, int]]:
        """Make all that is not there, look by look; yields (done, all)."""
        total = len(files) * len(self.stores)
        for number, store in enumerate(self.stores):
            for done, _ in store.fill(files):
                yield number * len(files) + done, total


def known_stores(names: Sequence[str], size: Size, root: Path, samples: Sequence[Path]) -> Stores:
    """Stores of `known_look`s."""
    return Stores([Store(root, known_look(name, size), samples) for name in names])


def _batches(items: Iterable[UInt8Array], size: int) -> Iterator[list[UInt8Array]]:
    waiting: list[UInt8Array] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
