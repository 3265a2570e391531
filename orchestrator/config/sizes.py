"""Amounts of memory and disk as people write them."""

from __future__ import annotations

import re

__all__ = ["SIZE", "size_bytes"]

# What a size looks like, for the schema of a site file.
SIZE = r"^\s*\d+(\.\d+)?\s*([kKMGT]i?)?B\s*$"


def size_bytes(size: str) -> int:
    """Return a size such as ``4 GiB`` or ``500MB`` in bytes. Raises ``ValueError``.

    >>> size_bytes("4 GiB"), size_bytes("1.5kB"), size_bytes("7 B")
    (4294967296, 1500, 7)
    """
    if not re.match(SIZE, size):
        raise ValueError(f"{size!r} is not an amount of memory; give one such as '4 GiB'")
    number = size.strip().rstrip("B").rstrip("kKMGTi ")
    unit = size.strip().removeprefix(number).strip()
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** " KMGT".index(unit.upper()[0] if unit != "B" else " "))
