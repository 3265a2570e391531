"""`hpcqc accounting` on a day of mixed jobs: equal to `sacct` and to the ledger."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.accounting.join import GROUPS
from orchestrator.application.accounting import accounting
from orchestrator.application.jobs import jobs
from orchestrator.identity import SlurmTag, slurm_job_name
from orchestrator.provenance.report import draw_report
from orchestrator.provenance.schema import read_record
from tests.patience import PATIENCE_S, until
from tests.private_slurm import SlurmForTests

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

FLOW = """
from prefect import flow
from qiskit import QuantumCircuit
from hpcqc import classical, quantum


@classical
def width(n):
    return n


@quantum
def shots(qpu, n):
    circuit = QuantumCircuit(n)
    circuit.h(0)
    circuit.measure_all()
    return sum(
        qpu.sampler(seed=seed).run([circuit], shots=100).result()[0].data.meas.num_shots
        for seed in range(2)
    )


@flow
def mixed(n: int = 2):
    return shots(width(n))
"""
SITE = """
[site]
default_qpu = "sim"
default_compute = "cluster"

[compute.cluster]
kind = "slurm"
options = { partition = "classical", memory = "1 GiB", walltime = "5 min", interface = "lo" }

[qpu.sim]
backend = "aer"
profile = "vlq"
time_scale = 0
slurm = { gres = "qpu:1", license = "qpu_lab:1", partition = "quantum" }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A folder in which jobs are made.

    site: its file; numbers: ids of Slurm jobs by what they are; begun: after the jobs of other tests.
    """

    slurm: SlurmForTests
    folder: Path
    site: Path
    numbers: dict[str, int]
    begun: datetime

    def hpcqc(self, *arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            check=False,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def submit(self, run: str, purpose: str, *options: str, **process: Any) -> int:
        name = slurm_job_name(run, f"{purpose}-{len(self.numbers)}")
        named = [f"--job-name={name}", f"--comment={SlurmTag(run, purpose, len(self.numbers))}"]
        ended = subprocess.run(
            ["sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 3", *named, *options],
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
            timeout=PATIENCE_S,
            **process,
        )
        return int(ended.stdout)

    def rows(self) -> list[dict[str, str]]:
        """Return what sacct itself prints of the jobs of this test."""
        columns = "JobIDRaw,JobName,User,Account,State,NNodes,AllocCPUS,ElapsedRaw,AllocTRES,End"
        text = self.slurm.run(
            ["sacct", "-a", "-X", "-D", "-P", "-S", "now-1hour", f"--format={columns},Comment"]
        )
        found = csv.DictReader(io.StringIO(text), delimiter="|", quoting=csv.QUOTE_NONE)
        return [row for row in found if row["JobName"].startswith("hpcqc-day")]

    def sums(self, **wanted: str) -> dict[str, float]:
        """Return the sums of sacct's rows with these values."""
        rows = [r for r in self.rows() if all(r[key] == value for key, value in wanted.items())]
        seconds = [int(row["ElapsedRaw"]) for row in rows]
        tres = [row["AllocTRES"].split(",") for row in rows]
        return {
            "slurm_jobs": sum(1 for one in tres if one != [""]),
            "node_s": sum(s * int(r["NNodes"]) for s, r in zip(seconds, rows, strict=True)),
            "core_s": sum(s * int(r["AllocCPUS"]) for s, r in zip(seconds, rows, strict=True)),
            "gpu_s": sum(s for s, one in zip(seconds, tres, strict=True) if "gres/gpu=1" in one),
            "qpu_held_s": sum(
                s for s, one in zip(seconds, tres, strict=True) if "gres/qpu=1" in one
            ),
        }


@pytest.fixture
def day(slurm: SlurmForTests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Day]:
    """Two runs with Slurm jobs and quantum jobs, and jobs that were cancelled, requeued, altered …"""
    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "site.toml").write_text(SITE)
    until(lambda: not slurm.queue(), slurm.queue)
    time.sleep(1.1)  # Slurm's accounting knows whole seconds
    site, begun = tmp_path / "site.toml", datetime.now(UTC)
    found = Day(slurm=slurm, folder=tmp_path, site=site, numbers={}, begun=begun)
    for run, coupling in (("day-1", "multiplexed"), ("day:2", "exclusive")):
        where = ("--site", "site.toml", "--run-id", run, "--out", run)
        found.hpcqc("run", "flow.py", *where, "--coupling", coupling)
    numbers = found.numbers
    numbers["requeued"] = found.submit("day-1", "worker", "--requeue")
    until(lambda: f"{numbers['requeued']} RUNNING" in str(slurm.queue()), slurm.queue)
    slurm.run(["scontrol", "requeue", str(numbers["requeued"])])
    numbers["qpu"] = found.submit(
        "day-1", "qpu", "--partition=quantum", "--gres=qpu:1", "--licenses=qpu_lab:1"
    )
    numbers["gpu"] = found.submit("day:2", "stage", "--partition=gpu", "--gres=gpu:1")
    numbers["held"] = found.submit("day:2", "worker", "--hold")
    slurm.run(["scancel", str(numbers["held"])])
    numbers["lost"] = found.submit("day-lost", "worker")
    numbers["altered"] = found.submit("day:2", "worker", "--comment=mine")
    other = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    numbers["nobody"] = found.submit("day-1", "worker", "--account=physics", "--nodes=2", **other)
    until(lambda: not slurm.queue(), slurm.queue)
    until(lambda: all(row["End"] != "Unknown" for row in found.rows()), found.rows)
    yield found
    slurm.run(["scancel", *map(str, numbers.values())])


