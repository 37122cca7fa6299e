"""A trained head and the backbone of its features → a bundle that the stream loads.

    python -m trainer export --checkpoint runs/head --bundle embedded --out bundles/mine

A head of kind "mlp" with the view "rows" and one member scores every window by itself and becomes arch "mlp", which
runs inside the engine: the principal axes are folded into the first layer, the rescaling becomes the standardisation.
Any other head has a state; it becomes "causal-conv", "causal-gru" or "causal-mlp" and is stored unchanged. The backbone
must be the one that made the features: weights and recipe are compared with those in the checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stream_detector.errors import DataError
from trainer.mil.checkpoint import Checkpoint, load_checkpoint

if TYPE_CHECKING:  # PyTorch takes seconds to load: functions import what needs it
    import torch

    from stream_detector.models.bundle import Bundle


def head_state(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the manifest's `head` (without checksum) and the state for `stream_detector.models.heads.build_head`."""
    import torch

    spec = checkpoint.spec
    if spec.kind != "mlp" or spec.views != ("rows",) or spec.members != 1:
        return temporal_state(checkpoint)
    weights, axes = checkpoint.networks[0], checkpoint.scaling.axes
    names = [*(f"dense_{i}" for i in range(len(spec.widths))), "logit"]
    state: dict[str, torch.Tensor] = {
        "feature_mean": torch.from_numpy(np.array(checkpoint.scaling.mean)),
        "feature_std": torch.from_numpy(np.array(checkpoint.scaling.std)),
        "temperature": torch.tensor(checkpoint.temperature),
        "bias": torch.tensor(checkpoint.bias),
    }
    for i, name in enumerate(names):
        kernel = weights[f"{name}/kernel"]
        if i == 0 and axes is not None:
            kernel = axes @ kernel
        state[f"layers.{i}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel.T, np.float32))
        state[f"layers.{i}.bias"] = torch.from_numpy(np.array(weights[f"{name}/bias"], np.float32))
    return {"arch": "mlp", "dims": [spec.dim, *spec.widths, 1]}, state


def temporal_state(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the same for a head with a state."""
    import torch

    from stream_detector.models.heads import TEMPORAL

    spec, scaling = checkpoint.spec, checkpoint.scaling
    head = {
        "arch": next(arch for arch, kind in TEMPORAL.items() if kind == spec.kind),
        "dim": spec.dim,
        "widths": spec.hidden,
        "kernel": spec.kernel,
        "dilations": spec.dilations if spec.kind == "causal" else (),
        "projection": spec.projection,
        "views": spec.views,
        "members": spec.members,
    }
    arrays: dict[str, Any] = {
        "feature_mean": scaling.mean,
        "feature_std": scaling.std,
        "bias": checkpoint.bias,
        "temperature": checkpoint.temperature,
    }
    if scaling.axes is not None:
        arrays["axes"] = scaling.axes
    for i, network in enumerate(checkpoint.networks):
        arrays |= {f"network_{i}/{name}": array for name, array in network.items()}
    state = {name: torch.from_numpy(np.array(value, np.float32, order="C")) for name, value in arrays.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in head.items()}, state


def check_backbone(checkpoint: Checkpoint, bundle: Bundle) -> None:
    """Raise DataError unless the checkpoint's features came from this bundle's backbone and recipe."""
    made, manifest = checkpoint.features, bundle.manifest
    if "weights_sha256" not in made:
        raise DataError(
            "the checkpoint does not name the backbone of its features; train on features of `trainer extract`"
        )
    for what, trained, given in (
        ("backbone", made["arch"], manifest.backbone.arch),
        ("weights", made["weights_sha256"], manifest.backbone.weights_sha256),
        ("recipe", made["preprocess"], manifest.preprocess.model_dump(mode="json")),
    ):
        if trained != given:
            raise DataError(f"the head was trained on another {what} than bundle {bundle.name} has; give that bundle")


def export(
    checkpoint: Checkpoint, bundle: Bundle, out: Path, name: str, threshold: float, results: dict[str, Any]
) -> Bundle:
    """Write the bundle. threshold: on the smoothed score; `stream-detector calibrate` finds one for a camera."""
    from stream_detector.models.bundle import write_bundle

    check_backbone(checkpoint, bundle)
    head, state = head_state(checkpoint)
    manifest = bundle.manifest
    parts = {
        "name": name,
        "backbone": {
            "arch": manifest.backbone.arch,
            "reference": manifest.backbone.reference,
            "weights_sha256": manifest.backbone.weights_sha256,
        },
        "preprocess": bundle.recipe,
        "head": head,
        "smoothing": manifest.smoothing.model_dump(mode="json"),
        "threshold": {"value": threshold, "calibrated": "not calibrated; run `stream-detector calibrate`"},
        "training": {
            "hyper": checkpoint.hyper,
            "backend": checkpoint.backend,
            "versions": checkpoint.versions,
            "validation": checkpoint.validation,
            "videos": checkpoint.features.get("videos"),
        },
        "results": results,
        "licences": manifest.licences,
    }
    return write_bundle(out, parts, None if manifest.backbone.reference else bundle.backbone_state, state)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `trainer export`."""
    parser = subparsers.add_parser("export", help="head and backbone to a bundle")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument(
        "--bundle", default="embedded", help="bundle whose backbone made the features (default: embedded)"
    )
    parser.add_argument("--results", type=Path, help="results.json of `trainer evaluate`, for the model card")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--name", help="name of the new bundle (default: the folder's)")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Write the bundle; print its name, fingerprint and folder."""
    from stream_detector.models.bundle import Bundle

    if not 0 <= args.threshold <= 1:
        raise DataError(f"a threshold lies between 0 and 1, got {args.threshold}")
    results = {}
    if args.results:
        try:
            found = json.loads(args.results.read_text(encoding="utf-8"))
            results = {k: found[k] for k in ("videos", "hours", "content", "emission", "events_at")}
            results["seen_in_training"] = found.get("seen_in_training")
        except (OSError, ValueError, KeyError):
            raise DataError(f"{args.results} is not a results.json of `trainer evaluate`; evaluate again") from None
    bundle = export(
        load_checkpoint(args.checkpoint),
        Bundle.load(args.bundle),
        args.out,
        args.name or args.out.name.lower(),
        args.threshold,
        results,
    )
    print(json.dumps({"bundle": bundle.name, "fingerprint": bundle.fingerprint, "folder": str(args.out)}))
    return 0
