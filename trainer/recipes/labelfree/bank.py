"""The pixels of a pack: all decoded in a GPU's memory, or decoded on demand."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.engines.layout import available_cores
from stream_detector.types import UInt8Array
from trainer.data.clips import read_frames
from trainer.recipes.labelfree.material import Packed

Ints = NDArray[np.int64]
KEPT_CLIPS = 16  # decoded clips in a CPU's memory; the views of one batch need two


class ReadingBank:
    """Decodes a clip on demand, because a CPU's memory cannot hold all clips. Implements `views.Frames`."""

    device = "cpu"

    def __init__(self, clips: Sequence[Packed], size: tuple[int, int]) -> None:
        self._frames = lru_cache(maxsize=KEPT_CLIPS)(lambda clip: read_frames(clips[clip].file, size))

    def windows(self, clips: Sequence[int], index: Ints) -> Tensor:
        """uint8 (B, 16, rows, columns, 3) RGB. Raises DataError for a clip that cannot be read."""
        return torch.from_numpy(np.stack([self._frames(c)[rows] for c, rows in zip(clips, index, strict=True)]))


class HeldBank:
    """All frames on a device: some 100 KB per clip. Implements `views.Frames`. Raises DataError for an unreadable
    clip.
    """

    def __init__(self, clips: Sequence[Packed], size: tuple[int, int], device: str) -> None:
        self.device = device
        lengths = np.array([clip.frames for clip in clips], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._held = torch.empty((int(lengths.sum()), *size, 3), dtype=torch.uint8, device=device)

        def place(number: int) -> None:
            frames: UInt8Array = read_frames(clips[number].file, size, limit=clips[number].frames)
            first = int(self._starts[number])
            self._held[first : first + len(frames)] = torch.from_numpy(frames).to(device)

        with ThreadPoolExecutor(available_cores()) as threads:
            list(threads.map(place, range(len(clips))))

    def windows(self, clips: Sequence[int], index: Ints) -> Tensor:
        """uint8 (B, 16, rows, columns, 3) RGB."""
        places = self._starts[np.array(clips)][:, None] + index
        return self._held[torch.from_numpy(places).to(self.device)]
