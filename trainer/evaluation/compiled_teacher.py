"""The teacher, compiled by OpenVINO: on a CPU with bfloat16 arithmetic it is four times as fast as PyTorch in float32.

Only its outputs are used, no gradients. `compiled_teacher` measures their bfloat16 error at every start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream_detector.engines.layout import available_cores
from stream_detector.engines.openvino_engine import convert_module, import_openvino
from stream_detector.errors import DataError, MissingExtraError
from stream_detector.models.backbones.i3d import I3D
from stream_detector.types import WINDOW_FRAMES, UInt8Array
from trainer.data.clips import sides
from trainer.data.sizes import Size

GRID = 5  # cells per side of the stored maps: at 160 pixels every cell
MIDDLE = "Mixed_4f"  # the block whose output is the middle map


class Answer(NamedTuple):
    """The teacher's outputs for B windows: features (B, 1024), logits (B, 400), and, on request, two maps.

    middle: (B, 832, 2, 5, 5), output of `Mixed_4f`.  last: (B, 1024, 1, 5, 5), whose mean is `features`.
    """

    features: Tensor
    logits: Tensor
    middle: Tensor | None = None
    last: Tensor | None = None


Teacher = Callable[[UInt8Array], Answer]


def ask(model: I3D, clip: Tensor, *, maps: bool = False) -> Answer:
    """Return the outputs for float (B, 3, 16, s, s) in [-1, 1]; each cell of a map is the average over its pixels."""
    if not maps or model.fc is None:
        return Answer(*model.both(clip))
    x, middle = clip, clip
    for name, stage in model.stages.named_children():
        x = stage(x)
        if name == MIDDLE:
            middle = F.adaptive_avg_pool3d(x, (2, GRID, GRID))
    features = x.mean(dim=(2, 3, 4))
    return Answer(features, model.fc(features), middle, F.adaptive_avg_pool3d(x, (1, GRID, GRID)))


class _FromBytes(nn.Module):
    def __init__(self, model: I3D, maps: bool) -> None:
        super().__init__()
        self.model, self.maps = model, maps

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        said = ask(self.model, windows.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0, maps=self.maps)
        return tuple(part for part in said if part is not None)


def compiled_teacher(model: I3D, size: Size, *, maps: bool = False, least_cosine: float = 0.995) -> Teacher | None:
    """Return the compiled teacher: uint8 windows (B, 16, rows, columns, 3) RGB → `Answer`, with maps on request.

    Return None without OpenVINO and on CPUs without bfloat16, where compiling saves nothing. Raises DataError if the
    compiled output for one noisy window has a cosine to PyTorch's output below `least_cosine`.
    """
    probe = torch.randint(0, 256, (1, WINDOW_FRAMES, *sides(size), 3), generator=torch.Generator().manual_seed(0))
    compiled = compiled_module(_FromBytes(model.eval(), maps), probe.to(torch.uint8), least_cosine=least_cosine)
    return None if compiled is None else lambda windows: Answer(*compiled(windows))


def compiled_module(
    plain: nn.Module, probe: Tensor, *, least_cosine: float = 0.995
) -> Callable[[UInt8Array], tuple[Tensor, ...]] | None:
    """Compile a module of one window (1, …) uint8 → a tuple of tensors, in bfloat16, for many windows at a time.

    Return None without OpenVINO and on CPUs without bfloat16. Raises DataError if the first output for the probe window
    has a cosine to PyTorch's output below `least_cosine`.
    """
    try:
        openvino = import_openvino()
    except MissingExtraError:
        return None
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    with torch.no_grad():
        wanted = plain(probe)
    count = available_cores()
    hints = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(count)}
    compiled = core.compile_model(convert_module(plain, probe), "CPU", hints)
    requests = [compiled.create_infer_request() for _ in range(count)]

    def answer(windows: UInt8Array) -> tuple[Tensor, ...]:
        rows: list[list[np.ndarray[Any, np.dtype[np.float32]]]] = []
        for first in range(0, len(windows), count):
            running: list[Any] = []
            for request, window in zip(requests, windows[first : first + count], strict=False):
                request.start_async([np.ascontiguousarray(window[None])])
                running.append(request)
            for request in running:
                request.wait()
                rows.append([request.get_output_tensor(k).data[0].copy() for k in range(len(wanted))])
        return tuple(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))

    cosine = float(F.cosine_similarity(answer(probe.numpy())[0], wanted[0]).item())
    if cosine < least_cosine:
        raise DataError(f"the compiled teacher differs from PyTorch's (cosine {cosine:.4f}); uninstall openvino")
    return answer
