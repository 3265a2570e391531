import os
import subprocess
import sys
from pathlib import Path

import pytest
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.circuit import Gate, Parameter, ParameterVector
from qiskit.circuit.library import PauliEvolutionGate, UnitaryGate, XGate
from qiskit.quantum_info import SparsePauliOp, random_unitary

from backends.circuits import FrozenCircuit

ROOT = Path(__file__).resolve().parents[2]


def expressions():
    a, b, c = (Parameter(name) for name in "abc")
    v = ParameterVector("v", 11)
    circuit = QuantumCircuit(2, 1)
    circuit.rx(a + 2 * b * c - 0.3, 0)
    circuit.r(v[10] * v[2] - a, (b - c) / 3, 1)
    circuit.measure(0, 0)
    return circuit


def custom_gates():
    body = QuantumCircuit(2)
    body.h(0)
    body.cx(0, 1)
    circuit = QuantumCircuit(3)
    circuit.append(body.to_gate(), [0, 2])
    circuit.append(XGate().control(2, ctrl_state=1), [0, 1, 2])
    hamiltonian = SparsePauliOp(["XX", "ZY"], [0.5, 1.5])
    circuit.append(PauliEvolutionGate(hamiltonian, Parameter("t")), [0, 1])
    circuit.append(UnitaryGate(random_unitary(4, seed=1)), [1, 2])
    return circuit


def control_flow():
    circuit = QuantumCircuit(2, 2)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)) as otherwise:
        circuit.x(1)
    with otherwise:
        circuit.rx(Parameter("z") + Parameter("y"), 1)
    with circuit.switch(circuit.cregs[0]) as case:
        with case(0):
            circuit.h(0)
        with case(case.DEFAULT):
            circuit.z(0)
    return circuit


MAKERS = [expressions, custom_gates, control_flow]


@pytest.mark.parametrize("make", MAKERS)
def test_digest_does_not_depend_on_when_a_circuit_was_made(make):
    digests = {FrozenCircuit.of(make()).digest for _ in range(8)}
    assert len(digests) == 1


@pytest.mark.parametrize("make", MAKERS)
def test_digest_survives_the_way_through_bytes(make):
    frozen = FrozenCircuit.of(make())
    assert FrozenCircuit.from_qpy(frozen.qpy).digest == frozen.digest


def test_digest_is_equal_in_another_process():
    script = (
        "import importlib.util as u, sys;"
        f"s = u.spec_from_file_location('made', {str(Path(__file__))!r});"
        "m = u.module_from_spec(s); s.loader.exec_module(m);"
        "print(*[m.FrozenCircuit.of(make()).digest for make in m.MAKERS])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [FrozenCircuit.of(make()).digest for make in MAKERS]


def changed(circuit, change):
    change(circuit)
    return FrozenCircuit.of(circuit).digest


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.x(0),
        lambda c: c.barrier(0),
        lambda c: setattr(c, "global_phase", 0.25),
        lambda c: c.add_register(ClassicalRegister(1, "more")),
        lambda c: c.append(Gate("x", 1, [Parameter("free")]), [0]),
    ],
)
@pytest.mark.parametrize("make", MAKERS)
def test_digest_sees_a_change(make, change):
    assert changed(make(), change) != FrozenCircuit.of(make()).digest


def test_digest_looks_inside_definitions_and_angles():
    def gate_of(angle):
        body = QuantumCircuit(1, name="mine")
        body.rx(angle, 0)
        circuit = QuantumCircuit(1)
        circuit.append(body.to_gate(), [0])
        return FrozenCircuit.of(circuit).digest

    assert gate_of(0.1) == gate_of(0.1)
    assert gate_of(0.1) != gate_of(0.1 + 1e-15)


def test_digest_sees_the_control_state_and_the_condition():
    def controlled(state):
        circuit = QuantumCircuit(3)
        circuit.append(XGate().control(2, ctrl_state=state), [0, 1, 2])
        return FrozenCircuit.of(circuit).digest

    def conditional(value):
        circuit = QuantumCircuit(1, 1)
        with circuit.if_test((circuit.clbits[0], value)):
            circuit.x(0)
        return FrozenCircuit.of(circuit).digest

    assert len({controlled(state) for state in range(4)}) == 4
    assert conditional(0) != conditional(1)


def test_digest_ignores_names_of_circuits():
    first, second = expressions(), expressions()
    first.name, second.metadata = "first", {"note": 1}
    assert FrozenCircuit.of(first).digest == FrozenCircuit.of(second).digest
