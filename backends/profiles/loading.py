"""Profile files, shipped with the package or one's own, into `Profile` values."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from backends.profiles.parsing import parse_profile
from backends.profiles.profile import Profile
from backends.profiles.reading import ProfileError
from backends.suggestions import did_you_mean

__all__ = ["load_profile", "shipped"]

_SUFFIX = ".toml"


def shipped() -> tuple[str, ...]:
    """Return the names of the profiles that come with the package, sorted."""
    names = (entry.name for entry in files("backends.profiles").iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)))


def load_profile(name_or_path: str) -> Profile:
    """Return a shipped profile by name, or the one in a TOML file of one's own.

    What ends in ``.toml`` or contains a slash is a path. Raises `ProfileError` for an unknown
    name (lists those there are), an unreadable file, an unknown key (names the nearest) or a
    value that makes no sense (says what was expected).
    """
    if name_or_path.endswith(_SUFFIX) or "/" in name_or_path:
        path = Path(name_or_path).expanduser()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileError(f"profile {name_or_path!r} cannot be read: {error}") from error
        return _parse(text, str(path))
    names = shipped()
    if name_or_path not in names:
        raise ProfileError(
            f"no profile {name_or_path!r}; there are {', '.join(names)}; for a file of your own, "
            f"give its path, ending in .toml{did_you_mean(name_or_path, names)}"
        )
    resource = files("backends.profiles").joinpath(name_or_path + _SUFFIX)
    return _parse(resource.read_text(encoding="utf-8"), name_or_path + _SUFFIX)


def _parse(text: str, where: str) -> Profile:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where} is not TOML: {error}") from error
    return parse_profile(content, where=where, sources=_sources(content, where))


def _sources(content: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return the source of every value: its own entry, or that of the table around it."""
    stated = content.get("sources", {})
    if not isinstance(stated, dict) or not all(isinstance(v, str) for v in stated.values()):
        raise ProfileError(f'{where}: sources: expected "dotted.key" = "text" pairs')
    values = [path for path in _leaves(content, "") if path.split(".")[0] != "sources"]
    found: dict[str, str] = {}
    for path in values:
        parts = path.split(".")
        around = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        found[path] = next((stated[one] for one in around if one in stated), "not stated")
    tables = {p.rsplit(".", n)[0] for p in values for n in range(p.count(".") + 1)}
    for path in stated:
        if path not in tables:
            raise ProfileError(
                f"{where}: sources: {path!r} names no value of this file"
                f"{did_you_mean(path, sorted(tables))}"
            )
    return found


def _leaves(content: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in content.items():
        path = prefix + key
        if isinstance(value, dict):
            yield from _leaves(value, path + ".")
        elif path not in ("name", "title"):
            yield path
