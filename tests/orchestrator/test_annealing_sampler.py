"""Binary quadratic models over the broker, cut, merged and used again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qiskit import QuantumCircuit

from backends.api import PayloadRejected
from backends.testing.annealing import all_samples, random_model
from hpcqc import AnnealingSampler, BinaryQuadraticModel, open_qpu
from orchestrator import runs
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.resources import shutdown
from orchestrator.runs import Run
from tests.errors import naming

pytest.importorskip("dwave.samplers", reason="the annealing extra is not installed")

MODEL = random_model(np.random.default_rng(2), 8, "SPIN")


@pytest.fixture(autouse=True)
def run(tmp_path: Path) -> Iterator[None]:
    """A site with an annealer, and a QPU of gates."""
    site = Site(
        name="test",
        default_qpu="annealer",
        default_compute="local",
        qpus={
            "annealer": QpuSettings(name="annealer", backend="annealing"),
            "gates": QpuSettings(name="gates", backend="fake"),
        },
        computes={"local": ComputeSettings(name="local", workers=1)},
        state_dir=tmp_path,
        source="test",
    )
    runs.activate(Run(id="annealing", site=site))
    yield
    shutdown()
    runs.activate(None)


def test_models_are_sampled() -> None:
    job = AnnealingSampler(seed=4).run([MODEL, (BinaryQuadraticModel.of([1.0]), 7)], reads=50)
    first, second = job.result()
    assert (first.reads, second.reads) == (50, 7)
    assert first.energies[0] == MODEL.energies(all_samples(MODEL)).min()
    assert second.lowest.tolist() == [0]
    view = job.view()
    assert (view.kind, view.shots, view.num_qubits) == ("annealing", 57, 8)


def test_more_reads_than_a_task_takes_are_cut_and_merged() -> None:
    most = open_qpu().target.max_shots
    assert most is not None
    pair = BinaryQuadraticModel.of([0.0, 0.0], {(0, 1): -1.0}, vartype="SPIN")
    job = open_qpu().annealing_sampler(default_reads=2 * most + 3).run([pair])
    (found,) = job.result()
    assert len(job.view().tasks) == 3
    assert found.reads == 2 * most + 3
    assert sorted(map(tuple, found.samples[:2].tolist())) == [(-1, -1), (1, 1)]


def test_a_result_is_used_again() -> None:
    sampler = AnnealingSampler("annealer", reuse=True)
    assert sampler.default_reads == 100
    first = sampler.run([MODEL])
    known = first.result()
    again = sampler.run([MODEL])
    assert again.result() == known
    assert again.view().source == first.job_id()


def test_each_machine_says_what_it_takes() -> None:
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    with pytest.raises(PayloadRejected, match=naming("annealing", "sampler")):
        open_qpu("gates").annealing_sampler().run([MODEL])
    with pytest.raises(PayloadRejected, match=naming("sampler", "annealing")):
        open_qpu("annealer").sampler().run([circuit])
    with pytest.raises(PayloadRejected, match=naming("reads", 0)):
        AnnealingSampler().run([MODEL], reads=0)
