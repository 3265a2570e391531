"""Qiskit primitives over the broker, on the real simulator and on a profile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.circuit.library import QFTGate, efficient_su2
from qiskit.primitives import StatevectorEstimator, StatevectorSampler
from qiskit.providers import JobStatus
from qiskit.quantum_info import SparsePauliOp

from backends.api import PayloadRejected
from hpcqc import Estimator, Sampler, open_qpu
from orchestrator import resources, runs
from orchestrator.config.compute_tables import ComputeSettings
from orchestrator.config.qpu_tables import QpuSettings
from orchestrator.config.site import Site
from orchestrator.provenance.values import json_value
from orchestrator.resources import shutdown
from orchestrator.runs import Run
from tests.errors import naming


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with an ideal simulator and three devices that are imitated."""
    options = {
        "aer": {},
        "piast-q": {"profile": "piast-q", "time_scale": 0},
        "vlq": {"profile": "vlq", "time_scale": 0},
        "euro-q-exa": {"profile": "euro-q-exa", "time_scale": 0},
    }
    return Site(
        name="test",
        default_qpu="aer",
        default_compute="local",
        qpus={n: QpuSettings(name=n, backend="aer", options=o) for n, o in options.items()},
        computes={"local": ComputeSettings(name="local", workers=1)},
        state_dir=tmp_path_factory.mktemp("state"),
        source="test",
    )


@pytest.fixture(scope="module")
def module_run(site: Site) -> Iterator[Run]:
    """One run for the module, so that the simulator's processes start once."""
    yield Run(id="primitives", site=site)
    resources.shutdown()


@pytest.fixture(autouse=True)
def run(module_run: Run) -> Iterator[None]:
    """Make it the active one."""
    runs.activate(module_run)
    yield
    runs.activate(None)


def ghz(width: int = 3) -> QuantumCircuit:
    circuit = QuantumCircuit(width)
    circuit.h(0)
    for qubit in range(width - 1):
        circuit.cx(qubit, qubit + 1)
    return circuit


def measured(circuit: QuantumCircuit) -> QuantumCircuit:
    copy = circuit.copy()
    copy.measure_all()
    return copy


def test_estimates_equal_qiskits_reference_for_every_broadcast_shape() -> None:
    circuit = efficient_su2(3, reps=1)
    values = np.random.default_rng(3).uniform(-2, 2, (4, 1, circuit.num_parameters))
    observables = [[SparsePauliOp("ZZI"), SparsePauliOp(["XIX", "IYI"], [0.5, -1.5])]]
    pub = (circuit, observables, values)
    ours = Estimator().run([pub]).result()[0].data
    reference = StatevectorEstimator().run([pub]).result()[0].data
    assert ours.evs.shape == reference.evs.shape == (4, 2)
    assert np.allclose(ours.evs, reference.evs, atol=1e-9)


def test_samples_follow_qiskits_reference() -> None:
    theta = Parameter("theta")
    circuit = QuantumCircuit(1)
    circuit.ry(theta, 0)
    pub = (measured(circuit), np.linspace(0, np.pi, 5)[:, None])
    ours = Sampler(seed=4).run([pub], shots=4000).result()[0].data.meas
    reference = StatevectorSampler(seed=4).run([pub], shots=4000).result()[0].data.meas
    assert ours.shape == reference.shape == (5,)
    for index in range(5):
        mine, theirs = (bits[index].get_counts().get("1", 0) for bits in (ours, reference))
        assert abs(mine - theirs) < 5 * np.sqrt(4000)


def test_gates_that_the_simulator_does_not_know_are_taken_apart() -> None:
    circuit = QuantumCircuit(3)
    circuit.append(QFTGate(3), range(3))
    counts = Sampler(seed=1).run([measured(circuit)], shots=800).result()[0].data.meas.get_counts()
    assert set(counts) == {f"{n:03b}" for n in range(8)}


def test_a_job_in_place_of_its_result_says_which_it_is() -> None:
    job = open_qpu("aer").sampler(seed=1).run([measured(ghz())], shots=10)
    shown = json_value({"value": job})["value"]
    assert job.job_id() in shown
    assert "result()" in shown
    job.result()


def test_equal_calls_outside_a_stage_are_separate_jobs() -> None:
    circuit = measured(ghz())
    first, second = (Sampler("aer").run([circuit], shots=50) for _ in range(2))
    assert first.job_id() != second.job_id()
    assert first.result()[0].data.meas.num_shots == 50
    assert first.status() is JobStatus.DONE
    assert first.in_final_state()
    second.result()
    third = open_qpu("aer").sampler().run([circuit], shots=50)
    assert third.job_id() not in {first.job_id(), second.job_id()}
    third.result()


def test_equal_seeds_give_equal_counts() -> None:
    def counts(seed: int | None) -> dict[str, int]:
        job = Sampler("aer", seed=seed).run([measured(ghz(5))] * 2, shots=300)
        merged: dict[str, int] = job.result()[0].data.meas.get_counts()
        assert merged != job.result()[1].data.meas.get_counts()
        return merged

    assert counts(9) == counts(9)
    assert counts(9) != counts(10)


