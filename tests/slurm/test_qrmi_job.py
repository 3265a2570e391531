"""A Slurm job with the variables that QRMI's plugin sets: the demo, and programs of stages."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.provenance.schema import read_record
from tests.patience import until
from tests.private_slurm import SlurmForTests
from tests.rehearsed import rehearsed

pytestmark = pytest.mark.slurm

PROGRAM = """
from hpcqc import classical, run_program
from prefect import flow

@classical(nodes=2, tasks_per_node=1)
def seen(qpus):
    script = 'echo $SLURMD_NODENAME $QRMI_JOB_QPU_RESOURCES ${q50_QRMI_X--} ${left_QRMI_X--}'
    return run_program(["/bin/sh", "-c", script], qpus=qpus).output.read_text()

@flow
def programs():
    return [seen(None), seen([])]
"""
SITE = """
[site]
default_compute = "nodes"
[compute.nodes]
kind = "slurm"
options = { interface = "lo", nodes_max = 2, cores = 1 }
[qpu.q50]
backend = "fake"
"""


def ended(
    slurm: SlurmForTests, folder: Path, target: str, variables: Mapping[str, str], *options: str
) -> str:
    """Run a flow inside a job that has these variables, as a plugin would set them; return its log."""
    exported = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    hpcqc = shlex.join([sys.executable, "-m", "orchestrator.cli", "run", target])
    script = ["#!/bin/bash", *exported, f"{hpcqc} --run-id r1 --out out {shlex.join(options)}"]
    (folder / "job.sh").write_text("\n".join(script) + "\n")
    log = folder / "job.out"
    argv = ["sbatch", "--parsable", f"--chdir={folder}", f"--output={log}", "--nodes=2"]
    job = slurm.run([*argv, "--cpus-per-task=2", str(folder / "job.sh")]).strip()
    until(lambda: not slurm.run(["squeue", "-h", "-j", job, "-o", "%i"]).strip(), log.read_text)
    return log.read_text()


def test_qrmis_variables_alone_run_the_demo_on_the_right_qpu(
    slurm: SlurmForTests, tmp_path: Path
) -> None:
    pytest.importorskip("pyscf")
    with rehearsed("vtt-q50", tmp_path / "site") as server:
        token = json.loads(server.options["token"])["access_token"]
        variables = {
            "QRMI_JOB_QPU_RESOURCES": "q50,other",
            "QRMI_JOB_QPU_TYPES": "iqm-server,iqm-server",
            "q50_QRMI_IQM_ISA_ENDPOINT": server.options["url"],
            "q50_QRMI_IQM_ISA_TOKEN": token,
            "other_QRMI_IQM_ISA_ENDPOINT": "http://127.0.0.1:1",
            "other_QRMI_IQM_ISA_TOKEN": "unused",
        }
        small = ("-p", "molecule=H2", "-p", "points=2", "-p", "max_iterations=1")
        log = ended(slurm, tmp_path, "flows.dissociation", variables, *small)
        meter = server.meter()
    record = read_record(tmp_path / "out")
    assert record.status == "completed", log
    assert {(job.qpu, job.backend) for job in record.jobs} == {("q50", "iqm")}
    assert sum(len(job.tasks) for job in record.jobs) == meter["jobs"] > 0
    assert token not in log


def test_a_program_of_a_stage_has_the_qpus_of_its_job_on_each_node(
    slurm: SlurmForTests, tmp_path: Path
) -> None:
    (tmp_path / "programs.py").write_text(PROGRAM)
    (tmp_path / "hpcqc.toml").write_text(SITE)
    variables = {
        "QRMI_JOB_QPU_RESOURCES": "q50",
        "QRMI_JOB_QPU_TYPES": "iqm-server",
        "q50_QRMI_X": "mine",
        "left_QRMI_X": "of another job",
        "HPCQC_STATE_DIR": os.environ["HPCQC_STATE_DIR"],
    }
    log = ended(slurm, tmp_path, "programs.py", variables)
    record = read_record(tmp_path / "out")
    assert record.status == "completed", log
    given, without = json.loads((tmp_path / "out" / "result.json").read_text())
    nodes = sorted(line.split()[0] for line in given.splitlines())
    assert len(set(nodes)) == 2
    assert sorted(given.splitlines()) == [f"{node} q50 mine -" for node in nodes]
    assert sorted(line.split()[1:] for line in without.splitlines()) == [["-", "-"]] * 2
