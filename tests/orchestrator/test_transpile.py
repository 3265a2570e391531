import dataclasses
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Gate, Parameter, ParameterVector
from qiskit.circuit.library import PauliEvolutionGate, QFTGate, UCGate, efficient_su2
from qiskit.circuit.random import random_circuit
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit.transpiler import InstructionProperties

from backends.api import Calibration, PayloadRejected, Target
from backends.circuits import FrozenCircuit
from backends.lowering import NativeCompiler, usable_qubits
from backends.metering import Metering
from backends.profiles import load_profile
from backends.targets import target_from_json, target_to_json
from orchestrator.transpile import Transpiler
from orchestrator.transpile.transpiler import AER_GATES, conforms, standard_gates, unroll
from tests.errors import naming

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ("aalto-q20", "helmi", "piast-q", "vlq", "vtt-q50")
IDEAL = Target(
    name="ideal",
    num_qubits=None,
    payload_kinds=frozenset({"sampler", "estimator"}),
    calibration=Calibration(id="ideal-1", taken_at=datetime(2026, 1, 1, tzinfo=UTC)),
    metering=Metering(),
)


def device(name):
    return load_profile(name).target()


def bell(measured=True):
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    if measured:
        circuit.measure_all()
    return circuit


def compacted(circuit, keep):
    """The circuit on the wires it uses and those of ``keep``, and where the latter went."""
    used = {circuit.find_bit(q).index for s in circuit.data for q in s.qubits}
    wires = sorted(used | set(keep))
    place = {wire: i for i, wire in enumerate(wires)}
    small = QuantumCircuit(len(wires))
    for step in circuit.data:
        if step.name != "barrier":
            small.append(step.operation, [place[circuit.find_bit(q).index] for q in step.qubits])
    return small, [place[wire] for wire in keep]


