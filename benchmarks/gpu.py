"""gpu: how fast does the GPU engine run each network, and the whole product? With --device cpu the same on a small
scale.

    python -m benchmarks gpu [--budget-s 300]             # writes benchmarks/results/gpu.json
    python -m benchmarks gpu --device cpu                 # the same code on a small scale on the CPU; prints only
    benchmarks/gpu.sh                                     # installs, tests and measures in under six minutes

Per model, precision and batch size: windows per second (from separate windows, as a capture host shares them), TFLOP/s,
the fraction of a large matrix product measured in the same run, memory and load time. Then the first layer in 2D
against 3D, the time by operation, parity with fp32 on the CPU, and the product with many cameras: windows per second,
drops and latency. The most important figures come first. The record is written after every row; what was not reached is
named in it, also if the run is ended by a signal.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from benchmarks import gpulib
from benchmarks.caches import compiled_apart
from benchmarks.codehash import code_of
from benchmarks.gpuproduct import Capacity, capacity, seconds_needed
from benchmarks.options import GPU_CAMERAS, GPU_MODELS, GPU_PRECISIONS, parse
from benchmarks.results import load_before, write_results
from stream_detector.engines.bundle_choice import ACCURATE, EMBEDDED, missing_weights
from stream_detector.errors import StreamDetectorError

CODE = (
    "stream_detector/engines",
    "stream_detector/models/backbones",
    "stream_detector/models/heads.py",
    "stream_detector/models/preprocess.py",
    "stream_detector/models/recipe.py",
    "stream_detector/models/saliency.py",
)
FOLD_MODELS = ("embedded", "resnet3d-34-a")
BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
ON_CPU: dict[str, Any] = {"models": ["embedded"], "precisions": ["fp32", "bf16"], "batches": [1, 4], "cameras": []}
PROFILE_BATCH = 32
SPARE_S = 12.0  # an engine is not begun when less is left, or less than the longest so far took
SAVE_S = 3.0
NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True)
class Part:
    """One engine to measure. fold: the first layer in 2D."""

    model: str
    precision: str
    fold: bool = True

    def __str__(self) -> str:
        return f"{self.model} {self.precision}{'' if self.fold else ', first layer in 3D'}"


class Ended(SystemExit):
    """A signal asked the run to end; what was measured is written first."""


@dataclass(slots=True)
class Bench:
    """What was measured so far. pending: every part that was not, with the reason."""

    args: argparse.Namespace
    settings: dict[str, Any]
    until_s: float
    pending: dict[str, str]
    longest_s: float = 0.0  # that a part took
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
        self.results["left_out"] = [f"{part}: {why}" for part, why in self.pending.items()]
        self.settings["seconds_used"] = round(self.args.budget_s - self.left_s(), 1)
        return None if self.args.no_save else write_results("gpu", self.results, self.settings, self.args.out)

    def product(self, device: str, precision: str, repeats: int) -> float:
        """TFLOP/s of a matrix product in `precision`: the best of this run so far, because clocks change with heat."""
        found = round(gpulib.product_tflops(device, precision, repeats=repeats), 3)
        self.results["products"][precision] = max(found, self.results["products"].get(precision, 0.0))
        best: float = self.results["products"][precision]
        return best


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
    capacities = [Capacity.parse(text, args.camera_seconds) for text in args.cameras]
    steps = list(planned(args.models, args.precisions, capacities))
    bench = Bench(args, settings, time.monotonic() + args.budget_s, {str(step): NOT_REACHED for step in steps})
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with compiled_apart() as folder:
            measure(bench, steps, device, folder)
    except Ended:
        print(f"ended by a signal; {len(bench.pending)} parts were not measured", file=sys.stderr)
        return 143
    finally:
        signal.signal(signal.SIGTERM, before)
        path = bench.save()
        if args.json:
            print(json.dumps({"settings": settings, "results": bench.results}, indent=2))
        elif path:
            print(path)
    return 0


def _end(_number: int, _frame: object) -> NoReturn:
    raise Ended(143)


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


def planned(models: list[str], precisions: list[str], capacities: list[Capacity]) -> Iterator[Part | Capacity]:
    """What to measure, in the order of what matters: the first two models with and without the folded layer, the whole
    product, their other precisions, then the other models in the first precision.
    """
    first, others = models[:2], models[2:]
    for model in first:
        yield Part(model, precisions[0])
        if model in FOLD_MODELS:
            yield Part(model, precisions[0], fold=False)
    yield from capacities
    for model in first:
        for precision in precisions[1:]:
            yield Part(model, precision)
    for model in others:
        yield Part(model, precisions[0])


def measure(bench: Bench, steps: list[Part | Capacity], device: str, folder: Path) -> None:
    """Measure every step for which there is time."""
    engines = Engines(bench, device, folder)
    for precision in bench.args.precisions:
        bench.product(device, precision, repeats=8)
    for number, step in enumerate(steps):
        name = str(step)
        kept_s = sum(seconds_needed(later) for later in steps[number + 1 :] if isinstance(later, Capacity))
        needed_s = seconds_needed(step) if isinstance(step, Capacity) else max(SPARE_S, bench.longest_s) + kept_s
        if bench.left_s() < needed_s + SAVE_S:
            bench.pending[name] = f"no time left ({max(0.0, bench.left_s()):.0f} s)"
            bench.save()
            continue
        begun_s = time.monotonic()
        try:
            if isinstance(step, Capacity):
                whole_product(bench, step, device, folder)
            else:
                engines.measure(step)
                bench.longest_s = max(bench.longest_s, time.monotonic() - begun_s)
            del bench.pending[name]
        except StreamDetectorError as error:
            bench.pending[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr)
        bench.save()


class Engines:
    """Measures rates, memory, parity and profiles of engines."""

    def __init__(self, bench: Bench, device: str, folder: Path) -> None:
        self.bench, self.device, self.folder = bench, device, folder
        self._subjects: dict[str, tuple[gpulib.Subject, gpulib.Reference]] = {}

    def measure(self, part: Part) -> None:
        """One engine; the record is written after every row. Raises StreamDetectorError."""
        bench, args = self.bench, self.bench.args
        item, reference = self._subject(part.model)
        engine, facts = gpulib.loaded(item, self.device, part.precision, part.fold)
        try:
            product = bench.product(self.device, engine.precision, repeats=2)
            for row in gpulib.rates(engine, item, args.batches, args.seconds, product):
                bench.results["rows"].append(facts | row)
                bench.save()
                show(facts | row)
            told = {key: facts[key] for key in ("model", "asked", "precision", "weights")}
            if part.fold:
                bench.results["parity"].append(told | reference.parity(engine))
            if part.precision == args.precisions[0]:
                found = gpulib.profile(engine, item, min(PROFILE_BATCH, max(args.batches)))
                bench.results["profile"].append(told | {"first_layer": facts["first_layer"], **found})
        finally:
            engine.close()

    def _subject(self, model: str) -> tuple[gpulib.Subject, gpulib.Reference]:
        if model not in self._subjects:
            item = gpulib.subject(model, self.folder, max(self.bench.args.batches))
            self._subjects[model] = item, gpulib.Reference(item.bundle)
        return self._subjects[model]


def whole_product(bench: Bench, wanted: Capacity, device: str, folder: Path) -> None:
    """The detector with many cameras on this device."""
    bundle = bench.args.bundle
    if bundle == "auto":
        bundle = EMBEDDED if missing_weights(ACCURATE) else ACCURATE
    row = capacity(wanted, bundle, device, folder, bench.left_s() - SAVE_S)
    bench.results["capacity"].append(row)
    print("  ".join(f"{key} {value}" for key, value in row.items() if not isinstance(value, dict)), flush=True)


def show(row: dict[str, Any]) -> None:
    """One line for people."""
    print(
        f"{row['model']:16} {row['asked']:4} → {row['precision']:4} first layer {row['first_layer']} ×{row['batch']:<4}"
        f"{row['windows_per_s']:10.1f} windows/s {row['p50_ms']:8.2f} ms {row['tflops']:8.2f} TFLOP/s "
        f"{row['share_of_product']:6.1%} of a product, {row['cpu_ms_a_window']:.3f} ms of CPU a window",
        flush=True,
    )
