"""Messages between camera hosts and shards. Ray carries these objects; the shard's log holds them as JSON."""

from __future__ import annotations

import base64
import zlib
from dataclasses import astuple, dataclass
from typing import Any

from stream_detector.types import CameraStatus, Timing, WindowRef


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """The raw score of one window.

    ref: clocks of the camera's node.  timing: up to `forward`, in milliseconds.  features: float32 (D,), little-endian,
    if the shard needs them (a head with a state, novelty, kinds); otherwise empty.  grid: float32, little-endian, rows
    of `columns` cells, see `types.Score`; empty if the engine does not know it.
    """

    ref: WindowRef
    raw: float
    timing: Timing
    features: bytes = b""
    grid: bytes = b""
    columns: int = 0


@dataclass(frozen=True, slots=True)
class CameraEnded:
    """The camera gives no more windows. failure: one sentence, or ""."""

    camera: str
    failure: str


@dataclass(frozen=True, slots=True)
class ShardItem:
    """One message to a shard.

    generation: the camera's generation, given by `Shard.adopt`; items of other generations are refused.  n: number of
    the item in that generation, without gaps, from 0; an item with a number that was taken before is not taken again.
    """

    camera: str
    generation: int
    n: int
    what: ScoredWindow | CameraEnded | CameraStatus


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The point at which a camera continues. last: the newest decided window, None before the first.  done: whether it
    has ended for good.

    next_index: index of the first window that is wanted.
    """

    camera: str
    generation: int
    last: WindowRef | None
    done: bool

    @property
    def next_index(self) -> int:
        return self.last.index + 1 if self.last else 0


def shard_of(camera: str, shards: int) -> int:
    """Return the shard that decides for the camera: the same in every process and every run."""
    return zlib.crc32(camera.encode()) % shards


def ref_to_list(ref: WindowRef) -> list[Any]:
    """Convert to values that JSON holds exactly."""
    return list(astuple(ref))


def ref_from_list(fields: list[Any]) -> WindowRef:
    """The inverse of `ref_to_list`."""
    return WindowRef.of_fields(fields)


def item_to_list(item: ShardItem) -> list[Any]:
    """Convert to values that JSON holds exactly."""
    what = item.what
    if isinstance(what, ScoredWindow):
        fields: list[Any] = ["scored", ref_to_list(what.ref), what.raw, list(astuple(what.timing))]
        packed = [base64.b64encode(part).decode("ascii") for part in (what.features, what.grid)]
        fields += [*packed, what.columns] if what.grid else packed[:1] if what.features else []
    elif isinstance(what, CameraEnded):
        fields = ["ended", what.camera, what.failure]
    else:
        fields = ["status", *astuple(what)]
    return [item.camera, item.generation, item.n, *fields]


def item_from_list(fields: list[Any]) -> ShardItem:
    """The inverse of `item_to_list`."""
    camera, generation, n, kind, *rest = fields
    what: ScoredWindow | CameraEnded | CameraStatus
    if kind == "scored":
        features, grid = (base64.b64decode(rest[k]) if len(rest) > k else b"" for k in (3, 4))
        columns = rest[5] if len(rest) > 5 else 0
        what = ScoredWindow(ref_from_list(rest[0]), rest[1], Timing(*rest[2]), features, grid, columns)
    elif kind == "ended":
        what = CameraEnded(*rest)
    else:
        what = CameraStatus(*rest)
    return ShardItem(camera, generation, n, what)
