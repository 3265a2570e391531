"""What would happen if: the shipped scheduler on a workload, under a virtual clock."""

from orchestrator.simulation.engine import Device, JobOutcome, Simulated, Simulation
from orchestrator.simulation.metrics import (
    SLOWDOWN_BOUND_S,
    Metrics,
    Summary,
    jain,
    measured,
    slowdown,
    summarize,
)
from orchestrator.simulation.sources import Mix, QuantumRule, made_up, parse_swf, read_swf
from orchestrator.simulation.study import PolicyOutcome, Study, alone, stretches
from orchestrator.simulation.workload import (
    Arrival,
    Workload,
    WorkloadError,
    first_jobs,
    on_qpu,
    with_load,
)

__all__ = [
    "SLOWDOWN_BOUND_S",
    "Arrival",
    "Device",
    "JobOutcome",
    "Metrics",
    "Mix",
    "PolicyOutcome",
    "QuantumRule",
    "Simulated",
    "Simulation",
    "Study",
    "Summary",
    "Workload",
    "WorkloadError",
    "alone",
    "first_jobs",
    "jain",
    "made_up",
    "measured",
    "on_qpu",
    "parse_swf",
    "read_swf",
    "slowdown",
    "stretches",
    "summarize",
    "with_load",
]
