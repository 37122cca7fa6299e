"""`recipe.toml` of the accurate bundle, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stream_detector.errors import UsageError
from trainer.evaluation.networks import KNOWN

FILE = Path(__file__).parent / "recipe.toml"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; `recipe.toml` explains them and holds the values."""

    name: str
    size: int
    networks: tuple[str, ...]
    seen: Mapping[str, Sequence[str]]
    rounds: int
    judge_limits: Mapping[str, int]
    budget: float
    quiet_minutes: float
    axes: int

    def seen_by(self, networks: Sequence[str]) -> set[str]:
        """Return the sets whose labels one of the networks was trained on."""
        return {name for network in networks for name in self.seen.get(network, ())}


def load(changes: Sequence[str] = (), path: Path | None = None) -> Settings:
    """Read the settings of a file (`FILE` by default), with changes like 'size=224'.

    Raises UsageError for an unknown key or an impossible value.
    """
    path = path or FILE
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        for change in changes:
            key, _, text = change.partition("=")
            if key not in values:
                raise UsageError(f"--set {change!r}: recipe.toml has no key {key!r}; use one of {', '.join(values)}")
            values[key] = tomllib.loads(f"value = {text}")["value"]
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{str(path)!r} or --set cannot be read ({error}); write TOML, like {str(FILE)!r}") from None
    wrong = sorted({field.name for field in fields(Settings)} ^ values.keys())
    if wrong:
        raise UsageError(f"{path.name}: the keys {', '.join(wrong)} are missing or unknown; compare with {str(FILE)!r}")
    return _checked(values)


def _checked(values: dict[str, Any]) -> Settings:
    networks, limits, seen = values["networks"], values["judge_limits"], values["seen"]
    problems = {
        "name": not isinstance(values["name"], str),
        "networks": not isinstance(networks, list)
        or not networks
        or networks[0] != "i3d"
        or not set(networks) <= set(KNOWN),
        "seen": not isinstance(seen, dict)
        or not set(seen) <= set(KNOWN)
        or not all(isinstance(sets, list) and all(isinstance(s, str) for s in sets) for sets in seen.values()),
        "judge_limits": not isinstance(limits, dict) or not all(isinstance(n, int) and n > 0 for n in limits.values()),
        "size": not isinstance(values["size"], int) or not 64 <= values["size"] <= 512,
        "rounds": not isinstance(values["rounds"], int) or values["rounds"] < 100,
        "axes": not isinstance(values["axes"], int) or values["axes"] < 1,
        "budget": not isinstance(values["budget"], float | int) or values["budget"] <= 0,
        "quiet_minutes": not isinstance(values["quiet_minutes"], float | int) or values["quiet_minutes"] <= 0,
    }
    for name, is_wrong in problems.items():
        if is_wrong:
            raise UsageError(f"{name} = {values[name]!r} is impossible; see {str(FILE)!r} for what it means")
    return Settings(**{**values, "networks": tuple(networks), "budget": float(values["budget"])})