def test_a_limit_of_200_shots_slices_and_merges() -> None:
    job = Sampler("piast-q", seed=2).run([measured(ghz())], shots=900)
    counts = job.result()[0].data.meas.get_counts()
    view = job.view()
    assert sum(counts.values()) == 900
    assert sorted(task.shots for task in view.tasks) == [100, 200, 200, 200, 200]
    assert counts["000"] + counts["111"] > 700
    assert view.usage.charges[0].unit == "device-s"


@pytest.mark.parametrize("qpu", ["vlq", "euro-q-exa", "piast-q"])
def test_estimates_on_devices_that_only_count(qpu: str) -> None:
    job = Estimator(qpu, seed=5).run([(ghz(), ["ZZI", "XXX", "III"])], precision=0.03)
    data = job.result()[0].data
    assert np.all(np.abs(data.evs) <= 1.0)
    assert data.evs[0] > 0.6
    assert data.evs[2] == pytest.approx(1.0)
    assert np.all(data.stds[:2] < 0.04)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: Sampler().run([]), "empty"),
        (lambda: Sampler().run([ghz()]), "measure"),
        (lambda: Sampler().run([measured(ghz())], shots=0), naming("shots", 0)),
        (lambda: Sampler().run([measured(ghz())], shots=-3), naming("shots", -3)),
        (lambda: Sampler().run(measured(ghz())), naming("[circuit]")),
        (lambda: Sampler("piast-q").run([measured(ghz(21))]), naming(21)),
        (lambda: Estimator().run([(ghz(), "Z")]), "qubits"),
        (lambda: Estimator("vlq").run([(ghz(), "ZZZ")], precision=0.0), "precision"),
        (lambda: Estimator().run([(ghz(), "ZZZ")], precision=float("nan")), "precision"),
    ],
)
def test_mistakes_are_refused_before_anything_is_handed_in(call: object, complaint: str) -> None:
    with pytest.raises(PayloadRejected, match=complaint):
        call()  # type: ignore[operator]


def test_unbound_nan_and_miscounted_parameters_are_refused() -> None:
    theta = Parameter("theta")
    circuit = QuantumCircuit(1)
    circuit.ry(theta, 0)
    for pub, complaint in [
        (measured(circuit), "parameters"),
        ((measured(circuit), [float("nan")]), naming("PUB 0", "theta")),
        ((measured(ghz()), [0.1]), "PUB 0"),
    ]:
        with pytest.raises(PayloadRejected, match=complaint):
            Sampler().run([pub])


def test_nothing_is_left_after_shutdown() -> None:
    qpu = open_qpu("aer")
    job = qpu.sampler().run([measured(ghz())], shots=10)
    job.result()
    workers = job.view().tasks[0].metadata["workers"]
    assert workers
    shutdown()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_primitive_uses_an_equal_result_again_if_it_is_told_to() -> None:
    first = Sampler(reuse=True).run([measured(ghz())], shots=57)
    counts = first.result()[0].data.meas.get_counts()
    again = Sampler(reuse=True).run([measured(ghz())], shots=57)
    assert again.result()[0].data.meas.get_counts() == counts
    assert (again.view().source, again.view().usage.shots) == (first.job_id(), 0)
    assert Sampler().run([measured(ghz())], shots=57).view().source is None
    observable = SparsePauliOp("ZZZ")
    exact = Estimator(reuse=True).run([(ghz(), observable)])
    value = float(exact.result()[0].data.evs)
    same = Estimator(reuse=True).run([(ghz(), observable)])
    assert float(same.result()[0].data.evs) == value
    assert same.view().source == exact.job_id()


@pytest.mark.parametrize("qpu", ["vlq", "euro-q-exa"])
def test_a_circuit_that_does_not_fit_is_named_by_its_number(qpu: str) -> None:
    wide = QuantumCircuit(60)
    wide.h(range(60))
    with pytest.raises(PayloadRejected, match=naming("PUB 1", 60)):
        Sampler(qpu).run([measured(ghz()), measured(wide)], shots=10)
    wide_pub = (wide, "Z" * 60)
    with pytest.raises(PayloadRejected, match=naming("PUB 1", 60)):
        Estimator(qpu).run([(ghz(), ["ZZI", "XXX"]), wide_pub], precision=0.1)


def test_numpy_numbers_are_taken_as_a_seed_and_as_times_of_a_lease() -> None:
    qc = QuantumCircuit(1)
    qc.measure_all()
    qpu = open_qpu("vlq")
    seconds = (np.int64(30), np.int64(2)), (np.float32(30), np.float32(2))
    for longest_s, idle_s in seconds:
        with qpu.lease(longest_s=longest_s, idle_s=idle_s):
            qpu.sampler(seed=np.int64(1)).run([qc], shots=10).result()
