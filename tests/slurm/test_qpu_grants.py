"""What the queue says of a Slurm job decides whether quantum work that is bound to it runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.broker.core.grants import Grant
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.slurm.inventory import Partition, Reservation
from orchestrator.slurm.qpu_grants import closes, grant_state, lacks
from orchestrator.slurm.states import SlurmJob, SlurmState
from tests.errors import naming

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACCESS = SlurmAccess(gres="qpu:1", license="qpu_lab:1", check_s=5)
GRANT = Grant("vlq", "ada", 7)
JOB = SlurmJob(
    id=7,
    name="n",
    user="ada",
    state=SlurmState.RUNNING,
    partition="quantum",
    licenses="other:2,qpu_lab:1",
    tres="cpu=1,mem=1000M,node=1,billing=1,gres/qpu=1,license/qpu_lab=1",
    ends_by=NOW + timedelta(minutes=5),
)


def state(job: SlurmJob | None, grant: Grant = GRANT) -> str:
    return grant_state(grant, [] if job is None else [job], ACCESS, NOW).state


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "holds"),
        ({"state": SlurmState.CONFIGURING}, "holds"),
        ({"state": SlurmState.COMPLETING}, "ended"),
        ({"state": SlurmState.CANCELLED}, "ended"),
        ({"state": SlurmState.TIMEOUT}, "ended"),
        ({"state": SlurmState.PENDING}, "waits"),
        ({"state": SlurmState.REQUEUE_HOLD}, "waits"),
        ({"state": SlurmState.SUSPENDED}, "unknown"),
        ({"state": SlurmState.UNKNOWN}, "unknown"),
        ({"user": "eve"}, "ended"),
        ({"licenses": ""}, "ended"),
        ({"licenses": "qpu_lab:0"}, "ended"),
        ({"licenses": "qpu_lab_2:1"}, "ended"),
        ({"licenses": "qpu_lab:1|other:1"}, "holds"),
        ({"licenses": "qpu_lab:1|other:1", "tres": "gres/qpu=1,license/other=1"}, "ended"),
        ({"licenses": "qpu_lab:1|other:1", "tres": "gres/qpu=1"}, "ended"),
        ({"tres": "cpu=1,node=1"}, "ended"),
        ({"ends_by": NOW + timedelta(seconds=10)}, "ended"),
        ({"ends_by": NOW + timedelta(seconds=11)}, "holds"),
        ({"ends_by": None}, "holds"),
        ({"id": 8}, "ended"),
        ({"id": 8, "leader": 7}, "holds"),
    ],
)
def test_a_grant_stands_as_its_job_does(changed, expected) -> None:
    assert state(replace(JOB, **changed)) == expected


def test_a_job_that_the_queue_forgot_has_ended() -> None:
    assert state(None) == "ended"


def test_one_component_of_a_heterogeneous_job_is_enough() -> None:
    nodes = replace(JOB, id=7, leader=7, licenses="", tres="cpu=4,node=1")
    qpu = replace(JOB, id=8, leader=7)
    assert grant_state(GRANT, [nodes, qpu], ACCESS, NOW).state == "holds"
    over = replace(nodes, state=SlurmState.CANCELLED)
    assert grant_state(GRANT, [over, qpu], ACCESS, NOW).state == "ended"


def test_licence_and_gres_may_be_of_different_components() -> None:
    nodes = replace(JOB, leader=7, tres="cpu=4,node=1")
    qpu = replace(JOB, id=8, leader=7, licenses="")
    assert grant_state(GRANT, [nodes, qpu], ACCESS, NOW).state == "holds"
    assert grant_state(GRANT, [replace(nodes, licenses=""), qpu], ACCESS, NOW).state == "ended"


def test_a_requeued_job_without_its_licence_names_the_versions() -> None:
    assert "25.11.6" in lacks(replace(JOB, licenses="", restarts=1), ACCESS)
    assert "25.11.6" not in lacks(replace(JOB, licenses=""), ACCESS)


def test_nothing_is_said_about_who_owns_a_job() -> None:
    reason = grant_state(GRANT, [replace(JOB, user="eve")], ACCESS, NOW).reason
    assert "eve" not in reason
    assert "ada" in reason


@pytest.mark.parametrize(
    ("access", "missing"),
    [
        (SlurmAccess(gres="qpu:2"), "qpu:2"),
        (SlurmAccess(gres="qpu:lab:1"), "qpu:lab:1"),
        (SlurmAccess(license="qpu_lab:2"), "qpu_lab:2"),
        (SlurmAccess(partition="gpu"), "gpu"),
    ],
)
def test_what_is_missing_is_named(access, missing) -> None:
    with pytest.raises(ValueError, match=naming(missing)):
        raise ValueError(lacks(JOB, access))
    assert lacks(JOB, SlurmAccess(partition="quantum")) == ""


def reservation(**changed: object) -> Reservation:
    plain = Reservation(name="m", starts_at=NOW, ends_at=NOW + timedelta(hours=1), flags=("MAINT",))
    return replace(plain, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, False),
        ({"licenses": {"qpu_lab": 1}}, True),
        ({"licenses": {"other": 1}}, False),
        ({"tres": "cpu=4,gres/qpu=1"}, True),
        ({"tres": "cpu=4,gres/gpu=1"}, False),
        ({"nodes": ("q1", "q2", "c1")}, True),
        ({"nodes": ("q1", "c1")}, False),
        ({"name": "ours", "licenses": {"qpu_lab": 1}}, False),
    ],
)
def test_maintenance_of_what_grants_the_qpu_closes_it(changed, expected) -> None:
    access = ACCESS.model_copy(update={"partition": "quantum", "reservation": "ours"})
    partitions = {"quantum": Partition(name="quantum", nodes=("q1", "q2"))}
    assert closes(reservation(**changed), access, partitions) is expected
