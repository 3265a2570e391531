"""Equal circuits are equal bytes in every process, and equal bytes are all that is executed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import (
    Clbit,
    ControlledGate,
    Delay,
    Duration,
    Gate,
    Instruction,
    Parameter,
    ParameterVector,
    Qubit,
)
from qiskit.circuit.classical import expr
from qiskit.circuit.library import (
    Initialize,
    MCPhaseGate,
    MCXGate,
    PauliEvolutionGate,
    StatePreparation,
    UGate,
    UnitaryGate,
    XGate,
)
from qiskit.quantum_info import Operator, SparsePauliOp, random_unitary

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


@pytest.mark.slow
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
        lambda c: c.append(Gate("unknown", 1, [Parameter("free")]), [0]),
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


def one(gate, *, qubits=1, clbits=0):
    circuit = QuantumCircuit(qubits, clbits)
    circuit.append(gate, range(qubits), range(clbits))
    return circuit


def called(name, angle, kind=Gate, params=()):
    """A gate of this name that turns its qubit by an angle that its parameters do not show."""
    definition = QuantumCircuit(1, name=name)
    definition.rx(angle, 0)
    gate = Gate(name, 1, [*params]) if kind is Gate else Instruction(name, 1, 0, [*params])
    gate.definition = definition
    return gate


def nested(angle):
    outer = QuantumCircuit(1, name="outer")
    outer.append(called("inner", angle, params=[0.5]), [0])
    return outer.to_gate()


def controlled(base):
    """A controlled gate whose own definition is that of its base, as QPY reads it back."""
    gate = ControlledGate("c", 2, [], num_ctrl_qubits=1, base_gate=base)
    gate.definition = QuantumCircuit(2)
    gate.definition.append(base.control(), [0, 1])
    return gate


def twelve(parameters):
    circuit = QuantumCircuit(1)
    for index, parameter in enumerate(parameters):
        (circuit.rz if index % 2 else circuit.rx)(parameter, 0)
    return circuit


def twice_named(kind):
    circuit = QuantumCircuit([Qubit(), Qubit()], [Clbit(), Clbit()])
    bits = circuit.qubits if kind is QuantumRegister else circuit.clbits
    circuit.add_register(kind(bits=bits, name="r"))
    circuit.measure([0, 1], [0, 1])
    return circuit


def waiting(length, unit=None):
    circuit = QuantumCircuit(1)
    circuit.delay(length, 0, unit) if unit else circuit.append(Delay(expr.lift(length)), [0])
    return circuit


def branching(condition, *, bits=2, body="x"):
    register = ClassicalRegister(bits, "c")
    circuit = QuantumCircuit(QuantumRegister(1), register)
    with circuit.if_test(condition(register)):
        getattr(circuit, body)(0)
    return circuit


def choosing(*labels):
    circuit = QuantumCircuit(1, 2)
    with circuit.switch(circuit.cregs[0]) as case:
        for number, label in enumerate(labels):
            with case(*label):
                circuit.rx(number, 0)
    return circuit


def looping(indices):
    circuit, turn = QuantumCircuit(1), Parameter("i")
    body = QuantumCircuit(1)
    body.rx(turn, 0)
    circuit.for_loop(indices, turn, body, [0], [])
    return circuit


def sharing(*places):
    circuit = QuantumCircuit(2, 2)
    circuit.measure([0, 1], [0, 1])
    circuit.add_register(ClassicalRegister(bits=[circuit.clbits[i] for i in places], name="both"))
    return circuit


DIFFERENT = {
    "unit of a wait": [waiting(100, unit) for unit in ("ns", "ms", "dt", "ps", "s", "us")],
    "length of a wait": [waiting(1, "us"), waiting(1.5, "us"), waiting(Duration.us(2))],
    "definition": [one(called("g", angle)) for angle in (0.0, 1.0, 1.0 + 1e-15)],
    "definition under equal parameters": [one(called("g", a, params=[0.5])) for a in (0.0, 1.0)],
    "definition of an instruction": [
        one(called("i", angle, Instruction, params=[0.5])) for angle in (0.0, 1.0)
    ],
    "definition inside a definition": [one(nested(angle)) for angle in (0.0, 1.0)],
    "what is controlled": [one(controlled(called("g", a)), qubits=2) for a in (0.0, 1.0)],
    "what is controlled, inside": [one(nested(a).control(), qubits=2) for a in (0.0, 1.0)],
    "state that controls": [
        one(called("g", 1.0).control(2, ctrl_state=state), qubits=3) for state in range(4)
    ],
    "kind of parameters": [
        twelve(ParameterVector("x", 12)),
        twelve([Parameter(f"x[{i}]") for i in range(12)]),
    ],
    "order of parameters": [
        twelve([Parameter(name) for name in order]) for order in ("abcdefghijkl", "bacdefghijkl")
    ],
    "kind of a register": [twice_named(QuantumRegister), twice_named(ClassicalRegister)],
    "order of bits in a register": [sharing(0), sharing(1), sharing(0, 1), sharing(1, 0)],
    "array": [one(UnitaryGate(random_unitary(2, seed=seed))) for seed in (1, 2)],
    "state": [one(Initialize(state)) for state in ([1, 0], [0, 1], [1, 1j] / np.sqrt(2))],
    "direction of a preparation": [
        one(StatePreparation([0.6, 0.8], inverse=inverse)) for inverse in (False, True)
    ],
    "state that controls a gate of Qiskit's": [
        one(kind, qubits=3)
        for state in range(4)
        for kind in (
            MCXGate(2, ctrl_state=state),
            MCPhaseGate(0.3, 2, ctrl_state=state),
            UGate(0.1, 0.2, 0.3).control(2, ctrl_state=state, annotated=False),
        )
    ],
    "time evolution": [
        one(PauliEvolutionGate(SparsePauliOp(terms, [1, coefficient]), 0.5), qubits=2)
        for terms, coefficient in ((["XX", "ZI"], 1), (["ZI", "XX"], 1), (["XX", "ZI"], 2))
    ],
    "global phase": [QuantumCircuit(1, global_phase=phase) for phase in (0.0, 0.5)],
    "condition": [
        branching(lambda c: (c, 1)),
        branching(lambda c: (c, 2)),
        branching(lambda c: (c[0], 1)),
        branching(lambda c: (c[1], 1)),
        branching(lambda c: (c[0], 0)),
        branching(lambda c: expr.less(c, 1)),
        branching(lambda c: expr.less(c, 2)),
        branching(lambda c: expr.greater(c, 2)),
        branching(lambda c: expr.logic_and(c[0], c[1])),
        branching(lambda c: expr.logic_and(c[0], c[0])),
        branching(lambda c: (c, 1), body="y"),
        branching(lambda c: (c, 1), bits=3),
    ],
    "case": [
        choosing([0], [1]),
        choosing([1], [0]),
        choosing([0, 1]),
        choosing([0], [1], [2]),
    ],
    "range": [looping(range(3)), looping(range(1, 4)), looping(range(0, 6, 2)), looping([0, 2, 1])],
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_circuits_that_differ_in_this_have_different_digests(what):
    digests = [FrozenCircuit.of(circuit).digest for circuit in DIFFERENT[what]]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_is_frozen_written_and_read_back_keeps_its_digest(what):
    for circuit in DIFFERENT[what]:
        frozen = FrozenCircuit.of(circuit)
        read = FrozenCircuit.from_qpy(frozen.qpy)
        assert read.digest == frozen.digest
        assert FrozenCircuit.of(read.circuit).digest == frozen.digest


def test_freezing_leaves_the_users_circuit_as_it_was():
    for make in MAKERS:
        circuit = make()
        before, names = circuit.copy(), [p.name for p in circuit.parameters]
        FrozenCircuit.of(circuit)
        assert circuit == before
        assert [p.name for p in circuit.parameters] == names


def test_names_that_are_those_of_columns_do_not_confuse_columns():
    names = ["p0000001", "p0000000", "p0000002", "a"]
    circuit = twelve([Parameter(name) for name in names])
    (values,) = np.random.default_rng(1).uniform(-3, 3, (1, 4))
    frozen = FrozenCircuit.of(circuit).circuit
    assert Operator(frozen.assign_parameters(values)) == Operator(circuit.assign_parameters(values))


# What a random circuit consists of: gates with names that say nothing, waits, and parameters.
STEPS = st.tuples(
    st.sampled_from(["rx", "cz", "mine", "controlled", "nested", "turn", "delay"]),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from([0.0, -0.0, 0.5, 1.0]),
    st.integers(0, 3),
)


@st.composite
def recipes(draw):
    steps = draw(st.lists(STEPS, max_size=6))
    bits = draw(st.permutations(range(3)))
    kind = draw(st.sampled_from(["vector", "plain"]))
    return steps, bits, kind


def cooked(recipe, run=""):
    """Make the circuit of a recipe. run: part of all names that must not matter."""
    steps, bits, kind = recipe
    parameters = (
        ParameterVector("x" + run, 12)
        if kind == "vector"
        else [Parameter(f"x{run}[{i}]") for i in range(12)]
    )
    circuit = QuantumCircuit(QuantumRegister(3, "some" + run), ClassicalRegister(3, "c"))
    for step, first, second, angle, number in steps:
        other = second if second != first else (first + 1) % 3
        parameter = parameters[[0, 1, 2, 10][number]]
        match step:
            case "rx":
                circuit.rx(angle, first)
            case "cz":
                circuit.cz(first, other)
            case "mine":
                circuit.append(called("mine" + run, angle, params=[0.5]), [first])
            case "controlled":
                gate = called("mine" + run, angle).control(ctrl_state=number % 2)
                circuit.append(gate, [first, other])
            case "nested":
                circuit.append(nested(angle), [first])
            case "turn":
                circuit.ry(parameter + angle * parameters[1], first)
            case _:
                circuit.delay(number + 1, first, ["ns", "us", "dt"][second])
    circuit.measure(range(3), bits)
    return circuit


def meaning(circuit, values):
    """Return unitary, waits and where each qubit is measured, all by Qiskit's own means."""
    bound = circuit.assign_parameters(values)
    unmeasured = bound.remove_final_measurements(inplace=False)
    waits = [
        (step.operation.unit, float(step.operation.duration))
        for step in bound.data
        if step.name == "delay"
    ]
    measured = [
        (bound.find_bit(step.qubits[0]).index, bound.find_bit(step.clbits[0]).index)
        for step in bound.data
        if step.name == "measure"
    ]
    return Operator(unmeasured).data, waits, sorted(measured)


