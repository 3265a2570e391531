"""How a run's worker jobs find its Dask scheduler: a file that only their user can read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.config.private import write_private

__all__ = ["CONNECTION_FILE", "Connection"]

CONNECTION_FILE = "connection.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A scheduler's address, and the key and certificate (PEM) by which it trusts its workers."""

    address: str
    certificate: str
    key: str

    def write(self, folder: Path) -> None:
        """Replace the file in a run's folder; only its owner can read it."""
        write_private(folder / CONNECTION_FILE, json.dumps(asdict(self)))

    @staticmethod
    def read(folder: Path) -> Connection | None:
        """Return what the file says, None while there is none."""
        try:
            text = (folder / CONNECTION_FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return Connection(**json.loads(text))
