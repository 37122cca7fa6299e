"""Videos → features per window, with a manifest of all parameters. After a kill, the same command continues.

    python -m trainer extract --list videos.csv --out features/           or   --ucf-crime DIR
                              --bundle embedded | --backbone ARCH --weights NAME

A video becomes `<name>.npz` (features float32 (T, D); starts, ends: half-open, in frames of the file; start_s, end_s;
cut: True if a window does not continue the previous one, so that a head with a state is reset), written atomically.
Each video is batched by itself, so its features depend neither on other videos nor on interruptions. Videos that cannot
be read are reported, listed in the manifest and skipped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stream_detector.errors import DataError
from stream_detector.models.backbones import backbone_spec
from stream_detector.models.bundle import Bundle
from stream_detector.models.streaming_heads import CUTS
from stream_detector.types import Engine, Window
from trainer.data.content_hash import file_digest
from trainer.data.decode import DecodeState, Decoding, decode_all
from trainer.data.features import MANIFEST, MANIFEST_SCHEMA
from trainer.data.videos import LabelledVideo

BATCH = 8  # windows per call of the network; part of the key, because another batch may round differently


@dataclass
class ExtractionCounts:
    """The result of a run. skipped: name → reason.  changed: videos that were extracted again because their file had
    changed.
    """

    done: int = 0
    resumed: int = 0
    windows: int = 0
    video_s: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)


class EngineKind(Protocol):
    """The properties of an engine that a feature depends on; `engines.EngineChoice` has them before an engine is
    loaded.
    """

    @property
    def name(self) -> str: ...
    @property
    def precision(self) -> str: ...


def extraction_facts(bundle: Bundle, engine: EngineKind, stride: int) -> dict[str, Any]:
    """Return everything that a feature depends on."""
    manifest = bundle.manifest
    return {
        "schema": MANIFEST_SCHEMA,
        "arch": manifest.backbone.arch,
        "weights_sha256": manifest.backbone.weights_sha256,
        "reference": manifest.backbone.reference,
        "dim": manifest.backbone.feature_dim,
        "preprocess": manifest.preprocess.model_dump(mode="json"),
        "stride_frames": stride,
        "windows_begin_at_cuts": True,
        "batch": BATCH,
        "engine": engine.name,
        "precision": engine.precision,
    }


def key_of(facts: dict[str, Any]) -> str:
    """Return a short digest of the facts; features with different keys are never mixed."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def features_of(decoding: Decoding, engine: Engine) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of one video; at most BATCH windows of pixels are held. Raises DataError if there was no
    window.
    """
    batch, rows, refs = list[Window](), list[np.ndarray[Any, Any]](), list[tuple[int, int, float, float, bool]]()

    def flush() -> None:
        if batch:
            rows.append(engine.infer(np.stack([w.frames for w in batch])).features)
            batch.clear()

    for window in decoding:
        batch.append(window)
        ref = window.ref
        refs.append((ref.start_frame, ref.end_frame + 1, ref.start_s, ref.end_s, not CUTS.isdisjoint(ref.degraded)))
        if len(batch) == min(BATCH, engine.max_batch):
            flush()
    flush()
    if decoding.state.error:
        raise DataError(decoding.state.error)
    if not rows:
        raise DataError("the video has no frame that can be decoded; give a complete file")
    columns = list(zip(*refs, strict=True))
    return {
        "features": np.concatenate(rows).astype(np.float32),
        "starts": np.array(columns[0], np.int64),
        "ends": np.array(columns[1], np.int64),
        "start_s": np.array(columns[2], np.float64),
        "end_s": np.array(columns[3], np.float64),
        "cut": np.array(columns[4], bool),
    }


def save_video(path: Path, arrays: dict[str, np.ndarray[Any, Any]], state: DecodeState, key: str, sha256: str) -> None:
    """Write `path` atomically; equal arrays give equal bytes (zip time stamps are constant)."""
    facts = {
        "frames": np.array(state.frames),
        "fps": np.array(state.fps),
        "key": np.array(key),
        "detail": np.array(state.detail),
        "sha256": np.array(sha256),
    }
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **facts)
    part.replace(path)


def finished(path: Path, key: str) -> dict[str, Any] | None:
    """Return frames, fps and windows of an extracted video, or None if there is none. Raises DataError for another
    key.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            found = str(data["key"])
            facts = {
                "frames": int(data["frames"]),
                "fps": float(data["fps"]),
                "windows": len(data["starts"]),
                "detail": str(data["detail"]),
                "sha256": str(data["sha256"]) if "sha256" in data else "",
            }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        path.unlink()  # not written by this program, or truncated by a full disk: extract again
        return None
    if found != key:
        raise DataError(
            f"{path.parent} holds features made with another backbone, recipe or stride; give an empty folder"
        )
    return facts


