"""Measurements of an engine for `gpu`: rates, a matrix product for comparison, time by operation, parity."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.roofline import RANDOM, bundle_for, count_gmac, timed
from stream_detector.engines.accelerator import Eager
from stream_detector.engines.batch_dependence import batch_dependence, demo_windows, probe_windows
from stream_detector.engines.cuda_engine import DTYPES, CudaEngine
from stream_detector.engines.kernels import tf32
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.models.backbones import i3d
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.types import UInt8Array

PRODUCT_SIZE = {"cuda": 8192, "cpu": 512}
PROFILE_RUNS = 4
KERNELS = 10


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure. gmac: 10⁹ multiply-adds a window.  windows: noise, each in memory of its own, read-only."""

    name: str
    bundle: Bundle
    gmac: float
    windows: tuple[UInt8Array, ...]


def subject(name: str, folder: Path, count: int) -> Subject:
    """A bundle by name, or random weights whose activations are those of a trained network: for an architecture, and
    for a bundle whose weights were not fetched.
    """
    bundle = bundle_for(name, folder)
    if bundle.name == RANDOM:
        bundle = normalised(bundle, folder / f"normalised-{Path(name).name}")
    recipe, rng = bundle.recipe, np.random.default_rng(0)
    windows = tuple(rng.integers(0, 256, (recipe.frames, *recipe.size, 3), dtype=np.uint8) for _ in range(count))
    for window in windows:
        window.flags.writeable = False  # like the memory that a capture host shares
    return Subject(name, bundle, count_gmac(bundle), windows)


