"""The process-wide settings by which cuDNN and cuBLAS choose kernels, for as long as an engine is loaded.

    with LOADING, kernels("fp32", deterministic=False): capture graphs

fp32 is computed in fp32 (in PyTorch: "ieee"); TF32 is used for "tf32" alone. PyTorch has two interfaces for this. The
new one (`fp32_precision`, since 2.9) is used where it is present: a program that uses it cannot even read the old one
(`allow_tf32`). There, a setting that was never made follows its parent, and cannot be unmade once it was made. So the
parent of all CUDA libraries is set, and of its children only those that do not follow it. Then restoring these restores
the host program's settings exactly.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

# One load at a time: the settings below are of the process, and a capture must not be disturbed by another one.
LOADING = threading.RLock()
UNSET = "none"


@contextlib.contextmanager
def kernels(precision: str, deterministic: bool = False) -> Iterator[None]:
    """Return a context in which kernels are chosen for `precision`; every setting is restored afterwards."""
    cudnn = torch.backends.cudnn
    with contextlib.ExitStack() as stack:
        stack.enter_context(_changed(cudnn, "enabled", True))
        stack.enter_context(_changed(cudnn, "benchmark", not deterministic))  # shapes are few and fixed
        stack.enter_context(_changed(cudnn, "deterministic", deterministic))
        stack.enter_context(tf32(precision == "tf32"))
        yield


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Return a context in which fp32 products may, or may not, be computed in TF32."""
    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    with contextlib.ExitStack() as stack:
        if _has_new_interface():
            value = "tf32" if allowed else "ieee"
            stack.callback(setattr, cudnn, "fp32_precision", _own_setting(cudnn, backends))
            cudnn.fp32_precision = value  # of all CUDA libraries, not of cuDNN alone
            for library in (matmul, cudnn.conv, cudnn.rnn):
                if library.fp32_precision != value:
                    stack.enter_context(_changed(library, "fp32_precision", value))
        else:
            stack.enter_context(_changed(matmul, "allow_tf32", allowed))
            stack.enter_context(_changed(cudnn, "allow_tf32", allowed))
        yield


def _has_new_interface() -> bool:
    backends: Any = torch.backends
    places = (backends, backends.cuda.matmul, backends.cudnn, getattr(backends.cudnn, "conv", None))
    return all(hasattr(place, "fp32_precision") for place in places)


@contextlib.contextmanager
def _changed(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _own_setting(child: Any, parent: Any) -> str:
    """Return what is set at `child` itself; "none" if it follows `parent`."""
    holds: str = child.fp32_precision
    of_parent: str = parent.fp32_precision
    if holds != of_parent or holds == UNSET:
        return holds
    parent.fp32_precision = "ieee" if holds == "tf32" else "tf32"
    try:
        return holds if child.fp32_precision == holds else UNSET
    finally:
        parent.fp32_precision = of_parent
