"""How closely a program and a QPU can be coupled: by how soon one answers the other (pure)."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["CLASSES", "CouplingClass", "is_met"]

CouplingClass = Literal["batch", "interactive", "realtime"]
# The loosest first.
CLASSES: tuple[CouplingClass, ...] = get_args(CouplingClass)


def is_met(stated: CouplingClass | None, needed: CouplingClass) -> bool | None:
    """Whether a QPU's class is enough; None if it states none.

    >>> is_met("interactive", "batch"), is_met("batch", "realtime"), is_met(None, "batch")
    (True, False, None)
    """
    return None if stated is None else CLASSES.index(stated) >= CLASSES.index(needed)
