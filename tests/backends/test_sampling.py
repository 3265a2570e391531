"""Estimator PUBs lowered to sampled bases: right values, honest errors, the precision asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit, QuantumRegister
from qiskit.circuit import ParameterVector
from qiskit.primitives import PrimitiveResult, StatevectorEstimator, StatevectorSampler
from qiskit.quantum_info import SparsePauliOp, Statevector

from backends.api import PayloadRejected
from backends.paulis import measured_bases
from backends.payloads import EstimatorPayload, SamplerPayload
from backends.sampling import lower
from tests.errors import naming


def sampled(payload: SamplerPayload, seed: int = 1) -> PrimitiveResult:
    pubs = [
        StatevectorSampler(seed=seed + index).run([pub.to_qiskit()]).result()[0]
        for index, pub in enumerate(payload.pubs)
    ]
    return PrimitiveResult(pubs)


def circuit(parameters=3):
    theta = ParameterVector("θ", parameters)
    made = QuantumCircuit(3)
    for index, angle in enumerate(theta):
        made.ry(angle, index % 3)
    made.cx(0, 1)
    made.rx(0.4, 1)
    made.cx(1, 2)
    return made


HAMILTONIAN = {
    "IIZ": 0.4,
    "IZZ": -0.7,
    "XXI": 0.25,
    "YYI": 0.25,
    "ZII": 0.1,
    "III": 1.5,
    "XIX": 0.3,
}


def test_values_and_errors_agree_with_the_exact_ones():
    values = np.random.default_rng(3).normal(size=(4, 1, 3))
    observables = [HAMILTONIAN, {"ZZZ": 1.0}, {"XYZ": 2.0}]
    payload = EstimatorPayload.coerce([(circuit(), observables, values)], precision=0.05)
    lowered, recombination = lower(payload)
    exact = StatevectorEstimator().run([(circuit(), observables, values)]).result()[0].data.evs
    deviations = []
    for seed in range(12):
        (pub,) = recombination.recombine(sampled(lowered, seed=100 * seed))
        assert pub.data.evs.shape == pub.data.stds.shape == (4, 3)
        assert np.all(pub.data.stds <= 0.05 * 1.05)
        deviations.append((pub.data.evs - exact) / pub.data.stds)
    spread = np.std(deviations)
    assert 0.8 < spread < 1.2, "the errors told are those made"
    assert np.abs(deviations).max() < 5


def test_the_precision_is_met_in_the_worst_state():
    """A GHZ state makes ZZ… terms fully correlated: the variance bound is reached there."""
    ghz = QuantumCircuit(2)
    ghz.h(0)
    ghz.cx(0, 1)
    payload = EstimatorPayload.coerce([(ghz, {"IZ": 1.0, "ZI": 1.0})], precision=0.04)
    lowered, recombination = lower(payload)
    assert [pub.shots for pub in lowered.pubs] == [math.ceil(4 / 0.04**2)]
    (pub,) = recombination.recombine(sampled(lowered))
    assert pub.data.stds == pytest.approx(0.04, rel=0.02)


def test_one_pauli_costs_one_over_precision_squared():
    payload = EstimatorPayload.coerce([(circuit(0), "XYZ")], precision=0.05)
    (pub,) = lower(payload)[0].pubs
    assert pub.shots == 400
    assert dict(pub.circuit.circuit.count_ops())["measure"] == 3


def test_shots_are_shared_by_weight():
    payload = EstimatorPayload.coerce([(circuit(0), {"ZII": 3.0, "XII": 1.0})], precision=0.1)
    shots = sorted(pub.shots for pub in lower(payload)[0].pubs)
    assert shots == [1 * 4 * 100, 3 * 4 * 100]


def test_terms_that_commute_qubit_by_qubit_share_a_circuit():
    payload = EstimatorPayload.coerce([(circuit(0), HAMILTONIAN)], precision=0.1)
    assert len(lower(payload)[0].pubs) == 3
    constants, bases = measured_bases([HAMILTONIAN])
    assert constants == [1.5]
    assert sum(len(basis.parities) for basis in bases) == 6


def test_parameter_arrays_stay_arrays_and_only_needed_points_run():
    values = np.arange(15.0).reshape(5, 3)
    observables = [{"ZII": 1.0}] * 4 + [{"XII": 1.0}]
    payload = EstimatorPayload.coerce([(circuit(), observables, values)], precision=0.1)
    lowered, recombination = lower(payload)
    by_points = {pub.values.shape[0]: pub for pub in lowered.pubs}
    assert set(by_points) == {4, 1}
    assert np.array_equal(by_points[4].values, values[:4])
    assert np.array_equal(by_points[1].values, values[4:])
    (pub,) = recombination.recombine(sampled(lowered))
    assert pub.data.evs.shape == (5,)


def test_the_identity_costs_nothing():
    payload = EstimatorPayload.coerce([(circuit(0), [{"III": 2.5}, {"ZII": 1.0}])], precision=0.1)
    lowered, recombination = lower(payload)
    assert len(lowered.pubs) == 1
    (pub,) = recombination.recombine(sampled(lowered))
    assert pub.data.evs[0] == 2.5
    assert pub.data.stds[0] == 0


def test_constants_alone_are_answered_too():
    values = np.zeros((2, 3))
    pubs = [(circuit(0), "III"), (circuit(), [[{"III": 2.5}], [{"III": -1.0}]], values)]
    for precision in (0.1, 0.0):
        payload = EstimatorPayload.coerce(pubs, precision=precision)
        lowered, recombination = lower(payload)
        assert (lowered.circuits, lowered.shots, lowered.num_qubits) == (1, 1, 1)
        first, second = recombination.recombine(sampled(lowered))
        assert (first.data.evs, first.data.stds) == (1.0, 0.0)
        np.testing.assert_array_equal(second.data.evs, [[2.5, 2.5], [-1.0, -1.0]])
        np.testing.assert_array_equal(second.data.stds, np.zeros((2, 2)))


def test_a_pub_of_constants_among_others_needs_no_circuit():
    payload = EstimatorPayload.coerce(
        [(circuit(0), "III"), (circuit(0), "IIZ"), (circuit(0), {"III": 3.0})], precision=0.1
    )
    lowered, recombination = lower(payload)
    assert len(lowered.pubs) == 1
    first, second, third = recombination.recombine(sampled(lowered))
    assert (float(first.data.evs), float(third.data.evs)) == (1.0, 3.0)
    assert second.data.evs == pytest.approx(1.0)


def test_projectors_are_read_directly():
    ghz = QuantumCircuit(2)
    ghz.h(0)
    ghz.cx(0, 1)
    observables = [{"00": 1.0}, {"01": 1.0}, {"0I": 1.0}, {"++": 1.0}, {"1Z": 1.0}]
    lowered, recombination = lower(EstimatorPayload.coerce([(ghz, observables)], precision=0.02))
    (pub,) = recombination.recombine(sampled(lowered))
    np.testing.assert_allclose(pub.data.evs, [0.5, 0.0, 0.5, 0.5, -0.5], atol=0.1)
    assert np.all(pub.data.stds <= 0.021)


def test_bases_of_a_call_have_random_streams_of_their_own():
    payload = EstimatorPayload.coerce(
        [(circuit(0), HAMILTONIAN), (circuit(0), HAMILTONIAN)], precision=0.1, seed=5
    )
    seeds = [pub.seed for pub in lower(payload)[0].pubs]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [pub.seed for pub in lower(payload)[0].pubs]
    unseeded = EstimatorPayload.coerce([(circuit(0), HAMILTONIAN)], precision=0.1)
    assert {pub.seed for pub in lower(unseeded)[0].pubs} == {None}


def test_registers_that_exist_are_left_alone():
    from qiskit import ClassicalRegister

    made = QuantumCircuit(QuantumRegister(1), ClassicalRegister(2, "basis"))
    made.h(0)
    lowered, recombination = lower(EstimatorPayload.coerce([(made, "X")], precision=0.1))
    (pub,) = recombination.recombine(sampled(lowered))
    assert pub.data.evs == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("pub", "precision", "message"),
    [
        ((circuit(0), "ZZZ"), 0.0, "precision > 0"),
        ((circuit(0), "ZZZ"), 1e-6, naming("1e+12", "3.2e-05")),
        ((circuit(0).measure_all(inplace=False), "ZZZ"), 0.1, "measure"),
    ],
)
def test_what_cannot_be_sampled_is_refused(pub, precision, message):
    with pytest.raises(PayloadRejected, match=message):
        lower(EstimatorPayload.coerce([pub], precision=precision))


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text("IXYZ", min_size=3, max_size=3), st.floats(-2, 2), min_size=1, max_size=12
    )
)
def test_bases_read_every_term_and_bound_its_spread(observable):
    """With exact outcome probabilities the bases give the exact value, and r² ≥ variance."""
    state = Statevector(circuit().assign_parameters([0.3, 1.1, -0.4]))
    constants, bases = measured_bases([observable])
    total = constants[0]
    for basis in bases:
        rotated = circuit().assign_parameters([0.3, 1.1, -0.4])
        for qubit, letter in zip(basis.qubits, basis.letters, strict=True):
            if letter == "Y":
                rotated.sdg(qubit)
            if letter in "XY":
                rotated.h(qubit)
        chances = Statevector(rotated).probabilities(list(basis.qubits))
        bits = (np.arange(len(chances))[:, None] >> np.arange(len(basis.qubits))) & 1
        sums = basis.sums(bits.astype(np.uint8))[:, 0]
        mean = chances @ sums
        assert chances @ (sums - mean) ** 2 <= basis.half_ranges[0] ** 2 + 1e-9
        total += mean
    exact = state.expectation_value(SparsePauliOp(list(observable), list(observable.values())))
    assert total == pytest.approx(exact.real, abs=1e-9)
