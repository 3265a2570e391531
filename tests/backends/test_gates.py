"""Users' gates with the names of known ones are what they are defined as."""

from __future__ import annotations

import io

import pytest
from qiskit import QuantumCircuit, qasm2, qpy
from qiskit.circuit import Gate
from qiskit.circuit.library import MCXGate, UnitaryGate
from qiskit.quantum_info import Kraus, Operator

from backends.api import PayloadRejected
from backends.gates import MoveGate, inline_definitions, is_own
from tests.errors import naming


def named(name, *, qubits=1):
    """A gate that flips its first qubit, whatever it is called."""
    definition = QuantumCircuit(qubits, name=name)
    definition.x(0)
    return definition.to_gate()


def through_qpy(circuit):
    file = io.BytesIO()
    qpy.dump(circuit, file)
    file.seek(0)
    return qpy.load(file)[0]


NAMES = ["r", "iswap", "mcx", "mcphase", "unitary", "pauli", "kraus", "move", "qft", "if_else"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("travelled", [False, True])
def test_a_known_name_does_not_hide_another_definition(name, travelled) -> None:
    circuit = QuantumCircuit(2)
    circuit.append(named(name, qubits=2), [1, 0])
    circuit.h(0)
    if travelled:
        circuit = through_qpy(circuit)
    plain = inline_definitions(circuit)
    assert [step.name for step in plain.data] == ["x", "h"]
    assert Operator(plain) == Operator(circuit)


@pytest.mark.parametrize("name", ["ryy", "iswap", "mcx", "unitary", "dcx"])
def test_gates_of_a_program_are_what_it_says(name) -> None:
    text = f"""OPENQASM 2.0; include "qelib1.inc"; gate {name} a,b {{ x b; }}
    gate outer a,b {{ h a; {name} b,a; }} qreg q[2]; {name} q[0],q[1]; outer q[0],q[1];"""
    plain = inline_definitions(qasm2.loads(text))
    found = [(s.name, [plain.find_bit(q).index for q in s.qubits]) for s in plain.data]
    assert found == [("x", [1]), ("h", [0]), ("x", [0])]


def test_inside_control_flow_too() -> None:
    circuit = QuantumCircuit(1, 1)
    with circuit.if_test((circuit.clbits[0], 0)):
        circuit.append(named("unitary"), [0])
    (step,) = inline_definitions(circuit).data
    assert [inner.name for inner in step.operation.blocks[0].data] == ["x"]


def test_known_ones_and_those_without_a_definition_stay() -> None:
    circuit = QuantumCircuit(4)
    circuit.append(MCXGate(3), range(4))
    circuit.append(UnitaryGate([[0, 1], [1, 0]]), [0])
    circuit.append(MoveGate(), [0, 1])
    circuit.append(Kraus([[[1, 0], [0, 1]]]).to_instruction(), [0])
    circuit.append(Gate("vendors_own", 1, []), [0])
    assert inline_definitions(circuit) is circuit
    assert [is_own(step.operation) for step in circuit.data[:3]] == [True] * 3


@pytest.mark.parametrize("name", ["ryy", "initialize", "mcx"])
def test_a_known_name_without_a_definition_is_refused(name) -> None:
    text = f'OPENQASM 2.0; include "qelib1.inc"; opaque {name} a; qreg q[1]; {name} q[0];'
    with pytest.raises(PayloadRejected, match=naming(name)):
        inline_definitions(qasm2.loads(text))
