"""Clips on disk → a packed file of small uint8 frames that training reads at memory speed.

    index.csv ──read_index──▶ [Clip] ──pack──▶ frames.u8 + frames.json ──▶ PackedFrames.frames(i): (n, S, S, 3) RGB

`index.csv` has one row a clip (`path,set,label,category,group,split,fps,…`). Splits are by group: clips of one group
come from one source, so a group that stands in both splits is refused. The whole picture is stretched to S×S, as
the recipe `stream-112` does; S is larger than the network's input so that training can crop.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stream_detector.capture.picture import AnyPicture, as_picture
from stream_detector.capture.recordings import pictures
from stream_detector.errors import DataError, SourceError
from stream_detector.models.recipe import DEFAULT_FILTER, View
from stream_detector.types import WINDOW_FRAMES, UInt8Array
from trainer.data.content_hash import files_digest
from trainer.data.sizes import Size

PACK_SIZE = 128
SPLITS = ("train", "val")
_COLUMNS = ("path", "set", "label", "split", "group", "category", "fps")


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled clip. path: relative to the folder of the index.  abnormal: the clip-level (weak) label.

    set, category, group: names.  split: train or val.  fps: frames a second.  licence: as its source states it.
    """

    path: str
    set: str
    abnormal: bool
    category: str
    group: str
    split: str
    fps: float
    licence: str = ""


def index_rows(root: Path) -> tuple[Path, list[dict[str, str]]]:
    """Return `root`/index.csv and its rows, unchecked. Raises DataError if it cannot be read."""
    path = Path(root) / "index.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return path, list(csv.DictReader(file))
    except FileNotFoundError:
        raise DataError(f"{str(path)!r} does not exist; give the folder that holds the clips and index.csv") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r} cannot be read ({error}); give a UTF-8 CSV file") from None


def read_index(root: Path) -> tuple[Clip, ...]:
    """Return all clips of `root`/index.csv, in order. Raises DataError, which names the wrong row."""
    path, rows = index_rows(root)
    clips = []
    for number, row in enumerate(rows, start=2):
        missing = [name for name in _COLUMNS if row.get(name) is None]
        if missing:
            raise DataError(f"{path}, line {number}: column {missing[0]!r} is missing; see docs/models/embedded.md")
        if row["label"] not in ("normal", "abnormal") or row["split"] not in SPLITS:
            raise DataError(
                f"{path}, line {number}: label {row['label']!r} and split {row['split']!r} must be normal or abnormal, "
                f"and train or val; correct the row"
            )
        try:
            fps = float(row["fps"])
        except ValueError:
            raise DataError(f"{path}, line {number}: fps {row['fps']!r} is no number; correct the row") from None
        clips.append(
            Clip(
                row["path"],
                row["set"],
                row["label"] == "abnormal",
                row["category"],
                row["group"],
                row["split"],
                fps,
                row.get("licence") or "",
            )
        )
    if not clips:
        raise DataError(f"{str(path)!r} lists no clip; give an index with at least one row")
    check_groups(clips)
    return tuple(clips)


def check_groups(clips: Iterable[Clip]) -> None:
    """Raise DataError if a named group is in two splits, because neighbours of one source would leak. '' is no
    group.
    """
    seen: dict[tuple[str, str], str] = {}
    for clip in clips:
        if clip.group and seen.setdefault((clip.set, clip.group), clip.split) != clip.split:
            raise DataError(
                f"group {clip.group!r} of set {clip.set!r} stands in both splits; put all its clips into one of them"
            )


def split_by_group(clips: Sequence[Clip], share: float, seed: int) -> tuple[Clip, ...]:
    """Return the clips with new splits: about `share` of each set becomes val, in whole groups, by a fixed seed.

    A clip without a group is a group of its own.
    """

    def is_val(clip: Clip) -> bool:
        key = f"{seed}/{clip.set}/{clip.group or clip.path}".encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64 < share

    return tuple(replace(clip, split="val" if is_val(clip) else "train") for clip in clips)


