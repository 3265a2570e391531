"""Payloads: accepted and refused input, and their properties."""

from __future__ import annotations

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Gate, Parameter
from qiskit.quantum_info import SparsePauliOp

from backends.api import PayloadRejected
from backends.circuits import FrozenCircuit
from backends.payloads import EstimatorPayload, SamplerPayload, payload_from_bytes
from tests.errors import naming


def bell(measured=True):
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    if measured:
        circuit.measure_all()
    return circuit


def turned(name="θ"):
    circuit = QuantumCircuit(1)
    circuit.ry(Parameter(name), 0)
    circuit.measure_all()
    return circuit


def named(register):
    """Return a circuit that measures into a register of this name."""
    circuit = QuantumCircuit(QuantumRegister(1), ClassicalRegister(1, register))
    circuit.measure(0, 0)
    return circuit


def twice_turned():
    circuit = turned()
    circuit.rx(Parameter("φ"), 0)
    return circuit


def test_whatever_qiskits_sampler_takes_is_taken():
    payload = SamplerPayload.coerce(
        [bell(), (bell(),), (turned(), [[0.1], [0.2]]), (turned(), {"θ": [0.1, 0.2, 0.3]}, 7)],
        shots=50,
    )
    assert [pub.shots for pub in payload.pubs] == [50, 50, 50, 7]
    assert [pub.points for pub in payload.pubs] == [1, 1, 2, 3]
    assert payload.circuits == 7
    assert payload.shots == 50 * 4 + 7 * 3
    assert payload.num_qubits == 2


def test_values_of_parameters_that_no_definition_uses_are_left_out():
    alpha, phi = Parameter("alpha"), Parameter("phi")
    unused = Gate("unused", 1, [alpha])
    unused.definition = QuantumCircuit(1)
    unused.definition.h(0)
    circuit = QuantumCircuit(1)
    circuit.append(unused, [0])
    circuit.rx(phi, 0)
    (estimate,) = EstimatorPayload.coerce([(circuit, "Z", [[0.1, 0.2], [0.3, 0.4]])]).pubs
    circuit.measure_all()
    (sample,) = SamplerPayload.coerce([(circuit, {"phi": 0.2, "alpha": 0.1})], shots=1).pubs
    assert estimate.values.tolist() == [[0.2], [0.4]]
    assert sample.values.tolist() == [0.2]
    assert estimate.to_qiskit().circuit.num_parameters == 1


def test_broadcast_shapes_stay():
    values = np.arange(6.0).reshape(2, 3, 1)
    (pub,) = SamplerPayload.coerce([(turned(), values)], shots=1).pubs
    assert np.array_equal(pub.values, values)
    estimate = EstimatorPayload.coerce(
        [(turned().remove_final_measurements(inplace=False), ["Z", "X", "Y"], values)]
    )
    assert estimate.pubs[0].points == 6
    assert estimate.circuits == 6
    assert estimate.pubs[0].to_qiskit().shape == (2, 3)


def test_a_payload_is_a_private_copy():
    circuit = bell()
    payload = SamplerPayload.coerce([circuit], shots=1)
    digest = payload.digest
    circuit.x(0)
    assert SamplerPayload(pubs=payload.pubs).digest == digest


@pytest.mark.parametrize(
    ("pubs", "shots", "message"),
    [
        ([], 10, "empty"),
        (bell(), 10, naming("[circuit]")),
        ([bell(measured=False)], 10, "measure_all"),
        ([bell()], 0, "shots 0"),
        ([bell()], -5, "shots -5"),
        ([bell()], 1.5, "shots 1.5"),
        ([bell()], True, "shots True"),
        ([bell()], 10**9 + 1, naming("PUB 0", 10**9 + 1, 10**9)),
        ([turned()], 10, "PUB 0"),
        ([(twice_turned(), [0.1, 0.2, 0.3])], 10, naming("PUB 0", 3)),
        ([bell(), (turned(), [float("nan")])], 10, naming("PUB 1", "θ")),
        ([(turned(), [float("inf")])], 10, "infinite"),
        (["not a circuit"], 10, "PUB 0"),
        ([bell(), named("size")], 10, naming("PUB 1", "size")),
        ([(turned(), np.zeros((0, 1)))], 10, "empty"),
        ([(bell(), np.empty((0, 0)))], 10, naming("PUB 0", "(0, 0)")),
        ([bell(), (turned(), np.empty((3, 0, 1)))], 10, naming("PUB 1", "(3, 0, 1)")),
    ],
)
def test_malformed_sampler_pubs_are_refused(pubs, shots, message):
    with pytest.raises(PayloadRejected, match=message):
        SamplerPayload.coerce(pubs, shots=shots)


