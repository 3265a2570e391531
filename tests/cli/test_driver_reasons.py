"""Why a driver's process is told to end, by what Slurm says of its job (decision 0045)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.application.batch import DriverRequest
from orchestrator.application.register import note_cancel
from orchestrator.cli.run import driver as module
from orchestrator.cli.run.driver import Driver
from orchestrator.cli.run.progress import Terminal
from orchestrator.config.compute_tables import BatchTable
from orchestrator.slurm import SlurmJob, SlurmState, ThisJob

NOW = datetime.now(UTC)
SOON, LATER = NOW + timedelta(seconds=90), NOW + timedelta(days=1)


def job(state: SlurmState, **changes: object) -> SlurmJob:
    return SlurmJob(id=7, name="", user="", state=state, **changes)  # type: ignore[arg-type]


def running(ends_by: datetime | None) -> SlurmJob:
    return job(SlurmState.RUNNING, ends_by=ends_by)


def completing(lasted: timedelta, restarts: int = 0) -> SlurmJob:
    return job(SlurmState.COMPLETING, started_at=NOW - lasted, restarts=restarts)


@pytest.fixture
def reason(
    monkeypatch: pytest.MonkeyPatch, isolated_state: Path, tmp_path: Path
) -> Callable[[SlurmJob | None, SlurmJob | None], str]:
    """Return why a driver ends whose job was the first at its start, and is the second now."""
    asked = DriverRequest(
        run="r1",
        target="f.py:f",
        parameters={},
        as_text=True,
        qpu=None,
        site=None,
        settings=(),
        out=tmp_path,
        budgets={},
        verbose=False,
        folder=tmp_path,
        environment={},
        batch=BatchTable.model_validate({"walltime": "2 h", "grace": "2 min"}),
    )
    this = ThisJob(id=7, nodes=("c1",), cores=(1,))
    monkeypatch.setattr("orchestrator.slurm.this_job", lambda: this)
    monkeypatch.setattr(Terminal, "start", lambda _self, _run: None)

    def found(begun: SlurmJob | None, now: SlurmJob | None) -> str:
        driver = Driver(asked, isolated_state)
        monkeypatch.setattr(module, "_own_job", lambda: begun)
        driver.start(None)  # type: ignore[arg-type]
        return driver._reason(now)

    return found


SHORT = timedelta(minutes=5)


@pytest.mark.parametrize(
    ("begun", "now", "expected"),
    [
        (running(SOON), running(SOON), "walltime"),
        (running(LATER), running(LATER), "preempted"),
        (running(None), running(None), "preempted"),
        (running(LATER), running(SOON), "preempted"),  # Slurm moved the end forward
        (None, running(SOON), "walltime"),
        (running(LATER), completing(SHORT), "cancelled"),
        (running(LATER), completing(SHORT, restarts=1), "requeued"),
        (running(LATER), completing(timedelta(hours=2)), "walltime"),
        (running(SOON), None, "walltime"),
        (running(LATER), None, "cancelled"),
        (None, None, "cancelled"),
    ],
)
def test_the_state_of_a_job_says_why_it_ends(
    reason: Callable[[SlurmJob | None, SlurmJob | None], str],
    begun: SlurmJob | None,
    now: SlurmJob | None,
    expected: str,
) -> None:
    assert reason(begun, now) == expected


def test_a_note_or_no_job_at_all_is_a_cancellation(
    reason: Callable[[SlurmJob | None, SlurmJob | None], str],
    isolated_state: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    note_cancel(isolated_state, "r1")
    assert reason(running(SOON), running(SOON)) == "cancelled"
    (isolated_state / "register" / "r1.cancel").unlink()
    assert reason(running(SOON), running(SOON)) == "walltime"
    monkeypatch.setattr("orchestrator.slurm.this_job", lambda: None)
    assert reason(running(SOON), running(SOON)) == "cancelled"
