"""Engines: uint8 windows in, features and scores out, behind one protocol (`types.Engine`).

In: uint8 windows, a bundle.
Out: features and scores.
Imports: capture (pictures), demo (footage for calibration), models, config, types, errors.

    --engine auto     CUDA device → torch (graphs, fp16);  CPU → openvino if installed, else torch
    --precision auto  CUDA → fp16;  CPU → bf16 if it has the instructions, else fp32

To add an engine, register a factory in `ENGINES` (see `system.registry`); it is used when the configuration names it.
`choose_engine` decides and gives a reason, which the run shows. int8 is used only on request.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stream_detector.config import EngineConfig
from stream_detector.config.kinds import ENGINES as ENGINES
from stream_detector.engines.feeding import GathersWindows
from stream_detector.engines.layout import has_bf16
from stream_detector.errors import ConfigError, EngineError, MissingExtraError
from stream_detector.models.bundle import Bundle
from stream_detector.types import Engine, EngineOutput, UInt8Array

log = logging.getLogger(__name__)

__all__ = ["ENGINES", "EngineChoice", "FallbackEngine", "Hardware", "choose_engine", "detect_hardware", "load_engine"]


@dataclass(frozen=True, slots=True)
class Hardware:
    """The hardware facts that the choice of an engine depends on.

    cuda: names of the devices that PyTorch calls CUDA.  bf16: whether the CPU has AVX512-BF16 or AMX (or ARM's BF16),
    and the environment does not forbid it.  rocm: whether the devices are AMD's.  mps: whether there is an Apple GPU.
    """

    cuda: tuple[str, ...]
    openvino: bool
    bf16: bool
    rocm: bool = False
    mps: bool = False


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """A chosen engine. engine: a name in `ENGINES`.  device: "cpu", "mps" or "cuda:N".  reason: one clause, for people.

    For an engine of another package, device and precision are the requested ones, which may be "auto".
    """

    engine: str
    device: str
    precision: str
    reason: str


def detect_hardware() -> Hardware:
    """Detect the hardware without importing a large library."""
    names: tuple[str, ...] = ()
    if torch.cuda.is_available():
        names = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    rocm = getattr(torch.version, "hip", None) is not None
    has_openvino = importlib.util.find_spec("openvino") is not None
    return Hardware(names, has_openvino, has_bf16(), rocm, torch.backends.mps.is_available())


def choose_engine(config: EngineConfig, hardware: Hardware) -> EngineChoice:
    """Choose engine, device and precision, with a reason.

    Raises ConfigError for a request that this hardware or the requested engine cannot fulfil.
    """
    if config.engine not in ("auto", "torch", "openvino"):
        return EngineChoice(config.engine, config.device, config.precision, f"{config.engine} was asked for")
    return _choose_among_ours(config, hardware)


def _choose_among_ours(config: EngineConfig, hardware: Hardware) -> EngineChoice:
    wants_cuda = config.device.startswith("cuda")
    index = int(config.device.partition(":")[2] or 0) if wants_cuda else 0
    if wants_cuda and index >= len(hardware.cuda):
        found = ", ".join(hardware.cuda) or "none"
        raise ConfigError(f"device {config.device!r} was asked for, CUDA devices here: {found}; use --device cpu")
    if config.device == "mps" and not hardware.mps:
        raise ConfigError("device 'mps' was asked for, and there is no Apple GPU here; use --device cpu")
    if (wants_cuda or config.device == "mps") and config.engine == "openvino":
        raise ConfigError("the OpenVINO engine runs on the CPU here; use --device cpu, or --engine torch")
    on_cuda = wants_cuda or (config.device == "auto" and bool(hardware.cuda) and config.engine != "openvino")
    on_cuda = on_cuda and (wants_cuda or config.precision != "int8")
    if on_cuda or config.device == "mps":
        if config.precision == "int8":
            raise ConfigError("int8 is for OpenVINO on the CPU; use --device cpu, or --precision fp16")
        if config.precision == "tf32" and (hardware.rocm or config.device == "mps"):
            raise ConfigError("tf32 is for NVIDIA GPUs; use --precision fp16 or fp32")
        wanted = "fp16" if config.precision == "auto" else config.precision
        if config.device == "mps":  # never chosen automatically: untested so far
            return EngineChoice("torch", "mps", wanted, "the Apple GPU was asked for")
        kind = "ROCm" if hardware.rocm else "CUDA"
        return EngineChoice("torch", f"cuda:{index}", wanted, f"{kind} device {hardware.cuda[index]}")
    if config.engine == "openvino" and not hardware.openvino:
        raise MissingExtraError("the OpenVINO engine", "openvino", "openvino")
    if config.precision == "int8" and (config.engine == "torch" or not hardware.openvino):
        raise ConfigError("int8 needs the OpenVINO engine; install stream-detector[openvino] and use --engine openvino")
    if config.precision in ("fp16", "tf32"):
        raise ConfigError(f"{config.precision} is for CUDA devices; on the CPU use --precision fp32 or bf16")
    if config.precision == "bf16" and not hardware.bf16:
        raise ConfigError("this CPU has no bf16 instructions (AVX512-BF16, AMX); use --precision fp32 or auto")
    engine = config.engine
    if engine == "auto":
        engine = "openvino" if hardware.openvino else "torch"
        why = "no CUDA device, and openvino is installed" if hardware.openvino else "no CUDA device, and no openvino"
        if config.device == "cpu":
            why = why.replace("no CUDA device, and", "the CPU was asked for, and")
    else:
        why = f"{engine} was asked for"
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if hardware.bf16 else "fp32"
        why += "; the CPU has bf16 instructions" if hardware.bf16 else "; the CPU has no bf16 instructions"
    return EngineChoice(engine, "cpu", precision, why)


def load_engine(bundle: Bundle, config: EngineConfig | None = None, hardware: Hardware | None = None) -> Engine:
    """Load the engine for a bundle and warm it up. Raises ConfigError, MissingExtraError or EngineError.

    With `on_failure = "fallback"`, torch on the CPU replaces an engine that fails, now or later, with a log line.
    """
    config = config or EngineConfig()
    choice = choose_engine(config, hardware or detect_hardware())

    def plain() -> Engine:
        from stream_detector.engines.torch_engine import TorchEngine

        return TorchEngine(bundle, "fp32", "the first engine failed", config.threads, config.deterministic)

    if config.on_failure == "stop":
        return _load(bundle, choice, config)
    try:
        first = _load(bundle, choice, config)
    except EngineError as error:
        log.warning("engine %s on %s failed: %s; continuing with torch on the CPU", choice.engine, choice.device, error)
        return plain()
    return FallbackEngine(first, plain)


class FallbackEngine:
    """An engine that is replaced by torch on the CPU when it fails; the replacement scores the failed batch again."""

    def __init__(self, first: Engine, replacement: Callable[[], Engine]) -> None:
        self._engine = first
        self._replacement: Callable[[], Engine] | None = replacement
        self._adopt(first, first.reason)
        self.max_batch = first.max_batch

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """See `types.Engine`. Raises EngineError if the replacement fails as well."""
        limit = self._engine.max_batch
        if len(frames) > limit:  # the replacement takes fewer windows at once than the first engine promised
            return _joined([self._engine.infer(frames[i : i + limit]) for i in range(0, len(frames), limit)])
        try:
            return self._engine.infer(frames)
        except EngineError as error:
            if self._replacement is None:
                raise
            self._replace(error)
            return self.infer(frames)

    def infer_windows(self, windows: Sequence[UInt8Array]) -> EngineOutput:
        """See `types.Engine`; takes separate windows. Raises EngineError if the replacement fails as well."""
        if self._replacement is None or not isinstance(self._engine, GathersWindows):
            return self.infer(np.stack(windows))
        try:
            return self._engine.infer_windows(windows)
        except EngineError as error:
            self._replace(error)
            return self.infer(np.stack(windows))

    def close(self) -> None:
        """Close the engine in use."""
        self._engine.close()

    def _replace(self, error: EngineError) -> None:
        assert self._replacement is not None
        log.warning("engine %s on %s failed: %s; continuing with torch on the CPU", self.name, self.device, error)
        replacement, self._replacement = self._replacement(), None
        self._engine.close()
        self._adopt(replacement, f"{self.name} on {self.device} failed: {error}")

    def _adopt(self, engine: Engine, reason: str) -> None:
        self._engine = engine
        self.name, self.device, self.precision, self.reason = engine.name, engine.device, engine.precision, reason
        self.good_batch, self.good_wait_s = engine.good_batch, engine.good_wait_s
        self.deterministic: bool = getattr(engine, "deterministic", False)


def _joined(parts: list[EngineOutput]) -> EngineOutput:
    grids = [p.grids for p in parts if p.grids is not None]
    return EngineOutput(
        np.concatenate([p.features for p in parts]),
        np.concatenate([p.scores for p in parts]),
        sum(p.preprocess_s for p in parts),
        sum(p.forward_s for p in parts),
        np.concatenate(grids) if len(grids) == len(parts) else None,
    )


def make_openvino(bundle: Bundle, choice: EngineChoice, config: EngineConfig) -> Engine:
    """Make the engine "openvino"."""
    from stream_detector.engines.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(bundle, choice.precision, choice.reason, config.threads)


def make_torch(bundle: Bundle, choice: EngineChoice, config: EngineConfig) -> Engine:
    """Make the engine "torch": `TorchEngine` on the CPU, `CudaEngine` on other devices."""
    if choice.device != "cpu":
        from stream_detector.engines.cuda_engine import CudaEngine

        return CudaEngine(bundle, choice.device, choice.precision, choice.reason, config.deterministic)
    from stream_detector.engines.torch_engine import TorchEngine

    return TorchEngine(bundle, choice.precision, choice.reason, config.threads, config.deterministic)


def _load(bundle: Bundle, choice: EngineChoice, config: EngineConfig) -> Engine:
    engine: Engine = ENGINES.get(choice.engine)(bundle, choice, config)
    return engine
