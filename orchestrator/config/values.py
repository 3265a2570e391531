"""Kinds of values in a site file: sizes, labels, lines of text."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from orchestrator.names import LABEL, LINE

__all__ = ["HOST", "Label", "Line", "Size", "SizeText", "size_bytes"]

HOST = r"^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$"
# What a size looks like, for the schema of a site file.
_SIZE = r"^\s*\d+(\.\d+)?\s*([kKMGT]i?)?B\s*$"

Label = Annotated[str, StringConstraints(pattern=LABEL)]
Line = Annotated[str, StringConstraints(min_length=1, pattern=LINE)]
SizeText = Annotated[str, StringConstraints(pattern=_SIZE)]


def size_bytes(size: str) -> int:
    """Return a size such as ``4 GiB`` or ``500MB`` in bytes. Raises ``ValueError``.

    >>> size_bytes("4 GiB"), size_bytes("1.5kB"), size_bytes("7 B")
    (4294967296, 1500, 7)
    """
    if not re.match(_SIZE, size):
        raise ValueError(f"{size!r} is not an amount of memory; give one such as '4 GiB'")
    number = size.strip().rstrip("B").rstrip("kKMGTi ")
    unit = size.strip().removeprefix(number).strip()
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** " KMGT".index(unit.upper()[0] if unit != "B" else " "))


def _bytes_of(size: Any) -> Any:
    if not isinstance(size, str):
        return size
    try:
        return size_bytes(size)
    except ValueError:
        raise PydanticCustomError("size", "an amount") from None


# In bytes.
Size = Annotated[int, Field(ge=0), BeforeValidator(_bytes_of, json_schema_input_type=str)]
