"""The teacher, compiled: on a CPU with bfloat16 arithmetic OpenVINO asks it four times as fast as PyTorch in float32.

Only its answers are wanted, no gradients; their error in bfloat16 is measured by `compiled_teacher` on every start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream_detector.backbones.i3d import I3D
from stream_detector.engines.openvino_engine import available_cores, convert_module, import_openvino
from stream_detector.errors import DataError, MissingExtraError
from stream_detector.types import WINDOW_FRAMES, UInt8Array

Teacher = Callable[[UInt8Array], tuple[Tensor, Tensor]]


class _FromBytes(nn.Module):
    def __init__(self, model: I3D) -> None:
        super().__init__()
        self.model = model

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.both(windows.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0)


def compiled_teacher(model: I3D, size: int, *, least_cosine: float = 0.995) -> Teacher | None:
    """uint8 windows (B, 16, size, size, 3) RGB → features (B, 1024), logits (B, 400); None where it would not help.

    None without OpenVINO and on CPUs without bfloat16. Raises DataError if the compiled answer to one noisy window is
    farther than `least_cosine` from PyTorch's.
    """
    try:
        openvino = import_openvino()
    except MissingExtraError:
        return None
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    probe = torch.randint(0, 256, (1, WINDOW_FRAMES, size, size, 3), generator=torch.Generator().manual_seed(0))
    probe = probe.to(torch.uint8)
    plain = _FromBytes(model.eval())
    count = available_cores()
    hints = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(count)}
    compiled = core.compile_model(convert_module(plain, probe), "CPU", hints)
    requests = [compiled.create_infer_request() for _ in range(count)]

    def ask(windows: UInt8Array) -> tuple[Tensor, Tensor]:
        features, logits = [], []
        for first in range(0, len(windows), count):
            running: list[Any] = []
            for request, window in zip(requests, windows[first : first + count], strict=False):
                request.start_async([np.ascontiguousarray(window[None])])
                running.append(request)
            for request in running:
                request.wait()
                features.append(request.get_output_tensor(0).data[0].copy())
                logits.append(request.get_output_tensor(1).data[0].copy())
        return torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(logits))

    with torch.no_grad():
        wanted = plain(probe)[0]
    cosine = float(F.cosine_similarity(ask(probe.numpy())[0], wanted).item())
    if cosine < least_cosine:
        raise DataError(f"the compiled teacher differs from PyTorch's (cosine {cosine:.4f}); uninstall openvino")
    return ask
