"""The parts of OpenVINO's PyTorch frontend that are not documented: they are still there, or there is one sentence."""

from __future__ import annotations

import builtins
import inspect
from typing import Any

import pytest
import torch

from stream_detector.engines.openvino_engine import convert_module
from stream_detector.errors import EngineError

pytest.importorskip("openvino")


def test_the_undocumented_decoder_is_there_and_takes_the_arguments() -> None:
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    parameters = inspect.signature(TorchScriptPythonDecoder.__init__).parameters
    assert {"example_input", "trace_kwargs"} <= parameters.keys(), "convert_module passes these: adapt it, or the pin"


def test_a_version_without_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "openvino.frontend.pytorch.ts_decoder":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineError, match="has no TorchScriptPythonDecoder; install a version that"):
        convert_module(torch.nn.Identity(), torch.zeros((1, 16, 8, 8, 3), dtype=torch.uint8))