@pytest.mark.parametrize(
    ("pub", "precision", "message"),
    [
        ((bell(measured=False), "ZZZ"), 0.1, "PUB 0"),
        ((bell(measured=False), "ZZ"), -0.1, "PUB 0"),
        ((bell(measured=False), "ZZ"), float("nan"), "precision nan"),
        ((bell(measured=False), {"ZZ": float("nan")}), 0.1, "coefficient"),
        ((bell(measured=False), SparsePauliOp(["ZZ"], [1j])), 0.1, "PUB 0"),
        ((bell(measured=False), "ZZ", np.empty((0, 0))), 0.1, "empty"),
        ((bell(measured=False), [], None), 0.1, "empty"),
    ],
)
def test_malformed_estimator_pubs_are_refused(pub, precision, message):
    with pytest.raises(PayloadRejected, match=message):
        EstimatorPayload.coerce([pub], precision=precision)


def test_the_digest_tells_contents_apart():
    digests = [
        SamplerPayload.coerce([bell()], shots=10).digest,
        SamplerPayload.coerce([bell()], shots=11).digest,
        SamplerPayload.coerce([bell()], shots=10, seed=1).digest,
        SamplerPayload.coerce([bell(), bell()], shots=10).digest,
        SamplerPayload.coerce([(turned(), [0.1])], shots=10).digest,
        SamplerPayload.coerce([(turned(), [0.2])], shots=10).digest,
        EstimatorPayload.coerce([(bell(measured=False), "ZZ")]).digest,
        EstimatorPayload.coerce([(bell(measured=False), "XX")]).digest,
        EstimatorPayload.coerce([(bell(measured=False), "XX")], precision=0.1).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert SamplerPayload.coerce([bell()], shots=10).digest == digests[0]


def test_equal_circuits_in_a_call_get_seeds_of_their_own():
    values = [[0.1], [0.2]]
    payload = SamplerPayload.coerce([(turned(), values), bell(), bell()], shots=1, seed=10)
    assert [pub.seed for pub in payload.pubs] == [10, 10 + 2 * 2113, 10 + 3 * 2113]


@pytest.mark.parametrize("seed", [-1, 1.5, 2**63, True, "1", np.float64(3), np.int8(-1)])
def test_a_seed_is_a_whole_number_that_a_simulator_can_take(seed):
    with pytest.raises(PayloadRejected, match=naming("seed", "2^63 - 1")):
        SamplerPayload.coerce([bell()], shots=1, seed=seed)
    with pytest.raises(PayloadRejected, match=naming("seed", "2^63 - 1")):
        EstimatorPayload.coerce([(bell(measured=False), "ZZ")], seed=seed)


@pytest.mark.parametrize("seed", [0, 2**63 - 1, np.int64(7), np.uint8(7)])
def test_a_seed_may_be_any_kind_of_integer_and_is_kept_as_a_plain_one(seed):
    sampler = SamplerPayload.coerce([bell(), bell()], shots=1, seed=seed)
    assert [pub.seed for pub in sampler.pubs] == [int(seed), (int(seed) + 2113) % 2**63]
    estimator = EstimatorPayload.coerce([(bell(measured=False), "ZZ")], seed=seed)
    assert {type(pub.seed) for pub in (*sampler.pubs, *estimator.pubs)} == {int}
    assert payload_from_bytes(sampler.to_bytes()).digest == sampler.digest


def test_qubits_that_nothing_touches_do_not_count():
    circuit = QuantumCircuit(50)
    circuit.h(3)
    circuit.cx(3, 40)
    circuit.barrier()
    assert FrozenCircuit.of(circuit).active_qubits == 2


def test_measuring_into_a_register_inside_a_branch_counts():
    circuit = QuantumCircuit(1)
    bits = ClassicalRegister(1, "c")
    circuit.add_register(bits)
    with circuit.if_test((bits, 0)):
        circuit.measure(0, 0)
    assert SamplerPayload.coerce([circuit], shots=1).circuits == 1


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
def test_points_are_counted_without_building_observables(shape, monkeypatch):
    observables = np.full(shape, "ZZ").tolist()
    payload = EstimatorPayload.coerce([(bell(measured=False), observables)])
    copy = payload_from_bytes(payload.to_bytes())
    expected = payload.pubs[0].observables_array.size
    monkeypatch.setattr("backends.payloads.estimator.ObservablesArray", None)
    assert copy.pubs[0].points == expected == int(np.prod(shape))
