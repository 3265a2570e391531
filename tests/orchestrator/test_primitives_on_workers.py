"""Primitives that classical stages call on their workers: whose broker, which job, until when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow
from qiskit import QuantumCircuit

from hpcqc import Sampler, classical, open_qpu, quantum
from orchestrator import resources, runs
from orchestrator.broker.core.views import JobView
from orchestrator.broker.ledger import Ledger
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

KEPT = Sampler()  # opened by the first stage that uses it, used by others in the same process


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A quick QPU, a slow one, and one worker: everything meets in its process."""
    return Site(
        name="test",
        default_qpu="quick",
        default_compute="one",
        qpus={
            "quick": QpuSettings(name="quick", backend="fake"),
            "slow": QpuSettings(name="slow", backend="fake", options={"run_s": 2.0}),
        },
        computes={
            "one": ComputeSettings(name="one", workers=1),
            "two": ComputeSettings(name="two", workers=2),
        },
        state_dir=tmp_path_factory.mktemp("state"),
        source="test",
    )


@pytest.fixture(scope="module")
def module_run(site: Site) -> Iterator[Run]:
    """One run for the module: workers take seconds to start."""
    yield Run(id="workers", site=site)
    resources.shutdown()


@pytest.fixture(autouse=True)
def run(module_run: Run) -> Iterator[Run]:
    """Make it the active one."""
    runs.activate(module_run)
    yield module_run
    runs.activate(None)


def coin() -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    return circuit


def toss(qpu: str, shots: int) -> tuple[str, str]:
    """Ask a QPU; return the job and, from the site the worker found, where its state is."""
    opened = open_qpu(qpu)
    job = opened.sampler().run([coin()], shots=shots)
    job.result()
    return str(job.job_id()), str(resources.resources().run.site.state_dir)


def jobs(run: Run) -> dict[str, list[JobView]]:
    ledger = Ledger.open(run.site.state_dir / "ledger.sqlite")
    try:
        return {scope: ledger.jobs(scope) for scope in ledger.runs()}
    finally:
        ledger.close()


def test_a_stage_that_waits_keeps_its_job_while_its_worker_runs_another(run: Run) -> None:
    @classical
    def waits() -> str:
        return toss("slow", 100)[0]

    @classical
    def hurries() -> str:
        return toss("quick", 101)[0]

    @flow
    def both() -> tuple[str, str]:
        slow = waits.submit()
        states = [hurries.submit() for _ in range(3)]
        return slow.result(), *(state.result() for state in states)

    job, *others = both()
    assert len({job, *others}) == 4
    known = {view.id: view for views in jobs(run).values() for view in views}
    assert known[job].state.value == "completed"
    # Not how many tasks: a worker that dies before the first one's start plans another.
    assert sum(task.starts for task in known[job].tasks) == 1


@pytest.mark.parametrize("compute", ["one", "two"])
def test_a_retried_stage_takes_up_its_jobs_on_whichever_worker(
    run: Run, marks: Path, compute: str
) -> None:
    @classical(retries=1, compute=compute)
    def fails_once() -> list[str]:
        found = [toss("quick", shots)[0] for shots in (30, 30, 31)]
        first = not list(marks.iterdir())
        (marks / "-".join(found)).touch()
        if first:
            raise RuntimeError("once more")
        return found

    @flow
    def stubborn() -> list[str]:
        return fails_once()

    before = sum(len(views) for views in jobs(run).values())
    found = stubborn()
    assert [path.name for path in marks.iterdir()] == ["-".join(found)]
    assert sum(len(views) for views in jobs(run).values()) - before == 3


def test_a_primitive_in_a_variable_of_the_module_serves_one_stage_after_the_other(
    run: Run,
) -> None:
    @classical
    def asks(shots: int) -> str:
        job = KEPT.run([coin()], shots=shots)
        job.result()
        return str(job.view().stage)

    @flow
    def twice() -> list[str]:
        return [asks(50), asks(51)]

    stages = [stage.partition("@")[0] for stage in twice()]
    assert stages == [span.key for span in run.spans() if span.name.startswith("asks")]
    assert len(set(stages)) == 2


def test_a_thread_of_a_stage_asks_for_that_stage(run: Run) -> None:
    @classical
    def starts_a_thread() -> tuple[str, str]:
        found: list[tuple[str, str]] = []
        thread = threading.Thread(target=lambda: found.append(toss("quick", 60)))
        thread.start()
        thread.join()
        return found[0]

    @flow
    def threaded() -> tuple[str, str]:
        return starts_a_thread()

    assert threaded()[1] == str(run.site.state_dir)


def test_a_stage_called_by_another_on_its_worker_is_part_of_it(run: Run) -> None:
    @quantum
    def asks(qpu: object, shots: int) -> str:
        return Sampler(qpu).run([coin()], shots=shots).result()[0].data.meas.num_shots  # type: ignore[arg-type]

    @classical
    def doubles(value: int) -> int:
        return 2 * value

    @classical
    def calls() -> tuple[int, int]:
        return doubles.fn(4), asks.fn(70)

    @flow
    def nested() -> tuple[int, int]:
        return calls()

    before = len(run.spans())
    assert nested() == (8, 70)
    assert len(run.spans()) == before + 1


def test_nothing_of_a_stage_stays_open_on_its_worker(run: Run) -> None:
    @classical
    def leaves_a_job() -> str:
        return str(open_qpu("slow").sampler().run([coin()], shots=80).job_id())

    @classical
    def looks() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "hpcqc" in thread.name]

    @flow
    def leaving() -> tuple[str, list[str]]:
        return leaves_a_job(), looks()

    job, threads = leaving()
    assert threads == []
    (view,) = [view for views in jobs(run).values() for view in views if view.id == job]
    assert view.state.value == "cancelled"
