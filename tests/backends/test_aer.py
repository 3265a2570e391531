"""Aer simulates what it is asked: physics, seeds, splits, methods, memory, profiles."""

from __future__ import annotations

import gc
import math
import weakref
from datetime import UTC, datetime

import numpy as np
import pytest
from qiskit import QuantumCircuit, qasm3, transpile
from qiskit.circuit import Gate, ParameterVector
from qiskit.circuit.library import CUGate, quantum_volume
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import Pauli, SparsePauliOp, Statevector
from qiskit_aer.library import SaveExpectationValue

from backends.aer import create
from backends.aer.spool import Spool
from backends.api import InsufficientMemory, PayloadRejected, QpuBusy, TaskFailed, TaskState
from backends.lowering import NativeCompiler
from backends.payloads import EstimatorPayload, SamplerPayload
from backends.plugins import PluginUnusable
from tests.errors import naming
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.usefixtures("one_zygote")  # but for `aer`, which has its own


@pytest.fixture(scope="module")
def aer(tmp_path_factory):
    backend = create({"processes": 2}, state_dir=tmp_path_factory.mktemp("aer"))
    backend.prewarm()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def run(aer):
    session, count = aer.acquire(), iter(range(10**6))

    def run(payload):
        task = aer.start(session, payload, f"test-{next(count)}")
        aer.wait(task, PATIENCE_S)
        return aer.result(task)

    return run


def measured(circuit):
    copy = circuit.copy()
    copy.measure_all()
    return copy


def ghz(n):
    circuit = QuantumCircuit(n)
    circuit.h(0)
    for qubit in range(n - 1):
        circuit.cx(qubit, qubit + 1)
    return circuit


def ansatz():
    theta = ParameterVector("θ", 4)
    circuit = QuantumCircuit(3, global_phase=theta[3])
    circuit.ry(theta[0], 0)
    circuit.rx(2 * theta[1] - 0.3, 1)
    circuit.cx(0, 1)
    circuit.rzz(theta[2] * theta[1], 1, 2)  # not linear in the parameters
    circuit.ry(theta[2].sin(), 2)
    circuit.cx(1, 2)
    return circuit


def test_a_task_that_ended_holds_neither_its_payload_nor_a_large_result(aer):
    wide = QuantumCircuit(16)
    wide.h(range(16))
    payload = SamplerPayload.coerce([measured(wide)], shots=60_000, seed=1)
    circuit = weakref.ref(payload.pubs[0].circuit)
    task = aer.start(aer.acquire(), payload, "held")
    assert aer.wait(task, PATIENCE_S) is TaskState.COMPLETED
    first = aer.result(task).native[0].data.meas
    del payload
    gc.collect()
    assert circuit() is None
    assert "held" not in aer._pending
    again = aer.result(task).native[0].data.meas  # from the spool
    np.testing.assert_array_equal(again.array, first.array)
    assert aer.status(task) is TaskState.COMPLETED
    assert aer.find("held") == task


def test_estimates_equal_qiskits_reference(run):
    values = np.random.default_rng(1).normal(size=(4, 1, 4))
    observables = [{"ZZI": 0.5, "XIX": 1.0, "III": 2.0}, {"YYZ": -0.2}, {"IIX": 1.0, "IZI": 0.3}]
    result = run(EstimatorPayload.coerce([(ansatz(), observables, values)]))
    expected = StatevectorEstimator().run([(ansatz(), observables, values)]).result()[0]
    np.testing.assert_allclose(result.native[0].data.evs, expected.data.evs, atol=1e-9)
    assert result.native[0].data.stds.shape == (4, 3)


def test_projectors_and_constants_are_observables_too(run):
    observables = [{"01": 1.0}, {"++": 1.0}, {"II": 3.0}, {"0I": 0.5, "ZZ": 1.0}]
    evs = run(EstimatorPayload.coerce([(ghz(2), observables)])).native[0].data.evs
    np.testing.assert_allclose(evs, [0.0, 0.5, 3.0, 1.25], atol=1e-9)


def test_observables_stay_on_their_qubits_where_others_idle(run):
    turned, flipped = QuantumCircuit(3), QuantumCircuit(5)
    turned.ry(0.7, 1)
    turned.cz(2, 1)
    flipped.x(2)
    flipped.cx(2, 4)
    observables = ["ZII", "IZI", "XIZ", {"0+I": 1.0, "Z1l": 2.0}]
    result = run(EstimatorPayload.coerce([(turned, observables), (flipped, "ZIIII")]))
    assert result.metadata["method"] == ["statevector", "stabilizer"]
    projected = (1 + math.sin(0.7)) / 2 + (1 - math.cos(0.7)) / 2
    np.testing.assert_allclose(
        result.native[0].data.evs, [1, math.cos(0.7), 0, projected], atol=1e-9
    )
    assert result.native[1].data.evs == -1


