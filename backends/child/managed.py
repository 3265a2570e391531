"""Environments that hpcqc makes: where they lie, what is in them, who may change them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.plugins import PluginUnusable

__all__ = [
    "CURRENT",
    "LOCK",
    "ManagedEnvironment",
    "check_not_public",
    "check_private",
    "lock_digest",
    "managed_environment",
    "managed_interpreter",
    "write_manifest",
]

# In the folder of a backend's environments: a link to the one in use.
CURRENT = "current"
# In an environment: every package with its version and digests, as pip reads it.
LOCK = "lock.txt"
_MANIFEST = "environment.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedEnvironment:
    """An environment that is ready.

    backend: for which. requirements: what was asked for. packages: name and version of all.
    """

    backend: str
    python: str
    requirements: tuple[str, ...]
    packages: Mapping[str, str]
    made_at: str


def managed_environment(environments: Path, backend: str) -> ManagedEnvironment | None:
    """Return what is known of a backend's environment; None if none was made.

    Raises `PluginUnusable` for one that others can change.
    """
    current = environments / backend / CURRENT
    if not current.exists():
        return None
    check_private(environments, backend)
    try:
        stated = json.loads((current / _MANIFEST).read_text(encoding="utf-8"))
        return ManagedEnvironment(**{**stated, "requirements": tuple(stated["requirements"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PluginUnusable(
            f"the environment {current} is damaged ({error}); make it again with "
            f"'hpcqc backends install {backend} --upgrade'"
        ) from error


def managed_interpreter(environments: Path, backend: str) -> Path:
    """Return the interpreter of a backend's environment.

    Raises `PluginUnusable` for an environment that was not made, or that others can change.
    """
    current = environments / backend / CURRENT
    interpreter = current.resolve() / "bin" / "python"
    if not interpreter.exists():
        raise PluginUnusable(
            f"backend {backend!r} has no managed environment in {environments}; make it with "
            f"'hpcqc backends install {backend}'"
        )
    check_private(environments, backend)
    return interpreter


def lock_digest(environments: Path, backend: str) -> str:
    """Return the SHA-256 of the lock of a backend's environment, in hex; empty if it has none."""
    try:
        return hashlib.sha256((environments / backend / CURRENT / LOCK).read_bytes()).hexdigest()
    except OSError:
        return ""


def check_private(environments: Path, backend: str) -> None:
    """Raise `PluginUnusable` unless only this user, or root, can change an environment.

    Folders that are not there yet do not count.
    """
    current = environments / backend / CURRENT
    resolved = current.resolve()
    for place in (environments, environments / backend, resolved, resolved / "bin"):
        try:
            found = place.stat()
        except FileNotFoundError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid not in (0, os.geteuid()):
            raise PluginUnusable(
                f"{place} belongs to user id {found.st_uid}, who could put other code there; "
                f"remove it and make it again with 'hpcqc backends install {backend}'"
            )
        if mode & 0o022:
            raise PluginUnusable(
                f"other users can write {place} (mode {mode:04o}), so they could have put other "
                f"code there; remove it and make it again with 'hpcqc backends install {backend}'"
            )


def check_not_public(program: Path) -> None:
    """Raise `PluginUnusable` if all users can replace a program, or write to it."""
    if program.name == str(program):  # it is looked for on the PATH
        found = shutil.which(program)
        if found is None:
            return
        program = Path(found)
    named, resolved = Path(os.path.abspath(program)), program.resolve()  # noqa: PTH100  # links stay
    for place in {named, *named.parents, resolved, *resolved.parents}:
        try:
            mode = place.stat().st_mode
        except OSError:  # starting it says why
            continue
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise PluginUnusable(
                f"all users can write {place} (mode {stat.S_IMODE(mode):04o}), so any of them could "
                f"put other code in the place of {program}; close it with 'chmod o-w {place}'"
            )


def write_manifest(folder: Path, environment: ManagedEnvironment) -> None:
    """Write what is known of an environment into its folder."""
    text = json.dumps(asdict(environment), indent=2, sort_keys=True)
    (folder / _MANIFEST).write_text(text + "\n", encoding="utf-8")
