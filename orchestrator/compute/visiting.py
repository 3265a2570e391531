"""A user's own modules on workers that many flows share: each flow sees its own, and as they are now."""

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

__all__ = ["make_room", "own_paths", "take_note"]


@dataclass(eq=False)
class _Room:
    """Whose modules this process has. seen: when their files were last changed."""

    paths: tuple[str, ...] = ()
    seen: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_room = _Room()


def own_paths() -> tuple[str, ...]:
    """Return what of this process's import path its user brought along: no installation's folders."""
    places = sysconfig.get_paths()
    roots = {places["stdlib"], places["platstdlib"], sys.prefix, sys.base_prefix}
    roots.add(str(Path(orchestrator.__file__).parents[1]))
    return tuple(
        path
        for path in dict.fromkeys(map(os.path.abspath, sys.path))
        if Path(path).is_dir() and not any(_is_under(path, root) for root in roots)
    )


def make_room(paths: Sequence[str]) -> bool:
    """Let the modules in these folders be found; return whether any were forgotten for it.

    Forgets those of whoever was here before.

    Also forgets those that changed on disk since they were last looked at. Objects that were
    made of them already stay as they are. On a worker, before a visitor's function is unpickled.
    """
    wanted = tuple(paths)
    with _room.lock:
        if wanted != _room.paths:
            _forget(_room.paths)
            sys.path[:] = [*wanted, *(path for path in sys.path if path not in _room.paths)]
            _room.paths, _room.seen = wanted, {}
            importlib.invalidate_caches()
            return True
        now = {name: _changed(module) for name, module in _modules(wanted)}
        if any(_room.seen.get(name, stamp) != stamp for name, stamp in now.items()):
            _forget(wanted)
            importlib.invalidate_caches()
            _room.seen = {}
            return True
        return False


def take_note() -> None:
    """Note when the files of the visitor's modules were last changed; after it used them."""
    with _room.lock:
        for name, module in _modules(_room.paths):
            _room.seen.setdefault(name, _changed(module))


def _forget(paths: Sequence[str]) -> None:
    for name, _ in _modules(paths):
        sys.modules.pop(name, None)


def _modules(paths: Sequence[str]) -> list[tuple[str, ModuleType]]:
    if not paths:
        return []
    found = []
    for name, module in tuple(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != "__main__" and file and any(_is_under(file, path) for path in paths):
            found.append((name, module))
    return found


def _changed(module: ModuleType) -> int:
    try:
        return Path(str(module.__file__)).stat().st_mtime_ns
    except OSError:
        return 0


def _is_under(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
