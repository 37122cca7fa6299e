"""roofline: how fast does each engine run a network, as a fraction of the processor's matrix multiplication rate?

    python -m benchmarks roofline [--models embedded resnet3d-34-a] [--seconds 6]

Per model: the plain way (PyTorch fp32, one clip at a time, contiguous, nothing fused), the torch engine, and OpenVINO
in every precision that the machine has. The ceiling is the rate of a large matrix product, measured between the rows of
the same run, because the speed of a shared machine changes. Networks without a bundle, or whose weights were not
fetched, get random weights, which are as fast as trained ones.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.caches import compiled_apart
from benchmarks.options import parse
from benchmarks.results import write_results
from stream_detector.engines import detect_hardware
from stream_detector.engines.network import Network
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.errors import BundleError, CheckpointError, StreamDetectorError
from stream_detector.models.backbones import backbone_spec, build_backbone
from stream_detector.models.bundle import Bundle, find_bundle, read_manifest, write_bundle
from stream_detector.models.heads import Head
from stream_detector.models.preprocess import normalise, recipe_named
from stream_detector.types import Engine, UInt8Array

CALIBRATION_WINDOWS = 32
BATCH = 8
RANDOM = "random"  # the name of a bundle of random weights


def main(argv: list[str]) -> int:
    """Run, print a table, write `results/roofline.json`."""
    args = parse("roofline", argv)
    rows: list[dict[str, Any]] = []
    with compiled_apart() as folder:
        for name in args.models:
            bundle = bundle_for(name, folder)
            rows += measure(name, bundle, args.seconds)
    if not args.no_save:
        settings = {"seconds": args.seconds, "threads": torch.get_num_threads(), "load_average": os.getloadavg()}
        if not detect_hardware().bf16:
            settings["left_out"] = "bf16 rows: this processor has no bf16 instructions"
        print(write_results("roofline", rows, settings))
    return 0


def bundle_for(name: str, folder: Path) -> Bundle:
    """A bundle by name; or one named "random" with random weights, for an architecture, and for a bundle whose weights
    were not fetched. Raises BundleError for an unknown name.
    """
    arch, recipe = name, None
    try:
        find_bundle(name)
        return Bundle.load(name)
    except BundleError:
        pass
    except CheckpointError:
        manifest = read_manifest(find_bundle(name))
        arch, recipe = manifest.backbone.arch, manifest.preprocess.to_recipe()
    spec = backbone_spec(arch)
    head = Head((spec.feature_dim, 32, 1))
    parts: dict[str, Any] = {"name": RANDOM, "backbone": {"arch": arch}, "head": {"dims": list(head.dims)}}
    parts["preprocess"] = recipe or recipe_named(spec.recipe)
    target = folder / f"random-{Path(name).name}"
    return write_bundle(target, parts, build_backbone(arch).state_dict(), head.state_dict())


def measure(name: str, bundle: Bundle, seconds: float) -> list[dict[str, Any]]:
    """One row for each way to run the bundle."""
    recipe = bundle.recipe
    frames = np.random.default_rng(0).integers(0, 256, (BATCH, recipe.frames, *recipe.size, 3), dtype=np.uint8)
    gmac = count_gmac(bundle)
    machine = detect_hardware()
    ways: list[tuple[str, Callable[[], Callable[[UInt8Array], object]], int]] = [
        ("plain torch fp32 ×1", lambda: plain(bundle), 1),
        ("torch fp32 ×1", lambda: TorchEngine(bundle, "fp32").infer, 1),
        (f"torch fp32 ×{BATCH}", lambda: TorchEngine(bundle, "fp32").infer, BATCH),
    ]
    if machine.bf16:
        ways.append((f"torch bf16 ×{BATCH}", lambda: TorchEngine(bundle, "bf16").infer, BATCH))
    if machine.openvino:
        precisions = ["fp32", *(["bf16"] if machine.bf16 else [])]
        precisions += ["int8"] if importlib.util.find_spec("nncf") else []
        for precision in precisions:
            for size in (1, BATCH):
                ways.append((f"openvino {precision} ×{size}", partial(_openvino_run, bundle, precision), size))
    rows = []
    for label, make, size in ways:
        try:
            run = make()
        except StreamDetectorError as error:
            print(f"{name} {label}: {error}", file=sys.stderr)
            continue
        before = product_rate(torch.float32), product_rate(torch.bfloat16) if machine.bf16 else 0.0
        times, cpu_s = timed(partial(run, frames[:size]), seconds)
        after = product_rate(torch.float32), product_rate(torch.bfloat16) if machine.bf16 else 0.0
        rate = size / float(np.median(times))
        fp32, bf16 = (max(b, a) for b, a in zip(before, after, strict=True))
        rows.append(
            {
                "model": name,
                "arch": bundle.manifest.backbone.arch,
                "way": label,
                "gmac": round(gmac, 2),
                "windows_per_s": round(rate, 3),
                "p50_ms": round(float(np.median(times)) * 1e3, 2),
                "p90_ms": round(float(np.quantile(times, 0.9)) * 1e3, 2),
                "best_windows_per_s": round(size / min(times), 3),
                "gmac_per_s": round(rate * gmac, 2),
                "fp32_product_gmac_per_s": round(fp32, 1),
                "bf16_product_gmac_per_s": round(bf16, 1) or None,
                "share_of_fp32_product": round(rate * gmac / fp32, 4),
                "share_of_bf16_product": round(rate * gmac / bf16, 4) if bf16 else None,
                "cpu_ms_a_window": round(cpu_s / size / len(times) * 1e3, 2),
                "runs": len(times),
            }
        )
        show(rows[-1])
    return rows


def plain(bundle: Bundle) -> Callable[[UInt8Array], object]:
    """PyTorch as a script would use it: fp32, contiguous, nothing fused, one clip at a time."""
    network = Network(bundle)

    def run(frames: UInt8Array) -> object:
        with torch.inference_mode():
            clip = normalise(torch.from_numpy(frames), bundle.recipe).contiguous()
            return network.head(network.backbone.features(clip))

    return run


def openvino(bundle: Bundle, precision: str) -> Engine:
    """The OpenVINO engine; an int8 graph is calibrated with noise here, which is as fast as with footage."""
    from stream_detector.engines.openvino_engine import OpenVinoEngine, graph_path

    if precision == "int8" and not graph_path(bundle, "int8").is_file():
        from stream_detector.engines.quantise import quantise

        shape = (CALIBRATION_WINDOWS, bundle.recipe.frames, *bundle.recipe.size, 3)
        quantise(bundle, np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
    return OpenVinoEngine(bundle, precision)


def _openvino_run(bundle: Bundle, precision: str) -> Callable[[UInt8Array], object]:
    return openvino(bundle, precision).infer


def show(row: dict[str, Any]) -> None:
    """One line for people."""
    shares = [(row[f"share_of_{kind}_product"], kind) for kind in ("fp32", "bf16")]
    print(
        f"{row['model']:16} {row['way']:20} {row['windows_per_s']:8.2f} windows/s {row['p50_ms']:8.1f} ms "
        f"({row['cpu_ms_a_window']:.1f} ms of CPU a window) {row['gmac_per_s']:7.1f} GMAC/s  "
        + "  ".join(f"{share:.1%} of the {kind} product" for share, kind in shares if share),
        flush=True,
    )


def timed(run: Callable[[], object], seconds: float) -> tuple[list[float], float]:
    """Seconds of each call, and CPU seconds of all; one call to warm up, then at least three.

    CPU time counts all threads of this process, so it says something even where other programs hold the cores.
    """
    run()
    times: list[float] = []
    cpu = time.process_time()
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times, time.process_time() - cpu


def product_rate(dtype: torch.dtype, size: int = 1536, repeats: int = 5) -> float:
    """Multiply-adds of a square matrix product, in 10⁹ a second: the best of some."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return size**3 / best / 1e9


def count_gmac(bundle: Bundle) -> float:
    """Multiply-adds of all convolutions for one window, in 10⁹."""
    network = Network(bundle)
    total = [0]

    def hook(module: nn.Module, _: object, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv3d):
            total[0] += output[0].numel() * module.weight[0].numel()

    for module in network.modules():
        module.register_forward_hook(hook)
    recipe = bundle.recipe
    with torch.inference_mode():
        network(torch.zeros((1, recipe.frames, *recipe.size, 3), dtype=torch.uint8))
    return total[0] / 1e9
