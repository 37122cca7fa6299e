"""The clips that are judged, read from one or more indexes; train and val are used together.

    CLIPS/index.csv (file numbers identify the recording) ──┐
    MORE/index.csv (its groups are sources) ────────────────┴──▶ [Piece], labelled normal or abnormal only

`split` is not used. Sets can be left out by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_detector.errors import DataError
from trainer.data.clips import index_rows

KINDS = {"fight": "fight", "crash": "crash", "road_accident": "crash"}
_COLUMNS = ("path", "set", "label", "category", "group", "fps")


@dataclass(frozen=True, slots=True)
class Piece:
    """One labelled clip. file: where it is.  path: as its index names it.  kind: fight, crash or other; "" if normal.

    source: of an index whose groups are sources, else "".  fps: frames a second.
    """

    file: Path
    path: str
    set: str
    abnormal: bool
    kind: str
    source: str
    fps: float


def read_pieces(clips: Path, more: Path | None = None, ignored: Collection[str] = ()) -> list[Piece]:
    """Return all labelled clips of the indexes, in their order, except the sets in `ignored`.

    Raises DataError with the line for a row that cannot be read.
    """
    found = _read(clips, ignored, sources=False)
    if more is not None:
        found += _read(more, ignored, sources=True)
    seen: set[str] = set()
    for piece in found:
        if piece.path in seen:
            raise DataError(f"clip {piece.path!r} is listed twice; list every clip once")
        seen.add(piece.path)
    return found


def _read(root: Path, ignored: Collection[str], *, sources: bool) -> list[Piece]:
    path, rows = index_rows(root)
    pieces = []
    for number, row in enumerate(rows, start=2):
        missing = [name for name in _COLUMNS if row.get(name) is None]
        if missing:
            raise DataError(f"{path}, line {number}: column {missing[0]!r} is missing; see docs/models/embedded.md")
        if row["label"] not in ("normal", "abnormal") or row["set"] in ignored:
            continue
        try:
            fps = float(row["fps"])
        except ValueError:
            fps = 0.0
        if not 0 < fps < 1000:
            raise DataError(f"{path}, line {number}: fps {row['fps']!r} is no frame rate; correct the row")
        abnormal = row["label"] == "abnormal"
        kind = KINDS.get(row["category"], "other") if abnormal else ""
        source = f"{row['set']}/{row['group']}" if sources and row["group"] else ""
        pieces.append(Piece(Path(root) / row["path"], row["path"], row["set"], abnormal, kind, source, fps))
    if not pieces:
        raise DataError(f"{str(path)!r} lists no clip labelled normal or abnormal; give an index that does")
    return pieces


def limited(pieces: Sequence[Piece], limits: Mapping[str, int]) -> list[int]:
    """Return the indices of at most `limits[set]` clips of every set and label, spread over the list, and of all clips
    of other sets.
    """
    cells: dict[tuple[str, bool], list[int]] = {}
    for place, piece in enumerate(pieces):
        cells.setdefault((piece.set, piece.abnormal), []).append(place)
    chosen: list[int] = []
    for (name, _), places in cells.items():
        most = min(len(places), limits.get(name, len(places)))
        chosen += [places[k * len(places) // most] for k in range(most)]
    return sorted(chosen)
