"""OpenVINO on the CPU: the default there when it is installed.

The graph is compiled once, for exactly one window, and a batch runs as that many requests. Therefore a score is the
same to the last bit alone and in any batch, at any position, under any load. `layout` determines at load how many
requests run at a time, and on how many threads each. Normalisation and backbone are in the graph, whose input is uint8.
The head is a separate graph. If a CPU refuses bf16 although OpenVINO lists it, fp32 is used.

Converting from PyTorch takes seconds, so the graph is cached under the bundle's fingerprint. int8 needs a graph that
`quantise` made with calibration windows (`stream-detector models quantise`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stream_detector.engines.layout import RATES, available_cores, choose_layout, instruction_set, multiply_adds
from stream_detector.engines.network import Network, blank, check_each, check_windows, checked_output
from stream_detector.errors import ConfigError, EngineError, MissingExtraError
from stream_detector.models.bundle import Bundle
from stream_detector.models.heads import Head
from stream_detector.models.saliency import contributions
from stream_detector.models.weights import cache_directory
from stream_detector.types import EngineOutput, Float32Array, UInt8Array

log = logging.getLogger(__name__)

GRAPH_VERSION = 1  # increase this when the network's computation changes
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def import_openvino() -> Any:
    """Import the package. Raises MissingExtraError."""
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("the OpenVINO engine", "openvino", "openvino") from None
    return openvino


def graph_path(bundle: Bundle, precision: str) -> Path:
    """Return the path of a bundle's converted graph; "int8" has its own path."""
    version = str(import_openvino().__version__).split("-")[0]
    kind = "int8" if precision == "int8" else "float"
    return cache_directory() / "compiled" / f"{bundle.fingerprint}-{GRAPH_VERSION}-{version}-{kind}.xml"


def load_graph(bundle: Bundle) -> Any:
    """Load the bundle's graph in float32 for one window: from the cache, or converted now (and cached if possible).

    The graph is always read from a file: a graph fresh from the converter differs from the written one, and scores
    differ in the last bits; the first run of a bundle must agree with all later ones.
    """
    openvino = import_openvino()
    path = graph_path(bundle, "fp32")
    if path.is_file():
        with contextlib.suppress(RuntimeError):  # damaged: convert again
            return openvino.Core().read_model(str(path))
    graph = convert_module(Network(bundle), blank(bundle.recipe))
    if save_graph(graph, path):
        return openvino.Core().read_model(str(path))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        spare = Path(folder) / path.name
        return openvino.Core().read_model(str(spare)) if save_graph(graph, spare) else graph


def convert_module(module: torch.nn.Module, window: torch.Tensor) -> Any:
    """Convert PyTorch to OpenVINO for uint8 windows of exactly this shape, directly through the frontend.

    `openvino.convert_model` would trace the network three times for a comparison, and sends telemetry.
    """
    openvino = import_openvino()
    from openvino.frontend import FrontEndManager

    try:  # an undocumented class; tests/engines/test_openvino_frontend.py says what is used of it
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    except ImportError:
        raise EngineError(
            f"OpenVINO {openvino.__version__} has no TorchScriptPythonDecoder; install a version that pyproject.toml "
            "allows, or use --engine torch"
        ) from None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript warns that it is deprecated
        traced = TorchScriptPythonDecoder(module, example_input=(window,), trace_kwargs={"check_trace": False})
        frontend = FrontEndManager().load_by_framework("pytorch")
        graph = frontend.convert(frontend.load(traced))
    source = graph.inputs[0].get_node()
    source.set_element_type(openvino.Type.u8)
    source.set_partial_shape(openvino.PartialShape(list(window.shape)))
    graph.validate_nodes_and_infer_types()
    return graph


