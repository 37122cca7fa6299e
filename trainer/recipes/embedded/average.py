"""`python -m trainer average`: averages the weights of two points of a training run.

    student.pt (early) ─┐
    student.pt (late)  ─┴─ mean of the weights ──▶ statistics of BatchNorm measured again ──▶ student.pt

The mean of two points of one run often generalises better than either (Izmailov et al., "Averaging Weights Leads to
Wider Optima and Better Generalization", 2018). BatchNorm's statistics belong to the weights, so they are measured
again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from stream_detector.errors import DataError
from stream_detector.models.preprocess import normalise, recipe_named
from trainer.data.clips import load_clips
from trainer.recipes.embedded.distill import use_threads
from trainer.recipes.embedded.student import Student, student_from
from trainer.recipes.embedded.view_pool import Pack, Pool


def mean_state(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean of two state dicts; counters are taken from the second. Raises DataError if they do not fit.

    The layers that match the teacher's maps are left out if only one of the two has them.
    """
    odd = {name for name in first.keys() ^ second.keys() if name.startswith("maps.")}
    first, second = ({name: v for name, v in state.items() if name not in odd} for state in (first, second))
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        raise DataError("the two checkpoints are not of the same network; average two points of one run")
    return {name: (first[name] + value) / 2 if value.is_floating_point() else value for name, value in second.items()}


@torch.no_grad()
def measure_statistics(student: Student, pool: Pool, recipe: str, *, batches: int = 12, size: int = 112) -> None:
    """Measure the means and variances of all BatchNorms again on `batches`, except the first, which is the
    teacher's.
    """
    prepared = recipe_named(recipe)
    norms = [
        module
        for name, module in student.backbone.named_modules()
        if isinstance(module, nn.BatchNorm3d) and name != "bn1"
    ]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    for step in range(batches):
        student.backbone.features(normalise(pool.batch(step, 16, size).windows, prepared))
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()


def main(args: argparse.Namespace) -> int:
    """Run `average`; returns the exit code."""
    use_threads()
    states: list[dict[str, Any]] = []
    for path in (args.first, args.second):
        if not Path(path).is_file():
            raise DataError(f"{str(path)!r} does not exist; give the student.pt of a distillation run")
        states.append(torch.load(path, map_location="cpu", weights_only=True))
    first, second = states
    if first["config"]["arch"] != second["config"]["arch"]:
        raise DataError("the two checkpoints are not of the same network; average two points of one run")
    student = student_from({**second, "averaged": mean_state(first["averaged"], second["averaged"])})
    backbone: Any = student.backbone  # versions of PyTorch differ in what they say that `to` takes
    backbone.to(memory_format=torch.channels_last_3d)
    packs = [Pack(*load_clips(args.cache, name)) for name in _packs(args.cache)]
    measure_statistics(student, Pool(packs, seed=args.seed), second["config"]["recipe"])
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    made = {**second, "averaged": student.state_dict(), "averaged_from": [first["step"], second["step"]]}
    torch.save(made, out / "student.pt")
    log = Path(args.second).with_name("log.jsonl")
    if log.exists():
        (out / "log.jsonl").write_bytes(log.read_bytes())
    Console(stderr=True).print(f"{out / 'student.pt'}: mean of steps {first['step']} and {second['step']}")
    return 0


def _packs(cache: Path) -> list[str]:
    return [name for name in ("clips", "rendered", "long_normal") if (Path(cache) / f"{name}.json").exists()]
