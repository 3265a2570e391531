"""What a tag looks like, for environments that have no Qiskit too."""

from __future__ import annotations

import re
from typing import TypeGuard

__all__ = ["is_tag"]

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,199}")


def is_tag(tag: object) -> TypeGuard[str]:
    """Return whether something can be a tag: a file name that is safe everywhere."""
    return isinstance(tag, str) and _TAG.fullmatch(tag) is not None
