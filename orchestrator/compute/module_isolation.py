"""Keeps the modules of flows apart on workers that many flows share, and reloads changed ones."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import orchestrator

__all__ = ["activate_paths", "note_file_times", "own_paths"]


@dataclass(eq=False)
class _ActiveModules:
    """The folders whose modules this process has, and the modification times of their files."""

    paths: tuple[str, ...] = ()
    changed_ns: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_active = _ActiveModules()


def own_paths() -> tuple[str, ...]:
    """Return the folders of this process's import path that belong to no installation."""
    places = sysconfig.get_paths()
    roots = {places["stdlib"], places["platstdlib"], sys.prefix, sys.base_prefix}
    roots.add(str(Path(orchestrator.__file__).parents[1]))
    return tuple(
        path
        for path in dict.fromkeys(map(os.path.abspath, sys.path))
        if Path(path).is_dir() and not any(_is_under(path, root) for root in roots)
    )


def activate_paths(paths: Sequence[str]) -> bool:
    """Import modules from these folders; return whether modules were unloaded for it."""
    # A worker calls it before it unpickles. Objects of unloaded modules stay as they are.
    wanted = tuple(paths)
    with _active.lock:
        if wanted == _active.paths:
            now = {name: _changed_ns(module) for name, module in _modules(wanted)}
            if all(_active.changed_ns.get(name, at) == at for name, at in now.items()):
                return False
        for name, _ in _modules(_active.paths):
            sys.modules.pop(name, None)
        sys.path[:] = [*wanted, *(path for path in sys.path if path not in _active.paths)]
        _active.paths, _active.changed_ns = wanted, {}
        importlib.invalidate_caches()
        return True


def note_file_times() -> None:
    """Note the modification times of the active modules' files, after a function used them."""
    with _active.lock:
        for name, module in _modules(_active.paths):
            _active.changed_ns.setdefault(name, _changed_ns(module))


def _modules(paths: Sequence[str]) -> list[tuple[str, ModuleType]]:
    if not paths:
        return []
    return [
        (name, module)
        for name, module in tuple(sys.modules.items())
        if name != "__main__"
        and (file := getattr(module, "__file__", None))
        and any(_is_under(file, path) for path in paths)
    ]


def _changed_ns(module: ModuleType) -> int:
    try:
        return Path(str(module.__file__)).stat().st_mtime_ns
    except OSError:
        return 0


def _is_under(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
