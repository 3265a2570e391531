"""What other packages add, each a distribution of its own, at one site through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.backends.profile_files import profile_with
from tests.packages import addition, installed_package

ADDED = {
    "longestfirst": {"hpcqc.policies": {"longest-first": "longestfirst:LongestFirst"}},
    "shotprice": {"hpcqc.meterings": {"shot-price": "shotprice:ShotPrice"}},
    "plaindask": {"hpcqc.computes": {"plain-dask": "plaindask:PlainDask"}},
}
SITE = """
[site]
name = "additions"
default_qpu = "device"
default_compute = "cluster"

[compute.cluster]
kind = "plain-dask"
workers = 1

[qpu.device]
backend = "aer"
options = {{ profile = "{profile}" }}
[qpu.device.schedule]
policy = "longest-first"
parameters = {{ hour_s = 1.0 }}
"""
FLOW = """
import os
from hpcqc import classical, quantum
from prefect import flow
from qiskit import QuantumCircuit

@classical
def angle():
    return os.getpid(), 0.3

@quantum
def ones(qpu, angle):
    circuit = QuantumCircuit(1)
    circuit.rx(angle, 0)
    circuit.measure_all()
    counts = qpu.sampler(seed=1).run([circuit], shots=100).result()[0].data.meas.get_counts()
    return counts.get("1", 0)

@flow
def main():
    worker, value = angle()
    return {"same": worker == os.getpid(), "ones": ones(value)}
"""


@pytest.fixture
def packages(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "packages"
    place.mkdir()
    with ExitStack() as installed:
        for name, points in ADDED.items():
            package = installed_package(place, f"hpcqc-{name}", addition(name), points)
            installed.enter_context(package)
        yield place


def hpcqc(packages: Path, *arguments: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *map(str, arguments), "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), *sys.path])},
        cwd=packages.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_run_uses_a_policy_a_formula_and_a_compute_of_others(
    packages: Path, tmp_path: Path
) -> None:
    metering = 'kind = "shot-price"\nunit = "credits"\nper_task = 0.5\nper_shot = 1e-3'
    site = tmp_path / "site.toml"
    site.write_text(SITE.format(profile=profile_with(tmp_path, metering)))
    (tmp_path / "flow.py").write_text(FLOW)
    said = hpcqc(packages, "run", "flow.py", "--site", site, "--out", "out")
    assert said["result"]["same"] is False, "the stage ran on the kind's worker"
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (job,) = record["jobs"]
    assert job["usage"]["charges"] == {"credits": pytest.approx(0.6)}
    policies = ("--policy", "longest-first:hour_s=1", "--policy", "shortest")
    study = hpcqc(
        packages, "simulate", "--mix", 1, "--limit", 60, "--load", 0.9, *policies, "--site", site
    )
    longest, shortest = study["policies"]
    assert longest["policy"] == "longest-first"
    assert set(longest["charges"]) == {"credits"}
    assert longest["wait_s"]["mean"] > shortest["wait_s"]["mean"]