def unfinished(
    videos: Sequence[LabelledVideo], out: Path, key: str, entries: dict[str, dict[str, Any]], tally: ExtractionCounts
) -> list[LabelledVideo]:
    """Return the videos still to extract; the others are entered. Raises DataError for features with another key.

    Features belong to the recording that they were made from: if the file has changed, they are made again. If it is
    gone, they are kept.
    """
    todo = []
    for video in videos:
        known = finished(out / f"{video.name}.npz", key)
        if known is not None and video.path.is_file() and known["sha256"] != file_digest(video.path):
            known = None
            tally.changed.append(video.name)
        if known is None:
            todo.append(video)
            continue
        entries[video.name] = known
        tally.resumed += 1
    return todo


def extracted(
    video: LabelledVideo,
    arrays: dict[str, np.ndarray[Any, Any]],
    state: DecodeState,
    place: tuple[Path, str],
    entries: dict[str, dict[str, Any]],
    tally: ExtractionCounts,
) -> None:
    """Save and enter one video. place: (folder, key)."""
    sha256 = file_digest(video.path)
    save_video(place[0] / f"{video.name}.npz", arrays, state, place[1], sha256)
    entries[video.name] = {
        "frames": state.frames,
        "fps": state.fps,
        "windows": len(arrays["starts"]),
        "detail": state.detail,
        "sha256": sha256,
    }
    tally.done += 1
    tally.windows += len(arrays["starts"])
    tally.video_s += state.frames / state.fps if state.fps else 0.0
    if state.detail:
        tally.damaged[video.name] = state.detail


def extract(
    videos: Sequence[LabelledVideo], bundle: Bundle, engine: Engine, out: Path, stride: int, at_once: int = 2
) -> Iterator[tuple[LabelledVideo, ExtractionCounts]]:
    """Extract all videos; yield after each. Writes the manifest at the end. Raises DataError, EngineError."""
    if stride < 1 or at_once < 1:
        raise DataError(f"stride and decoders must be at least 1, got {stride} and {at_once}")
    out.mkdir(parents=True, exist_ok=True)
    facts, tally = extraction_facts(bundle, engine, stride), ExtractionCounts()
    key, entries = key_of(facts), dict[str, dict[str, Any]]()
    todo = unfinished(videos, out, key, entries, tally)
    for video, decoding in zip(todo, decode_all([v.path for v in todo], bundle.recipe, stride, at_once), strict=True):
        try:
            arrays = features_of(decoding, engine)
            extracted(video, arrays, decoding.state, (out, key), entries, tally)
        except DataError as error:
            tally.skipped[video.name] = str(error)
        yield video, tally
    write_manifest(out, facts, key, videos, entries, tally)
    if not todo:
        yield videos[-1], tally


def write_manifest(
    out: Path,
    facts: dict[str, Any],
    key: str,
    videos: Sequence[LabelledVideo],
    entries: dict[str, dict[str, Any]],
    tally: ExtractionCounts,
) -> None:
    """Write `manifest.json`: the parameters, every video in the list's order, and the skipped ones with their
    reasons.
    """
    listed = [
        {
            "name": v.name,
            "category": v.category,
            "split": v.split,
            "group": v.group,
            "file": f"{v.name}.npz",
            **entries[v.name],
        }
        for v in videos
        if v.name in entries
    ]
    content = {**facts, "key": key, "skipped": tally.skipped, "videos": listed}
    part = out / (MANIFEST + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(out / MANIFEST)


@contextmanager
def bundle_for(args: argparse.Namespace) -> Iterator[Bundle]:
    """Return the named bundle, or one assembled from a backbone with stored weights (its head is never used)."""
    if not args.backbone:
        yield Bundle.load(args.bundle)
        return
    import tempfile

    import torch

    from stream_detector.models.bundle import write_bundle
    from stream_detector.models.heads import Head
    from stream_detector.models.preprocess import recipe_named

    if not args.weights:
        raise DataError(f"backbone {args.backbone} needs --weights NAME; see `stream-detector models list`")
    spec = backbone_spec(args.backbone)
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "name": "extraction",
            "backbone": {"arch": spec.arch, "reference": args.weights},
            "preprocess": recipe_named(spec.recipe),
            "head": {"dims": (spec.feature_dim, 1)},
        }
        torch.manual_seed(0)
        yield write_bundle(Path(folder) / "bundle", parts, None, Head((spec.feature_dim, 1)).state_dict())