def figures(row: Any) -> dict[str, float]:
    return {
        name: getattr(row, name)
        for name in ("slurm_jobs", "node_s", "core_s", "gpu_s", "qpu_held_s")
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="jobs of another user need root")
def test_a_day_of_mixed_runs_equals_sacct_and_the_ledger(day: Day) -> None:
    everything = {by: accounting(day.begun, by=by, everyone=True, site=day.site) for by in GROUPS}
    known = jobs(site=day.site)
    assert len(known) == 4
    for found in everything.values():
        assert figures(found.total) == day.sums()
        assert found.total.quantum_jobs == len(known)
        assert found.total.qpu_used_s == pytest.approx(sum(j.usage.qpu_seconds for j in known))
    by_user = {row.group: figures(row) for row in everything["user"].rows}
    assert by_user == {user: day.sums(User=user) for user in ("root", "nobody")}
    by_account = {row.group: figures(row) for row in everything["project"].rows}
    assert by_account == {name: day.sums(Account=name) for name in ("chemistry", "physics")}
    own = accounting(day.begun, by="run", site=day.site)
    assert figures(own.total) == day.sums(User="root")
    assert {row.group for row in own.rows} == {"day-1", "day:2", "day-lost"}
    assert {row.group for row in everything["flow"].rows} == {"mixed", ""}
    couplings = {row.group for row in everything["coupling"].rows}
    assert couplings == {"multiplexed", "exclusive", ""}
    assert {(one.slurm_job, str(one.kind)) for one in own.differences} == {
        (day.numbers["qpu"], "qpu-without-jobs"),
        (day.numbers["lost"], "no-run"),
        (day.numbers["altered"], "comment-altered"),
    }
    attempts = [row for row in day.rows() if row["JobIDRaw"] == str(day.numbers["requeued"])]
    assert len(attempts) == 2
    _prints_the_same(day, own)
    _is_measured_in_its_record(day)


def _prints_the_same(day: Day, own: Any) -> None:
    plot = day.folder / "used.png"
    since = ("--from", day.begun.isoformat(timespec="seconds"))
    where = ("accounting", *since, "--site", "site.toml", "--by", "run")
    rows = [*csv.DictReader(io.StringIO(day.hpcqc(*where, "--csv", "--plot", str(plot))))]
    assert [row["run"] for row in rows] == [row.group for row in own.rows]
    assert sum(float(row["node_hours"]) for row in rows) == pytest.approx(
        own.total.node_hours, abs=3e-6
    )
    assert plot.read_bytes().startswith(b"\x89PNG")
    document = json.loads(day.hpcqc(*where, "--json"))
    assert document["total"]["node_s"] == own.total.node_s
    assert len(document["differences"]) == len(own.differences)


def _is_measured_in_its_record(day: Day) -> None:
    record = read_record(day.folder / "day-1")
    assert record.slurm is not None
    assert record.slurm.is_complete
    accounted = {row["JobIDRaw"]: int(row["ElapsedRaw"]) for row in day.rows()}
    of = {job.purpose: job for job in record.slurm.jobs}
    assert {*of} == {"worker", "qpu"}
    assert record.slurm.node_s == sum(accounted[str(job.id)] for job in of.values())
    assert record.slurm.qpu_held_s == accounted[str(of["qpu"].id)]
    jobs_of_stages = {stage.kind: stage.slurm_job for stage in record.stages}
    assert jobs_of_stages == {"classical": of["worker"].id, "quantum": of["qpu"].id}
    assert {job.slurm_job for job in record.jobs} == {of["qpu"].id}
    assert "Slurm jobs" in draw_report(record, None).page.decode()
    exclusive = read_record(day.folder / "day:2").slurm
    assert exclusive is not None
    assert exclusive.worker_node_s == exclusive.qpu_held_s == exclusive.node_s / 2


def test_accounting_that_is_away_is_named_and_never_zero(
    slurm: SlurmForTests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if slurm.root is None:
        pytest.skip("an existing cluster is not for killing")
    monkeypatch.setenv("HPCQC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("orchestrator.application.accounting._PATIENCE_S", 0.0)
    site = tmp_path / "site.toml"
    site.write_text(SITE)
    slurm.kill("slurmdbd")
    try:
        found = accounting(site=site)
    finally:
        slurm.restart()
    assert (found.total.node_s, found.total.qpu_held_s) == (None, None)
    assert found.total.qpu_used_s == 0.0
    assert len(found.notes) == 1
    until(lambda: accounting(site=site).total.node_s is not None, lambda: "slurmdbd")
