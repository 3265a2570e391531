"""What the backend of AQT's machines puts on the wire and reads from it, without a server."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.quantum_info import Operator

from backends.api import PayloadRejected, TaskFailed
from backends.aqt import create
from backends.aqt.operations import MOST_OPERATIONS, circuits_of, operations_of
from backends.aqt.samples import recipes_of, result_of
from backends.payloads import SamplerPayload
from backends.plugins import PluginUnusable

QUBITS = 3
URL = "https://aqt.example.org"

angles = st.one_of(
    st.floats(-20, 20),
    st.integers(-8, 8).map(lambda n: n * math.pi / 2),
    st.integers(-8, 8).map(lambda n: np.nextafter(n * math.pi / 2, 100)),
    st.integers(-8, 8).map(lambda n: np.nextafter(n * math.pi / 2, -100)),
)
qubits = st.integers(0, QUBITS - 1)
pairs = st.tuples(qubits, qubits).filter(lambda pair: pair[0] != pair[1])
gates = st.one_of(
    st.tuples(st.just("r"), angles, angles, qubits),
    st.tuples(st.just("rz"), angles, qubits),
    st.tuples(st.just("rxx"), angles, pairs).map(lambda g: (*g[:2], *g[2])),
)


def circuit_of(steps) -> QuantumCircuit:
    circuit = QuantumCircuit(QUBITS)
    for name, *arguments in steps:
        getattr(circuit, name)(*arguments)
    return circuit


def circuit_on_the_wire(operations) -> QuantumCircuit:
    """Read operations as AQT defines them."""
    circuit = QuantumCircuit(QUBITS)
    for operation in operations:
        match operation:
            case {"operation": "R", "theta": theta, "phi": phi, "qubit": qubit}:
                assert 0 <= theta <= 1
                assert 0 <= phi <= 2
                circuit.r(theta * math.pi, phi * math.pi, qubit)
            case {"operation": "RZ", "phi": phi, "qubit": qubit}:
                circuit.rz(phi * math.pi, qubit)
            case {"operation": "RXX", "theta": theta, "qubits": [a, b]}:
                assert 0 <= theta <= 0.5
                circuit.rxx(theta * math.pi, a, b)
            case _:
                raise AssertionError(operation)
    return circuit


@settings(deadline=None, max_examples=200)
@given(st.lists(gates, min_size=1, max_size=6))
def test_operations_are_in_range_and_mean_the_circuit(steps) -> None:
    circuit = circuit_of(steps)
    *operations, last = operations_of(circuit)
    assert last == {"operation": "MEASURE"}
    assert Operator(circuit_on_the_wire(operations)).equiv(Operator(circuit))


def test_the_number_of_entangling_gates_stays() -> None:
    for quarter in range(-9, 10):
        circuit = QuantumCircuit(2)
        circuit.rxx(quarter * math.pi / 4 + 0.1, 0, 1)
        names = [one["operation"] for one in operations_of(circuit)]
        assert names.count("RXX") == 1


@pytest.mark.parametrize("name", ["delay", "reset", "h"])
def test_what_the_protocol_lacks_is_refused(name) -> None:
    circuit = QuantumCircuit(1)
    if name == "delay":
        circuit.delay(1e-3, 0, unit="s")
    else:
        getattr(circuit, name)(0)
    with pytest.raises(PayloadRejected, match=name):
        operations_of(circuit)


def test_too_many_operations_are_refused() -> None:
    circuit = QuantumCircuit(1)
    for _ in range(MOST_OPERATIONS - 1):
        circuit.r(0.1, 0.2, 0)
    assert len(operations_of(circuit)) == MOST_OPERATIONS
    circuit.r(0.1, 0.2, 0)
    with pytest.raises(PayloadRejected, match=str(MOST_OPERATIONS)):
        operations_of(circuit)


def scattered() -> QuantumCircuit:
    """Three qubits into two registers, crossed, with a bit that nothing fills."""
    circuit = QuantumCircuit(3)
    word, single = ClassicalRegister(3, "word"), ClassicalRegister(1, "single")
    circuit.add_register(word, single)
    circuit.measure(0, word[2])
    circuit.measure(2, word[0])
    circuit.measure(1, single[0])
    return circuit


def test_samples_are_decoded_by_ion() -> None:
    payload = SamplerPayload.coerce([scattered()], shots=3)
    recipes = recipes_of(payload)
    data = result_of(recipes, [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]])[0].data
    assert data.word.get_bitstrings() == ["100", "000", "001"]
    assert data.single.get_bitstrings() == ["0", "1", "0"]
    assert [type(r).from_json(r.to_json()) for r in recipes] == recipes


def test_points_of_a_pub_come_in_order() -> None:
    from qiskit.circuit import Parameter

    circuit = QuantumCircuit(1)
    circuit.r(Parameter("θ"), 0, 0)
    circuit.measure_all()
    payload = SamplerPayload.coerce([(circuit, [[[0.0], [math.pi]]], 2)])
    sent = circuits_of(payload)
    assert [one["quantum_circuit"][0]["theta"] for one in sent] == [0, 1]
    assert {one["repetitions"] for one in sent} == {2}
    data = result_of(recipes_of(payload), [[[0], [0]], [[1], [1]]])[0].data
    assert data.meas.shape == (1, 2)
    assert data.meas[0, 1].get_bitstrings() == ["1", "1"]


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [None],
        ["101"],
        [[[1, 0, 0]]],
        [[[1, 0], [0, 1]]],
        [[[1, 0, 0], [0, 1]]],
        [[[1, 0, 0], [0, 2, 0]]],
        [[[1, 0, 0], [0, 0.5, 0]]],
        [[[1, 0, 0], [0, -1, 0]]],
        [[[1, 0, 0], [0, 0, 0]]] * 2,
    ],
    ids=str,
)
def test_samples_of_another_job_are_refused(samples) -> None:
    recipes = recipes_of(SamplerPayload.coerce([scattered()], shots=2))
    with pytest.raises(TaskFailed, match="the server returned"):
        result_of(recipes, samples)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"worksapce": "a"}, "workspace"),
        ({"workspace": "a"}, "resource"),
        ({"resource": "a"}, "workspace"),
        ({"connections": 1}, "connections"),
        ({"connections": True}, "connections"),
        ({"api_key_header": "X Key"}, "api_key_header"),
        ({"profile": "vlq"}, "all pairs"),
        ({"profile": ""}, "profile"),
        ({"time_scale": -1}, "time_scale"),
        ({"url": "http://aqt.example.org"}, "https"),
        ({"token": None}, "token"),
    ],
)
def test_wrong_options_are_named(options, word, tmp_path) -> None:
    given_options = {"url": URL, "token": "secret", **options}
    with pytest.raises(PluginUnusable, match=word):
        create(given_options, state_dir=tmp_path)


def test_the_target_has_the_tighter_limits() -> None:
    direct = create.describe({"url": URL, "token": "k", "profile": "piast-q", "connections": 4})
    assert (direct.max_shots, direct.max_circuits, direct.max_concurrent_tasks) == (200, 1, 4)
    assert not direct.can_find
    cloud = {"url": URL, "token": "k", "workspace": "w", "resource": "r"}
    target = create.describe({**cloud, "profile": "ibex-q1"})
    assert (target.max_shots, target.max_circuits) == (2000, 50)
    assert create.describe({**cloud, "profile": "piast-q"}).max_shots == 200
