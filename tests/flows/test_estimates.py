"""`hpcqc estimate` on every ready flow, beside what a run of the same parameters used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from flows._inputs import InputError
from flows.federated import federated
from hpcqc import estimate
from orchestrator import runs
from orchestrator.config.site import Site
from orchestrator.runs import Run
from tests.errors import naming

SITE = """
[qpu.vlq]
backend = "aer"
profile = "vlq"
time_scale = 0
[compute.local]
workers = 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a run with these parameters used of vlq, its errors simulated. needs: modules of an extra."""

    parameters: dict[str, Any]
    jobs: int
    shots: int
    qpu_seconds: float
    needs: tuple[str, ...] = ()


_LEARNT = ("jax", "optax")
MEMORY = {"source": "qpu", "rounds": 2, "samples": 4000}
USED = {
    "flows.decoder": Used(
        # A dry run writes no file.
        parameters={**MEMORY, "shots": 1000, "save": "kept.decoder"},
        jobs=1,
        shots=1000,
        qpu_seconds=1.234,
        needs=("stim", "pymatching", *_LEARNT),
    ),
    "flows.realtime": Used(
        # Nobody answers at that port: a dry run asks a server of its own.
        parameters={**MEMORY, "shots": 600, "streamed": 100, "timeout_s": 30.0}
        | {"server": "127.0.0.1:9"},
        jobs=1,
        shots=600,
        qpu_seconds=1.074,
        needs=("stim", "pymatching", *_LEARNT),
    ),
    "flows.generative": Used(
        parameters={"molecule": "h2", "bond": 0.735, "length": 2, "rounds": 4, "circuits": 4},
        jobs=6,
        shots=35_528,
        qpu_seconds=18.705,
        needs=("pyscf", "ffsim", *_LEARNT),
    ),
    "flows.household": Used(
        parameters={"homes": 5, "train": 2, "days": 56, "generations": 4, "candidates": 2},
        jobs=4,
        shots=432_000,
        qpu_seconds=207.886,
    ),
    "flows.molecules": Used(
        parameters={"molecules": 150, "epochs": 3, "rounds": 1, "samples": 40}
        | {"generations": 3, "shots": 200},
        jobs=6,
        shots=13_720,
        qpu_seconds=10.563,
        needs=("rdkit", "selfies", *_LEARNT),
    ),
    "flows.federated": Used(
        # Jobs of its sites are in their own ledgers.
        parameters={"rounds": 2, "steps": 2, "seeds": 2, "batch": 8, "shots": 64}
        | {"qubits": 3, "layers": 1},
        jobs=10,
        shots=160_640,
        qpu_seconds=85.459,
        needs=("OpenSSL",),
    ),
    "flows.sensing": Used(parameters={"trials": 5}, jobs=61, shots=964_000, qpu_seconds=434.312),
    "flows.mis": Used(parameters={"shots": 300}, jobs=3, shots=24_610, qpu_seconds=12.527),
    "flows.maxcut": Used(
        parameters={"graph": "petersen", "layers": 1, "shots": 200},
        jobs=3,
        shots=2376,
        qpu_seconds=3.56,
    ),
    "flows.clustering": Used(
        parameters={"iterations": 2, "shots": 256}, jobs=6, shots=28_448, qpu_seconds=16.236
    ),
    "flows.dissociation": Used(
        parameters={"molecule": "h2", "points": 3},
        jobs=3,
        shots=1645,
        qpu_seconds=2.905,
        needs=("pyscf", "ffsim"),
    ),
    "flows.anomalies": Used(
        parameters={"data": "sonar", "qubits": 3, "layers": 1, "bandwidths": [0.2, 0.4]}
        | {"shots": 50, "subset": 50, "folds": 2},
        jobs=5,
        shots=262_300,
        qpu_seconds=145.9,
        needs=("sklearn",),
    ),
}


# What a run of it uses was not measured yet.
NOT_MEASURED = {"flows.entanglement"}


def test_every_ready_flow_is_estimated() -> None:
    assert USED.keys() | NOT_MEASURED == {one.name for one in entry_points(group="hpcqc.flows")}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("name", USED)
def test_an_estimate_is_what_a_run_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = USED[name]
    for module in used.needs:
        pytest.importorskip(module, reason=f"an extra of {name} is not installed")
    monkeypatch.chdir(tmp_path)
    Path("site.toml").write_text(SITE)
    (found,) = estimate(name, used.parameters, qpu="vlq", site="site.toml").qpus
    assert (found.jobs, found.shots) == (used.jobs, used.shots)
    assert found.qpu_seconds == pytest.approx(used.qpu_seconds, rel=0.1)
    assert found.unseeded_jobs == 0
    assert [path.name for path in tmp_path.iterdir()] == ["site.toml"]


def test_sites_of_others_do_not_work_for_an_estimate(site: Site) -> None:
    runs.activate(Run(id="dry", site=site, dry=True))
    with pytest.raises(InputError, match=naming("sites", "estimate without sites")):
        federated.fn(sites="a,b,c")
