"""A process inside a Slurm job knows its job by the variables that Slurm sets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from orchestrator.slurm import this_job
from orchestrator.slurm.allocation import AllocationSteps
from orchestrator.slurm.steps import step_environment

# As Slurm 22.05 set them for a job with two components.
HETEROGENEOUS = {
    "SLURM_HET_SIZE": "2",
    "SLURM_JOB_ID": "28",
    "SLURM_JOB_ID_HET_GROUP_0": "28",
    "SLURM_JOB_ID_HET_GROUP_1": "29",
    "SLURM_JOB_NODELIST": "c[2-3]",
    "SLURM_JOB_NODELIST_HET_GROUP_0": "c[2-3]",
    "SLURM_JOB_NODELIST_HET_GROUP_1": "q1",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
    "SLURM_JOB_NAME": "wrap",
    "SLURM_JOB_PARTITION": "classical",
    "SLURM_NODEID": "1",
    "SLURM_RESTART_COUNT": "2",
}


@pytest.mark.parametrize("environ", [{}, {"SLURM_CONF": "/etc/slurm"}, {"SLURM_JOB_ID": "no"}])
def test_outside_of_a_job_there_is_none(environ) -> None:
    assert this_job(environ) is None


def test_a_component_knows_its_nodes() -> None:
    job = this_job(HETEROGENEOUS)
    assert job is not None
    assert (job.id, job.nodes, job.cores, job.node) == (28, ("c2", "c3"), (4, 4), 1)
    assert (job.restarts, job.step_nodes, job.gpus) == (2, (), 0)
    assert (job.ends_by, job.licenses) == (None, "")


def test_newer_versions_tell_the_end_the_gpus_and_the_licences() -> None:
    job = this_job(
        {
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "g1",
            "SLURM_JOB_END_TIME": "1795937883",
            "SLURM_JOB_GPUS": "0,1",
            "SLURM_JOB_LICENSES": "qpu_lab:1",
            "SLURM_STEP_NODELIST": "g1",
            "SLURMD_NODENAME": "g1",
        }
    )
    assert job is not None
    assert job.ends_by == datetime(2026, 11, 29, 7, 38, 3, tzinfo=UTC)
    assert (job.gpus, job.licenses) == (2, "qpu_lab:1")
    assert (job.step_nodes, job.node_name) == (("g1",), "g1")
    assert (job.nodes, job.cores) == (("g1",), ())


def test_variables_that_are_not_clear_are_left_out() -> None:
    job = this_job({"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "c["})
    assert job is not None
    assert (job.id, job.nodes, job.restarts) == (7, (), 0)


@pytest.mark.parametrize(
    ("step", "has_cores"),
    [({}, False), ({"SLURM_STEP_ID": "0"}, True), ({"SLURM_STEP_ID": "4294967290"}, False)],
)
def test_a_step_of_slurms_own_has_no_cores_of_the_job(step, has_cores) -> None:
    job = this_job({"SLURM_JOB_ID": "7", **step})
    assert job is not None
    assert job.in_step is has_cores


def test_what_a_job_was_submitted_with_is_no_request_of_its_steps() -> None:
    given = {"SLURM_GPUS": "4", "SLURM_CPUS_PER_GPU": "8", "SLURM_GPUS_PER_NODE": "2"}
    kept = {"SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_GPUS": "0,1", "PATH": "/bin"}
    assert step_environment(given | kept) == kept


def test_steps_are_on_the_nodes_of_their_component() -> None:
    job = this_job(HETEROGENEOUS)
    assert job is not None
    steps = AllocationSteps(job)
    assert steps.lacks({"nodes": 2}) == {}
    assert steps.lacks({"nodes": 3}).keys() == {"nodes"}
