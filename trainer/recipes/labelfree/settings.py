"""Reads and checks `recipe.toml`; `KEY=VALUE` changes single values."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stream_detector.errors import UsageError
from stream_detector.models.backbones import backbone_spec

FILE = Path(__file__).parent / "recipe.toml"
TEACHERS = ("i3d", "mc3")


UNJUDGED = ("shop_normal", "shop_theft", "unlabelled")  # sets that are distilled from but not judged on


@dataclass(frozen=True, slots=True)
class Settings:
    """Every hyperparameter; `recipe.toml` explains them and holds the values."""

    arch: str
    size: int
    sizes: tuple[tuple[int, float], ...]
    inherit_stem: bool
    teachers: tuple[str, ...]
    view_side: int
    second_every: int
    rows: int
    columns: int
    most_frames: int
    crf: int
    most_mb: float
    never: tuple[str, ...]
    watch_share: float
    quiet_segments: int
    rendered: int
    limits: Mapping[str, int]
    set_power: float
    fast: float
    slow: float
    crop: float
    least_area: float
    mixed: float
    visit: int
    seed: int
    batch: int
    rate: float
    decay: float
    warmup: int
    clip_norm: float
    memory: int
    features: float
    logits: float
    maps: float
    save_every_s: float
    log_every: int
    views: int
    repeats: int
    shard: int
    window: int
    quality: int
    watched: int
    judge_limits: Mapping[str, int]
    budget: float
    quiet_minutes: float

    @property
    def steps(self) -> int:
        """Steps of a run with stored teacher outputs."""
        return self.views * self.repeats // self.batch

    def size_at(self, share: float) -> int:
        """Pixels a side at a share of the training, 0 to 1."""
        until = 0.0
        for size, part in self.sizes:
            until += part
            if share < until - 1e-9:
                return size
        return self.sizes[-1][0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a manifest or a key."""
        return asdict(self)


def load(changes: Sequence[str] = (), path: Path | None = None) -> Settings:
    """Read the settings of a file (`FILE` by default), with changes like 'batch=96'.

    Raises UsageError for an unknown key or an impossible value.
    """
    path = path or FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{str(path)!r} cannot be read ({error}); give a TOML file like {str(FILE)!r}") from None
    for change in changes:
        key, _, text = change.partition("=")
        if key not in values or not text:
            raise UsageError(f"--set {change!r} is no KEY=VALUE with a key of recipe.toml; give for instance batch=96")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text
    names = {field.name for field in fields(Settings)}
    wrong = sorted(names ^ values.keys())
    if wrong:
        raise UsageError(f"{path.name}: the keys {', '.join(wrong)} are missing or unknown; compare with {str(FILE)!r}")
    for field in fields(Settings):
        values[field.name] = _as(str(field.type), values[field.name], field.name)
    found = Settings(**values)
    _check(found)
    return found


def _as(kind: str, value: Any, name: str) -> Any:
    """Convert a value to the type of its field: a whole number may stand for a float, a list for a tuple."""
    try:
        if kind.startswith("tuple[tuple"):
            return tuple((int(size), float(share)) for size, share in value)
        if kind.startswith("tuple"):
            return tuple(str(item) for item in ([value] if isinstance(value, str) else value))
        if kind.startswith("Mapping"):
            return {str(key): int(most) for key, most in value.items()}
        if kind == "float" and not isinstance(value, bool):
            return float(value)
        if type(value).__name__ == kind:
            return value
    except (TypeError, ValueError, AttributeError):
        pass
    raise UsageError(f"{name} = {value!r} is no {kind}; see {str(FILE)!r} for an example")


def _check(s: Settings) -> None:
    backbone_spec(s.arch)
    sizes = [s.size, s.view_side, *(size for size, _ in s.sizes)]
    shares = (s.fast, s.slow, s.crop, s.mixed, s.watch_share, s.least_area, s.fast + s.slow)
    counts = (s.batch, s.repeats, s.shard, s.window, s.visit, s.second_every, s.watched, s.views, s.log_every)
    problems = {
        "teachers": not s.teachers or any(name not in TEACHERS for name in s.teachers) or s.teachers[0] != "i3d",
        "sizes": not s.sizes or not all(32 <= size <= 256 for size in sizes) or max(sizes[2:]) > s.view_side,
        "size": s.size > s.view_side,
        "shares (fast, slow, crop, mixed, watch_share, least_area)": not all(0 <= share <= 1 for share in shares),
        "counts (batch, repeats, shard, window, visit, second_every, watched, views, log_every)": min(counts) < 1,
        "views": s.views % s.shard != 0 or s.watched % s.shard != 0,
        "most_frames": s.most_frames < 16,
        "rows and columns": s.rows % 2 + s.columns % 2 != 0 or min(s.rows, s.columns) < 32,
        "rate": not 0 < s.rate < 1,
    }
    for name, wrong in problems.items():
        if wrong:
            raise UsageError(f"recipe.toml: {name} cannot be so; see the comments in {str(FILE)!r}")