def test_parameters_of_gates_that_do_not_matter_are_bound_nowhere(run, tmp_path):
    first, second = ParameterVector("θ", 2)
    circuit = QuantumCircuit(2)
    circuit.ry(first, 0)
    circuit.ry(second, 1)
    values = [[0.1, 0.2], [0.3, 0.4]]
    evs = run(EstimatorPayload.coerce([(circuit, "ZI", values)])).native[0].data.evs
    np.testing.assert_allclose(evs, np.cos([0.2, 0.4]), atol=1e-9)
    transpiling = create({"profile": "euro-q-exa"}, state_dir=tmp_path)
    circuit.rz(second, 0)  # which the site's compiler drops
    payload = SamplerPayload.coerce([(measured(circuit), values)], shots=10)
    task = transpiling.start(transpiling.acquire(), payload, "tag")
    transpiling.wait(task, PATIENCE_S)
    assert transpiling.result(task).native[0].data.meas.shape == (2,)
    transpiling.close()


@pytest.mark.parametrize(("method", "width"), [("statevector", 15), ("density_matrix", 8)])
def test_fused_gates_keep_their_order(method, width):
    from backends.aer.engine import Engine, Job

    circuit, state = QuantumCircuit(width), QuantumCircuit(2)
    for part in (circuit, state):
        part.h(0)
        part.cx(1, 0)
        part.x(0)
        part.s(0)
        part.x(0)
    saved = circuit.copy()
    saved.append(SaveExpectationValue(SparsePauliOp("Y"), label="y"), [0])
    engine = Engine()
    program = engine.compile(saved, method=method, parameters=())
    job = Job(method=method, threads=1, shots=1, seed=1)
    (data,) = engine.run(program, np.empty((1, 0)), job)
    assert data["y"] == pytest.approx(Statevector(state).expectation_value(Pauli("Y"), [0]))


def test_a_parameter_of_a_controlled_u_is_bound(run):
    circuit = QuantumCircuit(2)
    circuit.h([0, 1])
    circuit.append(CUGate(0.3, ParameterVector("θ", 1)[0], 0.2, 0.4), [0, 1])
    pub = (circuit, ["IX", "XI", "YI"], [[0.7]])
    exact = StatevectorEstimator().run([pub]).result()[0].data.evs
    for _ in range(2):
        evs = run(EstimatorPayload.coerce([pub])).native[0].data.evs
        np.testing.assert_allclose(evs, exact, atol=1e-9)


def test_a_bit_that_is_measured_into_twice_is_misread_once(tmp_path):
    circuit = QuantumCircuit(2, 1)
    circuit.measure(0, 0)
    circuit.measure(1, 0)
    backend = create({"profile": "euro-q-exa"}, state_dir=tmp_path)
    shots = 20_000
    task = backend.start(
        backend.acquire(), SamplerPayload.coerce([circuit], shots=shots, seed=1), "tag"
    )
    backend.wait(task, PATIENCE_S)
    counts = backend.result(task).native[0].data.c.get_counts()
    assert counts["1"] / shots == pytest.approx(0.05, abs=5 * (0.05 / shots) ** 0.5)
    backend.close()


def test_exact_values_through_what_mixes_come_from_a_density_matrix(run, tmp_path):
    discarding = QuantumCircuit(2)
    discarding.h(0)
    discarding.cx(0, 1)
    discarding.reset(0)
    inside = QuantumCircuit(2)
    inside.append(discarding.to_instruction(), [0, 1])
    prepared = QuantumCircuit(2)
    prepared.reset([0, 1])
    prepared.initialize([0.6, 0, 0, 0.8])
    pubs = [(discarding, "ZZ"), (inside, "ZZ"), (prepared, "ZI")]
    result = run(EstimatorPayload.coerce(pubs))
    assert result.metadata["method"] == ["density_matrix", "density_matrix", "statevector"]
    np.testing.assert_allclose([r.data.evs for r in result.native], [0, 0, -0.28], atol=1e-9)
    fixed = create({"method": "statevector"}, state_dir=tmp_path)
    with pytest.raises(PayloadRejected, match=naming("statevector", "density_matrix")):
        fixed.start(fixed.acquire(), EstimatorPayload.coerce(pubs[:1]), "tag")


