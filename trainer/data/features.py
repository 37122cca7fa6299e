"""Reads features of videos, whatever they come in, into one type.

    folder with manifest.json      what `trainer extract` writes: <video>.npz per video, windows in frames and seconds
    folder with *.txt              the seed project's text files: one row of numbers per segment, category in the name
    file.npz, one of
        features_q + row_scale     quantised rows (V, T, D) uint8 × (V, T): C3D of UCF-Crime
        features_milli + offsets   ragged rows in thousandths: the seed's published features
        features [+ offsets]       float rows (V, T, D), or ragged (R, D) with V + 1 offsets
        all with names, split, category (or label)

A video whose category is "Normal" is normal, any other category is abnormal. Nothing is dropped: rows that are blank or
not finite are for `audit` to report.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.types import Float32Array
from trainer.data.annotations import video_stem

NORMAL = "Normal"
MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "stream-detector.features/1"

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class VideoFeatures:
    """Features of one video.

    name: stem, unique.  category: "Normal" or the kind of event.  label: 1 abnormal, 0 normal. split: "train", "val",
    "test" or "".  rows: float32 (T, D). starts, ends: int64 (T,) half-open windows in frames, or None if rows are equal
    parts of the video. frames, fps: of the video at the rate of extraction; 0 if unknown. cuts: rows that do not
    continue the previous row (a seek, a gap, damage). sha256: of the file that the rows were made from; "" if unknown.
    group: videos of one group are never on both sides of a split; "" is no group.
    """

    name: str
    category: str
    split: str
    rows: Float32Array
    starts: Ints | None = None
    ends: Ints | None = None
    frames: int = 0
    fps: float = 0.0
    cuts: tuple[int, ...] = ()
    sha256: str = ""
    group: str = ""

    @property
    def label(self) -> int:
        """1 abnormal, 0 normal."""
        return int(self.category.lower() != NORMAL.lower())


@dataclass(frozen=True)
class FeatureSet:
    """All videos of a source. origin: their place.  manifest: their parameters, empty if unknown."""

    videos: tuple[VideoFeatures, ...]
    origin: str
    manifest: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.videos:
            raise DataError(f"{self.origin} holds no videos; extract features first")
        names = [v.name for v in self.videos]
        if len(set(names)) < len(names):
            raise DataError(f"{self.origin} lists video {_first_twice(names)} twice; remove one of them")
        for v in self.videos:
            if v.rows.ndim != 2 or v.rows.shape[0] < 1:
                raise DataError(
                    f"video {v.name} has features of shape {v.rows.shape}; (segments, dimensions) with at least one "
                    "segment is needed, extract it again"
                )
        widths = sorted({v.rows.shape[1] for v in self.videos})
        if len(widths) > 1:
            raise DataError(f"{self.origin} mixes features of {widths} dimensions; use one backbone for all videos")

    @property
    def dim(self) -> int:
        """Feature dimension D."""
        return int(self.videos[0].rows.shape[1])

    def of_split(self, *splits: str) -> FeatureSet:
        """Return the videos of these splits. Raises DataError if there is none."""
        chosen = tuple(v for v in self.videos if v.split in splits)
        if not chosen:
            have = sorted({v.split or "none" for v in self.videos})
            raise DataError(
                f"{self.origin} has no video of split {' or '.join(splits)}; its splits are: {', '.join(have)}"
            )
        return FeatureSet(chosen, self.origin, self.manifest)

    def labels(self) -> Ints:
        """(V,) 1 abnormal, 0 normal."""
        return np.array([v.label for v in self.videos], dtype=np.int64)


def _first_twice(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(n for n in names if n in seen or seen.add(n))  # type: ignore[func-returns-value]


def require_finite(features: FeatureSet) -> None:
    """Raise DataError for the first video with a value that is not finite, because training on it would give NaN."""
    for v in features.videos:
        if not np.isfinite(v.rows).all():
            row = int(np.flatnonzero(~np.isfinite(v.rows).all(axis=1))[0])
            raise DataError(f"video {v.name} has a feature that is not finite in row {row}; extract it again")


def require_both_classes(features: FeatureSet) -> None:
    """Raise DataError if all videos are of one class."""
    labels = features.labels()
    if labels.min() == labels.max():
        kind = "abnormal" if labels[0] else "normal"
        raise DataError(
            f"all {len(labels)} videos of {features.origin} are {kind}; abnormal and normal ones are needed"
        )


def load_features(path: Path) -> FeatureSet:
    """Read any of the forms above. Raises DataError with one sentence."""
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return _from_manifest(path)
        texts = sorted(path.rglob("*.txt"))
        if texts:
            return FeatureSet(tuple(_from_text(t) for t in texts), str(path), {})
        raise DataError(f"folder {path} holds neither {MANIFEST} nor .txt features; run `trainer extract` into it")
    if not path.exists():
        raise DataError(f"feature file {path} does not exist; give a .npz file or a folder of features")
    if path.suffix == ".txt":
        return FeatureSet((_from_text(path),), str(path), {})
    if path.suffix != ".npz":
        raise DataError(f"{path} is neither .npz nor .txt; features come as .npz, .txt or a folder of them")
    return _from_npz(path)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an npz, without unpickling. Raises DataError."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read as .npz ({type(error).__name__}); it is damaged, make it again"
        ) from None


def _from_npz(path: Path) -> FeatureSet:
    data = read_npz(path)
    if "names" not in data:
        raise DataError(f"{path} has no array 'names'; it needs names, split, category and features")
    names = [video_stem(str(n)) for n in data["names"]]
    if "features_q" in data:
        if "row_scale" not in data or data["row_scale"].shape != data["features_q"].shape[:2]:
            raise DataError(
                f"{path}: features_q needs row_scale of shape {data['features_q'].shape[:2]}; make it again"
            )
        rows = data["features_q"].astype(np.float32) * data["row_scale"].astype(np.float32)[..., None]
        bags = list(rows)
    elif "features_milli" in data or "features" in data:
        scale = np.float32(1000 if "features_milli" in data else 1)
        rows = data["features_milli" if "features_milli" in data else "features"].astype(np.float32) / scale
        bags = np.split(rows, data["offsets"][1:-1]) if "offsets" in data else list(rows)
    else:
        raise DataError(f"{path} has no array 'features', 'features_q' or 'features_milli'; it has {sorted(data)}")
    if len(bags) != len(names):
        raise DataError(f"{path} has {len(names)} names but features of {len(bags)} videos; make it again")
    if "category" in data:
        categories = [str(c) for c in data["category"]]
    elif "label" in data:
        categories = ["Abnormal" if int(x) else NORMAL for x in data["label"]]
    else:
        categories = [category_of(n) for n in names]
    splits = [str(s) for s in data["split"]] if "split" in data else [""] * len(names)
    if not len(categories) == len(splits) == len(names):
        raise DataError(f"{path}: names, category and split differ in length; make it again")
    videos = (VideoFeatures(n, c, s, b) for n, c, s, b in zip(names, categories, splits, bags, strict=True))
    return FeatureSet(tuple(videos), str(path), {})


def category_of(name: str) -> str:
    """UCF-Crime's naming: `RoadAccidents001_x264` → RoadAccidents, `Normal_Videos_003_x264` → Normal."""
    if name.startswith("Normal"):
        return NORMAL
    match = re.match(r"[A-Za-z]+", name)
    if match is None:
        raise DataError(f"the name {name!r} contains no category; give names like Abuse001_x264 or a category array")
    return match.group(0)


