"""One graph on QPUs of three paradigms, by command lines that differ in ``--qpu`` alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.broker.core import events as ev
from orchestrator.broker.ledger import Ledger
from tests.patience import until

pytest.importorskip("dwave.samplers", reason="the annealing extra is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

SITE = """
[site]
default_qpu = "gates"
default_compute = "local"

[compute.local]
workers = 1

[qpu.gates]
backend = "aer"

[qpu.annealer]
backend = "annealing"

[qpu.atoms]
backend = "rydberg"
"""
QPUS = {"gates": "QAOA", "annealer": "annealing", "atoms": "Rydberg blockade"}


def command(qpu: str, run: str) -> list[str]:
    return [
        *(sys.executable, "-m", "orchestrator.cli", "run", "flows.mis", "--site", "paradigms.toml"),
        *("--run-id", run, "--out", run, "-p", "shots=300", "--qpu", qpu),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "paradigms.toml").write_text(SITE)
    return tmp_path


def result(folder: Path, run: str) -> Any:
    return json.loads((folder / run / "result.json").read_text())


def complete(folder: Path, qpu: str, run: str) -> Any:
    said = subprocess.run(
        command(qpu, run), cwd=folder, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert f"on {qpu}" in said.stdout
    return result(folder, run)


def test_one_graph_is_solved_by_three_paradigms(folder: Path) -> None:
    found = {qpu: complete(folder, qpu, f"on-{qpu}") for qpu in QPUS}
    assert {qpu: one["method"] for qpu, one in found.items()} == QPUS
    for one in found.values():
        assert one["weight"] == one["reference"]
        assert one["summary"][0].startswith("Nobody won on graph unit-disk-12")
    same = ("graph", "nodes", "edges", "reference", "random_best_share")
    assert len({json.dumps([one[key] for key in same]) for one in found.values()}) == 1


@pytest.mark.parametrize("qpu", QPUS)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    folder: Path, isolated_state: Path, qpu: str
) -> None:
    killed = subprocess.Popen(
        command(qpu, "killed"), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wanted = 5 if qpu == "gates" else 1  # the others have one job alone
    until(lambda: killed.poll() is not None or len(started(isolated_state)) >= wanted)
    killed.kill()
    killed.wait()
    again = complete(folder, qpu, "killed")
    whole = complete(folder, qpu, "whole")
    assert again == whole
    counts = started(isolated_state)
    assert set(counts.values()) <= {1, 2}  # 2: a simulation that died with its process
    if qpu == "gates":
        assert list(counts.values()).count(1) >= wanted - 1


def started(state: Path) -> Counter[str]:
    """Return how often each task of the run was started."""
    if not (state / "ledger.sqlite").exists():
        return Counter()
    ledger = Ledger.open(state / "ledger.sqlite")
    return Counter(
        event.tag for event, _ in ledger.events("killed") if isinstance(event, ev.TaskStarted)
    )


def test_each_is_estimated_without_a_job(folder: Path, isolated_state: Path) -> None:
    for qpu in QPUS:
        said = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", "estimate", "flows.mis", "--json",
             "--site", "paradigms.toml", "-p", "shots=300", "--qpu", qpu],
            cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        (known,) = json.loads(said.stdout)["qpus"]
        assert (known["qpu"], known["shots"]) == (qpu, 300)
    assert not (isolated_state / "ledger.sqlite").exists()
