"""Whose the jobs of a run are."""

from __future__ import annotations

from pathlib import Path

from orchestrator.identity import SlurmOwner

__all__ = ["owner_of"]


def owner_of(state_dir: Path, run: str) -> SlurmOwner:
    """Return whose the jobs of a run are, by whatever path its state folder is named."""
    return SlurmOwner.of(str(state_dir.resolve()), run)
