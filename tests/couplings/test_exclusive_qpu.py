"""Quantum jobs of an exclusive run name the Slurm job that holds its nodes and its QPU now."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from orchestrator import resources
from orchestrator.compute.slurm import SlurmDask
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.config.slurm_access import SlurmAccess
from orchestrator.resources import Resources
from orchestrator.runs import Run
from orchestrator.slurm import qpu_jobs
from orchestrator.slurm.errors import SlurmUnavailable


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Workers whose Slurm job a test names."""
    made = Mock(spec=SlurmDask, in_allocation=False)
    monkeypatch.setattr(resources, "open_compute", lambda *_: made)
    return made


@pytest.fixture
def opened(tmp_path: Path, workers: Mock, monkeypatch: pytest.MonkeyPatch) -> Resources:
    """What an exclusive run has, where Slurm grants nodes and QPU, and nothing else is submitted."""
    unavailable = Mock(jobs=Mock(side_effect=SlurmUnavailable("it was asked")))
    monkeypatch.setattr(qpu_jobs, "Slurm", Mock(return_value=unavailable))
    site = Site(
        name="test",
        default_qpu="vlq",
        default_compute="cluster",
        qpus={"vlq": QpuSettings(name="vlq", backend="fake", slurm=SlurmAccess(gres="qpu:1"))},
        computes={"cluster": ComputeSettings(name="cluster", kind="slurm")},
        state_dir=tmp_path,
        source="test",
    )
    return Resources(Run(id="together", site=site, coupling="exclusive"))


def test_a_call_before_the_first_quantum_stage_takes_the_job_of_the_nodes(opened, workers) -> None:
    workers.running_job.return_value = 7
    assert opened.slurm_job("vlq") == 7
    workers.start.assert_called()


def test_in_an_allocation_of_the_user_no_step_stands_for_the_job_that_holds_the_qpu(
    opened, workers
) -> None:
    workers.in_allocation, workers.running_job.return_value = True, 10**9
    with pytest.raises(SlurmUnavailable, match="it was asked"):  # which job holds it
        opened.slurm_job("vlq")


def test_a_call_after_the_job_of_the_nodes_was_replaced_names_the_new_one(opened, workers) -> None:
    workers.running_job.return_value = 7
    with opened.placement().quantum("stage", "vlq"):
        assert opened.slurm_job("vlq") == 7
    workers.running_job.side_effect = [None, 8]  # it was requeued, say, and the next one starts
    workers.fault.return_value = None
    assert opened.slurm_job("vlq") == 8


def test_work_goes_on_under_the_next_job_of_the_nodes(opened, workers) -> None:
    workers.running_job.return_value = 7
    assert opened.slurm_job("vlq") == 7
    workers.fault.return_value = None
    workers.running_job.side_effect = [7, None, 8]  # the reconciler has not looked at first
    assert opened.next_slurm_job("vlq", 7) == 8
