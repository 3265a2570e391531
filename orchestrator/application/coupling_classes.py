"""How closely the quantum stages of a run must be coupled to their QPU, and whether it can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from backends.coupling_class import CouplingClass, is_met
from orchestrator.provenance.gantt import stage_name
from orchestrator.provenance.markup import duration_text
from orchestrator.provenance.record import jobs_by_stage
from orchestrator.provenance.schema import RecordedJob, RecordedStage
from orchestrator.stages import StageNeeds

__all__ = ["NeededClass", "loops", "needed_classes", "queue_wait_s", "too_loose"]

# Two jobs one after the other may be a calculation and its check; from three on it is a loop.
_LEAST_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededClass:
    """The coupling class that a quantum stage needs.

    rounds: how often it waits for the QPU before it goes on, 0 if not known. declared: whether the
    stage's needs say so; else it follows from the rounds.
    """

    stage: str
    coupling_class: CouplingClass
    rounds: int
    declared: bool

    def in_words(self) -> str:
        """Return the need as part of a sentence."""
        loop = f"{self.rounds} rounds with the QPU, each after the last one's result"
        if self.declared:
            return f"stage {self.stage} needs a QPU of class {self.coupling_class}"
        return f"stage {self.stage} makes {loop}, and wants class {self.coupling_class} or closer"


def needed_classes(
    stages: Iterable[RecordedStage],
    jobs_of_run: Iterable[RecordedJob],
    needs: Mapping[str, StageNeeds],
) -> list[NeededClass]:
    """Return what each quantum stage of a run needs, of those for which it is known.

    Args:
        stages: Of the run, which may be a dry one.
        jobs_of_run: On the QPU that is looked at.
        needs: What stages declare, by name of the function.
    """
    of_stage = jobs_by_stage(jobs_of_run)
    jobs: dict[str, list[RecordedJob]] = {}
    for stage in stages:
        if stage.kind == "quantum":
            jobs.setdefault(stage_name(stage.name), []).extend(of_stage.get(stage.key, ()))
    found = []
    for name, of_name in jobs.items():
        of_qpu = needs[name].of_qpu if name in needs else None
        declared = None if of_qpu is None else of_qpu.coupling_class
        rounds = loops(of_name)
        if declared is not None or rounds >= _LEAST_ROUNDS:
            found.append(
                NeededClass(
                    stage=name,
                    coupling_class=declared or "interactive",
                    rounds=rounds,
                    declared=declared is not None,
                )
            )
    return found


def loops(jobs: Iterable[RecordedJob]) -> int:
    """Return how many rounds jobs make: one begins with a job that was submitted after all before ended."""
    rounds, ends = 0, None
    for job in sorted(jobs, key=lambda one: one.submitted_at):
        if job.ended_at is None:
            continue
        if ends is None or job.submitted_at >= ends:
            rounds += 1
        ends = job.ended_at if ends is None else max(ends, job.ended_at)
    return rounds


def queue_wait_s(jobs: Iterable[RecordedJob]) -> float | None:
    """Return the median time from submission to start; None if no job has started."""
    waits = [_waited_s(job.submitted_at, job.started_at) for job in jobs if job.started_at]
    return median(waits) if waits else None


def _waited_s(submitted_at: datetime, started_at: datetime) -> float:
    return max(0.0, (started_at - submitted_at).total_seconds())


def too_loose(
    needed: Sequence[NeededClass], qpu: str, stated: CouplingClass | None, wait_s: float | None
) -> list[str]:
    """Return a sentence for each stage whose QPU is of a looser class.

    Args:
        needed: Of the stages.
        qpu: Name of the QPU.
        stated: Its class, None if it is not known.
        wait_s: In its queue for each job, None if it is not known.
    """
    sentences = []
    for one in needed:
        if is_met(stated, one.coupling_class) is not False:
            continue
        words = f"{one.in_words()}; QPU {qpu} is of class {stated}"
        if stated == "batch" and one.rounds >= _LEAST_ROUNDS:
            words += f", so it waits in its queue {one.rounds} times: "
            words += (
                "how long is not known"
                if wait_s is None
                else f"{duration_text(one.rounds * wait_s)} at {duration_text(wait_s)} each"
            )
        elif one.declared:
            words += ", and the stage will fail there"
        sentences.append(words)
    return sentences
