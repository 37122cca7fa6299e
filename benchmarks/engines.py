"""engines: do the fast engines give the same features and scores as PyTorch in float32, on real clips?

    python -m benchmarks engines CLIPS [--bundle embedded] [--limit 400]

CLIPS is a folder with `index.csv` (columns path, label, split) and the clips. Each engine scores the first window of
every clip of the `val` split; int8 is calibrated with windows of the `train` split. Compared with torch fp32: relative
error of the features, change of the scores, change of the clip AUC.
"""

from __future__ import annotations

import csv
import importlib.util
import random
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.caches import compiled_apart
from benchmarks.options import parse
from benchmarks.results import write_results
from stream_detector.config import EngineConfig
from stream_detector.engines import detect_hardware, load_engine
from stream_detector.errors import DataError, SourceError
from stream_detector.models.bundle import Bundle
from stream_detector.models.preprocess import Recipe
from stream_detector.types import EngineOutput, Float32Array, UInt8Array
from trainer.ranking import auc


def main(argv: list[str]) -> int:
    """Run, print a table, write `results/engines.json`."""
    args = parse("engines", argv)
    bundle = Bundle.load(args.bundle)
    frames, labels = first_windows(args.clips, "val", args.limit, bundle.recipe)
    machine = detect_hardware()
    precisions = [("torch", "fp32"), *([("torch", "bf16")] if machine.bf16 else [])]
    if machine.openvino:
        precisions += [("openvino", "fp32"), *([("openvino", "bf16")] if machine.bf16 else [])]
        precisions += [("openvino", "int8")] if importlib.util.find_spec("nncf") else []
    rows: list[dict[str, Any]] = []
    with compiled_apart():
        reference: EngineOutput | None = None
        for engine, precision in precisions:
            if precision == "int8":
                from stream_detector.engines.quantise import quantise

                quantise(bundle, first_windows(args.clips, "train", args.calibration, bundle.recipe)[0])
            output = score(bundle, engine, precision, frames)
            reference = reference or output
            rows.append({"engine": engine, "precision": precision, **compare(output, reference, labels)})
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    if not args.no_save:
        settings = {"bundle": bundle.name, "fingerprint": bundle.fingerprint, "clips": len(frames)}
        print(write_results("engines", rows, settings))
    return 0


def score(bundle: Bundle, engine: str, precision: str, frames: UInt8Array) -> EngineOutput:
    """All windows through one engine."""
    config = EngineConfig.model_validate({"engine": engine, "precision": precision, "device": "cpu"})
    made = load_engine(bundle, config)
    parts = [made.infer(frames[i : i + made.max_batch]) for i in range(0, len(frames), made.max_batch)]
    made.close()
    features, scores = np.concatenate([p.features for p in parts]), np.concatenate([p.scores for p in parts])
    return EngineOutput(features, scores, 0.0, sum(p.forward_s for p in parts))


def compare(output: EngineOutput, reference: EngineOutput, labels: Float32Array) -> dict[str, Any]:
    """What changed against the reference."""
    norm = np.linalg.norm(output.features - reference.features, axis=1) / np.linalg.norm(reference.features, axis=1)
    change = np.abs(output.scores - reference.scores)
    area = _clip_auc(output.scores, labels)
    return {
        "relative_feature_error_mean": float(f"{norm.mean():.3g}"),
        "relative_feature_error_max": float(f"{norm.max():.3g}"),
        "score_change_mean": float(f"{change.mean():.3g}"),
        "score_change_max": float(f"{change.max():.3g}"),
        "clip_auc": round(area, 5),
        "clip_auc_change": round(area - _clip_auc(reference.scores, labels), 5),
        "ms_a_window": round(output.forward_s / len(labels) * 1e3, 2),
    }


def _clip_auc(scores: Float32Array, labels: Float32Array) -> float:
    return auc(scores[labels > 0].astype(np.float64), scores[labels == 0].astype(np.float64))


def first_windows(folder: Path, split: str, limit: int, recipe: Recipe) -> tuple[UInt8Array, Float32Array]:
    """The first window of clips of a split, drawn with a fixed seed: frames (n, 16, H, W, 3) and labels (n,)."""
    from stream_detector.engines.quantise import read_windows

    try:
        with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
    except (OSError, KeyError) as error:
        raise DataError(f"{str(folder / 'index.csv')!r} cannot be used ({error}); give the folder of clips") from None
    random.Random(0).shuffle(rows)
    frames: list[UInt8Array] = []
    labels: list[float] = []
    for row in rows:
        if len(frames) == limit:
            break
        try:
            found = list(read_windows(folder / row["path"], recipe, 1))
        except SourceError:
            continue
        frames += found
        labels += [float(row["label"] == "abnormal")] * len(found)
    if len(set(labels)) < 2:
        raise DataError(f"split {split!r} of {str(folder)!r} needs clips of both labels; give the folder of clips")
    return np.stack(frames), np.array(labels, np.float32)
