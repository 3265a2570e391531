"""A broker service as its real process: it runs what Slurm granted to its users, and no longer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.broker.client.http import BrokerRefused
from orchestrator.broker.client.protocol import AllocationEnded
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.views import JobState
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.slurm.client import Slurm
from orchestrator.slurm.qpu_grants import SlurmAllocations
from tests.broker.embedded_rooms import bell
from tests.errors import naming
from tests.patience import PATIENCE_S, until
from tests.private_slurm import SlurmForTests
from tests.service.conftest import SITE, Service

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can submit as another user"),
]

RULES = '[qpu.fake.slurm]\ngres = "qpu:1"\npartition = "quantum"\ncheck_s = 0.5\npatience_s = 1.0'


@pytest.fixture
def service(slurm: SlurmForTests, tmp_path: Path) -> Iterator[Service]:
    site, state = tmp_path / "site.toml", tmp_path / "state"
    state.mkdir()
    options = "run_s = 3600.0"
    site.write_text(SITE.format(options=options, rules=RULES, broker=""))
    started = Service(state=state, site=site).start()
    yield started
    started.stop()
    until(lambda: not slurm.queue())


def held(slurm: SlurmForTests, user: str | None = None) -> int:
    argv = ["sbatch", "--parsable", "--output=/dev/null", "-pquantum", "--gres=qpu:1"]
    argv += ["--chdir=/tmp", "--wrap=sleep 600"]
    if user is not None:
        argv = ["setpriv", f"--reuid={user}", "--clear-groups", *argv]
    job = int(slurm.run(argv))
    until(lambda: f"{job} RUNNING" in slurm.run(["squeue", "-ho", "%i %T"]))
    return job


def request(slurm_job: int | None, call: int = 0) -> JobRequest:
    return JobRequest(run="run", qpu="fake", call=call, slurm_job=slurm_job)


def test_the_service_stops_what_slurm_ended(slurm, service) -> None:
    job, broker = held(slurm), service.client()
    running = broker.submit(request(job), bell())
    waiting = broker.submit(request(job, 1), bell(seed=2))
    until(lambda: broker.view(running).state is JobState.RUNNING)
    slurm.run(["scancel", str(job)])
    for one in (running, waiting):
        with pytest.raises(AllocationEnded, match=naming(job)):
            broker.result(one, PATIENCE_S)
    assert list(service.starts().values()) == [1]
    (task,) = broker.view(running).tasks
    assert task.state == "cancelled"
    broker.close()


def test_a_restarted_service_asks_again(slurm, service) -> None:
    job, broker = held(slurm), service.client()
    running = broker.submit(request(job), bell())
    until(service.starts)
    broker.close(resuming_s=0.0)
    service.kill()
    slurm.run(["scancel", str(job)])
    service.start()
    broker = service.client()
    with pytest.raises(AllocationEnded, match=naming(job)):
        broker.result(running, PATIENCE_S)
    broker.close()
    assert list(service.starts().values()) == [1]


def test_another_user_cannot_use_a_job_that_holds_the_qpu(slurm, service) -> None:
    theirs, broker = held(slurm, user="nobody"), service.client()
    with pytest.raises(AllocationEnded, match=naming(theirs)):
        broker.result(broker.submit(request(theirs), bell()), PATIENCE_S)
    with pytest.raises(BrokerRefused, match=naming("fake")):
        broker.submit(request(None, 1), bell(seed=2))
    assert service.starts() == {}
    slurm.run(["scancel", str(theirs)])
    broker.close()


def test_an_id_that_no_job_can_have_ends_nobody_elses_work(slurm, service) -> None:
    job, broker = held(slurm), service.client()
    running = broker.submit(request(job), bell())
    until(lambda: broker.view(running).state is JobState.RUNNING)
    for call, never in enumerate((2**31, 2**32, 2**63 - 1), start=1):
        with pytest.raises(AllocationEnded, match=naming(never)):
            broker.result(broker.submit(request(never, call), bell(seed=call)), PATIENCE_S)
    assert broker.view(running).state is JobState.RUNNING
    slurm.run(["scancel", str(job)])
    broker.close()


def test_no_answer_of_slurm_ends_nothing(slurm, service) -> None:
    """The controller is killed and restarted: what runs goes on, what comes meanwhile waits."""
    assert slurm.root is not None
    job, broker = held(slurm), service.client()
    running = broker.submit(request(job), bell())
    until(lambda: broker.view(running).state is JobState.RUNNING)
    # A controller that is killed forgets what it has not stored yet.
    (stored,) = slurm.root.rglob("job_state")
    slurm.run(["scontrol", "update", f"jobid={job}", f"comment=stored-{job}"])
    until(lambda: f"stored-{job}".encode() in stored.read_bytes())
    slurm.kill("slurmctld")
    try:
        waiting = broker.submit(request(job, 1), bell(seed=2))
        until(lambda: any("not confirmed" in why for why in broker.why(waiting).waits_for))
        assert broker.view(running).state is JobState.RUNNING
    finally:
        slurm.restart()
    until(lambda: not any("not confirmed" in why for why in broker.why(waiting).waits_for))
    assert broker.view(running).state is JobState.RUNNING
    assert list(service.starts().values()) == [1]
    slurm.run(["scancel", str(job)])
    broker.close()


def test_maintenance_that_slurm_reserved_is_read_with_its_times(slurm) -> None:
    access = SlurmAccess(gres="qpu:1", partition="quantum")
    name, begin = "hpcqc-maint", datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    asked = f"starttime={begin.astimezone():%Y-%m-%dT%H:%M:%S}"
    argv = ["scontrol", "create", "reservation", f"reservationname={name}", asked]
    slurm.run([*argv, "duration=30", "flags=maint", "users=root", "partition=quantum", "nodes=ALL"])
    try:
        found = SlurmAllocations(Slurm(), {"q": access}).closures()
        (window,) = found["q"]
        assert (window.start, window.end) == (begin, begin + timedelta(minutes=30))
        assert window.kind == "maintenance"
        elsewhere = SlurmAccess(gres="gpu:1", partition="gpu")
        assert SlurmAllocations(Slurm(), {"g": elsewhere}).closures() == {"g": ()}
    finally:
        slurm.run(["scontrol", "delete", f"reservationname={name}"])


def test_readiness_says_what_is_known_and_reserves_nothing(slurm, service) -> None:
    broker = service.client()
    free = broker.readiness("fake")
    assert (free.operational, free.has_room) == (True, True)
    assert free.age_s is not None
    assert broker.readiness("vlq", qubits=10**6).has_room is False
    job = held(slurm)
    running = broker.submit(request(job), bell())
    until(lambda: broker.view(running).state is JobState.RUNNING)
    busy = broker.readiness("fake")
    assert (busy.operational, busy.has_room) == (True, False)
    assert busy.slurm_at is not None
    broker.drain("fake", "test")
    drained = broker.readiness("fake")
    assert (drained.operational, drained.has_room) == (False, False)
    slurm.run(["scancel", str(job)])
    broker.close()
