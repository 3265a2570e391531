"""Slurm's jobs that hold QPUs, on a real Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from backends.fake import create
from orchestrator.application.jobs import jobs_of as recorded_jobs
from orchestrator.broker.client.protocol import AllocationEnded
from orchestrator.broker.core.grants import Grant
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState, QpuTaskState
from orchestrator.broker.runtime.embedded import EmbeddedBroker
from orchestrator.broker.runtime.grant_watch import NotGranted
from orchestrator.config.loading import load_site
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.errors import SlurmRefused
from orchestrator.slurm.qpu_grants import SlurmAllocations
from orchestrator.slurm.qpu_jobs import QpuJobs
from orchestrator.slurm.script import JobResources, JobScript
from tests.broker.embedded_rooms import bell
from tests.errors import naming
from tests.patience import PATIENCE_S, until
from tests.private_slurm import SlurmForTests

pytestmark = pytest.mark.slurm

ACCESS = SlurmAccess(gres="qpu:1", partition="quantum", check_s=0.5)
FLOW = """
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import quantum

@quantum
def measure(qpu):
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return qpu.sampler(seed=1).run([circuit], shots=100).result()[0].data.meas.get_counts()

@flow
def demo():
    return measure()
"""


def qpu(**options: object) -> QpuSettings:
    return QpuSettings(name="q", backend="fake", options=options, slurm=ACCESS)


def jobs_of(folder: Path, run: str) -> QpuJobs:
    return QpuJobs(run, folder / run)


@pytest.fixture
def closing() -> Iterator[list[QpuJobs]]:
    opened: list[QpuJobs] = []
    yield opened
    for jobs in opened:
        jobs.close()


class Bound:
    """An embedded broker on a fake QPU that Slurm grants."""

    def __init__(self, folder: Path, **options: object) -> None:
        (folder / "q").mkdir()
        settings = qpu(**options)
        self.broker = EmbeddedBroker(
            run="run",
            state_dir=folder,
            open_backend=lambda _: create(options, state_dir=folder / "q"),
            qpus={"q": settings},
            allocations=SlurmAllocations(Slurm(patience_s=0), {"q": ACCESS}),
        ).open()

    def submit(self, slurm_job: int | None, call: int = 0) -> str:
        request = JobRequest(run="run", qpu="q", call=call, slurm_job=slurm_job)
        return self.broker.submit(request, bell(seed=call + 1))


@pytest.fixture(autouse=True)
def emptied(slurm: SlurmForTests) -> Iterator[None]:
    """Leave no job to the next test."""
    yield
    until(lambda: not slurm.queue())


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Bound]:
    bound = Bound(tmp_path, run_s=3600)
    yield bound
    bound.broker.close()


def submitted(slurm: SlurmForTests, *options: str, as_user: str | None = None) -> int:
    argv = ["sbatch", "--parsable", "--output=/dev/null", *options, "--wrap=sleep 600"]
    if as_user is not None:
        argv = ["setpriv", f"--reuid={as_user}", "--clear-groups", *argv, "--chdir=/tmp"]
    job = int(slurm.run(argv))
    until(lambda: f"{job} RUNNING" in slurm.run(["squeue", "-ho", "%i %T"]))
    return job


def test_a_run_holds_the_qpu_while_its_quantum_stage_runs(slurm, tmp_path) -> None:
    (tmp_path / "demo.py").write_text(FLOW)
    (tmp_path / "site.toml").write_text(
        '[qpu.vlq]\nbackend = "aer"\nprofile = "vlq"\ntime_scale = 0\n'
        '[qpu.vlq.slurm]\ngres = "qpu:1"\npartition = "quantum"\n'
    )
    environment = {**slurm.environment, "HPCQC_STATE_DIR": str(tmp_path / "state")}
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "run", "demo.py", "--site", "site.toml"],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    (record,) = (tmp_path / "hpcqc-runs").glob("*/run.json")
    document = json.loads(record.read_text())
    (job,) = document["jobs"]
    run, slurm_job = document["id"], job["slurm_job"]
    assert not [line for line in slurm.queue() if run in line]

    def accounted() -> list[str]:
        argv = ["sacct", "-nPX", f"--jobs={slurm_job}", "--format=JobName,Partition,AllocTRES"]
        return slurm.run(argv).strip().split("|")

    until(lambda: "gres/qpu=1" in accounted()[-1])  # Slurm writes it a while later
    name, partition, tres = accounted()
    assert (name, partition) == (f"hpcqc-{run}-qpu-vlq", "quantum")
    assert "node=1" in tres.split(",")


LONG_FLOW = FLOW.replace(".run([circuit], shots=100)", ".run([circuit] * 6, shots=100)")


def test_a_stage_longer_than_its_qpu_jobs_goes_on_until_it_is_done(
    slurm, tmp_path, monkeypatch
) -> None:
    """Each Slurm job ends after one task or two; what had completed is not started again."""
    (tmp_path / "demo.py").write_text(LONG_FLOW)
    (tmp_path / "site.toml").write_text(
        '[qpu.q]\nbackend = "fake"\noptions = { run_s = 1.0, max_circuits = 1 }\n'
        '[qpu.q.slurm]\ngres = "qpu:1"\npartition = "quantum"\ncheck_s = 0.5\n'
    )
    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "state"))
    site = load_site(tmp_path / "site.toml")
    environment = {**slurm.environment, "HPCQC_STATE_DIR": str(tmp_path / "state")}
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", "run", "demo.py", "--site", "site.toml"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        ended: list[int] = []

        def completed() -> int:
            tasks = [task for job in recorded_jobs(site) for task in job.tasks]
            return sum(task.state is QpuTaskState.COMPLETED for task in tasks)

        def current() -> int | None:
            mine = [line.split() for line in slurm.queue() if "-qpu-q" in line]
            fresh = [int(one[0]) for one in mine if "RUNNING" in one and int(one[0]) not in ended]
            return fresh[0] if fresh else None

        for _ in range(5):
            until(lambda: current() or running.poll() is not None)
            job = current()
            if job is None:
                break
            before = completed()
            until(lambda most=before: completed() > most or running.poll() is not None)
            ended.append(job)
            slurm.run(["scancel", str(job)])
        assert running.wait(PATIENCE_S) == 0, running.stderr.read() if running.stderr else ""
    assert len(ended) == 5
    (record,) = (tmp_path / "hpcqc-runs").glob("*/run.json")
    (job,) = json.loads(record.read_text())["jobs"]
    assert [task["starts"] for task in job["tasks"] if task["state"] == "completed"] == [1] * 6


def test_two_runs_take_turns_and_stages_of_one_share(slurm, tmp_path, closing) -> None:
    first, second = jobs_of(tmp_path, "one"), jobs_of(tmp_path, "two")
    closing += [first, second]
    order: list[str] = []
    entered = threading.Event()

    def other() -> None:
        with second.hold(qpu()):
            order.append("second")
            entered.set()

    with first.hold(qpu()) as mine, first.hold(qpu()) as shared:
        assert mine == shared
        waiting = threading.Thread(target=other)
        waiting.start()
        until(lambda: any("PENDING" in line and "two" in line for line in slurm.queue()))
        order.append("first")
    assert entered.wait(PATIENCE_S)
    waiting.join(PATIENCE_S)
    assert order == ["first", "second"]
    until(lambda: not slurm.queue())


def test_the_end_of_the_slurm_job_stops_the_task_on_the_qpu(slurm, slow) -> None:
    job = submitted(slurm, "--gres=qpu:1", "-pquantum")
    running, waiting = slow.submit(job), slow.submit(job, call=1)
    backend = slow.broker.backend("q")
    until(lambda: backend.starts)
    slurm.run(["scancel", str(job)])
    for one in (running, waiting):
        with pytest.raises(AllocationEnded, match=naming(job)):
            slow.broker.result(one, PATIENCE_S)
        assert slow.broker.view(one).slurm_job == job
    (task,) = slow.broker.view(running).tasks
    assert task.state == "cancelled"


def test_the_work_goes_on_under_the_next_slurm_job(slurm, tmp_path) -> None:
    bound = Bound(tmp_path, run_s=0.1)
    try:
        with pytest.raises(AllocationEnded):
            bound.broker.result(bound.submit(999_999), PATIENCE_S)
        job = submitted(slurm, "--gres=qpu:1", "-pquantum")
        result = bound.broker.result(bound.submit(job), PATIENCE_S)
        assert sum(result[0].data.meas.get_counts().values()) == 100
        slurm.run(["scancel", str(job)])
    finally:
        bound.broker.close()


def test_a_requeued_job_ends_what_ran_under_it(slurm, slow) -> None:
    job = submitted(slurm, "--gres=qpu:1", "-pquantum", "--requeue")
    running = slow.submit(job)
    until(lambda: slow.broker.view(running).state is JobState.RUNNING)
    slurm.run(["scontrol", "requeuehold", str(job)])
    try:
        with pytest.raises(AllocationEnded, match=naming(job)):
            slow.broker.result(running, PATIENCE_S)
    finally:
        slurm.run(["scancel", str(job)])


def test_a_job_without_the_gres_grants_nothing(slurm, slow) -> None:
    job = submitted(slurm, "-pquantum")
    with pytest.raises(AllocationEnded, match=naming("qpu:1")):
        slow.broker.result(slow.submit(job), PATIENCE_S)
    slurm.run(["scancel", str(job)])
    with pytest.raises(NotGranted, match=naming("q")):
        slow.submit(None)
    assert slow.broker.backend("q").starts == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can submit as another user")
def test_a_user_cannot_bind_to_the_job_of_another(slurm, slow) -> None:
    job = submitted(slurm, "--gres=qpu:1", "-pquantum", as_user="nobody")
    with pytest.raises(AllocationEnded, match=naming("root")) as caught:
        slow.broker.result(slow.submit(job), PATIENCE_S)
    assert "nobody" not in str(caught.value)
    slurm.run(["scancel", str(job)])
    assert slow.broker.backend("q").starts == {}


@pytest.mark.parametrize(
    ("access", "named"),
    [
        ({"gres": "qpu:1", "partition": "classical"}, "qpu"),
        ({"gres": "qpu:9", "partition": "quantum"}, "qpu"),
        ({"gres": "warp:1"}, "warp"),
        ({"partition": "nowhere"}, "nowhere"),
        ({"license": "nothing:1"}, "nothing"),
        ({"partition": "quantum", "walltime": "9-00:00:00"}, "quantum"),
    ],
)
def test_what_slurm_never_grants_is_refused(access, named, slurm, tmp_path, closing) -> None:
    settings = QpuSettings(name="q", backend="fake", slurm=SlurmAccess.model_validate(access))
    jobs = jobs_of(tmp_path, "refused")
    closing.append(jobs)
    with pytest.raises(SlurmRefused) as caught, jobs.hold(settings):
        pass
    assert named in str(caught.value)
    assert "[qpu.q.slurm]" in str(caught.value)
    assert not [line for line in slurm.queue() if "refused" in line]


def test_inside_a_job_that_holds_the_qpu_none_is_submitted(slurm, tmp_path, monkeypatch) -> None:
    job = submitted(slurm, "--gres=qpu:1", "-pquantum")
    monkeypatch.setenv("SLURM_JOB_ID", str(job))
    with jobs_of(tmp_path, "inside").hold(qpu()) as held:
        assert held == job
        assert not [line for line in slurm.queue() if "inside" in line]
    assert f"{job} RUNNING wrap" in slurm.queue()  # it is not ours to end
    slurm.run(["scancel", str(job)])


def test_a_job_of_a_killed_process_is_taken_over(slurm, tmp_path, closing) -> None:
    dead, alive = jobs_of(tmp_path, "killed"), jobs_of(tmp_path, "killed")
    closing += [dead, alive]
    left = dead.current(qpu())
    for holding in dead._holdings.values():  # as the end of its process does
        assert holding.use is not None
        holding.use.close()
        holding.use = (tmp_path / "no-lock").open("w")
    with alive.hold(qpu()) as held:
        assert held == left
    until(lambda: not slurm.queue())


def test_a_worker_that_leaves_a_job_before_its_run_does_not_end_it(
    slurm, tmp_path, closing
) -> None:
    """A worker of a fan-out, which is another process, uses the job that a stage holds."""
    flow, worker = jobs_of(tmp_path, "shared"), jobs_of(tmp_path, "shared")
    closing.append(flow)
    with flow.hold(qpu()) as held:
        assert worker.current(qpu()) == held
        worker.close()
        time.sleep(3.0)  # the job's script looks at its file every 2 s
        assert [line.split()[:2] for line in slurm.queue()] == [[str(held), "RUNNING"]]
    until(lambda: not slurm.queue())


def test_a_job_whose_run_is_gone_ends_by_itself(slurm, tmp_path, closing, monkeypatch) -> None:
    monkeypatch.setattr("orchestrator.slurm.qpu_jobs._ABANDONED_S", 3)
    monkeypatch.setattr("orchestrator.slurm.qpu_jobs._ALIVE_EVERY_S", 3600.0)
    jobs = jobs_of(tmp_path, "gone")
    closing.append(jobs)
    jobs.current(qpu())
    until(lambda: not slurm.queue())


def test_a_limit_on_the_number_of_jobs_is_waited_for(slurm, tmp_path, closing) -> None:
    """Slurm refuses the job while another one of the user's has the only place of a QOS."""
    change = ["sacctmgr", "-i", "modify", "qos", "short", "set"]
    slurm.run([*change, "MaxSubmitJobsPerUser=1"])
    notices: list[str] = []
    try:
        before = submitted(slurm, "-Aphysics", "--qos=short", "-pclassical")
        access = ACCESS.model_copy(update={"account": "physics", "qos": "short"})
        settings = QpuSettings(name="q", backend="fake", slurm=access)
        jobs = QpuJobs("limited", tmp_path / "limited", on_notice=notices.append)
        closing.append(jobs)
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(jobs.current, settings)
            until(lambda: notices or held.done())
            slurm.run(["scancel", str(before)])
            assert held.result(PATIENCE_S) is not None
    finally:
        slurm.run([*change, "MaxSubmitJobsPerUser=-1"])
    refusals = [notice for notice in notices if "MaxSubmitJob" in notice]
    assert len(refusals) == 1
    jobs.close()


