"""A table of a profile file, read key by key with errors that say what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from backends.suggestions import did_you_mean

__all__ = ["ProfileError", "TomlTable"]


class ProfileError(ValueError):
    """A profile that does not exist, or a file that is no profile."""


class TomlTable:
    """One TOML table. Every read names its key; `close` reports the keys nobody asked for.

    where: the file, for messages. path: dotted name of the table, empty for the top.
    A key that is absent gives its default; without a default it is an error.
    """

    def __init__(self, content: Mapping[str, Any], *, where: str, path: str = "") -> None:
        self._content = content
        self._where = where
        self._path = path
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def fail(self, key: str, problem: str) -> ProfileError:
        """Return an error about a key, for the caller to raise."""
        name = f"{self._path}.{key}" if self._path and key else self._path or key
        return ProfileError(f"{self._where}: {name}: {problem}")

    def raw(self, key: str, default: Any = ...) -> Any:
        """Return a value of any type."""
        self._asked.add(key)
        if key in self._content:
            return self._content[key]
        if default is ...:
            raise self.fail(key, "is missing; a profile must state it")
        return default

    def number(self, key: str, default: Any = ..., *, top: float = float("inf")) -> float:
        """Return a number from 0 to ``top``."""
        value = self.raw(key, default)
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not numeric or not 0 <= value <= top or value == float("inf"):
            span = "≥ 0" if top == float("inf") else f"from 0 to {top:g}"
            raise self.fail(key, f"{value!r}; expected a number {span}")
        return float(value)

    def whole(self, key: str, default: Any = ..., *, least: int = 1) -> Any:
        """Return a whole number, or the default as it is."""
        value = self.raw(key, default)
        if key in self and (type(value) is not int or value < least):
            raise self.fail(key, f"{value!r}; expected a whole number ≥ {least}")
        return value

    def flag(self, key: str, default: Any = ...) -> bool:
        """Return true or false."""
        value = self.raw(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, f"{value!r}; expected true or false")
        return value

    def text(self, key: str, default: Any = ...) -> str:
        """Return a string that is not empty."""
        value = self.raw(key, default)
        if not isinstance(value, str) or not value:
            raise self.fail(key, f"{value!r}; expected a text in quotes")
        return value

    def choice(self, key: str, options: tuple[str, ...], default: Any = ...) -> str:
        """Return one of the options."""
        value = self.raw(key, default)
        if value not in options:
            raise self.fail(key, f"{value!r}; expected one of {', '.join(options)}")
        return str(value)

    def moment(self, key: str) -> datetime:
        """Return a date and time with its offset from UTC."""
        value = self.raw(key)
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise self.fail(
                key, f"{value!r}; expected a date and time with offset: 2026-11-01T00:00:00Z"
            )
        return value

    def items(self, key: str, default: Any = ...) -> list[Any]:
        """Return a list."""
        value = self.raw(key, default)
        if not isinstance(value, list):
            raise self.fail(key, f"{value!r}; expected a list in brackets")
        return value

    def table(self, key: str, default: Any = ...) -> TomlTable:
        """Return a table inside this one."""
        value = self.raw(key, default)
        path = f"{self._path}.{key}" if self._path else key
        if not isinstance(value, dict):
            raise self.fail(key, f"{value!r}; expected a table, written [{path}]")
        return TomlTable(value, where=self._where, path=path)

    def keys(self) -> tuple[str, ...]:
        """Return the keys there are, in the file's order."""
        return tuple(self._content)

    def close(self) -> None:
        """Raise for the first key nobody asked for, naming the nearest that exists."""
        for key in self._content:
            if key not in self._asked:
                known = f"; there are: {', '.join(self._asked)}" if self._asked else ""
                raise self.fail(key, f"no such key{did_you_mean(key, self._asked) or known}")
