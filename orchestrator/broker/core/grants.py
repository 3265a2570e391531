"""Which Slurm job lets a user's quantum jobs run on a QPU (pure)."""

from __future__ import annotations

import json
from typing import NamedTuple

__all__ = ["Grant"]


class Grant(NamedTuple):
    """A Slurm job by which Slurm grants a user a QPU.

    user: as the service knows the user; empty where one process is the only one.

    >>> Grant("vlq", "ada", 7).text
    '["vlq", "ada", 7]'
    """

    qpu: str
    user: str
    slurm_job: int

    @property
    def text(self) -> str:
        """The grant as the key of a table in a snapshot."""
        return json.dumps(self)

    @classmethod
    def parse(cls, text: str) -> Grant:
        """Return the grant with this text."""
        return cls(*json.loads(text))
