"""The environments of backends that run in a process of their own."""

from __future__ import annotations

import json
from pathlib import Path

from backends.child.environment import Environment
from backends.child.managed import check_not_public, lock_digest, managed_interpreter
from orchestrator.config.environment import state_dir
from orchestrator.config.qpu_tables import MANAGED, QpuSettings

__all__ = ["backend_environment", "environment_identity", "environments_folder"]


def environments_folder() -> Path:
    """Return the folder of the environments that hpcqc makes, which may not exist yet."""
    return state_dir() / "environments"


def backend_environment(settings: QpuSettings) -> Environment | None:
    """Return where a QPU's backend runs; None for hpcqc's own processes.

    Raises `PluginUnusable` for a managed environment that was not made, or that others can change,
    and for a program that all users can change.
    """
    stated, memory_bytes = settings.environment, settings.environment_memory
    if stated is None:
        return None
    if stated == MANAGED:
        interpreter = managed_interpreter(environments_folder(), settings.backend)
        return Environment(interpreter=str(interpreter), memory_bytes=memory_bytes)
    check_not_public(Path(stated if isinstance(stated, str) else stated[0]))
    if isinstance(stated, str):
        return Environment(interpreter=stated, memory_bytes=memory_bytes)
    return Environment(command=stated, memory_bytes=memory_bytes)


def environment_identity(settings: QpuSettings) -> str:
    """Return a text that differs where a QPU's backend runs with other packages, as far as known."""
    stated = settings.environment
    if stated == MANAGED:
        return lock_digest(environments_folder(), settings.backend)
    return "" if stated is None else json.dumps(stated)