@pytest.mark.parametrize("method", ["density_matrix", "matrix_product_state"])
def test_gates_a_method_does_not_know_are_taken_apart_for_it(tmp_path, method):
    circuit = QuantumCircuit(3, 3)
    circuit.h([0, 1])
    circuit.cswap(0, 1, 2)
    circuit.crx(0.3, 0, 2)
    circuit.ccz(0, 1, 2)
    backend = create({"method": method}, state_dir=tmp_path)
    task = backend.start(backend.acquire(), EstimatorPayload.coerce([(circuit, "XZY")]), "tag")
    backend.wait(task, PATIENCE_S)
    evs = backend.result(task).native[0].data.evs
    exact = StatevectorEstimator().run([(circuit, "XZY")]).result()[0].data.evs
    assert evs == pytest.approx(exact)
    backend.close()


def test_samples_follow_the_probabilities_point_by_point(run):
    values = np.linspace(0, 3, 12).reshape(3, 1, 4)
    shots = 4000
    data = run(SamplerPayload.coerce([(measured(ansatz()), values)], shots=shots, seed=2))
    bits = data.native[0].data.meas
    assert bits.shape == (3, 1)
    exact = StatevectorEstimator().run([(ansatz(), [["ZZZ"]], values)]).result()[0].data.evs
    np.testing.assert_allclose(
        bits.expectation_values("ZZZ"), exact, atol=5 / np.sqrt(shots), rtol=0
    )


def test_registers_keep_their_bits(run):
    from qiskit import ClassicalRegister, QuantumRegister

    low, high = ClassicalRegister(1, "low"), ClassicalRegister(9, "high")
    circuit = QuantumCircuit(QuantumRegister(10), low, high)
    circuit.x([0, 3])
    circuit.measure(0, high[8])
    circuit.measure(3, low[0])
    circuit.measure(5, high[0])
    data = run(SamplerPayload.coerce([circuit], shots=7)).native[0].data
    assert data.low.get_counts() == {"1": 7}
    assert data.high.get_counts() == {"100000000": 7}


def test_equal_seeds_give_equal_counts_however_pubs_are_grouped(run):
    circuits = [measured(quantum_volume(4, 4, seed=n)) for n in range(5)]
    together = run(SamplerPayload.coerce(circuits, shots=300, seed=9))
    payload = SamplerPayload.coerce(circuits, shots=300, seed=9)
    for index, pub in enumerate(payload.pubs):
        alone = run(SamplerPayload(pubs=(pub,)))
        assert np.array_equal(
            alone.native[0].data.meas.array, together.native[index].data.meas.array
        )
    assert together.metadata["seed"] == [9 + 2113 * n for n in range(5)]


def test_a_seed_gives_the_counts_that_bare_aer_gives(run):
    from qiskit_aer import AerSimulator

    circuit = measured(quantum_volume(3, 3, seed=4).decompose())
    ours = run(SamplerPayload.coerce([circuit], shots=500, seed=77)).native[0].data.meas
    bare = AerSimulator(method="statevector").run(circuit, shots=500, seed_simulator=77)
    assert ours.get_counts() == {k: int(v) for k, v in bare.result().get_counts().items()}


def test_the_largest_seed_seeds_every_point_of_every_pub(run):
    circuit = measured(quantum_volume(3, 3, seed=4))
    repeated = (circuit, np.empty((2, 0)))
    first, second = [
        run(SamplerPayload.coerce([repeated, circuit], shots=50, seed=2**63 - 1)) for _ in range(2)
    ]
    for ours, again in zip(first.native, second.native, strict=True):
        assert np.array_equal(ours.data.meas.array, again.data.meas.array)


def test_pubs_without_seeds_differ(run):
    circuit = measured(quantum_volume(6, 6, seed=1))
    first, second = run(SamplerPayload.coerce([circuit] * 2, shots=200)).native
    assert not np.array_equal(first.data.meas.array, second.data.meas.array)


def test_work_is_split_over_idle_processes(aer, run):
    circuits = [measured(quantum_volume(9, 9, seed=n)) for n in range(20)]
    payload = SamplerPayload.coerce(circuits, shots=500, seed=3)
    first = run(payload)  # may be what makes the second process start
    until(lambda: len(run(payload).metadata["workers"]) == 2)
    result = run(payload)
    assert len(set(result.metadata["workers"])) == 2
    assert result.metadata["threads"] == 1
    for ours, before in zip(result.native, first.native, strict=True):
        assert np.array_equal(ours.data.meas.array, before.data.meas.array)
    assert result.usage.circuits == 20
    assert result.usage.shots == 20 * 500


