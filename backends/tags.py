"""The tag a qpu_task is started with: what it may look like."""

from __future__ import annotations

import re

from backends.errors import PayloadRejected

__all__ = ["check_tag", "is_tag"]

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,199}")


def is_tag(tag: object) -> bool:
    """Whether something can be a tag: a file name that is safe everywhere."""
    return isinstance(tag, str) and _TAG.fullmatch(tag) is not None


def check_tag(tag: object) -> None:
    """Raise `PayloadRejected` unless the tag is a safe file name."""
    if not is_tag(tag):
        raise PayloadRejected(
            f"tag {tag!r}; use 1 to 200 letters, digits and any of _ . = + -, not beginning "
            "with a sign or a dot"
        )