def _from_text(path: Path) -> VideoFeatures:
    name = video_stem(path.name)
    try:
        rows = np.array([[float(x) for x in line.split()] for line in path.read_text().splitlines() if line.strip()])
    except ValueError:
        raise DataError(f"{path} is not a table of numbers with equally long rows; extract that video again") from None
    if rows.ndim != 2 or not rows.size:
        raise DataError(f"{path} is blank; extract that video again")
    return VideoFeatures(name, category_of(name), "", rows.astype(np.float32))


def _from_manifest(folder: Path) -> FeatureSet:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        schema, listed = manifest["schema"], manifest["videos"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{folder / MANIFEST} is damaged; run `trainer extract` again") from None
    if schema != MANIFEST_SCHEMA:
        raise DataError(f"{folder / MANIFEST} has schema {schema!r} but {MANIFEST_SCHEMA!r} is needed; extract again")
    videos = []
    for one in listed:
        if not (folder / one["file"]).is_file():
            raise DataError(f"{folder / one['file']} is listed but missing; run `trainer extract` again, it resumes")
        data = read_npz(folder / one["file"])
        videos.append(
            VideoFeatures(
                one["name"],
                one["category"],
                one["split"],
                data["features"],
                data["starts"],
                data["ends"],
                int(one["frames"]),
                float(one["fps"]),
                tuple(int(row) for row in np.flatnonzero(data.get("cut", ()))),
                str(one.get("sha256", "")),
                str(one.get("group", "")),
            )
        )
    return FeatureSet(tuple(videos), str(folder), {k: v for k, v in manifest.items() if k != "videos"})
