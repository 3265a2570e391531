"""hpcqc's public API: what a flow, a script or a notebook imports.

Everything is loaded when it is first used, so that ``import hpcqc`` is free. The names and their
homes are in ``__init__.pyi``, which type checkers read, too.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

import backends  # noqa: F401  # before Qiskit is imported, see backends.permanent_thread

_HOMES = {
    alias.name: str(node.module)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
__all__ = sorted(_HOMES)  # noqa: PLE0605 - type checkers read the stub


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hpcqc' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted(__all__)
