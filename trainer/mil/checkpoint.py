"""A trained head in one safetensors file: its arrays, shape, hyper-parameters and curves.

Arrays: `scaling/mean`, `scaling/std`, [`scaling/axes`] and `network_<i>/<layer>/<part>`. Everything else is JSON in the
file's metadata. There is no pickle, so a checkpoint of unknown origin can be opened safely.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import CheckpointError
from stream_detector.models.streaming_heads import Scaling, StreamingHead
from trainer.mil.heads import HeadSpec
from trainer.mil.stopping import trailing_means

SCHEMA = "stream-detector.head/1"


@dataclass
class Curve:
    """The curve of one network's training: parallel lists, one entry per validation."""

    view: str
    seed: int
    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)

    def add(self, step: int, loss: float, validation: float) -> None:
        """Add one validation."""
        self.step.append(step)
        self.loss.append(round(loss, 6))
        self.validation.append(round(validation, 6))

    @property
    def best_step(self) -> int:
        """Return the step whose weights were kept.

        It is the first with the best mean of the last validations (`stopping.trailing_means`); the last step without
        any figure; 0 before the first validation.
        """
        if self.step and np.isnan(self.validation).all():
            return self.step[-1]
        smooth = trailing_means(self.validation)
        return self.step[smooth.index(max(smooth))] if self.step else 0


@dataclass(frozen=True)
class Checkpoint:
    """A trained head. networks: arrays by name, `members` per view.  hyper: every hyper-parameter.

    validation: figure of the whole head on the held-out training videos.  temperature, bias: Platt scaling.
    training_videos: name → digests of every video that was used for training or for early stopping, see
    `training_overlap`; {} if unknown.
    """

    spec: HeadSpec
    scaling: Scaling
    networks: tuple[dict[str, NDArray[np.float32]], ...]
    hyper: dict[str, Any]
    curves: tuple[Curve, ...]
    validation: float
    validation_videos: tuple[str, ...]
    features: dict[str, Any]
    backend: str
    versions: dict[str, str]
    temperature: float = 1.0
    bias: float = 0.0
    training_videos: dict[str, list[str]] = field(default_factory=dict)

    def head(self) -> StreamingHead:
        """Return the head with a new state."""
        return StreamingHead(self.spec, self.scaling, self.networks, self.temperature, self.bias)

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        from safetensors.numpy import save

        arrays = {"scaling/mean": self.scaling.mean, "scaling/std": self.scaling.std}
        if self.scaling.axes is not None:
            arrays["scaling/axes"] = self.scaling.axes
        for i, network in enumerate(self.networks):
            arrays |= {f"network_{i}/{name}": array for name, array in network.items()}
        facts = {
            "schema": SCHEMA,
            "spec": self.spec.to_dict(),
            "hyper": self.hyper,
            "curves": [asdict(c) for c in self.curves],
            "validation": self.validation,
            "validation_videos": self.validation_videos,
            "features": self.features,
            "backend": self.backend,
            "versions": self.versions,
            "temperature": self.temperature,
            "bias": self.bias,
            "training_videos": self.training_videos,
        }
        contiguous = {k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}
        part = path.with_name(path.name + ".part")
        part.write_bytes(save(contiguous, {"checkpoint": json.dumps(facts)}))
        part.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file of `Checkpoint.save`. Raises CheckpointError if it is missing, damaged or of another kind."""
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        path = path / "head.safetensors"
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist; train one with `trainer train`")
    try:
        with safe_open(str(path), "numpy") as file:
            facts = json.loads((file.metadata() or {}).get("checkpoint", "null"))
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__}); train it again") from None
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise CheckpointError(f"{path} is not a head of this trainer ({SCHEMA}); train one with `trainer train`")
    spec = HeadSpec.from_dict(facts["spec"])
    networks: list[dict[str, NDArray[np.float32]]] = [{} for _ in range(spec.members * len(spec.views))]
    for key, array in arrays.items():
        if key.startswith("network_"):
            number, _, name = key.removeprefix("network_").partition("/")
            networks[int(number)][name] = array
    scaling = Scaling(arrays["scaling/mean"], arrays["scaling/std"], arrays.get("scaling/axes"))
    rest = {k: facts[k] for k in ("hyper", "validation", "features", "backend", "versions", "temperature", "bias")}
    curves = tuple(Curve(**c) for c in facts["curves"])
    return Checkpoint(
        spec,
        scaling,
        tuple(networks),
        curves=curves,
        validation_videos=tuple(facts["validation_videos"]),
        training_videos=facts.get("training_videos", {}),
        **rest,
    )


def versions(backend: str) -> dict[str, str]:
    """Return the versions of the libraries that computed a result."""
    names = ("numpy", "keras", "torch" if backend == "torch" else "tensorflow")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}