def test_methods_follow_the_circuit(run):
    wide = run(SamplerPayload.coerce([measured(ghz(40)), measured(ansatz_bound())], shots=50))
    assert wide.metadata["method"] == ["stabilizer", "statevector"]
    counts = wide.native[0].data.meas.get_counts()
    assert set(counts) <= {"0" * 40, "1" * 40}
    estimate = run(EstimatorPayload.coerce([(ghz(60), [{"Z" * 60: 1.0}, {"X" * 60: 1.0}])]))
    np.testing.assert_allclose(estimate.native[0].data.evs, [1.0, 1.0])


def ansatz_bound():
    return ansatz().assign_parameters([0.1, 0.2, 0.3, 0.4])


def test_dynamic_circuits_run(run):
    circuit = QuantumCircuit(2, 2)
    circuit.h(0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], True)):
        circuit.x(1)
    circuit.measure(1, 1)
    counts = run(SamplerPayload.coerce([circuit], shots=200)).native[0].data.c.get_counts()
    assert set(counts) == {"00", "11"}


def test_gates_aer_does_not_know_are_taken_apart(run):
    from qiskit.circuit.library import QFTGate, XGate

    inner = QuantumCircuit(2, name="mine")
    inner.h(0)
    inner.iswap(0, 1)
    circuit = QuantumCircuit(3)
    circuit.append(inner.to_gate(), [0, 2])
    circuit.append(QFTGate(3), [0, 1, 2])
    circuit.ch(0, 1)
    circuit.append(XGate().control(2, annotated=True), [0, 1, 2])
    result = run(EstimatorPayload.coerce([(circuit, ["ZII", "XIX", "IYI"])]))
    reference = StatevectorEstimator().run([(circuit, ["ZII", "XIX", "IYI"])]).result()
    np.testing.assert_allclose(result.native[0].data.evs, reference[0].data.evs, atol=1e-9)


def test_a_state_too_large_is_refused_before_it_starts(tmp_path):
    backend = create({"memory_bytes": 2**24}, state_dir=tmp_path)
    session = backend.acquire()
    circuit = measured(quantum_volume(28, 1, seed=1))
    with pytest.raises(InsufficientMemory, match=naming(28, 4294967296, 20)):
        backend.start(session, SamplerPayload.coerce([circuit], shots=1), "big")
    assert backend.find("big") is None
    assert backend.pids == []
    backend.start(session, SamplerPayload.coerce([measured(ghz(28))], shots=1), "clifford")
    backend.close()


@pytest.mark.parametrize("qubits", [64, 800, 1100, 5000])
def test_a_state_beyond_all_machines_is_told_as_a_power(tmp_path, qubits):
    backend = create({}, state_dir=tmp_path)
    circuit = QuantumCircuit(qubits)
    circuit.t(range(qubits))
    payload = SamplerPayload.coerce([measured(circuit)], shots=1)
    with pytest.raises(InsufficientMemory, match=naming(f"2^{qubits + 4}")) as caught:
        backend.start(backend.acquire(), payload, "wide")
    assert len(str(caught.value)) < 300
    noisy = create({"method": "density_matrix"}, state_dir=tmp_path)
    with pytest.raises(InsufficientMemory, match=naming(f"2^{2 * qubits + 4}")):
        noisy.start(noisy.acquire(), payload, "wide")


def test_a_tableau_too_large_is_refused_before_it_starts(tmp_path):
    backend = create({"memory_bytes": 2**28}, state_dir=tmp_path)
    payload = SamplerPayload.coerce([measured(ghz(3000))], shots=1)
    with pytest.raises(InsufficientMemory, match=naming("stabilizer", 3000, 2896)):
        backend.start(backend.acquire(), payload, "wide")


@pytest.mark.parametrize(
    "pub", [(measured(ghz(2)), None, 10**8), (measured(ghz(2)), np.empty((10**6, 0)), 400)]
)
def test_more_shots_than_memory_holds_are_refused_before_they_start(tmp_path, pub):
    backend = create({"memory_bytes": 2**30}, state_dir=tmp_path)
    with pytest.raises(InsufficientMemory, match=naming("shots", 2**30 - 128)):
        backend.start(backend.acquire(), SamplerPayload.coerce([pub]), "many")
    assert backend.find("many") is None
    assert backend.pids == []


