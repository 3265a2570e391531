"""hpcqc's public API: what a flow, a script or a notebook imports.

Everything is loaded when it is first used, so that ``import hpcqc`` is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import backends  # noqa: F401  # before anybody imports Qiskit, see backends.permanent_thread

if TYPE_CHECKING:
    from backends.api import (
        BackendError,
        CalibrationChanged,
        InsufficientMemory,
        PayloadRejected,
        QpuBusy,
        QpuUnavailable,
        TaskCancelled,
        TaskFailed,
    )
    from orchestrator.application.circuit_files import CircuitFileError
    from orchestrator.application.estimate import DryRunFailed, estimate
    from orchestrator.application.jobs import job, jobs, why
    from orchestrator.application.parameters import ParameterError
    from orchestrator.application.report import report
    from orchestrator.application.run import RunResult, run_flow
    from orchestrator.application.sample import CircuitRefused, sample
    from orchestrator.application.simulate import simulate
    from orchestrator.application.statement import statement
    from orchestrator.application.target import TargetError
    from orchestrator.broker.client.http import BrokerRefused, BrokerUnreachable
    from orchestrator.broker.client.protocol import JobUncertain
    from orchestrator.broker.core.budgets import BudgetExhausted
    from orchestrator.broker.ledger import LedgerError
    from orchestrator.broker.runtime.embedded import RunBusy
    from orchestrator.compute.api import ComputeError, DemandNotMet
    from orchestrator.compute.fanout import ClusterLost, FanOutError
    from orchestrator.config.errors import ConfigError
    from orchestrator.inputs import InputRefused, checked_by
    from orchestrator.primitives import Estimator, Qpu, Sampler, open_qpu
    from orchestrator.provenance.folder import FolderError
    from orchestrator.provenance.schema import RecordError, RunRecord, read_record
    from orchestrator.resources import BudgetOutOfReach, shutdown
    from orchestrator.runs import on_qpu
    from orchestrator.stages import classical, quantum
    from orchestrator.units import fan_out

__all__ = [
    "BackendError",
    "BrokerRefused",
    "BrokerUnreachable",
    "BudgetExhausted",
    "BudgetOutOfReach",
    "CalibrationChanged",
    "CircuitFileError",
    "CircuitRefused",
    "ClusterLost",
    "ComputeError",
    "ConfigError",
    "DemandNotMet",
    "DryRunFailed",
    "Estimator",
    "FanOutError",
    "FolderError",
    "InputRefused",
    "InsufficientMemory",
    "JobUncertain",
    "LedgerError",
    "ParameterError",
    "PayloadRejected",
    "Qpu",
    "QpuBusy",
    "QpuUnavailable",
    "RecordError",
    "RunBusy",
    "RunRecord",
    "RunResult",
    "Sampler",
    "TargetError",
    "TaskCancelled",
    "TaskFailed",
    "checked_by",
    "classical",
    "estimate",
    "fan_out",
    "job",
    "jobs",
    "on_qpu",
    "open_qpu",
    "quantum",
    "read_record",
    "report",
    "run_flow",
    "sample",
    "shutdown",
    "simulate",
    "statement",
    "why",
]

_HOMES = {
    "backends.api": (
        "BackendError",
        "CalibrationChanged",
        "InsufficientMemory",
        "PayloadRejected",
        "QpuBusy",
        "QpuUnavailable",
        "TaskCancelled",
        "TaskFailed",
    ),
    "orchestrator.application.circuit_files": ("CircuitFileError",),
    "orchestrator.application.estimate": ("DryRunFailed", "estimate"),
    "orchestrator.application.jobs": ("job", "jobs", "why"),
    "orchestrator.application.report": ("report",),
    "orchestrator.application.parameters": ("ParameterError",),
    "orchestrator.application.run": ("RunResult", "run_flow"),
    "orchestrator.application.sample": ("CircuitRefused", "sample"),
    "orchestrator.application.simulate": ("simulate",),
    "orchestrator.application.statement": ("statement",),
    "orchestrator.application.target": ("TargetError",),
    "orchestrator.broker.client.http": ("BrokerRefused", "BrokerUnreachable"),
    "orchestrator.broker.client.protocol": ("JobUncertain",),
    "orchestrator.broker.core.budgets": ("BudgetExhausted",),
    "orchestrator.broker.ledger": ("LedgerError",),
    "orchestrator.broker.runtime.embedded": ("RunBusy",),
    "orchestrator.compute.api": ("ComputeError", "DemandNotMet"),
    "orchestrator.compute.fanout": ("ClusterLost", "FanOutError"),
    "orchestrator.config.errors": ("ConfigError",),
    "orchestrator.inputs": ("InputRefused", "checked_by"),
    "orchestrator.primitives": ("Estimator", "Qpu", "Sampler", "open_qpu"),
    "orchestrator.provenance.schema": ("RecordError", "RunRecord", "read_record"),
    "orchestrator.provenance.folder": ("FolderError",),
    "orchestrator.resources": ("BudgetOutOfReach", "shutdown"),
    "orchestrator.runs": ("on_qpu",),
    "orchestrator.stages": ("classical", "quantum"),
    "orchestrator.units": ("fan_out",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'hpcqc' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted(__all__)
