"""Chooses Keras' backend, once per process, before Keras is imported.

Keras 3 reads KERAS_BACKEND at import and keeps it for the life of the process. Every use of Keras calls `use_backend`
first; a missing package becomes one sentence, and TensorFlow is never loaded for PyTorch.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import sys
import warnings
from typing import Any, Literal, get_args

import numpy as np

from stream_detector.errors import DataError, MissingExtraError

Backend = Literal["torch", "tensorflow"]
BACKENDS: tuple[str, ...] = get_args(Backend)


def use_backend(name: str) -> Any:
    """Import Keras on the backend `name` ("torch" or "tensorflow") and return the module.

    Raises DataError for an unknown name or when this process already runs the other backend, MissingExtraError when
    Keras or TensorFlow is not installed.
    """
    if name not in BACKENDS:
        raise DataError(f"unknown backend {name!r}; use one of: {', '.join(BACKENDS)}")
    if importlib.util.find_spec("keras") is None:
        raise MissingExtraError(f"training on {name}", "keras", "train")
    if name == "tensorflow" and importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError("training on TensorFlow", "tensorflow", "tensorflow", "stream-detector-trainer")
    if "keras" in sys.modules:
        import keras

        if keras.backend.backend() != name:
            raise DataError(
                f"this process already runs Keras on {keras.backend.backend()}; start a new process for {name}"
            )
        return keras
    os.environ["KERAS_BACKEND"] = name
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's log lines would hide the progress bar
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings inside Keras and TensorFlow
        return importlib.import_module("keras")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and the backend in use.

    For PyTorch this is done here, because Keras' own function would import TensorFlow, if installed, only to seed it.
    """
    import keras

    if keras.backend.backend() == "torch":
        import torch

        random.seed(seed)  # Keras draws the seeds of its layers from here
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
    else:
        keras.utils.set_random_seed(seed)
