"""Patterns for error texts: they fix the values that a text names, and leave its wording free."""

from __future__ import annotations

import re

__all__ = ["naming"]


def naming(*values: object) -> str:
    """Return a pattern, for ``match=``, of a text that names each value as a whole word, in any order."""
    return "(?s)^" + "".join(f"(?=.*{_whole(str(value))})" for value in values)


def _whole(value: str) -> str:
    before = r"(?<!\w)" if value[0].isalnum() else ""
    after = r"(?!\w)" if value[-1].isalnum() else ""
    return before + re.escape(value) + after
