"""Packages of others, laid out in a folder as an installer would; sources are in tests/additions."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def addition(name: str) -> dict[str, str]:
    """Return the module of tests/additions as ``installed_package`` takes it."""
    source = Path(__file__).with_name("additions") / f"{name}.py"
    return {name: source.read_text(encoding="utf-8")}


@contextmanager
def installed_package(
    place: Path,
    name: str,
    modules: Mapping[str, str],
    entry_points: Mapping[str, Mapping[str, str]],
) -> Iterator[Path]:
    """Put a distribution on the path while the block runs.

    modules: source by module name. entry_points: by group, name and object.
    """
    for module, source in modules.items():
        (place / f"{module}.py").write_text(source, encoding="utf-8")
    metadata = place / f"{name.replace('-', '_')}-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [
        line
        for group, points in entry_points.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in points.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    try:
        yield place
    finally:
        sys.path.remove(str(place))
        for module in modules:
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
