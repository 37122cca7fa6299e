"""Groups of clips that may show the same place or moment; a group is never on both sides of a figure.

    file numbers ──blocks of 20──┐
    source of the index ─────────┼──union-find──▶ one group per clip, named after its first member
    blocks whose pictures agree ─┘

The repository holds this rule, not a list of groups. Neighbouring file numbers of a collection are mostly cut from one
recording. Sources that an index names are used as they are. Clips whose backgrounds agree are joined although their
names differ, because collections copy from each other.

If single pairs of agreeing pictures joined groups, they would chain a collection into one group. So two blocks are
joined only if half of the clips of one agree with clips of the other. A single pair across groups joins nothing;
instead `nested` leaves such a clip out of the training of the model that judges the other clip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.types import UInt8Array

SPAN = 20  # neighbouring file numbers of one block
# Correlation of two backgrounds above which they count as one place. Of 1.2 million pairs of clips from different
# collections, which show different places, none reached 0.91. Pictures of a camera that pans over a rink all agree
# (0.77 at the median), so that whole blocks are joined only where half of their clips agree, and more closely.
ALIKE = 0.95
SAME_RECORDING = 0.98
SHARE = 0.5


def block(path: str, span: int = SPAN) -> str:
    """'set/abnormal/fi023.mp4' → 'set/abnormal/fi:1': the clip's block of at most `span` neighbouring numbers.

    The number is the last one in the file's name; a file without a number is a block of its own. A prefix that names a
    split (train_, val_, test_) does not separate neighbours.
    """
    place = PurePosixPath(path)
    stem = re.sub(r"^(train|val|test)_", "", place.stem).lstrip("_")
    found = re.match(r"^(.*?)(\d+)$", stem)
    if not found:
        return f"{place.parent}/{stem}"
    return f"{place.parent}/{found[1]}:{int(found[2]) // span}"


class Unions:
    """Union-find over 0 … n-1."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, item: int) -> int:
        """The representative of an item's group: its smallest member."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, other: int) -> None:
        """Join two groups."""
        low, high = sorted((self.find(one), self.find(other)))
        self._parent[high] = low


def signature(backgrounds: UInt8Array) -> NDArray[np.float32]:
    """uint8 (n, rows, columns, 3) RGB → float32 (n, D) unit vectors of the colours minus their mean, which reduces the
    influence of light.

    The dot product of two vectors is the correlation of the pictures. A picture of one colour gives zeros and agrees
    with no other picture.
    """
    flat = backgrounds.reshape(len(backgrounds), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    result: NDArray[np.float32] = np.where(length > 1e-3, flat / np.maximum(length, 1e-3), 0.0).astype(np.float32)
    return result


def alike(backgrounds: UInt8Array, least: float = ALIKE) -> list[tuple[int, int]]:
    """Return pairs of clips whose backgrounds, also mirrored, correlate by `least` or more."""
    vectors = signature(backgrounds)
    mirrored = signature(backgrounds[:, :, ::-1])
    pairs: list[tuple[int, int]] = []
    for first in range(0, len(vectors), 512):
        part = vectors[first : first + 512]
        for others in (vectors, mirrored):
            rows, columns = np.nonzero(part @ others.T >= least)
            pairs += [(first + int(i), int(j)) for i, j in zip(rows, columns, strict=True) if first + i < j]
    return pairs


def same_recording(
    blocks: Sequence[str], pairs: Iterable[tuple[int, int]], share: float = SHARE
) -> list[tuple[int, int]]:
    """Return pairs of clips that join two blocks: at least `share` of the clips of one block agree with clips of the
    other.

    blocks: one per clip.  pairs: indices of clips that agree.  The result has one pair per pair of blocks: their first
    clips.
    """
    sizes: dict[str, int] = {}
    first: dict[str, int] = {}
    for place, name in enumerate(blocks):
        sizes[name] = sizes.get(name, 0) + 1
        first.setdefault(name, place)
    touched: dict[tuple[str, str], tuple[set[int], set[int]]] = {}
    for pair in pairs:
        one, other = sorted(pair, key=lambda place: blocks[place])
        if blocks[one] != blocks[other]:
            mine, theirs = touched.setdefault((blocks[one], blocks[other]), (set(), set()))
            mine.add(one)
            theirs.add(other)
    return [
        (first[a], first[b])
        for (a, b), (mine, theirs) in sorted(touched.items())
        if max(len(mine) / sizes[a], len(theirs) / sizes[b]) >= share
    ]


def groups_of(
    paths: Sequence[str],
    sources: Sequence[str],
    pairs: Iterable[tuple[int, int]] = (),
    span: int = SPAN,
) -> list[str]:
    """Return one group per clip, named after the first of its members in the order of names.

    paths: of the clips, each once.  sources: as an index names them, with the set's name; '' where it names none.
    pairs: indices of clips that show one place.  Raises DataError for lists of unequal length.
    """
    if len(paths) != len(sources):
        raise DataError(f"{len(paths)} clips and {len(sources)} sources were given; give one source a clip")
    unions = Unions(len(paths))
    first: dict[str, int] = {}
    for place, (path, source) in enumerate(zip(paths, sources, strict=True)):
        for key in (f"block {block(path, span)}", f"source {source}" if source else ""):
            if key:
                unions.join(place, first.setdefault(key, place))
    for one, other in pairs:
        unions.join(one, other)
    names: dict[int, str] = {}
    for place, path in enumerate(paths):
        root = unions.find(place)
        names[root] = min(path, names.get(root, path))
    return [names[unions.find(place)] for place in range(len(paths))]