def same(one, other):
    return np.allclose(one[0], other[0], atol=1e-9) and one[1:] == other[1:]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipes(), recipes())
def test_equal_digests_mean_equal_unitaries_columns_bits_and_timing(one, other):
    circuits = [cooked(one), cooked(other)]
    frozen = [FrozenCircuit.of(circuit) for circuit in circuits]
    values = np.random.default_rng(5).uniform(-3, 3, 12)
    meant = [meaning(c, values[: c.num_parameters]) for c in circuits]
    executed = [
        meaning(FrozenCircuit.from_qpy(f.qpy).circuit, values[: c.num_parameters])
        for f, c in zip(frozen, circuits, strict=True)
    ]
    assert all(map(same, meant, executed)), "what is executed is what was meant"
    if frozen[0].digest == frozen[1].digest:
        assert same(*meant)
    renamed = FrozenCircuit.of(cooked(one, run="another"))
    assert renamed.digest == frozen[0].digest, "names and ids do not count"


def test_layers_are_counted_once_for_each_circuit(monkeypatch) -> None:
    """A loop hands in an equal circuit again and again; the count goes by its exact bytes."""
    counted = []
    depth = QuantumCircuit.depth

    def counting(circuit, *args):
        counted.append(circuit)
        return depth(circuit, *args)

    monkeypatch.setattr(QuantumCircuit, "depth", counting)
    for wires, expected in ((5, 6), (5, 6), (6, 7)):
        circuit = QuantumCircuit(wires)
        circuit.h(0)
        for wire in range(wires - 1):
            circuit.cx(wire, wire + 1)
        circuit.rz(0.123, wires - 1)
        assert FrozenCircuit.of(circuit).layers == expected
    assert len(counted) == 2
