"""Turns pydantic's errors into sentences in the words of the configuration file.

    camera gate: threshold must be between 0 and 1, not 2.0
    unknown key 'cooldown' in [alarm]; did you mean 'cooldown_s'?

Text values are never shown, because one may be a password.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import annotated_types
from pydantic import BaseModel, ValidationError

from stream_detector.system.user_files import is_address

Location = tuple[int | str, ...]

_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "a text in quotes",
    "path": "the path of a file, a text in quotes",
    "tuple": "a list in brackets",
    "list": "a list in brackets",
}
_FORMS: dict[int | str, str] = {
    "device": "auto, cpu, cuda, cuda:N or mps",
    "hwaccel": "a name of a-z and 0-9",
    "hosts": "auto, or a whole number from 0 to 256",
}
_MEMBER = re.compile(r"(constrained-)?(bool|int|float|str)|literal\[.*\]")  # pydantic's names of the types of a union
_PLAIN = ("bool", "int", "float", "str")  # the types that a value of a free table may have; pydantic reports each
_FORMER_KEYS = {  # key of an earlier version → its present name
    "trouble": "[picture_quality]",
    "smooth": "[smoothing]",
    "window.find_cuts": "detect_cuts",
    "picture_quality.hold_s": "min_duration_s",
    "picture_quality.even_below": "contrast_below",
    "picture_quality.learn_s": "warmup_s",
    "picture_quality.relearn_s": "reset_after_s",
}
_UNITS = ("_s", "_ms", "_fps", "_days", "_bytes", "_ratio", "_windows")


def describe(error: ValidationError, model: type[BaseModel], names: Sequence[str]) -> str:
    """Return one sentence for the first error. names: of the cameras, in order."""
    errors = error.errors(include_url=False)
    first = errors[0]
    if first["type"] == "missing":  # a missing key may be present with a typing error in its name
        same = [e for e in errors if e["type"] == "extra_forbidden" and e["loc"][:-1] == first["loc"][:-1]]
        first = same[0] if same else first
    location = first["loc"]
    prefix = ""
    if location and location[0] == "cameras" and len(location) > 1 and isinstance(location[1], int):
        number = location[1]
        name = names[number] if number < len(names) else ""
        prefix = f"camera {name}: " if name and not hidden(name) else f"camera {number + 1}: "
    key = _key(location)
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return prefix + _unknown(location, model)
    if kind == "value_error":
        return prefix + (f"{key}: {message}" if key else message)
    if kind == "missing":
        return f"{prefix}{key or 'an entry'} is missing; add it"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        table = _table(location, names)
        return f"{prefix}{key or 'this'} is a section; write [{table}] and its keys below it"
    if location[-1] in _PLAIN and "options" in location:
        return f"{prefix}{_key(location[:-1])} must be a number, a text in quotes, or true or false"
    given = first["input"]
    if len(location) > 1 and location[-2] in _FORMS and _MEMBER.fullmatch(str(location[-1])):
        location, key, kind = location[:-1], _key(location[:-1]), "string_pattern_mismatch"
    told = str(given).lower() if isinstance(given, bool) else given
    shown = f", not {told}" if isinstance(given, int | float) else ""  # a text is never shown: it may be a password
    return f"{prefix}{key} must be {_wanted(kind, first.get('ctx', {}), location, model)}{shown}"


def _key(location: Location) -> str:
    """Return the key below its table, as written: 'alarm.threshold', or 'mask, entry 2' of a camera."""
    parts = location[2:] if location[:1] == ("cameras",) and len(location) > 1 else location
    words = ".".join(str(part) for part in parts if isinstance(part, str) and part != "[key]")
    return words + "".join(f", entry {part + 1}" for part in parts if isinstance(part, int))


def _table(location: Location, names: Sequence[str]) -> str:
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] == "cameras" and isinstance(location[1], int) and location[1] < len(names):
        parts[1] = names[location[1]]
    return ".".join("NAME" if hidden(part) else part for part in parts)


def hidden(key: str) -> bool:
    """Whether a key that a user wrote is not shown: an address, or what may be a part of one."""
    return is_address(key) or any(sign in key for sign in "@:?#\\") or len(key) > 64


def _wanted(kind: str, context: dict[str, Any], location: Location, model: type[BaseModel]) -> str:
    field = _annotation(location, model)
    bounds = _bounds(field) if field is not None else ""
    if kind == "literal_error":
        return f"one of {context['expected']}"
    if kind == "string_pattern_mismatch":
        return _FORMS.get(location[-1], "a name of a-z, 0-9, '.', '_' and '-'")
    if kind in ("greater_than_equal", "greater_than", "less_than_equal", "less_than", "finite_number"):
        return bounds or "a finite number"
    if kind in ("too_long", "too_short"):
        return f"a list of {context.get('max_length', context.get('min_length'))} entries"
    word = next((words for start, words in _KINDS.items() if kind.startswith(start)), "another kind of value")
    return f"{word} {bounds}".rstrip() if bounds and word.endswith("number") else word


def _annotation(location: Location, model: type[BaseModel]) -> Any:
    """Return the annotated type of the field at `location`, with its constraints; None if there is no such field."""
    annotation: Any = model
    for part in location:
        if isinstance(part, int):
            annotation = next((a for a in typing.get_args(_bare(annotation)) if a is not Ellipsis), None)
            continue
        if typing.get_origin(_bare(annotation)) is dict:  # tables with names that the user chooses
            annotation = typing.get_args(_bare(annotation))[1]
            continue
        owner = _model(annotation)
        field = owner.model_fields.get(part) if owner else None
        if field is None:
            return None
        annotation = typing.Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return annotation


def _bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _model(annotation: Any) -> type[BaseModel] | None:
    return next(_models(annotation), None)


def _bounds(annotation: Any) -> str:
    """Return the range of numbers that an annotation allows, in words; "" without a range."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(filter(None, map(_bounds, typing.get_args(annotation))), "")
    low: Any = None
    high: Any = None
    above = below = False
    constraints = list(getattr(annotation, "__metadata__", ()))
    # constraints of a pydantic Field
    constraints += [c for entry in constraints for c in getattr(entry, "metadata", ())]
    for constraint in constraints:
        if isinstance(constraint, annotated_types.Ge):
            low = constraint.ge
        elif isinstance(constraint, annotated_types.Gt):
            low, above = constraint.gt, True
        elif isinstance(constraint, annotated_types.Le):
            high = constraint.le
        elif isinstance(constraint, annotated_types.Lt):
            high, below = constraint.lt, True
    least = "" if low is None else f"more than {low:g}" if above else f"at least {low:g}"
    most = "" if high is None else f"less than {high:g}" if below else f"at most {high:g}"
    if least and most and not above and not below:
        return f"between {low:g} and {high:g}"
    return f"{least} and {most}" if least and most else least or most


