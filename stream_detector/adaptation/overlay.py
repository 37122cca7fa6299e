"""Overlays: a site's additions to a bundle. A correction of the head, a threshold, a smoothing, and optionally a
novelty term.

    score of the bundle ──logit──▶ + correction(features) + novelty(features) ──sigmoid──▶ smoothing ──▶ threshold

An overlay works in the decision stage, on features and scores that the engine gives in any case: no network is compiled
again. It belongs to one bundle (by fingerprint) and to one camera or to the whole site. Features are rounded to half
precision first, as the memory of the site stores them, so a replay of the memory gives exactly the decisions of the
live run.

The file is one safetensors file: arrays, and the other values as JSON in its header. Its fingerprint covers every value
that influences a decision.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.system.user_files import check_regular
from stream_detector.types import Float32Array

SCHEMA = "stream-detector.overlay/1"
MAX_BYTES = 16 << 20
MAX_UNITS, MAX_MEMORY = 256, 4096
FLAT = 1e-7  # smallest distance of a score from 0 and 1 before its logit is taken

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """relu(inward · x + level) · outward + bias, added to the logit. inward (H, D), level (H,), outward (H,)."""

    inward: Float32Array
    level: Float32Array
    outward: Float32Array
    bias: float

    def __call__(self, features: Float32Array) -> Float64Array:
        """float32 (n, D) → (n,)."""
        hidden = np.maximum(features @ self.inward.T + self.level, 0.0)
        result: Float64Array = hidden.astype(np.float64) @ self.outward.astype(np.float64) + self.bias
        return result


@dataclass(frozen=True, slots=True, eq=False)
class NoveltyTerm:
    """weight · (distance - usual) / spread, added to the logit: the distance of a window from the camera's own calm.

    The distance is Euclidean to the nearest window of a sample of the calm, after division by `scale`. sample: (K, D)
    float32.  scale: (D,).  usual, spread: mean and deviation of calm windows' distances.
    """

    sample: Float32Array
    scale: Float32Array
    usual: float
    spread: float
    weight: float

    def distance(self, features: Float32Array) -> Float64Array:
        """float32 (n, D) → (n,)."""
        rows = features / self.scale
        known = self.sample / self.scale
        squares = (rows**2).sum(1)[:, None] - 2.0 * rows @ known.T + (known**2).sum(1)[None, :]
        result: Float64Array = np.sqrt(np.maximum(squares.min(axis=1), 0.0)).astype(np.float64)
        return result

    def __call__(self, features: Float32Array) -> Float64Array:
        """float32 (n, D) → (n,)."""
        return self.weight * (self.distance(features) - self.usual) / self.spread


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """bundle: fingerprint of its bundle.  camera: "" for the whole site.  threshold: on the smoothed score.
    time_constant_s: of the smoothing (ema).  facts: how it was made and the gate's result, for people.
    """

    bundle: str
    camera: str
    threshold: float
    time_constant_s: float
    correction: Correction | None = None
    novelty: NoveltyTerm | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over every value that influences a decision."""
        digest = hashlib.sha256(json.dumps(self._plain(), sort_keys=True).encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def adjust(self, features: Float32Array, raw: Float64Array) -> Float64Array:
        """(n, D) features and (n,) scores of the bundle → (n,) scores with the overlay."""
        if self.correction is None and self.novelty is None:
            return raw
        rows = rounded(features)
        logits = logit(raw)
        for part in (self.correction, self.novelty):
            if part is not None:
                logits = logits + part(rows)
        return sigmoid(logits)

    def _plain(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "schema": SCHEMA,
            "bundle": self.bundle,
            "camera": self.camera,
            "threshold": self.threshold,
            "time_constant_s": self.time_constant_s,
        }
        if self.correction is not None:
            values["bias"] = self.correction.bias
        if self.novelty is not None:
            values["novelty"] = [self.novelty.usual, self.novelty.spread, self.novelty.weight]
        return values

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        if self.correction is not None:
            part = self.correction
            arrays |= {"inward": part.inward, "level": part.level, "outward": part.outward}
        if self.novelty is not None:
            arrays |= {"sample": self.novelty.sample.astype(np.float16), "scale": self.novelty.scale}
        return arrays

    def save(self, path: Path) -> None:
        """Write the file atomically. Raises OSError."""
        arrays = self._arrays() or {"none": np.zeros(1, np.float32)}
        told = {"overlay": json.dumps(self._plain()), "facts": json.dumps(self.facts)}
        data = safetensors.numpy.save(arrays, metadata=told)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file atomically, also across a power failure. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_overlay(path: Path, *, bundle: str = "", dim: int = 0) -> Overlay:
    """Read and check an overlay. bundle, dim: what it must fit, if given. Raises DataError with one sentence."""
    try:
        check_regular(path, "overlay", DataError)
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"overlay {str(path)!r} is larger than {MAX_BYTES:,} bytes; restore the original file")
        with safetensors.safe_open(path, framework="numpy") as file:
            told = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        overlay = _overlay_of(json.loads(told["overlay"]), arrays, json.loads(told.get("facts", "{}")))
    except OSError as error:
        raise DataError(f"overlay {str(path)!r} cannot be read ({error.strerror}); run `adapt` again") from None
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"overlay {str(path)!r} is not one ({error}); run `adapt` again") from None
    if bundle and overlay.bundle != bundle:
        raise DataError(
            f"overlay {overlay.fingerprint} was fitted to bundle {overlay.bundle}, this run has {bundle}; adapt again"
        )
    width = overlay.correction.inward.shape[1] if overlay.correction else 0
    if dim and width and width != dim:
        raise DataError(f"overlay {overlay.fingerprint} takes {width} features, the bundle has {dim}; adapt again")
    return overlay


