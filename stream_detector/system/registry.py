"""Registries: implementations by name, of this package and of other distributions.

    smoothers = Registry[SmootherFactory]("smoother", "stream_detector.smoothers", {"ema": "package.module:make_ema"})
    smoothers.get("ema")

A new kind is one file and one registration: `@smoothers.register("kalman")` in a program, or an entry point of an
installed distribution:

    [project.entry-points."stream_detector.smoothers"]
    kalman = "my_package.kalman:make"

An implementation is imported when it is first requested.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from stream_detector.errors import ConfigError

T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class Registry(Generic[T]):
    """Implementations of one kind, by name.

    kind: the noun for messages, in the singular.  group: of entry points.  builtin: name → "module:attribute".
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under `name`. Raises ConfigError for a used or malformed
        name.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{self.kind} name {name!r} is not allowed: use 1 to 64 of a-z, 0-9, '_', '-' and '.'")
        if name in self._builtin or name in self._registered:
            raise ConfigError(f"{self.kind} {name!r} is registered already; choose another name")

        def keep(value: T) -> T:
            self._registered[name] = value
            return value

        return keep

    def unregister(self, name: str) -> None:
        """Remove what `register` stored under `name`, if there is such an entry."""
        self._registered.pop(name, None)

    def is_builtin(self, name: str) -> bool:
        """Return whether this package itself has the implementation."""
        return name in self._builtin

    def module_of(self, name: str) -> str | None:
        """What another process must import before it knows `name` as well; "" where it finds it by itself.

        None: it cannot, for a program's own script registered it.
        """
        if name in self._builtin or name in self._installed():
            return ""
        module: str = getattr(self._registered.get(name), "__module__", "__main__")
        return None if module == "__main__" else module

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted({*self._builtin, *self._registered, *self._installed()}))

    def known(self, name: str) -> str:
        """Return `name` if there is such an implementation, without importing it. Raises ValueError for an unknown
        name.
        """
        if name not in self._registered and name not in self._builtin and name not in self._installed():
            raise ValueError(self._unknown(name))
        return name

    def get(self, name: str) -> T:
        """Return the implementation. Raises ConfigError for an unknown name, or if its module cannot be imported."""
        if name in self._registered:
            return self._registered[name]
        if name in self._builtin:
            module, _, attribute = self._builtin[name].partition(":")
            return cast(T, getattr(importlib.import_module(module), attribute))
        found = self._installed().get(name)
        if found is None:
            raise ConfigError(self._unknown(name))
        try:
            self._registered[name] = cast(T, found.load())
        except Exception as error:  # a module of another author may raise anything
            raise ConfigError(
                f"{self.kind} {name!r} of {found.value.partition(':')[0]!r} cannot be loaded ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); repair or uninstall that distribution"
            ) from None
        return self._registered[name]

    def _unknown(self, name: str) -> str:
        return f"{self.kind} {name!r} does not exist; use one of {', '.join(self.names())}"

    def _installed(self) -> dict[str, Any]:
        return {point.name: point for point in entry_points(group=self.group) if point.name not in self._builtin}
