"""losses: how far are the losses on TensorFlow and on PyTorch from their NumPy specification, in value and gradient?

    python -m benchmarks.losses

Keras keeps one backend per process, so each backend runs in a separate process on the same seeded bags. The cases
include full and ragged bags, float64 and float32, the known value (all scores 0.5) and both readings of MILR's eq. 14.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_results
from trainer.mil import losses_numpy as spec
from trainer.mil.backend import BACKENDS, use_backend

BAGS, SEGMENTS, SEED = 30, 32, 7
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "sultani": ("sultani", {}),
    "milr": ("milr", {}),
    "milr, eq. 14 as printed": ("milr", {"sparsity_on": "normal"}),
    "milr, heavy constraints": ("milr", {"mu1": 0.3, "mu2": 0.2}),
    "top-k cross entropy, k = 3": ("topk_cross_entropy", {"k": 3}),
    "top-k cross entropy, k = 1": ("topk_cross_entropy", {"k": 1}),
}


def bags(kind: str) -> tuple[list[spec.Array], list[spec.Array]]:
    """Seeded abnormal and normal bags. kind: "full" (32 segments each), "ragged" (3 to 32), "constant" (all 0.5)."""
    rng = np.random.default_rng(SEED)
    out: list[list[spec.Array]] = [[], []]
    for side in out:
        for _ in range(BAGS):
            length = int(rng.integers(3, SEGMENTS + 1)) if kind == "ragged" else SEGMENTS
            side.append(np.full(length, 0.5) if kind == "constant" else rng.uniform(0, 1, length))
    return out[0], out[1]


def pad(side: list[spec.Array]) -> tuple[spec.Array, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Ragged bags → (B, T) filled with 9.0 (a value that would be seen if the mask leaked) and the mask."""
    scores = np.full((len(side), max(map(len, side))), 9.0)
    mask = np.zeros(scores.shape, bool)
    for i, bag in enumerate(side):
        scores[i, : len(bag)], mask[i, : len(bag)] = bag, True
    return scores, mask


def run_backend(backend: str) -> dict[str, Any]:
    """Value and gradients of every case on this backend, as lists."""
    keras = use_backend(backend)
    from trainer.mil import losses
    from trainer.mil.step import value_and_gradients

    found: dict[str, Any] = {}
    for dtype in ("float64", "float32"):
        for kind in ("full", "ragged", "constant"):
            (a, a_mask), (n, n_mask) = (pad(side) for side in bags(kind))
            masks = (
                {}
                if kind != "ragged"
                else {
                    "abnormal_mask": keras.ops.convert_to_tensor(a_mask),
                    "normal_mask": keras.ops.convert_to_tensor(n_mask),
                }
            )
            for name, (function, options) in LOSSES.items():
                loss = getattr(losses, function)
                value, grads = value_and_gradients(lambda x, y: loss(x, y, **options, **masks), [a, n], dtype)  # noqa: B023
                found[f"{name}|{kind}|{dtype}"] = {"value": value, "gradients": [g.tolist() for g in grads]}
    return found


def compare(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows: largest difference between a backend's answers and the specification."""
    rows = []
    for key, got in found.items():
        name, kind, dtype = key.split("|")
        abnormal, normal = bags(kind)
        function, options = LOSSES[name]
        value, grad_a, grad_n = getattr(spec, function)(abnormal, normal, **options)
        worst = 0.0
        for side, wanted in zip(got["gradients"], (grad_a, grad_n), strict=True):
            whole, mask = np.asarray(side), pad(wanted)[1]
            worst = max(worst, float(np.abs(whole[~mask]).max(initial=0.0)))  # nothing may leak into the padding
            worst = max(worst, *(float(np.abs(whole[i, : len(w)] - w).max()) for i, w in enumerate(wanted)))
        rows.append(
            {
                "loss": name,
                "bags": kind,
                "dtype": dtype,
                "specification": value,
                "value": got["value"],
                "value_difference": abs(got["value"] - value),
                "gradient_difference": worst,
            }
        )
        if kind == "constant":
            rows[-1]["gradient_difference"] = None  # ties: any of the equal segments is a right answer
    return rows


def measured(backend: str) -> list[dict[str, Any]]:
    """Run one backend in its own process; the rows of `compare`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks.losses", "--worker", backend, "--out", str(out)]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
        if done.returncode != 0:
            raise RuntimeError(f"the {backend} worker failed: {done.stderr.strip().splitlines()[-1:]}")
        return compare(json.loads(out.read_text()))


def main(argv: list[str] | None = None) -> int:
    """Print the table and write it with its stamp."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=BACKENDS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        args.out.write_text(json.dumps(run_backend(args.worker)))
        return 0
    result = {backend: measured(backend) for backend in BACKENDS}
    titles = f"{'backend':<11}{'loss':<28}{'bags':<9}{'dtype':<8}"
    print(titles + f"{'specification':>14}{'max |Δ value|':>15}{'max |Δ grad|':>14}")
    for backend, rows in result.items():
        for r in rows:
            grad = "ties" if r["gradient_difference"] is None else f"{r['gradient_difference']:.1e}"
            print(
                f"{backend:<11}{r['loss']:<28}{r['bags']:<9}{r['dtype']:<8}{r['specification']:>14.6f}"
                f"{r['value_difference']:>15.1e}{grad:>14}"
            )
    write_results("trainer_losses", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