def evenly(clips: Sequence[Clip], split: str, limits: Mapping[str, int]) -> list[int]:
    """Return the indices of the clips of a split, at most `limits[set]` of every set and label.

    They are spread over the list, because an index is sorted by category and its first hundred may be of one kind.
    """
    cells: dict[tuple[str, bool], list[int]] = {}
    for place, clip in enumerate(clips):
        if clip.split == split:
            cells.setdefault((clip.set, clip.abnormal), []).append(place)
    chosen: list[int] = []
    for (name, _), places in cells.items():
        most = min(len(places), limits.get(name, len(places)))
        chosen += [places[k * len(places) // most] for k in range(most)]
    return sorted(chosen)


def sides(size: Size) -> tuple[int, int]:
    """Return (rows, columns) of a size."""
    return (size, size) if isinstance(size, int) else size


def read_frames(path: Path, size: Size, *, limit: int | None = None, fps: float = 25.0) -> UInt8Array:
    """Return the frames of a video that a recipe of `fps` needs, at most `limit`: uint8 (n, rows, columns, 3) RGB,
    stretched.

    They are the frames that the detector would use: at 50 or 60 frames per second every second one. Raises DataError if
    the file cannot be opened or has no frame.
    """
    try:
        with closing(pictures(Path(path), fps)) as seen:
            frames = [small_rgb(picture.picture, size) for picture in islice(seen, limit)]
    except SourceError as error:
        raise DataError(f"{str(path)!r} gives no frame: {error}") from None
    return np.stack(frames)


def stretch(image: Any, size: Size) -> UInt8Array:
    """Stretch a picture (h, w, 3) to (rows, columns, 3); a picture of that size is returned unchanged."""
    rows, columns = sides(size)
    if image.shape[:2] == (rows, columns):
        same: UInt8Array = image
        return same
    shrinks = image.shape[0] >= rows and image.shape[1] >= columns
    result: UInt8Array = cv2.resize(
        image, (columns, rows), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return result


def small_rgb(image: AnyPicture, size: Size) -> UInt8Array:
    """Convert a decoded picture or BGR array to uint8 (rows, columns, 3) RGB, stretched with the recipes' usual
    filter.
    """
    return as_picture(image).rgb(View("whole", sides(size)), DEFAULT_FILTER)


def window_at(frames: UInt8Array, start: int, step: int = 1, length: int = WINDOW_FRAMES) -> UInt8Array:
    """Return a copy of `length` frames from `start` on, `step` apart; past the end the last frame is repeated."""
    index = np.minimum(start + step * np.arange(length), len(frames) - 1)
    result: UInt8Array = frames[index]
    return result


def window_starts(frames: int, stride: int = WINDOW_FRAMES, length: int = WINDOW_FRAMES) -> list[int]:
    """Return the starts of the full windows of a clip, as in the detector; a short clip gives one start, 0."""
    return list(range(0, max(1, frames - length + 1), stride))


class PackWriter:
    """Writes a packed file, item after item; `close` gives it its name."""

    def __init__(self, path: Path, size: int = PACK_SIZE) -> None:
        self.path, self.size = Path(path), size
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self.path.with_suffix(f".{os.getpid()}.partial")
        self._partial.write_bytes(b"")
        self._items: list[dict[str, Any]] = []
        self._offset = 0

    def add(self, frames: UInt8Array, meta: dict[str, Any]) -> None:
        """Add an item. frames: uint8 (n, size, size, 3) RGB.  meta: plain values, returned by `PackedFrames.meta`."""
        if frames.dtype != np.uint8 or frames.shape[1:] != (self.size, self.size, 3) or len(frames) == 0:
            raise DataError(f"packed frames must be uint8 (n, {self.size}, {self.size}, 3), got {frames.shape}")
        with self._partial.open("ab") as file:
            np.ascontiguousarray(frames).tofile(file)
        self._items.append({"offset": self._offset, "frames": len(frames), **meta})
        self._offset += len(frames)

    def close(self, key: str = "") -> None:
        """Finish the file. key: identifies its sources; `PackedFrames.open` checks it."""
        os.replace(self._partial, self.path)
        text = json.dumps({"schema": "stream-detector.pack/1", "size": self.size, "key": key, "items": self._items})
        temporary = self.path.with_suffix(f".json.{os.getpid()}.partial")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path.with_suffix(".json"))


class PackedFrames:
    """A packed file, memory-mapped. `frames(i)`: uint8 (n, size, size, 3) RGB, read only."""

    def __init__(self, path: Path) -> None:
        try:
            index = json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8"))
            self.size, self.key = int(index["size"]), str(index["key"])
            self.meta: list[dict[str, Any]] = index["items"]
            total = sum(int(item["frames"]) for item in self.meta)
            shape = (total, self.size, self.size, 3)
            self._map = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{str(path)!r} is no packed frame file ({error}); delete it to have it made again"
            ) from None

    def __len__(self) -> int:
        return len(self.meta)

    def frames(self, index: int) -> UInt8Array:
        """Return all frames of one item."""
        item = self.meta[index]
        result: UInt8Array = self._map[item["offset"] : item["offset"] + item["frames"]]
        return result


def clips_key(clips: Sequence[Clip], root: Path, size: Size, limit: int) -> str:
    """Return the key of a pack: it changes with the list of clips, their content and the way of packing.

    Raises DataError for a missing clip.
    """
    content = files_digest(Path(root) / clip.path for clip in clips)
    text = json.dumps([size, limit, [asdict(clip) for clip in clips], content])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pack_clips(
    clips: Sequence[Clip], root: Path, cache: Path, *, size: int = PACK_SIZE, limit: int = 150, name: str = "clips"
) -> Iterator[tuple[int, int]]:
    """Decode every clip once into `cache`/`name`.u8; yield (done, total). An existing file is kept.

    limit: most frames of a clip.  Raises DataError for a clip that cannot be read.
    """
    path, key = Path(cache) / f"{name}.u8", clips_key(clips, root, size, limit)
    if path.with_suffix(".json").exists() and PackedFrames(path).key == key:
        return
    writer = PackWriter(path, size)
    for number, clip in enumerate(clips, start=1):
        writer.add(read_frames(Path(root) / clip.path, size, limit=limit), asdict(clip))
        yield number, len(clips)
    writer.close(key)


def load_clips(cache: Path, name: str = "clips") -> tuple[PackedFrames, tuple[Clip, ...]]:
    """Return a packed file of a cache folder and the descriptions of its items, in the same order."""
    packed = PackedFrames(Path(cache) / f"{name}.u8")
    names = Clip.__slots__
    return packed, tuple(Clip(**{name: item[name] for name in names}) for item in packed.meta)
