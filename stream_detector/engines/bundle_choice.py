"""`--bundle auto`: the accurate bundle where a GPU runs it, the embedded one elsewhere; and why, in words.

    CUDA device, its weights in the cache ─▶ "accurate"      otherwise ─▶ "embedded"

A threshold or a smoothing in the configuration was found with one bundle and means nothing for the other. So where
"auto" takes the accurate one, such a key is refused: who set it names the bundle that it was set for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from stream_detector.config import Config
from stream_detector.engines import Hardware, choose_engine, detect_hardware
from stream_detector.errors import CheckpointError, ConfigError
from stream_detector.models import weights
from stream_detector.models.bundle import SHIPPED, read_manifest

log = logging.getLogger(__name__)

AUTO, ACCURATE, EMBEDDED = "auto", "accurate", "embedded"


@dataclass(frozen=True, slots=True)
class BundleChoice:
    """name: of a shipped bundle.  reason: one clause, for people."""

    name: str
    reason: str


def choose_bundle(config: Config, hardware: Hardware | None = None) -> BundleChoice:
    """What "auto" means here. Raises ConfigError where the configuration was made for the other bundle."""
    choice = choose_engine(config.engine, hardware or detect_hardware())
    if not choice.device.startswith("cuda"):
        return BundleChoice(EMBEDDED, f"engine {choice.engine} runs on {choice.device}")
    if not (SHIPPED / ACCURATE / "bundle.json").is_file():
        return BundleChoice(EMBEDDED, f"{choice.reason}, but this installation has no bundle {ACCURATE!r}")
    missing = missing_weights(ACCURATE)
    if missing:
        said = f"the weights of {ACCURATE!r} are not here: run `stream-detector models fetch {missing[0]}`"
        return BundleChoice(EMBEDDED, f"{choice.reason}, but {said}")
    own = _own_keys(config)
    if own:
        raise ConfigError(
            f"{own[0]} was set for another bundle than {ACCURATE!r}, which --bundle auto takes here ({choice.reason}); "
            f"name the bundle that it was set for, for instance --bundle {EMBEDDED}"
        )
    return BundleChoice(ACCURATE, choice.reason)


def missing_weights(shipped: str) -> list[str]:
    """The names of the weights that a shipped bundle refers to and that are not in the cache."""
    reference = read_manifest(SHIPPED / shipped).backbone.reference
    return [name for name in reference.split(weights.JOIN) if not _is_here(name)] if reference is not None else []


def _is_here(name: str) -> bool:
    try:
        weights.show(name)
    except CheckpointError:
        return False
    return True


def with_bundle(config: Config, hardware: Hardware | None = None) -> Config:
    """The configuration with "auto" settled, and said in the log. Raises ConfigError."""
    if config.bundle != AUTO:
        return config
    choice = choose_bundle(config, hardware)
    log.warning("bundle %s: %s", choice.name, choice.reason)
    return config.model_copy(update={"bundle": choice.name})


def settled(config: Config, bundle: str | Path) -> str | Path:
    """Return `bundle`, with "auto" settled for the engine and device of a configuration. Raises ConfigError."""
    return with_bundle(config.model_copy(update={"bundle": AUTO})).bundle if bundle == AUTO else bundle


def _own_keys(config: Config) -> list[str]:
    """Names of the keys whose values hold for one bundle only."""
    found = ["alarm.threshold"] if config.alarm.threshold is not None else []
    found += ["smoothing"] if config.smoothing is not None else []
    for camera in config.cameras:
        for key in ("threshold", "smoothing"):
            if getattr(camera, key) is not None:
                found.append(f"{key} of camera {camera.name!r}")
    return found
