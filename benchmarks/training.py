"""Training speed: a step of the trainer on each backend against a step as the seed project took it, in the same run.

    python -m benchmarks training [--steps 1000] [--seed-steps 5]

Both train the paper's 512-128-32-1 with MILR's loss on 30 + 30 bags of 32 rows of 512 numbers. The seed's step,
written anew after its description: eager TensorFlow, Python loops over videos and segments, ranks taken one by one, and
the whole test set (124 + 126 videos) scored and its loss taken at every step. Features are random: time is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_results
from trainer.mil.backend import BACKENDS, seed_everything, use_backend
from trainer.mil.heads import HeadSpec, build_head
from trainer.mil.train import PRESETS, make_objective, make_optimizer

PAIRS, SEGMENTS, DIM = 30, 32, 512
TEST_PAIRS = 120  # the seed scores 124 + 126 test videos in blocks of 30 + 30 and drops the rest


def bags(videos: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random unit rows (videos, 32, 512)."""
    rows = np.random.default_rng(seed).normal(size=(videos, SEGMENTS, DIM)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def ours(backend: str, steps: int) -> float:
    """Seconds a step, after a warm-up."""
    use_backend(backend)
    from trainer.mil.step import make_step

    seed_everything(0)
    hyper = PRESETS["paper"]
    model = build_head(HeadSpec(DIM, "mlp", hyper.widths, dropout=hyper.dropout), "rows", SEGMENTS)
    pool = bags(240)
    step = make_step(model, make_optimizer(hyper), make_objective(hyper, model), pool)
    rng = np.random.default_rng(0)
    for _ in range(3):
        step(np.arange(2 * PAIRS))
    began = time.perf_counter()
    for _ in range(steps):
        step(rng.integers(0, len(pool), 2 * PAIRS))
    return (time.perf_counter() - began) / steps


def seed_loss(tf: Any, scores: Any) -> Any:
    """The seed's loss on (60 * 32, 1) scores: loops in Python, a video at a time, ranks through NumPy."""
    normal, abnormal, first, rest, sums = [], [], [], [], []
    for video in range(PAIRS):
        rows = scores[video * SEGMENTS : (video + 1) * SEGMENTS]
        ranked = np.sort(rows.numpy().reshape(-1))
        abnormal.append(tf.reduce_max(rows))
        first.append(tf.reduce_min(rows))
        rest.append((float(ranked[-2]), float(ranked[-3])))
        smooth = tf.zeros(())
        for i in range(SEGMENTS - 1):
            smooth += tf.square(rows[i, 0] - rows[i + 1, 0])
        dense = tf.zeros(())
        for i in range(SEGMENTS):
            dense += rows[i, 0]
        sums.append(8e-5 * smooth + 8e-5 * dense)
    for video in range(PAIRS, 2 * PAIRS):
        normal.append(tf.reduce_max(scores[video * SEGMENTS : (video + 1) * SEGMENTS]))
    total = tf.zeros(())
    for i in range(PAIRS):
        for j in range(PAIRS):
            total += tf.maximum(0.0, 1.0 - abnormal[i] + normal[j]) / PAIRS
        total += tf.maximum(0.0, 1.0 - abnormal[i] + first[i]) / PAIRS
        for rank in rest[i]:
            total += tf.maximum(0.0, 1.0 - rank + normal[i]) / PAIRS
        total += sums[i]
    return total


def as_the_seed_did(steps: int) -> float:
    """Seconds a step."""
    use_backend("tensorflow")
    import tensorflow as tf

    seed_everything(0)
    hyper = PRESETS["paper"]
    model = build_head(HeadSpec(DIM, "mlp", hyper.widths, dropout=hyper.dropout), "rows")
    optimizer = make_optimizer(hyper)
    pool, test = bags(240), bags(2 * TEST_PAIRS, 1)
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    for _ in range(steps):
        chosen = [pool[i] for i in rng.integers(0, len(pool), 2 * PAIRS)]
        with tf.GradientTape() as tape:
            loss = seed_loss(tf, tf.reshape(tf.sigmoid(model(np.stack(chosen), training=True)), (-1, 1)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        for start in range(0, len(test), 2 * PAIRS):
            block = test[start : start + 2 * PAIRS]
            seed_loss(tf, tf.reshape(tf.sigmoid(model(block, training=False)), (-1, 1)))
    return (time.perf_counter() - began) / steps


def main(argv: list[str] | None = None) -> int:
    """Measure in processes of their own, alternating so that other load falls on all alike; print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000, help="steps of ours, in two halves")
    parser.add_argument("--seed-steps", type=int, default=5, help="steps as the seed took them, in between")
    parser.add_argument("--worker", nargs=2, metavar=("WHAT", "STEPS"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        what, steps = args.worker[0], int(args.worker[1])
        print(json.dumps(as_the_seed_did(steps) if what == "seed" else ours(what, steps)))
        return 0
    half = max(1, args.steps // 2)
    found: dict[str, list[float]] = {}
    for what, steps in [*((b, half) for b in BACKENDS), ("seed", args.seed_steps), *((b, half) for b in BACKENDS)]:
        command = [sys.executable, "-m", "benchmarks.training", "--worker", what, str(steps)]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        root = Path(__file__).parents[1]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=root)
        found.setdefault(what, []).append(float(done.stdout.strip().splitlines()[-1]))
    mean = {what: float(np.mean(seconds)) for what, seconds in found.items()}
    rows = {
        what: {
            "ms_per_step": round(1000 * s, 2),
            "s_per_1000_steps": round(1000 * s, 1),
            "times_faster_than_the_seed": round(mean["seed"] / s, 1),
        }
        for what, s in mean.items()
    }
    for what, row in rows.items():
        print(
            f"{what:<12}{row['ms_per_step']:>10.1f} ms a step{row['times_faster_than_the_seed']:>10.1f} times the seed"
        )
    write_results("trainer_training", rows, {"steps": args.steps, "seed_steps": args.seed_steps})
    return 0


if __name__ == "__main__":
    sys.exit(main())
