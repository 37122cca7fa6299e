"""Networks that are evaluated, and the store of their features.

    name ──known_network──▶ FrozenNetwork ──Store.features(file)──▶ float32 (n, D), a row per window

A store is a folder: `<network>/<pixels>/<digest of the file>.npy`. It may be deleted at any time; the next run fills it
again. A run that was stopped continues where it stopped, and two runs may fill one store.
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
KNOWN = {"i3d": "i3d-kinetics400", "mc3": "mc3-18-fights"}  # names for `stream-detector models fetch`
FINE_TUNED = frozenset({"mc3"})  # saw labels of this task: whoever judges one names the sets that it learned from
COLUMNS = {"i3d": I3D.feature_dim, "mc3": VideoResNet.feature_dim}


@dataclass(frozen=True, slots=True)
class FrozenNetwork:
    """A frozen network. name: of the store's folder; it changes with the weights.  size: of its windows, in pixels.

    make: loads the network; the result takes uint8 (B, 16, rows, columns, 3) RGB and gives float32 (B, D).
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


def known_network(name: str, size: Size) -> FrozenNetwork:
    """Return "i3d" or "mc3" at a size: the weights with the pinned checksum, compiled in bfloat16 where the CPU
    supports it.

    The MC3-18 gets its windows as in a `Pair`: the network reduces them from this size.
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

    return FrozenNetwork(f"{name}-{named(size)}-{record.tensors_sha256[:8]}", size, make)


def parts_of(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the columns of each network's features, and of all of them as "both": {"i3d": (0, 1024), …}."""
    found: dict[str, tuple[int, int]] = {}
    end = 0
    for name in names:
        found[name] = (end, end + COLUMNS[name])
        end += COLUMNS[name]
    return {**found, "both": (0, end)} if len(found) > 1 else found


def bundle_network(bundle: Bundle) -> FrozenNetwork:
    """Return the backbone of a bundle, in the engine that the detector would choose on this machine."""
    size = bundle.manifest.preprocess.size

    def make() -> Answer:
        engine = load_engine(bundle, build_config({}).engine)
        return lambda windows: engine.infer(windows).features

    weights = bundle.manifest.backbone.weights_sha256
    return FrozenNetwork(
        f"{bundle.manifest.backbone.arch}-{named((size[0], size[1]))}-{weights[:8]}", (size[0], size[1]), make
    )


class Store:
    """Features of files by one network. root: folder.  samples: files that identify the decoder (`pixels.probe`)."""

    def __init__(self, root: Path, network: FrozenNetwork, samples: Sequence[Path]) -> None:
        self.network = network
        self.folder = Path(root) / network.name / pixels.probe(samples, network.size)
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
            self._answer = self.network.make()
        windows = islice(pixels.windows(file, self.network.size), most)
        rows = np.concatenate([self._answer(np.stack(part)) for part in _batches(windows, batch)])
        if not np.isfinite(rows).all():
            raise DataError(f"{self.network.name} gave a value that is not finite for {str(file)!r}; check its weights")
        partial = kept.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as out:
            np.save(out, rows)
        os.replace(partial, kept)
        return rows

    def fill(self, files: Sequence[Path]) -> Iterator[tuple[int, int]]:
        """Compute all missing features; yields (done, all)."""
        for number, file in enumerate(files, start=1):
            self.features(file)
            yield number, len(files)


class Stores:
    """Features of the same files by several networks, concatenated. stores: at least one."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = tuple(stores)

    @property
    def name(self) -> str:
        """The names of all networks."""
        return "+".join(store.network.name for store in self.stores)

    @property
    def pixels(self) -> str:
        """Identifies what the decoder and the filter give for a few files, for every network."""
        return "+".join(dict.fromkeys(store.folder.name for store in self.stores))

    def features(self, file: Path, most: int | None = None) -> Float32Array:
        """Return float32 (n, D) of the file's windows, the features of the first network first. Raises DataError."""
        return np.concatenate([store.features(file, most=most) for store in self.stores], axis=1)

    def fill(self, files: Sequence[Path]) -> Iterator[tuple[int, int]]:
        """Compute all missing features, network by network; yields (done, all)."""
        total = len(files) * len(self.stores)
        for number, store in enumerate(self.stores):
            for done, _ in store.fill(files):
                yield number * len(files) + done, total


def known_stores(names: Sequence[str], size: Size, root: Path, samples: Sequence[Path]) -> Stores:
    """Return the stores of `known_network`s."""
    return Stores([Store(root, known_network(name, size), samples) for name in names])


def _batches(items: Iterable[UInt8Array], size: int) -> Iterator[list[UInt8Array]]:
    waiting: list[UInt8Array] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
