"""gpu: how fast does the GPU engine run each network, and the whole product? With --device cpu the same on a small
scale.

    python -m benchmarks gpu [--budget-s 300]             # writes benchmarks/results/gpu.json
    python -m benchmarks gpu --device cpu                 # the same code on a small scale on the CPU; prints only
    benchmarks/gpu.sh                                     # installs, tests and measures in under six minutes

Per model, precision and batch size: windows per second (from separate windows, as a capture host shares them), TFLOP/s,
the fraction of a large matrix product measured in the same run, memory and load time. Then the first layer in 2D
against 3D, the time by operation, parity with fp32 on the CPU, and the product with many cameras: windows per second,
drops and latency. The most important figures come first; parts for which the time was too short are named.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpulib
from benchmarks.codehash import code_of
from benchmarks.gpuproduct import Capacity, capacity
from benchmarks.options import GPU_CAMERAS, GPU_MODELS, GPU_PRECISIONS, parse
from benchmarks.results import load_before, write_results
from stream_detector.errors import StreamDetectorError

CODE = ("stream_detector/engines", "stream_detector/models/backbones")
FOLD_MODELS = ("embedded", "resnet3d-34-a")
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
ON_CPU: dict[str, Any] = {"models": ["embedded"], "precisions": ["fp32", "bf16"], "batches": [1, 4], "cameras": []}
PROFILE_BATCH = 32
SPARE_S = 12.0  # an engine is not begun when less is left


@dataclass(frozen=True, slots=True)
class Part:
    """One engine to measure. why: "rates", or "3D" for the first layer unfolded."""

    model: str
    precision: str
    fold: bool = True

    def __str__(self) -> str:
        return f"{self.model} {self.precision}{'' if self.fold else ', first layer in 3D'}"


@dataclass(slots=True)
class Bench:
    """What was measured so far; written after every part, so that a run that is ended keeps it."""

    args: argparse.Namespace
    settings: dict[str, Any]
    until_s: float
    results: dict[str, Any] = field(
        default_factory=lambda: {
            "products": {},
            "rows": [],
            "profile": [],
            "parity": [],
            "capacity": [],
            "left_out": [],
        }
    )

    def left_s(self) -> float:
        """Seconds left of the budget."""
        return self.until_s - time.monotonic()

    def save(self) -> Path | None:
        """Write the record, where one is wanted."""
        if self.args.no_save:
            return None
        self.settings["seconds_used"] = round(self.args.budget_s - self.left_s(), 1)
        return write_results("gpu", self.results, self.settings, self.args.out)


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("gpu", argv)
    device = args.device
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else ""
    if not device or (device.startswith("cuda") and not torch.cuda.is_available()):
        print("no GPU here, so nothing was measured; --device cpu runs the same in small", file=sys.stderr)
        return 2
    cuda = device.startswith("cuda")
    for name, value in ({} if cuda else ON_CPU).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name, standard in (
        ("models", GPU_MODELS),
        ("precisions", GPU_PRECISIONS),
        ("batches", BATCHES),
        ("cameras", GPU_CAMERAS),
    ):
        if getattr(args, name) is None:
            setattr(args, name, standard)
    args.no_save = args.no_save or (not cuda and args.out is None)  # figures of a CPU are not those of a GPU
    settings = {
        "device": describe(device),
        "seconds": args.seconds,
        "load_before": load_before(),
        "code": code_of(*CODE),
    }
    bench = Bench(args, settings, time.monotonic() + args.budget_s)
    with tempfile.TemporaryDirectory() as name:
        os.environ["STREAM_DETECTOR_CACHE"] = name
        engines(bench, device, Path(name))
        for text in args.cameras:
            whole_product(bench, text, device, Path(name))
    path = bench.save()
    if args.json:
        print(json.dumps({"settings": settings, "results": bench.results}, indent=2))
    elif path:
        print(path)
    return 0


def describe(device: str) -> dict[str, Any]:
    """The device and the libraries that drive it."""
    if not device.startswith("cuda"):
        return {"kind": "cpu", "name": "CPU", "torch": torch.__version__}
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "kind": "rocm" if torch.version.hip else "cuda",
        "name": properties.name,
        "memory_gb": round(total / 1e9, 1),
        "free_gb_before": round(free / 1e9, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
    }


def parts(models: list[str], precisions: list[str]) -> Iterator[Part]:
    """Engines in the order of what matters: the first two models in full, the others in the first precision."""
    first, others = models[:2], models[2:]
    for model in first:
        yield Part(model, precisions[0])
        if model in FOLD_MODELS:
            yield Part(model, precisions[0], fold=False)
    for model in first:
        for precision in precisions[1:]:
            yield Part(model, precision)
    for model in others:
        yield Part(model, precisions[0])


def engines(bench: Bench, device: str, folder: Path) -> None:
    """Rates, memory, parity and profiles of every engine."""
    args, results = bench.args, bench.results
    for precision in args.precisions:
        results["products"][precision] = round(gpulib.product_tflops(device, precision), 3)
    subjects: dict[str, gpulib.Subject] = {}
    references: dict[str, gpulib.Reference] = {}
    for part in parts(args.models, args.precisions):
        if bench.left_s() < SPARE_S + len(args.cameras) * 2.5 * args.camera_seconds:
            results["left_out"].append(f"{part}: no time left")
            continue
        try:
            if part.model not in subjects:
                subjects[part.model] = gpulib.subject(part.model, folder, max(args.batches))
                references[part.model] = gpulib.Reference(subjects[part.model].bundle)
            item = subjects[part.model]
            product = gpulib.product_tflops(device, part.precision, repeats=2)  # again: clocks change with heat
            results["products"][part.precision] = max(results["products"][part.precision], round(product, 3))
            engine, facts = gpulib.loaded(item, device, part.precision, part.fold)
        except StreamDetectorError as error:
            results["left_out"].append(f"{part}: {error}")
            print(f"{part}: {error}", file=sys.stderr)
            continue
        try:
            for row in gpulib.rates(engine, item, args.batches, args.seconds, results["products"][part.precision]):
                results["rows"].append(facts | row)
                show(results["rows"][-1])
            if part.fold:
                found = references[part.model].parity(engine)
                results["parity"].append({"model": part.model, "precision": engine.precision, **found})
            if part.precision == args.precisions[0]:
                batch = min(PROFILE_BATCH, max(args.batches))
                found = gpulib.profile(engine, item, batch)
                results["profile"].append({"model": part.model, "first_layer": facts["first_layer"], **found})
        except StreamDetectorError as error:
            results["left_out"].append(f"{part}: {error}")
        finally:
            engine.close()
        bench.save()


def whole_product(bench: Bench, text: str, device: str, folder: Path) -> None:
    """The detector with many cameras on this device."""
    wanted = Capacity.parse(text, bench.args.camera_seconds)
    if bench.left_s() < 2 * wanted.seconds:
        bench.results["left_out"].append(f"{text} cameras: no time left")
        return
    row = capacity(wanted, device, folder, bench.left_s() + 30.0)
    bench.results["capacity"].append(row)
    print("  ".join(f"{key} {value}" for key, value in row.items() if not isinstance(value, dict)), flush=True)
    bench.save()


def show(row: dict[str, Any]) -> None:
    """One line for people."""
    print(
        f"{row['model']:16} {row['precision']:5} first layer {row['first_layer']} ×{row['batch']:<4}"
        f"{row['windows_per_s']:10.1f} windows/s {row['p50_ms']:8.2f} ms {row['tflops']:8.2f} TFLOP/s "
        f"{row['share_of_product']:6.1%} of a product, {row['cpu_ms_a_window']:.3f} ms of CPU a window",
        flush=True,
    )