def _overlay_of(plain: dict[str, Any], arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> Overlay:
    if plain["schema"] != SCHEMA:
        raise ValueError(f"its schema is {str(plain['schema'])[:60]!r}")
    if not all(bool(np.isfinite(array).all()) for array in arrays.values()):
        raise ValueError("it holds numbers that are not finite")
    threshold, tau = float(plain["threshold"]), float(plain["time_constant_s"])
    if not 0.0 <= threshold <= 1.0 or not 0.0 <= tau <= 3600.0:
        raise ValueError("its threshold or time constant is out of range")
    correction = novelty = None
    if "inward" in arrays:
        inward, level, outward = (arrays[name].astype(np.float32) for name in ("inward", "level", "outward"))
        fits = inward.ndim == 2 and level.shape == outward.shape == inward.shape[:1]
        if not fits or len(inward) > MAX_UNITS:
            raise ValueError("the shapes of its correction do not fit")
        correction = Correction(inward, level, outward, float(plain["bias"]))
    if "sample" in arrays:
        sample, scale = arrays["sample"].astype(np.float32), arrays["scale"].astype(np.float32)
        usual, spread, weight = (float(value) for value in plain["novelty"])
        fits = sample.ndim == 2 and scale.shape == sample.shape[1:] and bool((scale > 0).all()) and spread > 0
        if not fits or len(sample) > MAX_MEMORY:
            raise ValueError("the shapes of its novelty term do not fit")
        novelty = NoveltyTerm(sample, scale, usual, spread, weight)
    return Overlay(str(plain["bundle"]), str(plain["camera"]), threshold, tau, correction, novelty, facts)


def rounded(features: Float32Array) -> Float32Array:
    """Round features as the memory of the site stores them: half precision, within its range."""
    return np.clip(features, -65504.0, 65504.0).astype(np.float16).astype(np.float32)


def logit(scores: Float64Array) -> Float64Array:
    """log(p / (1 - p)), finite for every score in [0, 1]."""
    held = np.clip(scores.astype(np.float64), FLAT, 1.0 - FLAT)
    result: Float64Array = np.log(held) - np.log1p(-held)
    return result


def sigmoid(logits: Float64Array) -> Float64Array:
    """1 / (1 + e^-x) without overflow."""
    small = np.exp(-np.abs(logits))
    result: Float64Array = np.where(logits >= 0, 1.0, small) / (1.0 + small)
    return result
