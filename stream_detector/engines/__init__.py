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
from dataclasses import dataclass

import torch

from stream_detector.config import EngineConfig
from stream_detector.config.kinds import ENGINES as ENGINES
from stream_detector.engines.fallback import FallbackEngine
from stream_detector.engines.layout import has_bf16
from stream_detector.errors import ConfigError, EngineError, MissingExtraError
from stream_detector.models.bundle import Bundle
from stream_detector.types import Engine

log = logging.getLogger(__name__)

__all__ = ["ENGINES", "EngineChoice", "FallbackEngine", "Hardware", "choose_engine", "detect_hardware", "load_engine"]


@dataclass(frozen=True, slots=True)
class Hardware:
    """The hardware facts that the choice of an engine depends on.

    cuda: names of the devices that PyTorch calls CUDA, "" for one that cannot be used.  bf16: whether the CPU has
    AVX512-BF16 or AMX (or ARM's BF16), and the environment does not forbid it.  rocm: whether the devices are AMD's.
    mps: whether there is an Apple GPU.  broken: the error of a CUDA device that cannot be used; "" if there is none.
    """

    cuda: tuple[str, ...]
    openvino: bool
    bf16: bool
    rocm: bool = False
    mps: bool = False
    broken: str = ""

    @property
    def usable(self) -> tuple[int, ...]:
        """The indices of the CUDA devices that can be used."""
        return tuple(index for index, name in enumerate(self.cuda) if name)


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
    names, broken = _cuda_devices()
    rocm = getattr(torch.version, "hip", None) is not None
    has_openvino = importlib.util.find_spec("openvino") is not None
    return Hardware(names, has_openvino, has_bf16(), rocm, torch.backends.mps.is_available(), broken)


def _cuda_devices() -> tuple[tuple[str, ...], str]:
    """Return the names of the devices, "" for what cannot be used, and an error of the latter in one line."""
    names: list[str] = []
    broken = ""
    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    except RuntimeError as error:
        return (), _one_line(error)
    for index in range(count):
        try:
            names.append(torch.cuda.get_device_name(index))
        except RuntimeError as error:  # busy, locked by another process, or its driver is broken
            names.append("")
            broken = broken or _one_line(error)
    return tuple(names), broken


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def choose_engine(config: EngineConfig, hardware: Hardware) -> EngineChoice:
    """Choose engine, device and precision, with a reason.

    Raises ConfigError for a request that this hardware or the requested engine cannot fulfil.
    """
    if config.engine not in ("auto", "torch", "openvino"):
        return EngineChoice(config.engine, config.device, config.precision, f"{config.engine} was asked for")
    return _choose_among_ours(config, hardware)


def _choose_among_ours(config: EngineConfig, hardware: Hardware) -> EngineChoice:
    index = _cuda_index(config, hardware)
    if config.device == "mps" and not hardware.mps:
        raise ConfigError("device 'mps' was asked for, and there is no Apple GPU here; use --device cpu")
    asked_for_gpu = config.device not in ("auto", "cpu")
    if asked_for_gpu and config.engine == "openvino":
        raise ConfigError("the OpenVINO engine runs on the CPU here; use --device cpu, or --engine torch")
    on_cuda = index is not None and config.engine != "openvino" and (asked_for_gpu or config.precision != "int8")
    if on_cuda or config.device == "mps":
        if config.precision == "int8":
            raise ConfigError("int8 is for OpenVINO on the CPU; use --device cpu, or --precision fp16")
        if config.precision == "tf32" and (hardware.rocm or config.device == "mps"):
            raise ConfigError("tf32 is for NVIDIA GPUs; use --precision fp16 or fp32")
        wanted = "fp16" if config.precision == "auto" else config.precision
        if config.device == "mps":  # never chosen automatically: untested so far
            return EngineChoice("torch", "mps", wanted, "the Apple GPU was asked for")
        kind = "ROCm" if hardware.rocm else "CUDA"
        assert index is not None
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
        why = f"no CUDA device can be used ({hardware.broken})" if hardware.broken else "no CUDA device"
        if config.device == "cpu":
            why = "the CPU was asked for"
        why += ", and openvino is installed" if hardware.openvino else ", and no openvino"
    else:
        why = f"{engine} was asked for"
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if hardware.bf16 else "fp32"
        why += "; the CPU has bf16 instructions" if hardware.bf16 else "; the CPU has no bf16 instructions"
    return EngineChoice(engine, "cpu", precision, why)


def _cuda_index(config: EngineConfig, hardware: Hardware) -> int | None:
    """Return the index of the CUDA device to use. Raises ConfigError if the one that was asked for is of no use."""
    if config.device == "auto":
        return hardware.usable[0] if hardware.usable else None
    if not config.device.startswith("cuda"):
        return None
    index = int(config.device.partition(":")[2] or 0)
    if index >= len(hardware.cuda):
        found = ", ".join(name or "one that cannot be used" for name in hardware.cuda) or hardware.broken or "none"
        raise ConfigError(f"device {config.device!r} was asked for, CUDA devices here: {found}; use --device cpu")
    if index not in hardware.usable:
        raise ConfigError(f"device {config.device!r} cannot be used ({hardware.broken}); use --device cpu")
    return index


def load_engine(bundle: Bundle, config: EngineConfig | None = None, hardware: Hardware | None = None) -> Engine:
    """Load the engine for a bundle and warm it up. Raises ConfigError, MissingExtraError or EngineError.

    With `on_failure = "fallback"`, torch on the CPU replaces an engine that fails, now or later, with a log line.
    """
    config = config or EngineConfig()
    choice = choose_engine(config, hardware or detect_hardware())

    def plain(why: str) -> Engine:
        from stream_detector.engines.torch_engine import TorchEngine

        return TorchEngine(bundle, "fp32", why, config.threads, config.deterministic)

    if config.on_failure == "stop":
        return _load(bundle, choice, config)
    try:
        first = _load(bundle, choice, config)
    except EngineError as error:
        log.warning("engine %s on %s failed: %s; continuing with torch on the CPU", choice.engine, choice.device, error)
        why = f"{choice.engine} on {choice.device} failed: {error}"
    else:
        return FallbackEngine(first, plain)
    return plain(why)  # outside the handler, whose traceback holds what the device holds


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