def test_what_planning_trips_over_is_refused_and_not_tried_again(tmp_path, monkeypatch):
    backend = create({}, state_dir=tmp_path)

    def trip(*_arguments, **_named):
        raise OverflowError("too large")

    monkeypatch.setattr("backends.aer.planning.pub_seconds", trip)
    with pytest.raises(PayloadRejected, match=naming("OverflowError", "too large")):
        backend.start(backend.acquire(), SamplerPayload.coerce([measured(ghz(2))], shots=1), "t")
    assert backend.find("t") is None


def test_memory_counts_active_qubits_only(tmp_path):
    from backends.aer.methods import traits_of

    circuit = QuantumCircuit(53, 2)
    circuit.ry(0.3, 7)
    circuit.cx(7, 40)
    circuit.barrier()
    circuit.measure([7, 40], [0, 1])
    assert traits_of(circuit).num_qubits == 2


def test_a_refusal_by_aer_fails_the_task(run):
    circuit = QuantumCircuit(2)
    circuit.append(Gate("black_box", 2, []), [0, 1])
    with pytest.raises(TaskFailed, match="black_box"):
        run(SamplerPayload.coerce([measured(circuit)], shots=5))


def test_prepared_states_and_matrices_are_simulated(run):
    circuit = QuantumCircuit(2)
    circuit.initialize([0, 1, 0, 0])
    circuit.unitary(np.eye(4)[[1, 0, 2, 3]], [0, 1])
    circuit.delay(100, 0)
    counts = run(SamplerPayload.coerce([measured(circuit)], shots=5)).native[0].data.meas
    assert counts.get_counts() == {"00": 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metod": "automatic"}, "'method'"),
        ({"method": "magic"}, naming("magic", "automatic")),
        # Samples a T gate between two H, and a CX, half and half; 85 % is right.
        ({"method": "extended_stabilizer"}, "automatic"),
        ({"memory_bytes": 0}, naming("memory_bytes", 0)),
        ({"processes": True}, naming("processes", True)),
        ({"time_scale": -1}, naming("time_scale", -1)),
        ({"profile": ""}, naming("profile", "''")),
        ({"noiseless": "no"}, naming("noiseless", "'no'")),
        ({"precision": "vague"}, naming("vague", "exact", "sampled")),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(PluginUnusable, match=message):
        create(options, state_dir=tmp_path)


def test_a_fixed_method_is_kept_or_refused(tmp_path):
    backend = create({"method": "stabilizer"}, state_dir=tmp_path)
    circuit = QuantumCircuit(1)
    circuit.t(0)
    payload = SamplerPayload.coerce([measured(circuit)], shots=1)
    with pytest.raises(PayloadRejected, match="Clifford"):
        backend.start(backend.acquire(), payload, "tag")
    backend.close()


def test_sampled_precision_takes_no_estimator_payloads(tmp_path):
    backend = create({"precision": "sampled"}, state_dir=tmp_path)
    assert backend.target().payload_kinds == {"sampler"}
    payload = EstimatorPayload.coerce([(ghz(2), "ZZ")])
    with pytest.raises(PayloadRejected, match="estimator"):
        backend.start(backend.acquire(), payload, "tag")
    backend.close()


def test_a_task_that_the_device_still_works_on_can_be_stopped(tmp_path):
    options = {"profile": "helmi", "time_scale": 1000.0}
    backend = create(options, state_dir=tmp_path)
    native = transpile(measured(ghz(2)), target=backend.target().native, seed_transpiler=1)
    task = backend.start(backend.acquire(), SamplerPayload.coerce([native], shots=10), "tag")
    until(lambda: backend._pending_task(task).state.is_final)
    assert backend.status(task) is TaskState.RUNNING, "simulated, but not over by the clock"
    backend.stop(task)
    assert backend.wait(task, PATIENCE_S) is TaskState.CANCELLED
    backend.close()
    again = create(options, state_dir=tmp_path)
    assert again.status(again.find("tag")) is TaskState.CANCELLED
    again.close()


def test_waiting_in_any_unit_changes_nothing_without_noise(tmp_path):
    text = """OPENQASM 3; include "stdgates.inc"; qubit[2] q; bit[2] c;
    x q[0]; delay[37.3ns] q[0]; delay[10dt] q[1]; cx q[0],q[1]; delay[1us] q[1]; c = measure q;"""
    backend = create({}, state_dir=tmp_path)
    payload = SamplerPayload.coerce([qasm3.loads(text)], shots=100, seed=1)
    task = backend.start(backend.acquire(), payload, "tag")
    backend.wait(task, PATIENCE_S)
    assert backend.result(task).native[0].data.c.get_counts() == {"11": 100}
    backend.close()


def test_a_profile_gives_noise_time_and_a_bill(tmp_path):
    backend = create({"profile": "helmi"}, state_dir=tmp_path)
    target, session = backend.target(), backend.acquire()
    native = transpile(measured(ghz(3)), target=target.native, seed_transpiler=1)
    task = backend.start(session, SamplerPayload.coerce([native], shots=1000, seed=1), "tag")
    backend.wait(task, PATIENCE_S)
    result = backend.result(task)
    counts = result.native[0].data.meas.get_counts()
    assert counts["000"] + counts["111"] < 1000, "it has noise"
    assert counts["000"] + counts["111"] > 700
    assert result.usage.qpu_seconds > 2.0, "its own initialisation, not the simulation's time"
    assert result.usage.charges[0].unit == target.metering.unit
    assert result.metadata["profile"] == "helmi"
    assert result.metadata["calibration_id"] == target.calibration.id
    assert result.metadata["method"] == ["density_matrix"]
    backend.close()


@pytest.mark.parametrize("profile", ["helmi", "piast-q"])  # native gates, transpiled
def test_without_noise_a_profile_changes_time_and_bill_alone(tmp_path, profile):
    usage = []
    for noiseless in (False, True):
        backend = create(
            {"profile": profile, "noiseless": noiseless}, state_dir=tmp_path / str(noiseless)
        )
        target = backend.target()
        circuit = QuantumCircuit(3, 3)
        circuit.x(0)
        circuit.cx(0, 1)
        circuit.measure(range(3), range(3))
        native = NativeCompiler(target).compile(circuit)[0] if target.native else circuit
        task = backend.start(
            backend.acquire(), SamplerPayload.coerce([native], shots=200, seed=1), "tag"
        )
        backend.wait(task, PATIENCE_S)
        result = backend.result(task)
        usage.append(result.usage)
        right = next(iter(result.native[0].data.values())).get_counts()["011"]
        assert (right == 200) == noiseless
        backend.close()
    assert usage[0] == usage[1]


def test_a_scaled_clock_keeps_the_device_busy(tmp_path):
    backend = create({"profile": "helmi", "time_scale": 0.4}, state_dir=tmp_path)
    session = backend.acquire()
    native = transpile(measured(ghz(2)), target=backend.target().native, seed_transpiler=1)
    payload = SamplerPayload.coerce([native], shots=10, seed=1)
    began = datetime.now(UTC).timestamp()
    task = backend.start(session, payload, "one")
    with pytest.raises(QpuBusy, match=naming(1)):
        backend.start(session, payload, "two")
    assert backend.wait(task, PATIENCE_S) is TaskState.COMPLETED
    end = Spool(tmp_path / "tasks").read("one").ends_at
    assert began + 0.4 * 2.6 <= end <= datetime.now(UTC).timestamp()
    backend.start(session, payload, "two")
    backend.close()


def test_readout_error_enters_exact_expectation_values(tmp_path):
    options = {"profile": "helmi", "precision": "exact"}
    backend = create(options, state_dir=tmp_path)
    target, session = backend.target(), backend.acquire()
    circuit = QuantumCircuit(5)
    circuit.r(np.pi, 0.0, 2)
    exact = EstimatorPayload.coerce([(circuit, ["IIIII", "IIZII", "ZIIII"])])
    sampled = SamplerPayload.coerce([measured(circuit)], shots=100_000, seed=1)
    tasks = [backend.start(session, exact, "exact")]
    backend.wait(tasks[0], 60)
    tasks.append(backend.start(session, sampled, "sampled"))
    backend.wait(tasks[1], 60)
    evs = backend.result(tasks[0]).native[0].data.evs
    bits = backend.result(tasks[1]).native[0].data.meas
    counted = [bits.expectation_values(label) for label in ("IIIII", "IIZII", "ZIIII")]
    assert target.max_shots is None or target.max_shots >= 100_000
    np.testing.assert_allclose(evs, counted, atol=0.015)
    assert evs[0] == pytest.approx(1.0)
    assert -1 < evs[1] < -0.85
    backend.close()
