"""What a record says of a run's Slurm jobs: late rows are awaited, for a while, and none invented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.application.measurement import measured
from orchestrator.compute.worker_jobs import allocation
from orchestrator.config.environment import state_dir
from orchestrator.config.loading import load_site
from orchestrator.config.private import login_name
from orchestrator.config.site import Site
from orchestrator.identity import SlurmTag, slurm_job_name
from orchestrator.slurm import (
    AccountedJob,
    SlurmJob,
    SlurmState,
    SlurmUnavailable,
    owner_of,
)
from orchestrator.slurm.options import WorkerOptions
from orchestrator.slurm.qpu_jobs import access_resources

START = datetime(2026, 11, 29, 8, tzinfo=UTC)
USER = login_name()


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
        name=slurm_job_name("r", "qpu-vlq" if purpose == "qpu" else f"{purpose}-{number}"),
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
        "comment": str(owner_of(state_dir(), "r").tag("worker", number)),
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


def test_the_environment_does_not_say_whose_the_jobs_are(site: Site, monkeypatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody")
    found = measure(site, Answers([accounted(1, "worker", 0, 10)]))
    assert [job.id for job in found.jobs] == [1]


def test_the_qpus_node_of_an_exclusive_job_is_no_workers_node(site: Site) -> None:
    tag, resources = str(SlurmTag("r", "worker", 0)), {"gres/qpu": 1.0}
    nodes = replace(accounted(1, "worker", 0, 10), comment=tag)
    qpu = replace(nodes, id=2, partition="quantum", tres=resources)
    found = measure(site, Answers([nodes, qpu]))
    assert (found.node_s, found.worker_node_s, found.qpu_held_s) == (40.0, 20.0, 10.0)


def test_a_run_of_another_state_folder_is_another_run(site: Site, tmp_path: Path) -> None:
    other = owner_of(tmp_path / "other", "r")
    theirs = replace(accounted(2, "worker", 0, 10), comment=str(other.tag("worker", 0)))
    found = measure(site, Answers([accounted(1, "worker", 0, 10), theirs]))
    assert [job.id for job in found.jobs] == [1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the site says of access to the QPU, and what Slurm's accounting tells of it."""

    gres: bool
    license: bool
    partition: bool
    reservation: bool
    worker_nodes: int
    elapsed_s: int
    same_partition: bool
    accounts_gres: bool
    accounts_licenses: bool

    @property
    def qpu_nodes(self) -> int:
        """One node where the access asks for more than a licence."""
        return int(self.gres or self.partition or self.reservation)

    @property
    def is_told(self) -> bool:
        """Whether the accounting has anything of the QPU: a component, or the job's licence."""
        return self.qpu_nodes > 0 or self.accounts_licenses

    def site(self, folder: Path) -> Site:
        access = {
            "gres": "qpu:1" if self.gres else None,
            "license": "lab:1" if self.license else None,
            "partition": "quantum" if self.partition else None,
            "reservation": "morning" if self.reservation else None,
        }
        lines = ", ".join(f'{name} = "{value}"' for name, value in access.items() if value)
        file = folder / "shape.toml"
        file.write_text(
            '[compute.cluster]\nkind = "slurm"\n[qpu.vlq]\nbackend = "aer"\n'
            f"slurm = {{ {lines} }}\n"
        )
        return load_site(file)

    def jobs(self, site: Site) -> list[AccountedJob]:
        """Return the components of an exclusive run's job, as Slurm grants what was asked for."""
        default = "quantum" if self.same_partition else "classical"
        plain = allocation(WorkerOptions(cores=4, nodes_max=self.worker_nodes))
        asked = plain.together(self.worker_nodes, (access_resources(site.qpu("vlq")),))
        one = accounted(7, "worker", 0, self.elapsed_s)
        return [
            replace(
                one,
                id=one.id + place,
                partition=part.partition or default,
                node_count=part.nodes,
                tres={"cpu": 4.0, "node": float(part.nodes)}
                | ({"gres/qpu": 1.0} if part.gres and self.accounts_gres else {})
                | ({"license/lab": 1.0} if part.licenses and self.accounts_licenses else {}),
            )
            for place, part in enumerate((asked.resources, *asked.also))
        ]


shapes = st.builds(
    Shape,
    gres=st.booleans(),
    license=st.booleans(),
    partition=st.booleans(),
    reservation=st.booleans(),
    worker_nodes=st.integers(1, 4),
    elapsed_s=st.integers(1, 100),
    same_partition=st.booleans(),
    accounts_gres=st.booleans(),
    accounts_licenses=st.booleans(),
).filter(lambda shape: (shape.gres or shape.license or shape.partition) and shape.is_told)
USUAL = Shape(
    gres=True,
    license=True,
    partition=True,
    reservation=False,
    worker_nodes=3,
    elapsed_s=10,
    same_partition=False,
    accounts_gres=True,
    accounts_licenses=True,
)


@settings(deadline=None, max_examples=200)
@given(shapes)
@example(USUAL)
@example(replace(USUAL, partition=False))
@example(replace(USUAL, gres=False))
@example(replace(USUAL, gres=False, accounts_licenses=False))
def test_an_exclusive_job_has_its_workers_nodes_and_the_qpu_once(shape: Shape) -> None:
    with TemporaryDirectory() as folder:
        site = shape.site(Path(folder))
    jobs = shape.jobs(site)
    assert len(jobs) == 1 + shape.qpu_nodes
    found = measure(site, Answers(jobs))
    assert found.node_s == (shape.worker_nodes + shape.qpu_nodes) * shape.elapsed_s
    assert found.worker_node_s == shape.worker_nodes * shape.elapsed_s
    assert found.qpu_held_s == shape.elapsed_s
    # The QPU's own component has it; a licence alone is the workers' job's.
    assert [job.qpus for job in found.jobs] == [{}] * shape.qpu_nodes + [{"vlq": 1.0}]


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
