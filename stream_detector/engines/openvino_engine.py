"""OpenVINO on the CPU: the default there when it is installed.

The graph is compiled for exactly one window, and a batch is run as that many requests: so the score of a window cannot
depend on its company. Two builds of it are kept: with all threads on one window (when there are fewer windows than
cores), and with one stream per core. Normalisation, backbone and head are all in the graph; uint8 goes in.

Converting from PyTorch takes seconds, so the graph is kept in the cache, under the bundle's fingerprint. int8 needs a
graph that `quantise` made with calibration windows (`stream-detector models quantise`).
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stream_detector.bundle import Bundle
from stream_detector.engines.network import Network, blank, check_windows, checked_output
from stream_detector.errors import ConfigError, EngineError, MissingExtraError
from stream_detector.types import EngineOutput, Float32Array, UInt8Array
from stream_detector.weights import cache_directory

GRAPH_VERSION = 1  # to be raised when the network's computation changes
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def import_openvino() -> Any:
    """The package. Raises MissingExtraError."""
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("the OpenVINO engine", "openvino", "openvino") from None
    return openvino


def graph_path(bundle: Bundle, precision: str) -> Path:
    """Where the converted graph of a bundle is kept; "int8" apart from the others."""
    version = str(import_openvino().__version__).split("-")[0]
    kind = "int8" if precision == "int8" else "float"
    return cache_directory() / "compiled" / f"{bundle.fingerprint}-{GRAPH_VERSION}-{version}-{kind}.xml"


def load_graph(bundle: Bundle) -> Any:
    """The bundle's graph in float32 for one window: from the cache, or converted now (and cached, if possible)."""
    openvino = import_openvino()
    path = graph_path(bundle, "fp32")
    if path.is_file():
        with contextlib.suppress(RuntimeError):  # damaged: convert again
            return openvino.Core().read_model(str(path))
    graph = convert_module(Network(bundle), blank(bundle.recipe))
    save_graph(graph, path)
    return graph


def convert_module(module: torch.nn.Module, window: torch.Tensor) -> Any:
    """PyTorch → OpenVINO for uint8 windows of exactly this shape, through the frontend itself.

    `openvino.convert_model` would trace the network three times to compare, and reports each use to its makers.
    """
    openvino = import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript calls itself deprecated
        traced = TorchScriptPythonDecoder(module, example_input=(window,), trace_kwargs={"check_trace": False})
        frontend = FrontEndManager().load_by_framework("pytorch")
        graph = frontend.convert(frontend.load(traced))
    source = graph.inputs[0].get_node()
    source.set_element_type(openvino.Type.u8)
    source.set_partial_shape(openvino.PartialShape(list(window.shape)))
    graph.validate_nodes_and_infer_types()
    return graph


def save_graph(graph: Any, path: Path) -> None:
    """Write a graph (.xml and .bin), whole or not at all; a cache that cannot be written is left alone."""
    with contextlib.suppress(OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.xml")
        import_openvino().save_model(graph, str(partial), compress_to_fp16=False)
        os.replace(partial.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(partial, path)


class OpenVinoEngine:
    """Implements `types.Engine`. precision: "fp32", "bf16" or "int8".  threads: 0 means all cores."""

    name = "openvino"
    device = "cpu"
    max_batch = 64
    good_wait_s = 0.0  # windows run one by one: there is nothing to wait for

    def __init__(self, bundle: Bundle, precision: str = "fp32", reason: str = "asked for", threads: int = 0) -> None:
        openvino = import_openvino()
        self.precision = precision
        self.reason = reason
        self._recipe = bundle.recipe
        self._dim = bundle.manifest.backbone.feature_dim
        self._tensor = openvino.Tensor
        count = threads or available_cores()
        self.good_batch = count
        try:
            core = openvino.Core()
            if precision == "int8":
                path = graph_path(bundle, "int8")
                if not path.is_file():
                    raise ConfigError(
                        f"bundle {bundle.name!r} has no int8 graph yet; make one from your own footage with "
                        f"`stream-detector models quantise {bundle.name} VIDEO …`"
                    )
                graph = core.read_model(str(path))
            else:
                graph = load_graph(bundle)
            common = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": str(count)}
            fast = core.compile_model(graph, "CPU", {**common, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"})
            self._single: Any = [fast.create_infer_request()]
            self._many: Any = []
            if count > 1:
                hints = {**common, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(count)}
                wide = core.compile_model(graph, "CPU", hints)
                self._many = [wide.create_infer_request() for _ in range(count)]
            self._run(self._single, blank(self._recipe).numpy())
        except RuntimeError as error:
            raise _failed(error) from error

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """frames: uint8 (B, 16, H, W, 3) RGB. Normalisation is part of the graph. Raises EngineError."""
        check_windows(frames, self._recipe, self.max_batch)
        if not self._single:
            raise EngineError("the engine was closed already; load it again")
        started = time.perf_counter()
        requests = self._many if self._many and len(frames) >= len(self._many) else self._single
        try:
            features, scores = self._run(requests, np.ascontiguousarray(frames))
        except RuntimeError as error:
            raise _failed(error) from error
        return checked_output(features, scores, 0.0, time.perf_counter() - started)

    def close(self) -> None:
        """Release the compiled graphs."""
        self._single, self._many = [], []

    def _run(self, requests: list[Any], frames: UInt8Array) -> tuple[Float32Array, Float32Array]:
        count = len(frames)
        features: Float32Array = np.empty((count, self._dim), np.float32)
        scores: Float32Array = np.empty(count, np.float32)
        running: dict[int, int] = {}

        def collect(slot: int) -> None:
            requests[slot].wait()
            row = running.pop(slot)
            features[row] = requests[slot].get_output_tensor(0).data[0]
            scores[row] = requests[slot].get_output_tensor(1).data[0]

        try:
            for row in range(count):
                slot = row % len(requests)
                if slot in running:
                    collect(slot)
                requests[slot].set_input_tensor(self._tensor(frames[row : row + 1], shared_memory=True))
                requests[slot].start_async()
                running[slot] = row
            for slot in sorted(running, key=lambda s: running[s]):
                collect(slot)
        finally:
            for slot in running:  # after an error: nobody may go on reading `frames`
                with contextlib.suppress(RuntimeError):
                    requests[slot].wait()
        return features, scores


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failed(error: BaseException) -> EngineError:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return EngineError(f"OpenVINO failed ({text}); run with --engine torch")