def assert_equal_states(original, transpiled):
    layout = transpiled.layout or tuple(range(original.num_qubits))
    small, wires = compacted(transpiled.circuit.circuit, layout)
    expected = QuantumCircuit(small.num_qubits).compose(original, wires)
    assert Statevector(small).equiv(Statevector(expected), atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", DEVICES)
def test_a_device_circuit_makes_the_same_state(name, seed):
    circuit = random_circuit(4, 4, max_operands=3, seed=seed)
    transpiled = Transpiler().transpile(FrozenCircuit.of(circuit), device(name))
    assert conforms(transpiled.circuit.circuit, device(name))
    assert_equal_states(circuit, transpiled)


@pytest.mark.parametrize("name", [*DEVICES, "euro-q-exa"])
def test_parameters_stay_symbolic_and_bind_by_column(name):
    v = ParameterVector("v", 12)
    circuit = efficient_su2(3, reps=1, entanglement="full").decompose()
    circuit.rx(2 * v[0] - v[11], 0)
    circuit.append(PauliEvolutionGate(SparsePauliOp(["XZ", "YY"]), v[2]), [0, 2])
    transpiled = Transpiler().transpile(FrozenCircuit.of(circuit), device(name))
    native = transpiled.circuit.circuit
    assert transpiled.columns == tuple(range(circuit.num_parameters))
    point = np.random.default_rng(3).uniform(-7, 7, circuit.num_parameters)
    bound = FrozenCircuit.of(native.assign_parameters(point))
    original = circuit.assign_parameters(point).decompose("PauliEvolution")
    assert_equal_states(original, dataclasses.replace(transpiled, circuit=bound))


def test_a_parameter_that_cannot_matter_may_vanish():
    theta, phi = Parameter("theta"), Parameter("phi")
    circuit = QuantumCircuit(1)
    circuit.rx(theta, 0)
    circuit.rz(phi, 0)
    circuit.measure_all()
    transpiled = Transpiler().transpile(FrozenCircuit.of(circuit), device("helmi"))
    assert transpiled.columns == (1,), "phi's column, the first, is gone"
    assert transpiled.circuit.circuit.num_parameters == 1


@pytest.mark.parametrize("name", [*DEVICES, "euro-q-exa"])
def test_classical_registers_and_measured_bits_stay(name):
    quantum = QuantumRegister(3, "data")
    first, second = ClassicalRegister(2, "first"), ClassicalRegister(3, "second")
    circuit = QuantumCircuit(quantum, first, second)
    circuit.x(2)
    circuit.append(QFTGate(3), quantum)
    circuit.append(QFTGate(3).inverse(), quantum)
    circuit.measure(quantum[2], first[1])
    circuit.measure(quantum[0], second[2])
    transpiled = Transpiler().transpile(FrozenCircuit.of(circuit), device(name))
    native = transpiled.circuit.circuit
    assert [(r.name, r.size) for r in native.cregs] == [("first", 2), ("second", 3)]
    layout = transpiled.layout or (0, 1, 2)
    measured = {
        (
            native.find_bit(s.qubits[0]).index,
            native.find_bit(s.clbits[0]).registers[0][0].name,
            native.find_bit(s.clbits[0]).registers[0][1],
        )
        for s in native.data
        if s.name == "measure"
    }
    # Nothing is routed after a measurement, so it is where the layout says.
    assert measured == {(layout[2], "first", 1), (layout[0], "second", 2)}


def test_an_ideal_simulator_gets_the_very_circuit():
    frozen = FrozenCircuit.of(bell())
    transpiled = Transpiler().transpile(frozen, IDEAL)
    assert transpiled.circuit is frozen
    assert transpiled.layout is None


@pytest.mark.parametrize("target", [IDEAL, device("euro-q-exa")], ids=["ideal", "site"])
def test_only_unknown_gates_are_unrolled(target):
    inner = QuantumCircuit(2, name="mine")
    inner.iswap(0, 1)
    inner.rx(Parameter("angle"), 1)
    circuit = QuantumCircuit(4)
    circuit.append(inner.to_gate(), [0, 2])
    circuit.append(QFTGate(3), [1, 2, 3])
    circuit.cswap(0, 1, 2)
    transpiled = Transpiler().transpile(FrozenCircuit.of(circuit), target)
    unrolled = transpiled.circuit.circuit
    known = AER_GATES if target is IDEAL else standard_gates()
    assert set(unrolled.count_ops()) <= known
    assert unrolled.count_ops()["cswap"] == 1
    assert transpiled.layout is None
    bound, original = unrolled.assign_parameters([0.7]), circuit.assign_parameters([0.7])
    assert Statevector(bound).equiv(Statevector(original))


def test_unrolling_reaches_into_control_flow():
    circuit = QuantumCircuit(2, 1)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.iswap(0, 1)
    unrolled = unroll(circuit, AER_GATES)
    (branch,) = unrolled.data[1].operation.blocks
    assert set(branch.count_ops()) <= AER_GATES
    assert "iswap" not in branch.count_ops()


def test_what_aer_takes_is_what_aer_says():
    from qiskit_aer import AerSimulator

    told = set(AerSimulator().target.operation_names) | {"barrier"}
    assert told >= AER_GATES
    left = {n for n in told - AER_GATES if not n.startswith(("save_", "set_"))}
    # Noise's own instructions, one that Aer lists and cannot assemble, and one that cannot travel.
    assert left == {"mcx_gray", "multiplexer", "qerror_loc", "roerror"}


def test_a_gate_that_qpy_cannot_bring_back_is_written_with_others():
    circuit = QuantumCircuit(2)
    circuit.h(1)
    circuit.append(UCGate([np.eye(2), np.array([[0, 1], [1, 0]])]), [0, 1])
    unrolled = unroll(circuit, AER_GATES)
    travelled = FrozenCircuit.from_qpy(FrozenCircuit.of(unrolled).qpy).circuit
    assert Statevector(travelled).equiv(Statevector(circuit))


@pytest.mark.parametrize(
    "target", [IDEAL, device("euro-q-exa"), device("helmi")], ids=["ideal", "site", "device"]
)
def test_an_instruction_without_a_definition_is_refused(target):
    circuit = QuantumCircuit(1)
    circuit.append(Gate("mystery", 1, []), [0])
    with pytest.raises(PayloadRejected, match="mystery"):
        Transpiler().transpile(FrozenCircuit.of(circuit), target)


@pytest.mark.parametrize(
    "target", [IDEAL, device("helmi"), device("vlq")], ids=["ideal", "lattice", "star"]
)
@pytest.mark.parametrize("name", ["cz", "r", "move", "h"])
def test_a_users_gate_with_a_known_name_keeps_its_meaning(target, name):
    inner = QuantumCircuit(2, name=name)
    inner.x(0)
    inner.ch(0, 1)
    circuit = QuantumCircuit(3)
    circuit.append(inner.to_gate(), [2, 1])
    transpiled = Transpiler().transpile(FrozenCircuit.of(circuit), target)
    assert_equal_states(circuit, transpiled)


@pytest.mark.parametrize("name", DEVICES)
def test_a_circuit_that_fits_is_left_alone(name):
    target = device(name)
    transpiler = Transpiler()
    once = transpiler.transpile(FrozenCircuit.of(bell()), target)
    again = transpiler.transpile(once.circuit, target)
    assert again.circuit is once.circuit
    assert again.layout is None


def test_unusable_qubits_are_avoided():
    wide = QuantumCircuit(19)
    for i in range(18):
        wide.cx(i, i + 1)
    target = dataclasses.replace(device("aalto-q20"), unusable_qubits=(7,), native=None)
    native = Transpiler().transpile(FrozenCircuit.of(wide), target).circuit.circuit
    touched = {native.find_bit(q).index for s in native.data for q in s.qubits}
    assert touched <= set(usable_qubits(target))
    assert conforms(native, target)


@pytest.mark.parametrize(("name", "wide"), [("helmi", 6), ("vlq", 24), ("piast-q", 21)])
def test_too_wide_a_circuit_is_refused(name, wide):
    circuit = QuantumCircuit(wide)
    circuit.h(range(wide))
    with pytest.raises(PayloadRejected, match=naming(wide)):
        Transpiler().transpile(FrozenCircuit.of(circuit), device(name))


def test_control_flow_reaches_a_device_that_measures_in_the_middle():
    circuit = QuantumCircuit(3, 1)
    circuit.h(0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.cx(1, 2)
    native = Transpiler().transpile(FrozenCircuit.of(circuit), device("helmi")).circuit.circuit
    (branch,) = (s.operation.blocks[0] for s in native.data if s.name == "if_else")
    assert set(branch.count_ops()) <= {"r", "cz"}
    with pytest.raises(PayloadRejected):
        Transpiler().transpile(FrozenCircuit.of(circuit), device("vlq"))


def test_rotations_about_z_cost_no_pulses():
    ghz = QuantumCircuit(6)
    ghz.h(0)
    for i in range(5):
        ghz.cx(i, i + 1)
    ghz.measure_all()
    counts = Transpiler().transpile(FrozenCircuit.of(ghz), device("vtt-q50")).circuit.circuit
    # One pulse before and one after each CZ on its target, one for the Hadamard.
    assert counts.count_ops()["r"] == 11
    assert counts.count_ops()["cz"] == 5


def test_gates_that_commute_share_the_moves_of_a_star():
    qft = QuantumCircuit(8)
    qft.append(QFTGate(8), range(8))
    qft.measure_all()
    gates = Transpiler().transpile(FrozenCircuit.of(qft), device("vlq")).circuit.circuit.count_ops()
    assert gates["cz"] == 2 * 8 * 7 / 2  # two for each pair, and swaps at the end are names alone
    assert gates["move"] <= 4 * 8


def test_a_pair_that_needs_fewer_gates_gets_fewer_on_a_star():
    circuit = QuantumCircuit(2)
    for number in range(6):
        circuit.cx(number % 2, 1 - number % 2)
        circuit.ry(0.3 + number, 0)
        circuit.rx(0.7 + number, 1)
    circuit.measure_all()
    gates = Transpiler().transpile(FrozenCircuit.of(circuit), device("vlq")).circuit.circuit
    assert gates.count_ops()["cz"] <= 3


def test_the_best_qubits_of_a_star_are_taken():
    target = target_from_json(target_to_json(device("vlq")))
    for qubit in range(5):
        target.native.update_instruction_properties("r", (qubit,), InstructionProperties(error=0.4))
    _, layout = NativeCompiler(target).compile(bell())
    assert layout == (5, 6)


def test_another_calibration_is_compiled_anew():
    transpiler, target = Transpiler(), device("helmi")
    frozen = FrozenCircuit.of(bell())
    first = transpiler.transpile(frozen, target)
    assert transpiler.transpile(FrozenCircuit.of(bell()), target) is first
    moved = dataclasses.replace(
        target, calibration=dataclasses.replace(target.calibration, id="helmi-other")
    )
    assert transpiler.transpile(frozen, moved) is not first


def test_the_memory_is_bounded():
    transpiler, target = Transpiler(capacity=2), device("helmi")
    circuits = []
    for angle in (0.1, 0.2, 0.3):
        circuit = bell()
        circuit.global_phase = angle
        circuits.append(FrozenCircuit.of(circuit))
    first, second, third = (transpiler.transpile(one, target) for one in circuits)
    assert transpiler.transpile(circuits[2], target) is third
    assert transpiler.transpile(circuits[1], target) is second
    assert transpiler.transpile(circuits[0], target) is not first


def test_threads_that_ask_the_same_get_the_same_answer():
    target = device("vtt-q50")
    transpiler = Transpiler()
    circuit = efficient_su2(8, reps=2)
    circuit.measure_all()
    barrier = threading.Barrier(6)
    answers = []

    def ask():
        mine = FrozenCircuit.of(circuit)
        barrier.wait()
        answers.append(transpiler.transpile(mine, target))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert all(answer is answers[0] for answer in answers)


def test_a_failure_is_not_remembered():
    transpiler, target = Transpiler(), device("helmi")
    wide = FrozenCircuit.of(QuantumCircuit(9).compose(bell(measured=False), [7, 8]))
    for _ in range(2):
        with pytest.raises(PayloadRejected):
            transpiler.transpile(wide, target)


def assorted():
    circuit = efficient_su2(6, reps=2, entanglement="full").decompose()
    circuit.measure_all()
    qft = QuantumCircuit(7)
    qft.append(QFTGate(7), range(7))
    qft.measure_all()
    return circuit, qft


def digests():
    transpiler = Transpiler()
    return [
        transpiler.transpile(FrozenCircuit.of(circuit), device(name)).circuit.digest
        for name in ("vlq", "vtt-q50", "piast-q", "euro-q-exa")
        for circuit in assorted()
    ]


@pytest.mark.slow
def test_every_process_makes_the_same_circuits_and_none_needs_aer():
    script = (
        "import importlib.util as u, sys; sys.modules['qiskit_aer'] = None;"
        f"s = u.spec_from_file_location('made', {str(Path(__file__))!r});"
        "m = u.module_from_spec(s); s.loader.exec_module(m); print(*m.digests());"
        "import backends.noise"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "RAYON_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == digests()
