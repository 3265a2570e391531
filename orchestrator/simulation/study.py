"""One workload under several policies, side by side."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from orchestrator.broker.core.events import JobSubmitted
from orchestrator.broker.core.policies import Policy
from orchestrator.broker.core.prediction import Accuracy
from orchestrator.broker.core.rules import QpuRules
from orchestrator.broker.core.scheduler import expected
from orchestrator.simulation.engine import Device, Metrics, Simulated, Simulation, measured
from orchestrator.simulation.workload import Workload, WorkloadError

__all__ = ["PolicyOutcome", "Study", "alone", "stretches"]

# So many tasks at once where a QPU sets no limit; a service starts no more either.
_PLACES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOutcome:
    """What one policy made of the workload."""

    policy: Policy
    seen: Simulated
    metrics: Metrics

    @property
    def settings(self) -> dict[str, Any]:
        """The policy's parameters."""
        policy: Any = self.policy
        return asdict(policy)


@dataclass(slots=True)
class Study:
    """A workload and the QPU it is simulated on."""

    workload: Workload
    rules: QpuRules  # their policy is replaced by others
    noise: Callable[[str], float] | None = None  # factor by which a task exceeds the model
    short_s: float = 10.0  # up to so many QPU-seconds a job counts as short
    _alone: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits = self.rules.limits
        most = min(limits.max_concurrent_tasks or _PLACES, _PLACES)
        # The virtual clock counts QPU-seconds, whatever they last on a rehearsal's clock.
        self.rules = replace(
            self.rules, clock_scale=1.0, limits=replace(limits, max_concurrent_tasks=most)
        )
        seconds = alone(self.rules)
        self._alone = {a.job.job: seconds(a.job) for a in self.workload.arrivals}

    def under(self, policy: Policy, progress: Callable[[int], None] | None = None) -> PolicyOutcome:
        """Simulate one policy."""
        rules = replace(self.rules, policy=policy)
        assert rules.timing is not None
        device = Device(timing=rules.timing, metering=rules.metering)
        if self.noise is not None:
            device = replace(device, stretch=self.noise)
        seen = Simulation(self.workload, rules, device).run(progress)
        places = rules.limits.max_concurrent_tasks or 1
        figures = measured(
            seen,
            rules.calendar,
            lambda job: self._alone[job.job],
            short_s=self.short_s,
            places=places,
        )
        return PolicyOutcome(policy=policy, seen=seen, metrics=figures)


def alone(rules: QpuRules) -> Callable[[JobSubmitted], float]:
    """Return a job's QPU-seconds on an empty QPU, as a function. Raises `WorkloadError`."""
    if rules.timing is None:
        raise WorkloadError(
            "this QPU has no timing model, so nothing can be simulated on it; choose one that has, "
            "or a profile, such as --profile vlq"
        )
    uncut = replace(rules, slice_s=None)
    return lambda job: expected(job, uncut, Accuracy())[0] or 0.0


def stretches(seed: int, sigma: float) -> Callable[[str], float]:
    """Return log-normal factors for tasks by tag, of median 1; equal tags, equal factors."""
    return lambda tag: random.Random(f"{seed}:{tag}").lognormvariate(0.0, sigma)
