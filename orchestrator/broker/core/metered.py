"""What the site metered for tasks whose answer was lost, as an operator read it there (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backends.api import Usage
from backends.metering import Charge, Metering
from orchestrator.broker.core.events import JobSubmitted, Verdict
from orchestrator.broker.core.prediction import load_of, predicted_charge
from orchestrator.broker.core.records import TaskRecord
from orchestrator.identity import JobId

__all__ = ["NOTHING_METERED", "Metered", "MeteredRefused", "metered_usages"]


class MeteredRefused(ValueError):
    """What was said to be metered cannot be, or not be charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """What the site's own meter says of a job's uncertain tasks together.

    used_s: QPU-seconds. charged: what it bills, in the unit of the QPU's metering; None for what that
    metering makes of the seconds.
    """

    used_s: float = 0.0
    charged: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("used_s", self.used_s), ("charged", self.charged)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise MeteredRefused(f"{name} = {value!r}; expected a finite number, 0 or more")

    @property
    def is_empty(self) -> bool:
        """Whether nothing was metered."""
        return not self.used_s and not self.charged

    def check(self, verdict: Verdict) -> None:
        """Raise `MeteredRefused` where the verdict says that there is nothing to meter."""
        if verdict == "not-started" and not self.is_empty:
            raise MeteredRefused(
                f"used_s = {self.used_s:g}, charged = {self.charged}; what was not started used "
                "nothing: give them with the verdict 'failed' alone"
            )


NOTHING_METERED = Metered()


def metered_usages(
    metered: Metered,
    tasks: Sequence[TaskRecord],
    jobs: Mapping[JobId, JobSubmitted],
    metering: Metering | None,
) -> list[Usage]:
    """Return the usage of each task of a QPU; they divide what was metered by their shots.

    Without the QPU's metering, what is charged must be stated, and the unit is that of the plans.
    Raises `MeteredRefused` if that is not so.
    """
    if metered.is_empty:
        return [Usage()] * len(tasks)
    if metered.charged is None and metering is None:
        raise MeteredRefused(
            f"used_s = {metered.used_s:g}; nothing here describes the QPU, so how it is charged is not "
            "known: give what the site billed, too, as charged, or 0"
        )
    loads = [
        load_of(task.planned.parts, {part.job: jobs[part.job] for part in task.planned.parts})
        for task in tasks
    ]
    weights = [load.shots or load.circuits or 1 for load in loads]
    usages = []
    for task, load, weight in zip(tasks, loads, weights, strict=True):
        share = weight / sum(weights)
        seconds = metered.used_s * share
        if metered.charged is not None:
            unit = task.planned.unit if metering is None else metering.unit
            charge = Charge(amount=metered.charged * share, unit=unit or Metering().unit)
        else:
            assert metering is not None
            charge = predicted_charge(load, metering, seconds)
        charges = (charge,) if charge.amount else ()
        usages.append(Usage(qpu_seconds=seconds, tasks=1, charges=charges))
    return usages
