"""What a record says of a run's Slurm jobs: late rows are awaited, for a while, and none invented."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.application.measurement import measured
from orchestrator.config.loading import load_site
from orchestrator.config.site import Site
from orchestrator.identity import SlurmTag, slurm_job_name
from orchestrator.slurm import AccountedJob, SlurmJob, SlurmState, SlurmUnavailable

START = datetime(2026, 11, 29, 8, tzinfo=UTC)
USER = getpass.getuser()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    file = tmp_path / "site.toml"
    file.write_text(
        '[compute.cluster]\nkind = "slurm"\n[qpu.vlq]\nbackend = "aer"\n'
        'slurm = { gres = "qpu:1", partition = "quantum" }\n'
    )
    return load_site(file)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def accounted(number: int, purpose: str, begin: float, end: float | None) -> AccountedJob:
    return AccountedJob(
        id=number,
        name=slurm_job_name("r", f"{purpose}-{number}"),
        user=USER,
        account="chem",
        partition="quantum" if purpose == "qpu" else "classical",
        state=SlurmState.RUNNING if end is None else SlurmState.CANCELLED,
        submitted_at=at(begin - 1),
        started_at=at(begin),
        ended_at=None if end is None else at(end),
        elapsed_s=(100.0 if end is None else end) - begin,
        node_count=2,
        cpus=8,
        tres={"gres/qpu": 1.0} if purpose == "qpu" else {},
        comment=str(SlurmTag("r", purpose, number)),
    )


def queued(number: int, **changes: Any) -> SlurmJob:
    values: dict[str, Any] = {
        "id": number,
        "name": "",
        "user": USER,
        "state": SlurmState.COMPLETING,
        "nodes": ("c1",),
        "comment": str(SlurmTag("r", "worker", number)),
    }
    return SlurmJob(**(values | changes))


class Answers:
    """A Slurm whose accounting answers with the next of some lists, and then always with the last."""

    def __init__(
        self, *books: Sequence[AccountedJob] | Exception, queue: Sequence[SlurmJob] = ()
    ) -> None:
        self.books, self.queue, self.asked = books, queue, 0

    def accounting(self, **options: Any) -> list[AccountedJob]:
        answer = self.books[min(self.asked, len(self.books) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    def jobs(self) -> dict[int, SlurmJob]:
        return {job.id: job for job in self.queue}


def clock() -> tuple[Callable[[], float], Callable[[float], None]]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return lambda: now[0], sleep


def measure(site: Site, slurm: Answers, patience_s: float = 5.0) -> Any:
    tick, sleep = clock()
    return measured(site, "r", START, patience_s=patience_s, slurm=slurm, sleep=sleep, clock=tick)


def test_figures_are_those_of_all_jobs_but_the_driver(site: Site) -> None:
    jobs = [
        accounted(1, "driver", 0, None),
        accounted(2, "worker", 1, 11),
        accounted(3, "qpu", 4, 7),
    ]
    found = measure(site, Answers(jobs))
    assert found.is_complete
    assert (found.node_s, found.worker_node_s) == (26.0, 20.0)
    assert (found.core_s, found.qpu_held_s) == (104.0, 3.0)
    assert found.makespan_s == 11.0  # submitted at 0
    assert [(job.id, job.purpose, job.qpus) for job in found.jobs] == [
        (1, "driver", {}),
        (2, "worker", {}),
        (3, "qpu", {"vlq": 1.0}),
    ]


def test_the_qpus_node_of_an_exclusive_job_is_no_workers_node(site: Site) -> None:
    tag, resources = str(SlurmTag("r", "worker", 0)), {"gres/qpu": 1.0}
    nodes = replace(accounted(1, "worker", 0, 10), comment=tag)
    qpu = replace(nodes, id=2, partition="quantum", tres=resources)
    found = measure(site, Answers([nodes, qpu]))
    assert (found.node_s, found.worker_node_s, found.qpu_held_s) == (40.0, 20.0, 10.0)


def test_a_row_that_comes_late_is_awaited(site: Site) -> None:
    running, ended = [accounted(1, "worker", 0, None)], [accounted(1, "worker", 0, 9)]
    slurm = Answers([], running, ended, queue=[queued(1)])
    found = measure(site, slurm)
    assert (found.is_complete, found.node_s, slurm.asked) == (True, 18.0, 3)


def test_what_does_not_come_in_time_is_said_to_be_missing(site: Site) -> None:
    slurm = Answers([accounted(1, "worker", 0, 9)], queue=[queued(1), queued(2)])
    found = measure(site, slurm)
    assert (found.is_complete, found.node_s) == (False, 18.0)


def test_jobs_that_never_had_nodes_or_are_of_an_earlier_run_of_the_id_are_not_awaited(
    site: Site,
) -> None:
    earlier = queued(2, state=SlurmState.COMPLETED, ended_at=at(-60))
    waiting = queued(3, state=SlurmState.CANCELLED, nodes=())
    slurm = Answers([accounted(1, "worker", 0, 9)], queue=[earlier, waiting])
    assert measure(site, slurm).is_complete
    assert slurm.asked == 1


def test_without_an_answer_there_are_no_figures(site: Site) -> None:
    assert measure(site, Answers(SlurmUnavailable("away"))) is None
    assert measure(site, Answers([])) is None


def test_a_site_without_slurm_is_not_asked(tmp_path: Path) -> None:
    file = tmp_path / "laptop.toml"
    file.write_text('[qpu.aer]\nbackend = "aer"\n')
    slurm = Answers(AssertionError("asked"))
    assert measure(load_site(file), slurm) is None
    assert slurm.asked == 0
