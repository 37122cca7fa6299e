"""Divides the cores of a CPU among windows: streams × threads, fixed when an engine is loaded.

    layout = the fewest threads per stream with which a window takes at most 40 ms; as many streams as then fit

A kernel may add its products in another order when more threads share a window. So the layout must be the same in every
process that runs a bundle on a machine, whatever its load and after every restart; a time measured at load would
differ. Therefore it is computed from the multiply-adds of the graph and from the rates of one core. The rates were
measured once for each instruction set and are listed below (the slower of two CPUs where two were measured). On a
faster or slower CPU the latency differs somewhat from 40 ms, but the scores do not change from run to run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET_MS = 40.0
# 10^9 multiply-adds a second of one core, the embedded network through OpenVINO. fp32 and bf16 are measured on a Xeon
# with AMX (narrower sets by ONEDNN_MAX_CPU_ISA) and on EPYC (Zen 4); int8, ARM and what has no AVX2 are low guesses.
RATES: dict[str, dict[str, float]] = {
    "amx": {"fp32": 80.0, "bf16": 150.0, "int8": 200.0},
    "avx512_bf16": {"fp32": 60.0, "bf16": 120.0, "int8": 120.0},
    "avx512": {"fp32": 60.0, "bf16": 6.0, "int8": 80.0},
    "avx2": {"fp32": 40.0, "bf16": 5.0, "int8": 50.0},
    "other": {"fp32": 15.0, "bf16": 15.0, "int8": 20.0},
}
# The first key of `ONEDNN_MAX_CPU_ISA` that a value begins with applies; it gives the widest allowed set.
_LIMITS = (
    ("AVX512_CORE_AMX", "amx"),
    ("AVX10", "amx"),
    ("AVX512_CORE_FP16", "avx512_bf16"),
    ("AVX512_CORE_BF16", "avx512_bf16"),
    ("AVX512_CORE", "avx512"),
    ("AVX2", "avx2"),
    ("AVX", "other"),
    ("SSE", "other"),
)
_ORDER = ("amx", "avx512_bf16", "avx512", "avx2", "other")
_FLAGS = {"amx": "amx_bf16", "avx512_bf16": "avx512_bf16", "avx512": "avx512f", "avx2": "avx2"}


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout. streams: windows computed at the same time.  threads: of each stream.  window_ms: expected time of one
    window.
    """

    streams: int
    threads: int
    window_ms: float


def choose_layout(macs: float, rate_gmac_s: float, cores: int, target_ms: float = TARGET_MS) -> Layout:
    """Choose the layout for a graph of `macs` multiply-adds per window.

    rate_gmac_s: 10^9 multiply-adds per second of one core.  cores: that may be used.  If even all cores miss the target
    by more than a factor of two, every core computes its own window: threads that share a window wait for each other,
    which costs throughput (a tenth in bf16), and the target is out of reach anyway.
    """
    one_ms = macs / (rate_gmac_s * 1e6)
    threads = min(cores, max(1, math.ceil(one_ms / target_ms)))
    if one_ms / threads > 2 * target_ms:
        threads = 1
    elif cores % threads:  # some cores would be idle: prefer the next divisor, if it is near
        threads = next((n for n in range(threads, min(cores, 2 * threads) + 1) if cores % n == 0), threads)
    return Layout(cores // threads, threads, one_ms / threads)


def instruction_set(flags: Collection[str] | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Return the key of `RATES` for this CPU, at most the set that `ONEDNN_MAX_CPU_ISA` allows. flags: of
    /proc/cpuinfo.
    """
    flags = cpu_flags() if flags is None else flags
    limit = (os.environ if environment is None else environment).get("ONEDNN_MAX_CPU_ISA", "").upper()
    allowed = next((name for start, name in _LIMITS if limit.startswith(start)), "amx")
    found = next((name for name in _ORDER if _FLAGS.get(name) in flags), "other")
    return max(found, allowed, key=_ORDER.index)


def has_bf16(flags: Collection[str] | None = None, environment: Mapping[str, str] | None = None) -> bool:
    """Return whether bf16 is faster: AVX512-BF16 or AMX, not forbidden by the environment; or ARM's BF16."""
    flags = cpu_flags() if flags is None else flags
    return instruction_set(flags, environment) in ("amx", "avx512_bf16") or ("asimd" in flags and "bf16" in flags)


def cpu_flags() -> frozenset[str]:
    """Return the flags in /proc/cpuinfo; empty without that file: then fp32 is used, which always works."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return frozenset()


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiply_adds(graph: Any) -> int:
    """Return the multiply-adds of an OpenVINO graph of fixed shape: of its convolutions and matrix products."""
    total = 0
    for node in graph.get_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        outputs, weights = math.prod(node.get_output_shape(0)), list(node.input(1).get_shape())
        if kind == "MatMul":
            total += outputs * weights[-1 if node.get_attributes().get("transpose_b") else -2]
        else:
            total += outputs * math.prod(weights[1 if kind == "Convolution" else 2 :])
    return total
