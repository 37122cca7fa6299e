"""bridges.toml: where the detector is, and the targets of every kind.

    [detector]
    endpoint = "tcp://127.0.0.1:5555"

    [webhook.vms]
    url = "https://vms.example.com/alarms"
    secret = "${VMS_SECRET}"

One process carries one kind (`stream-detector bridge webhook`) to all its targets.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from stream_detector.bridges.kinds import BRIDGES, TARGET_NAME, TargetSettings
from stream_detector.config.error_sentences import describe
from stream_detector.config.section import Section
from stream_detector.config.settings import read_toml
from stream_detector.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


class DetectorSettings(Section):
    """`[detector]`: the detector that the bridges subscribe to."""

    endpoint: str = "tcp://127.0.0.1:5555"
    key: Path | None = None  # CURVE: file of the bridge's own secret key
    server_key: Path | None = None  # CURVE: file of the detector's public key
    evidence: Path | None = Path("runs/evidence")  # folder of pictures and clips, as this machine reaches it
    # without a heartbeat for this long, the detector counts as "silent"
    dead_s: Annotated[float, Field(ge=1, le=86_400)] = 15.0
    state: Path = Path("runs/bridges")  # folder of cursors, outboxes and dead-letter files
    from_start: bool = False  # a bridge without a cursor starts with the oldest event in the journal


@dataclass(frozen=True, slots=True)
class BridgesConfig:
    """kinds: kind → name of the target → its settings, an instance of the kind's own `Settings`."""

    detector: DetectorSettings
    kinds: dict[str, dict[str, TargetSettings]]


def load_bridges(path: Path) -> BridgesConfig:
    """Read and check the file. Raises ConfigError in one sentence, which holds no text of a value."""
    values = read_toml(path, "bridges", "give one with --config (see docs/bridges.md)")
    return build_bridges(values, str(path))


def build_bridges(values: dict[str, Any], where: str = "bridges") -> BridgesConfig:
    """As `load_bridges`, from nested values."""
    known = BRIDGES.names()
    kinds: dict[str, dict[str, TargetSettings]] = {}
    for kind, targets in values.items():
        if kind == "detector":
            continue
        if kind not in known:
            raise ConfigError(
                f"{where}: a table has a name that is no kind of bridge{_near(kind, known)}; "
                f"use [detector], {', '.join(f'[{k}.NAME]' for k in known)}"
            )
        if not isinstance(targets, dict) or not all(isinstance(entry, dict) for entry in targets.values()):
            raise ConfigError(f"{where}: every {kind} has a name of its own; write [{kind}.NAME] and its keys below it")
        model = BRIDGES.get(kind).Settings
        for name, entry in targets.items():
            if not TARGET_NAME.fullmatch(name):
                raise ConfigError(f"{where}: a name in [{kind}.NAME] has 1 to 64 of a-z, 0-9, '_' and '-'")
            kinds.setdefault(kind, {})[name] = _checked(model, entry, f"{where}: [{kind}.{name}]")
    detector = _checked(DetectorSettings, values.get("detector", {}), f"{where}: [detector]")
    if (detector.key is None) != (detector.server_key is None):
        raise ConfigError(f"{where}: [detector] key and server_key belong together; set both, or neither")
    return BridgesConfig(detector, kinds)


def _near(kind: str, known: Sequence[str]) -> str:
    """The kind that was probably meant; what was written is not shown, because it may be a secret."""
    near = difflib.get_close_matches(kind, known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _checked(model: type[M], values: Any, where: str) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        message = describe(error, model, [])
    raise ConfigError(f"{where}: {message}")  # outside of the handler: the library's error holds the values