def save_graph(graph: Any, path: Path) -> bool:
    """Write a graph (.xml and .bin), whole or not at all; return False if the folder cannot be written."""
    with contextlib.suppress(OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.xml")
        import_openvino().save_model(graph, str(partial), compress_to_fp16=False)
        os.replace(partial.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(partial, path)
        return True
    return False


class OpenVinoEngine:
    """Implements `types.Engine`. precision: "fp32", "bf16" or "int8".  threads: 0 means all cores."""

    name = "openvino"
    device = "cpu"
    max_batch = 64
    good_wait_s = 0.0  # windows run one by one, so there is nothing to wait for

    def __init__(self, bundle: Bundle, precision: str = "fp32", reason: str = "asked for", threads: int = 0) -> None:
        openvino = import_openvino()
        self._recipe = bundle.recipe
        self._dim = bundle.manifest.backbone.feature_dim
        self._tensor = openvino.Tensor
        self._requests: list[Any] = []
        self._head: Any = None
        self._explains: Head | None = None  # the head, if the last map of the network is known
        try:
            graph = _int8_graph(bundle) if precision == "int8" else load_graph(bundle)
            body, head = split_graph(graph)
            own = bundle.build_head()
            self._explains = own if isinstance(own, Head) and expose_last_map(body, self._dim) else None
            core = openvino.Core()
            self.precision, self.reason, refused = precision, reason, ""
            try:
                self._compile(core, body, threads or available_cores())
            except RuntimeError as error:
                if precision != "bf16":
                    raise
                refused = _brief(error)
            if refused:
                self.precision = "fp32"
                self.reason = f"{reason}; OpenVINO refused bf16 here ({refused}), so this is fp32"
                log.warning("OpenVINO refused bf16 on this CPU (%s); continuing in fp32", refused)
                self._compile(core, body, threads or available_cores())
            hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1"}
            self._head = core.compile_model(head, "CPU", hints).create_infer_request()
            self._run(blank(self._recipe).numpy())
        except RuntimeError as error:
            raise _failed(error) from error
        self.good_batch = self.layout.streams

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """Score windows: uint8 (B, 16, H, W, 3) RGB. Normalisation is part of the graph. Raises EngineError."""
        check_windows(frames, self._recipe, self.max_batch)
        return self._infer(frames)

    def infer_windows(self, windows: Sequence[UInt8Array]) -> EngineOutput:
        """Score separate windows, uint8 (16, H, W, 3) RGB each, without copying them first. Raises EngineError."""
        check_each(windows, self._recipe, self.max_batch)
        return self._infer(windows)

    def _infer(self, windows: UInt8Array | Sequence[UInt8Array]) -> EngineOutput:
        if not self._requests:
            raise EngineError("the engine was closed already; load it again")
        started = time.perf_counter()
        try:
            features, scores, grids = self._run(windows)
        except RuntimeError as error:
            raise _failed(error) from error
        return checked_output(features, scores, 0.0, time.perf_counter() - started, grids)

    def close(self) -> None:
        """Release the compiled graphs."""
        self._requests, self._head = [], None

    def _compile(self, core: Any, body: Any, cores: int) -> None:
        rate = RATES[instruction_set()][self.precision]
        self.layout = choose_layout(multiply_adds(body), rate, cores)
        hints = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(self.layout.streams),
            "INFERENCE_NUM_THREADS": str(self.layout.streams * self.layout.threads),
        }
        compiled = core.compile_model(body, "CPU", hints)
        requests = [compiled.create_infer_request() for _ in range(self.layout.streams)]
        requests[0].infer([blank(self._recipe).numpy()])  # some refusals occur only now
        self._requests = requests

    def _run(self, frames: UInt8Array | Sequence[UInt8Array]) -> tuple[Float32Array, Float32Array, Float32Array | None]:
        count, requests = len(frames), self._requests
        maps: dict[int, Float32Array] = {}
        features: Float32Array = np.empty((count, self._dim), np.float32)
        scores: Float32Array = np.empty(count, np.float32)
        running: dict[int, int] = {}
        held: dict[int, UInt8Array] = {}  # keeps the memory that requests read

        def collect(slot: int) -> None:
            requests[slot].wait()
            row = running.pop(slot)
            features[row] = requests[slot].get_output_tensor(0).data[0]
            if self._explains is not None:
                maps[row] = requests[slot].get_output_tensor(1).data.mean(axis=2, keepdims=True)

        try:
            for row in range(count):
                slot = row % len(requests)
                if slot in running:
                    collect(slot)
                held[slot] = np.require(frames[row], requirements=["C", "W"])  # copies only read-only memory
                requests[slot].set_input_tensor(self._tensor(held[slot][None], shared_memory=True))
                requests[slot].start_async()
                running[slot] = row
            for slot in sorted(running, key=lambda s: running[s]):
                collect(slot)
        finally:
            for slot in running:  # after an error no request may still read `frames`
                with contextlib.suppress(RuntimeError):
                    requests[slot].wait()
        for row in range(count):
            self._head.infer([features[row : row + 1]])
            scores[row] = self._head.get_output_tensor(0).data[0]
        if self._explains is None:
            return features, scores, None
        with torch.inference_mode():  # one by one, so that a window's grid does not depend on its batch
            rows = [
                contributions(self._explains, torch.from_numpy(features[row : row + 1]), torch.from_numpy(maps[row]))
                for row in range(count)
            ]
        return features, scores, torch.cat(rows).numpy()


def split_graph(graph: Any) -> tuple[Any, Any]:
    """Split a bundle's graph into (windows → features, features → scores); `graph` cannot be used afterwards.

    The head runs separately, in float32 and on one thread: CPUs sum a matrix product of one row in an order that
    depends on the number of threads, and bf16 would round the values that thresholds are compared with.
    """
    openvino = import_openvino()
    features = graph.outputs[0].get_node().input_value(0)
    results = [output.get_node() for output in graph.outputs]
    entry = openvino.opset8.parameter(features.get_partial_shape(), features.get_element_type(), name="features")
    for user in list(features.get_target_inputs()):
        if user.get_node().get_friendly_name() != results[0].get_friendly_name():
            user.replace_source_output(entry.output(0))
    body = openvino.Model([results[0]], graph.get_parameters(), "body")
    return body, openvino.Model([results[1]], [entry], "head")


def expose_last_map(body: Any, dim: int) -> bool:
    """Add the last map (1, D, T, h, w) as a second output of windows → features; return False if it is not found.

    It is the input of the mean that gives the features. The output does not change the features' bits
    (`tests/engines/test_grids.py`), and costs one copy of the map.
    """
    node = body.outputs[0].get_node().input_value(0).get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "ReduceMean":
        return False
    last = node.input_value(0)
    shape = last.get_partial_shape()
    if shape.is_dynamic or len(shape) != 5 or shape.to_shape()[1] != dim:
        return False
    body.add_outputs([last])
    return True


def _int8_graph(bundle: Bundle) -> Any:
    path = graph_path(bundle, "int8")
    if not path.is_file():
        raise ConfigError(
            f"bundle {bundle.name!r} has no int8 graph yet; make one from your own footage with "
            f"`stream-detector models quantise {bundle.name} VIDEO …`"
        )
    return import_openvino().Core().read_model(str(path))


def _brief(error: BaseException) -> str:
    """Return the last sentence of an OpenVINO error; the sentences before it name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160] if lines else type(error).__name__


def _failed(error: BaseException) -> EngineError:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return EngineError(f"OpenVINO failed ({text}); run with --engine torch")