def normalised(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle with the batch normalisations' statistics of rendered footage: else random weights leave the range of
    fp16.
    """
    from stream_detector.engines.network import Network

    network = Network(bundle)
    norms = [module for module in network.backbone.modules() if isinstance(module, nn.BatchNorm3d)]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # the mean of what is seen
        module.train()
    for unit in network.backbone.modules():
        if isinstance(unit, i3d.Unit):
            unit.conv.register_forward_hook(partial(_take_statistics, unit))
    with torch.no_grad():
        network(torch.from_numpy(demo_windows(bundle.recipe)))
    for module in norms:
        module.eval()
    state = {name: value.contiguous() for name, value in network.backbone.state_dict().items()}
    parts: dict[str, Any] = {
        "name": bundle.name,
        "backbone": {"arch": bundle.manifest.backbone.arch},
        "head": {"dims": list(network.head.dims)},
        "preprocess": bundle.recipe,
    }
    return write_bundle(folder, parts, state, network.head.state_dict())


def _take_statistics(unit: i3d.Unit, _conv: nn.Module, _x: Any, y: torch.Tensor) -> None:
    unit.mean.copy_(y.mean((0, 2, 3, 4)))
    unit.variance.copy_(y.var((0, 2, 3, 4)))


def make_engine(bundle: Bundle, device: str, precision: str, fold: bool = True) -> CudaEngine:
    """The GPU engine on a device; "cpu" runs the same code without streams and graphs."""
    on = Eager(torch.device("cpu")) if device == "cpu" else None
    return CudaEngine(bundle, device, precision, "the benchmark", fold=fold, on=on)


def synchronise(device: str) -> None:
    """Wait for all work of a device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def product_tflops(device: str, precision: str, size: int = 0, repeats: int = 8) -> float:
    """10¹² operations a second of a square matrix product: the best of some."""
    size = size or PRODUCT_SIZE["cuda" if device.startswith("cuda") else "cpu"]
    a = torch.randn(size, size, device=device).to(DTYPES[precision])
    b = torch.randn(size, size, device=device).to(DTYPES[precision])
    best = float("inf")
    with tf32(precision == "tf32"):
        for _ in range(repeats):
            synchronise(device)
            begun_s = time.perf_counter()
            for _ in range(4):
                a @ b
            synchronise(device)
            best = min(best, (time.perf_counter() - begun_s) / 4)
    return 2 * size**3 / best / 1e12


def loaded(item: Subject, device: str, precision: str, fold: bool = True) -> tuple[CudaEngine, dict[str, Any]]:
    """An engine, and what loading it took."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    begun_s = time.perf_counter()
    engine = make_engine(item.bundle, device, precision, fold)
    synchronise(device)
    facts: dict[str, Any] = {
        "model": item.name,
        "arch": item.bundle.manifest.backbone.arch,
        "weights": RANDOM if item.bundle.name == RANDOM else item.bundle.fingerprint,
        "gmac": round(item.gmac, 2),
        "first_layer": "2D" if fold else "3D",
        "asked": precision,
        "precision": engine.precision,
        "largest_bucket": max(engine.buckets),
        "load_s": round(time.perf_counter() - begun_s, 2),
        "memory_mb": round(torch.cuda.max_memory_reserved(device) / 1e6) if cuda else None,
    }
    if engine.precision != precision:
        facts["reason"] = engine.reason
    return engine, facts


def rates(
    engine: CudaEngine, item: Subject, batches: list[int], seconds: float, product: float
) -> Iterator[dict[str, Any]]:
    """One row a batch size: windows go in from where they lie, scores come out. product: TFLOP/s to compare with."""
    for batch in batches:
        windows = item.windows[:batch]
        times, cpu_s = timed(lambda windows=windows: engine.infer_windows(windows), seconds)
        rate = batch / float(np.median(times))
        tflops = 2 * item.gmac * rate / 1e3
        yield {
            "batch": batch,
            "windows_per_s": round(rate, 1),
            "p50_ms": round(float(np.median(times)) * 1e3, 3),
            "p95_ms": round(float(np.quantile(times, 0.95)) * 1e3, 3),
            "tflops": float(f"{tflops:.4g}"),
            "product_tflops": float(f"{product:.4g}"),
            "share_of_product": float(f"{tflops / product:.4g}"),
            "cpu_ms_a_window": round(cpu_s / batch / len(times) * 1e3, 4),
            "runs": len(times),
        }


def profile(engine: CudaEngine, item: Subject, batch: int) -> dict[str, Any]:
    """Where the device's time goes: the kernels that take most of it, and how much of the wall time it is busy."""
    from torch.profiler import ProfilerActivity

    cuda = engine.device.startswith("cuda")
    activities = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    windows = item.windows[:batch]
    engine.infer_windows(windows)
    with torch.profiler.profile(activities=activities) as found:
        begun_s = time.perf_counter()
        for _ in range(PROFILE_RUNS):
            engine.infer_windows(windows)
        wall_s = time.perf_counter() - begun_s
    kernels = []
    for event in found.key_averages():
        spent_us = event.self_device_time_total if cuda else event.self_cpu_time_total
        if spent_us > 0:
            kernels.append((float(spent_us), event.key, event.count))
    kernels.sort(reverse=True)
    total_us = sum(spent_us for spent_us, _, _ in kernels) or 1.0
    return {
        "batch": batch,
        "ms_a_batch": round(total_us / PROFILE_RUNS / 1e3, 3),
        "busy_share_of_wall": round(total_us / 1e6 / wall_s, 3),
        "kernels": [
            {
                "name": name[:100],
                "share": round(spent_us / total_us, 4),
                "ms_a_batch": round(spent_us / PROFILE_RUNS / 1e3, 4),
                "calls_a_batch": round(count / PROFILE_RUNS, 2),
            }
            for spent_us, name, count in kernels[:KERNELS]
        ],
    }


class Reference:
    """PyTorch in fp32 on the CPU, one window at a time: what every precision is compared with."""

    def __init__(self, bundle: Bundle) -> None:
        self.windows: UInt8Array = np.concatenate([demo_windows(bundle.recipe), probe_windows(bundle.recipe, 12)])
        engine = TorchEngine(bundle, deterministic=True)
        self.output = engine.infer(self.windows)
        engine.close()

    def parity(self, engine: CudaEngine) -> dict[str, Any]:
        """Largest change of a score, relative error of the features, and how much a score depends on its batch."""
        wanted, found = self.output, engine.infer(self.windows)
        norms = np.linalg.norm(found.features - wanted.features, axis=1) / np.linalg.norm(wanted.features, axis=1)
        return {
            "windows": len(self.windows),
            "score_change_max": float(f"{np.abs(found.scores - wanted.scores).max():.3g}"),
            "feature_error_max": float(f"{norms.max():.3g}"),
            "batch_dependence": float(f"{batch_dependence(engine, self.windows[:9]):.3g}"),
        }
