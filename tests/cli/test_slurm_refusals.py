"""What Slurm never accepts is refused before anything starts, in its words, with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.application.jobs import jobs_of
from orchestrator.config.loading import load_site

pytestmark = pytest.mark.slurm

FLOW = """
from datetime import timedelta
from pathlib import Path
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import classical, quantum

@quantum
def measure(qpu):
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    return qpu.sampler().run([circuit]).result()[0].data.meas.num_shots

@classical(DEMAND)
def judge(shots):
    return shots

@flow
def loop():
    Path("it-ran").touch()
    return judge(measure())
"""
SITE = """
[batch]
[compute.cluster]
kind = "slurm"
[compute.cluster.options]
partition = "classical"
interface = "lo"
[qpu.vlq]
backend = "aer"
[qpu.vlq.slurm]
gres = "qpu:1"
partition = "quantum"
"""
WORKERS, QPU = "[compute.cluster.options]", "[qpu.vlq.slurm]"
NO_ACCOUNT = "Invalid account or account/partition combination specified"


@pytest.fixture
def refusal(hpcqc, slurm, tmp_path):
    """Write a flow and a site, and call `hpcqc run`, which must refuse; return what it says."""

    def call(*arguments, demand: str = "", settings: tuple[str, ...] = ()) -> str:
        Path("loop.py").write_text(FLOW.replace("DEMAND", demand))
        Path("site.toml").write_text(SITE)
        changes = [word for setting in settings for word in ("--set", setting)]
        said = hpcqc("run", "loop.py", "--site", "site.toml", *changes, *arguments)
        assert said.code == 2, said
        assert not Path("it-ran").exists()
        assert not jobs_of(load_site(tmp_path / "site.toml"))
        assert slurm.queue() == []
        return said.paragraph

    return call


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ('partition="clasical"', ["'clasical'", "'classical'", "scavenge"]),
        ('account="nobody-pays"', [NO_ACCOUNT, "'nobody-pays'", "sacctmgr"]),
        ('qos="fast"', ["Invalid qos specification", "'fast'", "sacctmgr"]),
        ("cores=64", ["'classical'", "4 CPUs", "64 asked for"]),
        ('memory="64 GiB"', ["'classical'", "15.62 GiB", "64 GiB"]),
        ('walltime="3 d"', ["'classical'", "1 day, 0:00:00", "3 days, 0:00:00"]),
        ("gpus=1", ["'classical'", "'gpu'", "1 asked for"]),
        ('constraint="fpga"', ["Invalid feature specification", "'fpga'"]),
        ('reservation="monday"', ["Requested reservation is invalid", "'monday'"]),
        ('extra=["--no-such-option"]', ["--no-such-option", "extra"]),
        ('extra=["--mail-type=SOON"]', ["mail-type"]),
    ],
)
def test_worker_jobs_that_slurm_never_accepts(refusal, setting, named) -> None:
    said = refusal(settings=(f"compute.cluster.options.{setting}",))
    assert [name for name in [*named, WORKERS, "'cluster'"] if name not in said] == []


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ('extra=["--wrap=true"]', ["--wrap=true"]),
        ('interface="no-such0"', ["'no-such0'", "lo"]),
        ('python="/no/such/python"', ["'/no/such/python'"]),
    ],
)
def test_worker_options_that_cannot_be_right(refusal, setting, named) -> None:
    said = refusal(settings=(f"compute.cluster.options.{setting}",))
    assert [name for name in [*named, WORKERS] if name not in said] == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (['partition="classical"'], ["'classical'", "no 'qpu'", "quantum has them"]),
        (['gres="qpu:9"'], ["'quantum'", "1 'qpu'", "9 asked for"]),
        (['gres="warp:1"'], ["no 'warp'", "1 asked for"]),
        (['partition="quantun"'], ["'quantun'", "did you mean 'quantum'"]),
        (['license="nothing:1"'], ["Invalid license specification", "qpu_lab (2)"]),
        (['walltime="9-00:00:00"'], ["'quantum'", "1:00:00", "9 days"]),
        (['account="nobody-pays"'], [NO_ACCOUNT, "'nobody-pays'"]),
    ],
)
def test_a_qpu_that_slurm_never_grants(refusal, settings, named) -> None:
    said = refusal(settings=[f"qpu.vlq.slurm.{setting}" for setting in settings])
    assert [name for name in [*named, QPU, "'vlq'"] if name not in said] == []


@pytest.mark.parametrize(
    ("demand", "named"),
    [
        ("nodes=9", ["nodes = 9", "'classical'", "4 nodes"]),
        ("cores=5", ["cores = 5", "'classical'", "4 CPUs"]),
        ("gpus=7", ["gpus = 7", "partition 'gpu'"]),
        ("tasks_per_node=99", ["tasks_per_node = 99", "4 CPUs", "99 asked for"]),
        ("memory='1 TiB'", ["memory = 1024 GiB", "15.62 GiB"]),
        ("walltime=timedelta(days=3)", ["walltime = 3 days", "1 day"]),
    ],
)
def test_a_stage_that_no_partition_can_serve(refusal, demand, named) -> None:
    said = refusal(demand=demand)
    assert [name for name in [*named, "'judge'", "'cluster'"] if name not in said] == []


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ('partition="clasical"', ["'clasical'", "'classical'", "scavenge"]),
        ('account="nobody-pays"', [NO_ACCOUNT, "'nobody-pays'"]),
        ('walltime="3 d"', ["1 day", "3 days"]),
        ('memory="64 GiB"', ["15.62 GiB", "64 GiB"]),
        ('extra=["--wrap=true"]', ["--wrap"]),
        ('extra=["--no-such-option"]', ["--no-such-option"]),
        ('python="/no/such/python"', ["'/no/such/python'"]),
    ],
)
def test_a_driver_job_that_slurm_never_accepts(refusal, setting, named) -> None:
    said = refusal("--batch", settings=(f"batch.{setting}",))
    assert [name for name in [*named, "[batch]"] if name not in said] == []


def test_an_unknown_partition_of_a_run_that_holds_nodes_and_qpu_together(refusal) -> None:
    said = refusal("--coupling", "exclusive", settings=('qpu.vlq.slurm.partition="quantun"',))
    assert QPU in said
