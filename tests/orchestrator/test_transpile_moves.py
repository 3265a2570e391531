import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit.library import SwapGate
from qiskit.quantum_info import Operator, Statevector

from backends.api import PayloadRejected
from backends.circuits import FrozenCircuit
from backends.gates import MoveGate, without_moves
from backends.profiles import load_profile
from orchestrator.transpile.moves import insert_moves
from orchestrator.transpile.transpiler import conforms
from tests.errors import naming

STAR = load_profile("vlq").target()


def random_native(qubits, gates, seed):
    rng = np.random.default_rng(seed)
    circuit = QuantumCircuit(qubits)
    for _ in range(gates):
        if rng.random() < 0.5:
            circuit.r(*rng.uniform(-3, 3, 2), int(rng.integers(qubits)))
        elif rng.random() < 0.1:
            circuit.barrier()
        else:
            circuit.cz(*(int(q) for q in rng.choice(qubits, 2, replace=False)))
    return circuit


def moves_of(circuit, qubits):
    return insert_moves(circuit, qubits).count_ops().get("move", 0)


def assert_plays_by_the_rules(star):
    """The resonator holds at most one qubit, whose own wire then stays idle, and ends empty."""
    resonator, inside = star.num_qubits - 1, None
    for step in star.data:
        qubits = [star.find_bit(q).index for q in step.qubits]
        if step.name == "move":
            assert qubits[1] == resonator
            assert inside in (None, qubits[0])
            inside = qubits[0] if inside is None else None
        elif step.name == "cz":
            assert qubits[1] == resonator
            assert inside not in (None, qubits[0])
        else:
            assert inside not in qubits
            assert resonator not in qubits
    assert inside is None


@pytest.mark.parametrize("seed", range(25))
def test_moves_change_nothing_but_the_way(seed):
    circuit = random_native(5, 30, seed)
    star = insert_moves(circuit, 5)
    assert_plays_by_the_rules(star)
    assert star.count_ops()["cz"] == circuit.count_ops()["cz"]
    assert Statevector(star).equiv(Statevector(circuit).expand(Statevector.from_label("0")))
    swaps = without_moves(star)
    assert "move" not in swaps.count_ops()
    assert Statevector(swaps).equiv(Statevector(star))


def test_a_qubit_stays_for_all_its_partners():
    fan = QuantumCircuit(6)
    for partner in range(1, 6):
        fan.cz(0, partner)
    assert moves_of(fan, 6) == 2


def test_the_order_of_commuting_gates_saves_moves():
    mixed = QuantumCircuit(6)
    for pair in [(0, 1), (3, 4), (0, 2), (3, 5), (1, 0), (4, 3)]:
        mixed.cz(*pair)
    assert moves_of(mixed, 6) == 4
    complete = QuantumCircuit(5)
    for a in range(5):
        for b in range(a):
            complete.cz(a, b)
    assert moves_of(complete, 5) == 2 * 4


def test_a_pulse_between_brings_the_qubit_home():
    circuit = QuantumCircuit(3)
    circuit.cz(0, 1)
    circuit.r(0.1, 0.2, 0)
    circuit.r(0.1, 0.2, 1)
    circuit.cz(0, 1)
    assert moves_of(circuit, 3) == 4


def test_without_two_qubit_gates_nothing_moves():
    circuit = QuantumCircuit(3, 3)
    circuit.r(0.1, 0.2, 0)
    circuit.measure(range(3), range(3))
    assert moves_of(circuit, 3) == 0


def test_measurements_come_after_the_way_home_in_their_bits():
    circuit = QuantumCircuit(24, 2)
    circuit.cz(0, 1)
    circuit.measure(1, 0)
    circuit.measure(0, 1)
    star = insert_moves(circuit, 24)
    assert conforms(star, STAR)
    ends = [
        (star.find_bit(s.qubits[0]).index, star.find_bit(s.clbits[0]).index)
        for s in star.data
        if s.name == "measure"
    ]
    assert sorted(ends) == [(0, 1), (1, 0)]


def test_control_flow_and_other_gates_are_refused():
    branching = QuantumCircuit(2, 1)
    with branching.if_test((branching.clbits[0], 1)):
        branching.cz(0, 1)
    with pytest.raises(PayloadRejected, match="control"):
        insert_moves(branching, 2)
    swapping = QuantumCircuit(2)
    swapping.swap(0, 1)
    with pytest.raises(PayloadRejected, match=naming("swap")):
        insert_moves(swapping, 2)


def test_a_move_is_a_swap_with_a_name():
    gate = MoveGate()
    assert gate.name == "move"
    assert gate.inverse() == gate
    assert Operator(gate) == Operator(SwapGate())
    circuit = QuantumCircuit(25)
    circuit.append(gate, [0, 24])
    circuit.append(gate, [0, 24])
    read = FrozenCircuit.from_qpy(FrozenCircuit.of(circuit).qpy)
    assert conforms(read.circuit, STAR)
    assert read.digest == FrozenCircuit.of(circuit).digest


@pytest.mark.parametrize(
    "steps",
    [
        [("move", 0)],
        [("move", 0), ("move", 1)],
        [("cz", 0)],
        [("move", 0), ("cz", 0), ("move", 0)],
        [("move", 0), ("r", 0), ("move", 0)],
        [("move", 23), ("move", 23)],
    ],
)
def test_moves_that_cannot_be_done_do_not_conform(steps):
    circuit = QuantumCircuit(25)
    for name, qubit in steps:
        if name == "move":
            circuit.append(MoveGate(), [qubit, 24])
        elif name == "cz":
            circuit.cz(qubit, 24)
        else:
            circuit.r(0.1, 0.2, qubit)
    assert not conforms(circuit, STAR)
