"""How hybrid work is placed, run, recovered and accounted: what a flow imports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import backends  # noqa: F401  # before anybody imports Qiskit, see backends.permanent_thread

if TYPE_CHECKING:
    from orchestrator.inputs import checked_by
    from orchestrator.primitives import Estimator, Qpu, Sampler, open_qpu
    from orchestrator.resources import shutdown
    from orchestrator.runs import on_qpu
    from orchestrator.stages import classical, quantum
    from orchestrator.units import fan_out

__all__ = [
    "Estimator",
    "Qpu",
    "Sampler",
    "checked_by",
    "classical",
    "fan_out",
    "on_qpu",
    "open_qpu",
    "quantum",
    "shutdown",
]

_HOMES = {
    "Estimator": "orchestrator.primitives",
    "Qpu": "orchestrator.primitives",
    "Sampler": "orchestrator.primitives",
    "checked_by": "orchestrator.inputs",
    "classical": "orchestrator.stages",
    "fan_out": "orchestrator.units",
    "on_qpu": "orchestrator.runs",
    "open_qpu": "orchestrator.primitives",
    "quantum": "orchestrator.stages",
    "shutdown": "orchestrator.resources",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import orchestrator` is free."""
    if name not in _HOMES:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