def test_a_run_that_ends_while_its_job_waits_leaves_nothing(slurm, tmp_path) -> None:
    before = submitted(slurm, "--gres=qpu:1", "-pquantum")
    jobs = jobs_of(tmp_path, "early")

    def wait() -> None:
        with suppress(Exception), jobs.hold(qpu()):
            pass

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: any("early" in line for line in slurm.queue()))
    jobs.close()
    waiting.join(PATIENCE_S)
    slurm.run(["scancel", str(before)])
    until(lambda: not slurm.queue())


def test_a_job_close_to_its_walltime_grants_nothing_further(slurm, tmp_path) -> None:
    script = JobScript(
        name="short",
        tag="short",
        resources=JobResources(partition="quantum", gres="qpu:1", walltime=None),
        body=("sleep 600",),
        directory=tmp_path,
        output=tmp_path / "short.out",
        extra=("--time=1",),
    )
    job = Slurm().submit(script)
    until(lambda: f"{job} RUNNING" in slurm.run(["squeue", "-ho", "%i %T"]))
    access = ACCESS.model_copy(update={"check_s": 40.0})
    allocations = SlurmAllocations(Slurm(), {"q": access})
    grant = Grant("q", "", job)
    assert allocations.look([grant])[grant].state == "ended"
    assert SlurmAllocations(Slurm(), {"q": ACCESS}).look([grant])[grant].state == "holds"
    slurm.run(["scancel", str(job)])
