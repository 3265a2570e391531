"""The process of a driver job: it runs a flow, and lets the next job continue it.

``python -m orchestrator.cli.run.driver REQUEST`` is what the job of ``hpcqc run --batch`` executes.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.interrupts import end_after
from orchestrator.cli.output import print_error, say
from orchestrator.cli.run.progress import Terminal

if TYPE_CHECKING:
    from orchestrator.application.batch import DriverRequest
    from orchestrator.application.execution import RunExecution
    from orchestrator.slurm import SlurmJob

__all__ = ["Driver", "main"]

_CLOSE_S = 20.0  # for workers, the record and the next job, of the time before the walltime ends
_LEAST_CLOSE_S = 10.0
_LOOK_EVERY_S = 5.0
_EARLY = timedelta(seconds=65)  # Slurm may send the signal a minute earlier than it was asked


class Driver(Terminal):
    """Shows a run in the output of its job, and ends or continues it when the job is to end."""

    def __init__(self, asked: DriverRequest, state_dir: Path) -> None:
        super().__init__()
        self._asked, self._state_dir = asked, state_dir
        self._ends_by: datetime | None = None

    def start(self, run: RunExecution) -> None:
        """Begin to show a run."""
        job = _own_job()
        self._ends_by = None if job is None else job.ends_by
        super().start(run)

    def interrupted(self, interrupt: KeyboardInterrupt, run: RunExecution) -> None:
        """End the run; unless somebody cancelled it, let the next job continue it."""
        now = _own_job()
        left_s = self._left_s(now)
        reason = self._reason(now)
        goes_on = reason in ("walltime", "preempted", "requeued")
        finish_s = None
        if goes_on:  # a job that is requeued has no time left, and how little is not known
            finish_s = 0.0 if reason == "requeued" else max(0.0, left_s - _CLOSE_S)

        def record() -> None:
            run.record_interrupt(reason)
            if goes_on and reason != "requeued":
                self._continue()

        # Whether another job follows is known once this one has ended what it could.
        words = f"{reason}; this job of the run ends" if goes_on else f"{reason}; the run ends"
        if reason == "requeued":
            words = f"{reason}; the run goes on in the next job"
        end_after(
            interrupt,
            words,
            lambda: run.close(finish_s),
            record,
            left=run.left_behind,
            record_in_haste=lambda: run.record_interrupt(reason, in_haste=True),
            close_s=_LEAST_CLOSE_S + (finish_s or 0.0),
        )

    def _reason(self, now: SlurmJob | None) -> str:
        """Return why this process is to end, as attempts have it."""
        from orchestrator.application.register import cancel_requested
        from orchestrator.slurm import SlurmState, this_job

        job, batch = this_job(), self._asked.batch
        if job is None or cancel_requested(self._state_dir, self._asked.run):
            return "cancelled"
        if now is None:  # Slurm does not answer, and at the end of a walltime the run must go on
            return "walltime" if self._is_near(self._ends_by) else "cancelled"
        if now.state is SlurmState.RUNNING:  # for a while yet, so this is a notice
            is_earlier = (
                now.ends_by is not None
                and self._ends_by is not None
                and now.ends_by < self._ends_by - _EARLY
            )
            near = self._is_near(now.ends_by)
            return "walltime" if near and not is_earlier else "preempted"
        # While a job completes, only this tells whether it waits again afterwards.
        if now.restarts > job.restarts:
            return "requeued"
        lasted = datetime.now(UTC) - (now.started_at or datetime.now(UTC))
        return (
            "walltime" if batch.walltime is not None and lasted >= batch.walltime else "cancelled"
        )

    def _is_near(self, ends_by: datetime | None) -> bool:
        """Whether a walltime ends so soon that Slurm sends its signal."""
        if ends_by is None:
            return False
        return ends_by - datetime.now(UTC) <= self._asked.batch.grace + _EARLY

    def _left_s(self, now: SlurmJob | None) -> float:
        """Return how many seconds of the walltime are left; while a job completes, none."""
        if now is None or now.state.value != "RUNNING":
            return 0.0
        if now.ends_by is None:
            return self._asked.batch.grace.total_seconds()
        return (now.ends_by - datetime.now(UTC)).total_seconds()

    def _continue(self) -> None:
        from orchestrator.application.batch import continue_driver, driver_job, will_continue
        from orchestrator.slurm import Slurm

        job = driver_job(self._state_dir, self._asked.run)
        if job is None:
            print_error("its file in the state folder is gone, so the run is not continued")
            return
        if will_continue(self._asked, job):  # said before: Slurm may end this process at once
            say("the run goes on in the next job")
        refusal = continue_driver(
            self._state_dir, self._asked, job, Slurm(timeout_s=5.0, patience_s=10.0)
        )
        if refusal is not None:
            print_error(f"the run is not continued: {refusal}")


def main() -> None:
    """Run what the file says that is named by the only argument, and exit as `hpcqc run` does."""
    from orchestrator.application.batch import read_driver_request
    from orchestrator.config.environment import hand_down, state_dir

    os.umask(0o077)
    asked = read_driver_request(Path(sys.argv[1]))
    hand_down(asked.environment)
    from orchestrator.cli import run_alone

    run_alone(lambda: _drive(asked, state_dir()))


def _drive(asked: DriverRequest, state_dir: Path) -> int:
    from orchestrator.application.register import cancel_requested, locked_entry
    from orchestrator.application.run import execute
    from orchestrator.cli.run.run import print_outcome
    from orchestrator.retention import is_active

    with locked_entry(state_dir, asked.run):  # when the submission of this job is complete
        is_cancelled = cancel_requested(state_dir, asked.run)
    if is_cancelled:
        say(f"run {asked.run} was cancelled")
        return 0
    # Of a job that was requeued because its node was lost, the first process may still be at work.
    waiting = False
    while is_active(state_dir, asked.run):
        if not waiting:
            say("another process works on the run; waiting for its end")
        waiting = True
        time.sleep(_LOOK_EVERY_S)
    return print_outcome(execute(asked.run_request(), Driver(asked, state_dir)), as_json=False)


def _own_job() -> SlurmJob | None:
    """Return what Slurm says of the job of this process, None if it does not answer."""
    from orchestrator.slurm import Slurm, SlurmRefused, SlurmUnavailable, this_job

    job = this_job()
    try:
        return None if job is None else Slurm(timeout_s=5.0, patience_s=5.0).jobs([job.id])[job.id]
    except (KeyError, SlurmUnavailable, SlurmRefused):
        return None


if __name__ == "__main__":
    main()
