"""What a target cannot run is refused with value, expectation and remedy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from qiskit import QuantumCircuit

from backends.api import PayloadRejected
from backends.fake.script import script_target
from backends.gates import MoveGate
from backends.payloads import EstimatorPayload, SamplerPayload
from backends.validate import check, check_fits
from tests.errors import naming

LINE = replace(
    script_target(), name="line", num_qubits=3, native_gates=("r", "cz"), coupling=((0, 1), (1, 2))
)
STAR = replace(
    script_target(),
    name="star",
    num_qubits=3,
    native_gates=("r", "cz", "move"),
    resonator=3,
    unusable_qubits=(2,),
)


def sampler(circuit, shots=10):
    return SamplerPayload.coerce([circuit], shots=shots)


def line_circuit(*pairs, gate="cz", width=3):
    circuit = QuantumCircuit(width, 3)
    circuit.r(np.pi, 0, 0)
    for pair in pairs:
        getattr(circuit, gate)(*pair)
    circuit.measure([0, 1, 2], [0, 1, 2])
    return circuit


def test_what_fits_passes():
    check(sampler(line_circuit((0, 1), (2, 1), width=5)), LINE)
    star = QuantumCircuit(4, 2)
    star.append(MoveGate(), [0, 3])
    star.cz(1, 3)
    star.append(MoveGate(), [0, 3])
    star.measure([0, 1], [0, 1])
    check(sampler(star), STAR)
    abstract = replace(LINE, site_transpiles=True)
    check(sampler(line_circuit((0, 2), gate="swap")), abstract)


@pytest.mark.parametrize(
    ("circuit", "target", "named"),
    [
        (line_circuit((0, 4), width=5), LINE, naming("PUB 0", 4, "line", 3)),
        (line_circuit((0, 2)), LINE, naming("PUB 0", "cz", "[0, 2]", "line")),
        (line_circuit((0, 1), gate="cx"), LINE, naming("PUB 0", "cx", "line")),
        (line_circuit((0, 1)), STAR, naming("PUB 0", 2, "star")),
    ],
)
def test_what_can_never_run_is_refused(circuit, target, named):
    with pytest.raises(PayloadRejected, match=named):
        check_fits(sampler(circuit), target)


def test_a_star_has_no_direct_pairs():
    circuit = QuantumCircuit(4, 1)
    circuit.cz(0, 1)
    circuit.measure(0, 0)
    with pytest.raises(PayloadRejected, match=naming("(qubit, 3)")):
        check_fits(sampler(circuit), STAR)


def test_a_site_that_transpiles_counts_qubits_only():
    site = replace(STAR, site_transpiles=True)
    circuit = QuantumCircuit(3)
    circuit.h([0, 1, 2])
    circuit.measure_all()
    with pytest.raises(PayloadRejected, match=naming(3, "star", 2)):
        check_fits(sampler(circuit), site)


def test_measuring_in_the_middle_needs_a_device_that_can():
    circuit = QuantumCircuit(2, 2)
    circuit.measure(0, 0)
    circuit.x(0)
    circuit.measure(1, 1)
    with pytest.raises(PayloadRejected, match=naming("x", "measurement")):
        check_fits(sampler(circuit), script_target())
    check_fits(sampler(circuit), replace(script_target(), mid_circuit_measurement=True))
    branching = QuantumCircuit(1, 1)
    branching.measure(0, 0)
    with branching.if_test((branching.clbits[0], True)):
        branching.x(0)
    with pytest.raises(PayloadRejected, match=naming("if_else")):
        check_fits(sampler(branching), script_target())


def test_gates_inside_branches_are_checked_too():
    circuit = QuantumCircuit(3, 1)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], True)):
        circuit.cz(0, 2)
    with pytest.raises(PayloadRejected, match=naming("[0, 2]")):
        check_fits(sampler(circuit), replace(LINE, mid_circuit_measurement=True))


def test_limits_are_for_one_task():
    target = replace(script_target(), max_shots=5, max_circuits=1)
    with pytest.raises(PayloadRejected, match=naming(10, "fake", 5)):
        check(sampler(line_circuit()), target)
    two = SamplerPayload.coerce([line_circuit()] * 2, shots=5)
    with pytest.raises(PayloadRejected, match=naming(2, "fake", 1)):
        check(two, target)


def test_foreign_kinds_are_told_apart():
    counts_only = replace(script_target(), payload_kinds=frozenset({"sampler"}))
    circuit = QuantumCircuit(1)
    estimate = EstimatorPayload.coerce([(circuit, "Z")])
    with pytest.raises(PayloadRejected, match=naming("estimator", "fake")):
        check(estimate, counts_only)
    with pytest.raises(PayloadRejected, match=naming("dict", "fake")):
        check({}, script_target())
    measured = QuantumCircuit(1, 1)
    measured.measure(0, 0)
    with pytest.raises(PayloadRejected, match="remove_final_measurements"):
        check(EstimatorPayload.coerce([(measured, "Z")]), script_target())
