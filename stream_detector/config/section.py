"""What every section of the configuration shares: strictness, and the kinds of numbers."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from stream_detector.system.user_files import is_address

Unit = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False)]
Point = tuple[Unit, Unit]
Polygon = tuple[Point, ...]
Options = dict[str, bool | int | float | str]


class Section(BaseModel):
    """Base of all sections: frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_strict(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str | Path) and "\0" in str(value):  # TOML can write it; no system call takes it
            raise ValueError("the text holds a character with the code 0; remove it")
        field = cls.model_fields[info.field_name or ""]
        kinds = set(_plain_kinds(field.annotation))
        if Path in kinds and isinstance(value, str | Path) and is_address(value):
            raise ValueError("an address is given; give the path of a file or folder")
        wrong = _holds(value, bool) or (isinstance(value, str) and str not in kinds)
        if wrong and kinds & {int, float} and bool not in kinds:
            raise PydanticCustomError("float_type" if float in kinds else "int_type", "a number is wanted")
        return value


def _plain_kinds(annotation: Any) -> Iterator[Any]:
    """The types that a value may have; those of another section's fields are its own."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        yield annotation
    if typing.get_origin(annotation) is typing.Literal:
        yield str
        return
    for inner in typing.get_args(annotation):
        yield from _plain_kinds(inner)


def _holds(value: Any, kind: type) -> bool:
    return isinstance(value, kind) or (isinstance(value, list | tuple) and any(_holds(entry, kind) for entry in value))
