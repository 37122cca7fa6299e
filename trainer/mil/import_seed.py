"""Imports what the seed project published, with a warning.

    python -m trainer import-seed --checkpoint DIR/name --out runs/seed          its TensorFlow checkpoint → a head
    python -m trainer import-seed --features Features/ --out seed_features.npz   its text files → one .npz

The checkpoint is read variable by variable, so its legacy optimiser slots (which stop TensorFlow >= 2.11 from restoring
it) do not matter. The seed L2-normalises every row before its head; the features written here are already normalised.

Both come with a warning: those features were made by untrained networks, another one for each run over a part of the
class folders, and the checkpoint was trained on them. It distinguishes folders, not events (see `trainer audit`).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector.errors import CheckpointError, DataError, MissingExtraError
from stream_detector.models.streaming_heads import Scaling
from trainer.data.features import FeatureSet, load_features
from trainer.mil.checkpoint import Checkpoint
from trainer.mil.heads import HeadSpec

WARNING = (
    "warning: the seed's features come from untrained networks, one for each extraction run, so they tell class "
    "folders apart and not events, and its checkpoint learned just that; do not deploy it nor report figures on it"
)


def dense_layers(variables: dict[str, np.ndarray[Any, Any]]) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return kernels and biases in order, from a checkpoint's variables; optimiser slots are skipped. Raises
    DataError.
    """
    found: dict[int, dict[str, np.ndarray[Any, Any]]] = {}
    for key, value in variables.items():
        if "OPTIMIZER" in key or not key.startswith("layer_with_weights-"):
            continue
        layer, part = key.split("/")[:2]
        found.setdefault(int(layer.rsplit("-", 1)[1]), {})[part] = value
    layers = [(found[i]["kernel"], found[i]["bias"]) for i in sorted(found) if {"kernel", "bias"} <= found[i].keys()]
    widths = [kernel.shape for kernel, _ in layers]
    chained = all(a[1] == b[0] for a, b in pairwise(widths))
    if len(layers) < 2 or not chained or widths[-1][1] != 1:
        raise DataError(
            f"the checkpoint holds layers of shapes {widths}; dense layers that end in one score are needed"
        )
    return layers


def head_of(layers: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> Checkpoint:
    """Convert the layers to a head. The seed's labels are inverted (abnormal = 0) but its scores are not."""
    dim, widths = layers[0][0].shape[0], tuple(kernel.shape[1] for kernel, _ in layers[:-1])
    names = [*(f"dense_{i}" for i in range(len(widths))), "logit"]
    network: dict[str, np.ndarray[Any, Any]] = {}
    for name, (kernel, bias) in zip(names, layers, strict=True):
        network |= {f"{name}/kernel": kernel.astype(np.float32), f"{name}/bias": bias.astype(np.float32)}
    spec = HeadSpec(dim, "mlp", widths)
    return Checkpoint(
        spec,
        Scaling(np.zeros(dim, np.float32), np.ones(dim, np.float32)),
        (network,),
        hyper={"imported": "seed checkpoint", **{k: v for k, v in asdict(spec).items() if k in ("widths", "dropout")}},
        curves=(),
        validation=float("nan"),
        validation_videos=(),
        features={"origin": "seed features, L2-normalised rows", "warning": WARNING.removeprefix("warning: ")},
        backend="tensorflow",
        versions={},
    )


def read_checkpoint(prefix: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read all variables of a TensorFlow checkpoint. Raises CheckpointError, MissingExtraError."""
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise CheckpointError(f"{prefix}.index does not exist; give the checkpoint's path without .index or .data-…")
    try:
        import tensorflow as tf
    except ImportError:
        raise MissingExtraError(
            "reading a TensorFlow checkpoint", "tensorflow", "tensorflow", "stream-detector-trainer"
        ) from None
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {
            k: np.asarray(reader.get_tensor(k)) for k in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in k
        }
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{prefix} cannot be read ({type(error).__name__}); copy it again") from None


def write_features(features: FeatureSet, out: Path) -> None:
    """Write one ragged .npz with L2-normalised rows, as the seed's loader makes them; blank rows stay blank."""
    rows = np.concatenate([v.rows for v in features.videos])
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    with out.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            features=rows / np.where(norm > 0, norm, 1),
            offsets=np.cumsum([0, *(len(v.rows) for v in features.videos)]),
            names=np.array([v.name for v in features.videos]),
            category=np.array([v.category for v in features.videos]),
            split=np.array([v.split for v in features.videos]),
        )


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `trainer import-seed`."""
    parser = subparsers.add_parser("import-seed", help="the seed project's checkpoint or features")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="path of the TensorFlow checkpoint, without .index")
    source.add_argument("--features", type=Path, help="folder of text features, or one .npz of them")
    parser.add_argument("--out", type=Path, required=True, help="folder (checkpoint) or .npz (features)")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Import, and warn on stderr."""
    print(WARNING, file=sys.stderr)
    if args.checkpoint:
        args.out.mkdir(parents=True, exist_ok=True)
        head_of(dense_layers(read_checkpoint(args.checkpoint))).save(args.out / "head.safetensors")
        print(args.out / "head.safetensors")
        return 0
    features = load_features(args.features)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_features(features, args.out)
    print(f"{args.out}: {len(features.videos)} videos, {features.dim} dimensions")
    return 0
