"""What a tag looks like, for environments that have no Qiskit too."""

from __future__ import annotations

import hashlib
import re
from typing import TypeGuard

__all__ = ["is_tag", "short_tag"]

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,199}")


def is_tag(tag: object) -> TypeGuard[str]:
    """Return whether something can be a tag: a file name that is safe everywhere."""
    return isinstance(tag, str) and _TAG.fullmatch(tag) is not None


def short_tag(tag: str, longest: int) -> str:
    """Return a tag as a server takes it: as it is, or its start with a digest of the whole.

    >>> short_tag("j6183d980265fdcb25604.0", 50)
    'j6183d980265fdcb25604.0'
    """
    if len(tag) <= longest:
        return tag
    digest = hashlib.blake2b(tag.encode(), digest_size=8).hexdigest()
    return f"{tag[: longest - len(digest) - 1]}-{digest}"
