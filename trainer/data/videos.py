"""Lists of labelled videos: a CSV of path and label, or UCF-Crime's folders and official lists as they are.

CSV        columns path, label (abnormal/normal or 1/0); category, split, group, and any others are optional
UCF-Crime  Anomaly_Train.txt and Anomaly_Test.txt anywhere below the root name the videos; `Abuse/Abuse001_x264.mp4`
           is found wherever a folder holds it (Anomaly-Videos-Part-1/Abuse/…, Training_Normal_Videos_Anomaly/…)
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stream_detector.errors import DataError
from trainer.data.annotations import video_stem
from trainer.data.features import NORMAL, category_of

LISTS = {"train": "Anomaly_Train.txt", "test": "Anomaly_Test.txt"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm"}
VAL_SHARE = 0.25  # share of a list without splits
LABELS = {"abnormal": 1, "1": 1, "anomaly": 1, "normal": 0, "0": 0}


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """One video. name: unique.  category: "Normal" or the kind of event.  split: "train", "val", "test" or "".

    group: videos of one group (one camera, one recording) are never on both sides of a split; "" is no group.
    """

    path: Path
    name: str
    category: str
    split: str
    group: str = ""


def read_list(path: Path, root: Path | None = None, where: Mapping[str, set[str]] | None = None) -> list[LabelledVideo]:
    """Read the videos of a CSV. root: base of relative paths (default: the CSV's folder).  where: column → accepted
    values.

    Raises DataError, which names the line.
    """
    if not path.is_file():
        raise DataError(f"video list {path} does not exist; give a CSV with the columns path and label")
    root, found = root or path.parent, list[LabelledVideo]()
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"path", "label", *(where or {})} - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path} has no column {', '.join(sorted(missing))}; its columns are {reader.fieldnames}")
        for row in reader:
            if where and any(row[column] not in wanted for column, wanted in where.items()):
                continue
            label = LABELS.get((row["label"] or "").strip().lower())
            if label is None or not row["path"]:
                raise DataError(
                    f"{path} line {reader.line_num}: label {row['label']!r} must be abnormal or normal; correct it"
                )
            category = NORMAL if not label else (row.get("category") or "Abnormal")
            if label and category.lower() == NORMAL.lower():
                raise DataError(f"{path} line {reader.line_num}: an abnormal video cannot be of category Normal")
            name, split = video_stem(row["path"]), row.get("split") or ""
            found.append(LabelledVideo(root / row["path"], name, category, split, _group_of(row)))
    return _checked(with_splits(found), str(path))


def _group_of(row: Mapping[str, str | None]) -> str:
    """Return the group with its set's name, because sets number their groups independently."""
    group = (row.get("group") or "").strip()
    return f"{row['set']}/{group}" if group and row.get("set") else group


def with_splits(videos: Sequence[LabelledVideo]) -> list[LabelledVideo]:
    """Return the videos unchanged if any has a split; otherwise about VAL_SHARE of each label becomes "val", the rest
    "train".

    The choice depends on names only, so the same list is split the same way everywhere. Videos of one group stay
    together ("" is no group). A label with a single video, or a single group, keeps it for training.
    """
    if any(video.split for video in videos):
        return list(videos)
    keys = [f"group {video.group}" if video.group else f"video {video.name}" for video in videos]
    chosen = set[str]()
    for label in (NORMAL, ""):
        mine = {key for key, video in zip(keys, videos, strict=True) if (video.category == NORMAL) == (label == NORMAL)}
        free = sorted(mine - chosen, key=lambda key: hashlib.sha256(key.encode()).digest())
        wanted = max(1, round(VAL_SHARE * len(mine))) - len(mine & chosen)
        chosen |= set(free[: min(wanted, len(mine) - 1)]) if wanted > 0 else set()
    return [replace(video, split="val" if key in chosen else "train") for video, key in zip(videos, keys, strict=True)]


def read_ucf_crime(root: Path) -> list[LabelledVideo]:
    """Return all videos of UCF-Crime's official lists below `root`. Raises DataError for missing lists."""
    if not root.is_dir():
        raise DataError(f"folder {root} does not exist; give the folder that UCF-Crime was unpacked into")
    files = {p.stem: p for p in sorted(root.rglob("*.mp4"))}
    found = []
    for split, name in LISTS.items():
        lists = sorted(root.rglob(name))
        if not lists:
            raise DataError(f"{name} is nowhere below {root}; unpack Anomaly_Detection_splits there")
        for line in lists[0].read_text(encoding="utf-8").split("\n"):
            if not line.strip():
                continue
            stem = video_stem(line.strip())
            missing = root / line.strip()  # extract reports missing videos: a part of the data set may not be there
            found.append(LabelledVideo(files.get(stem, missing), stem, category_of(stem), split))
    return _checked(found, str(root))


def video_files(folder: Path) -> Sequence[Path]:
    """Return the videos of a folder, sorted. Raises DataError if there is none."""
    files = sorted(f for f in Path(folder).glob("*") if f.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise DataError(f"{str(folder)!r} holds no video; give a folder of recordings in which nothing happens")
    return files


def _checked(videos: list[LabelledVideo], where: str) -> list[LabelledVideo]:
    if not videos:
        raise DataError(f"{where} lists no video; give at least one abnormal and one normal video")
    seen: dict[str, Path] = {}
    for video in videos:
        if video.name in seen:
            raise DataError(f"{where}: {video.path} and {seen[video.name]} share the name {video.name}; rename one")
        seen[video.name] = video.path
    splits: dict[str, str] = {}
    for video in videos:
        if video.group and splits.setdefault(video.group, video.split) != video.split:
            raise DataError(
                f"{where}: group {video.group} stands in the splits {splits[video.group]!r} and {video.split!r}; "
                "put all its videos into one of them"
            )
    return videos