def _unknown(location: Location, model: type[BaseModel]) -> str:
    """Return the sentence about a key that no table has, or that is in the wrong table."""
    key = str(location[-1])
    camera = location[:1] == ("cameras",) and len(location) > 1
    owner = _model(_annotation(location[:-1], model)) or model
    table = ".".join(str(part) for part in (location[2:-1] if camera else location[:-1]))
    if hidden(key) or hidden(table):
        return "a key looks like an address and is not shown; remove it"
    said = f"unknown key {key!r}" + (f" in [{table}]" if table and not camera else f" in {table}" if table else "")
    former = _FORMER_KEYS.get(".".join(str(part) for part in location))
    if former is not None:
        old = f"[{key}]" if former.startswith("[") else f"{key!r} in [{table}]"
        return f"{old} is now called {former if former.startswith('[') else repr(former)}; rename it"
    own = list(owner.model_fields)
    near = _nearest(key, own, 0.6)
    elsewhere = [] if near and _stem(near) == _stem(key) else list(_elsewhere(key, owner, model))
    if elsewhere:
        name, other = elsewhere[0]
        return f"{said}; did you mean {name!r} in [{other}]?"
    if near:
        return f"{said}; did you mean {near!r}?"
    return f"{said}; known keys are {', '.join(sorted(own))}"


def _elsewhere(key: str, owner: type[BaseModel], model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Return keys of other tables that equal this one except for the unit."""
    for section, field in model.model_fields.items():
        other = _model(field.annotation)
        if other is None or other is owner or section == "cameras":
            continue
        for name in other.model_fields:
            if _stem(name) == _stem(key):
                yield name, section


def _stem(key: str) -> str:
    """Return the key without its unit."""
    return next((key.removesuffix(unit) for unit in _UNITS if key.endswith(unit)), key)


def _nearest(key: str, known: Sequence[str], cutoff: float) -> str | None:
    same = [name for name in known if _stem(name) == _stem(key)]
    return same[0] if same else next(iter(difflib.get_close_matches(key, known, n=1, cutoff=cutoff)), None)
