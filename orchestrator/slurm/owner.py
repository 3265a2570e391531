"""Whose jobs are: those of a run, and those of this process's user."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from orchestrator.identity import SlurmOwner

__all__ = ["login_name", "owner_of"]


def login_name() -> str:
    """Return the name under which Slurm has the jobs of this process, whatever its environment says."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container without the site's users
        return str(uid)


def owner_of(state_dir: Path, run: str) -> SlurmOwner:
    """Return whose the jobs of a run are, by whatever path its state folder is named."""
    return SlurmOwner.of(str(state_dir.resolve()), run)
