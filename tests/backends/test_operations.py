"""All that a circuit of Qiskit may hold runs with the right numbers, or is refused at the door."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import qiskit_aer.library  # noqa: F401  # adds save_statevector and its like to circuits
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import (
    AnnotatedOperation,
    Annotation,
    Clbit,
    ControlModifier,
    Delay,
    Duration,
    InverseModifier,
    Parameter,
    PowerModifier,
    library,
)
from qiskit.circuit.classical import expr, types
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.quantum_info import (
    Clifford,
    DensityMatrix,
    Kraus,
    Pauli,
    SparsePauliOp,
    SuperOp,
    random_clifford,
    random_unitary,
)

from backends.aer import create
from backends.aer.backend import AerBackend
from backends.api import PayloadRejected
from backends.lowering import NativeCompiler
from backends.payloads import EstimatorPayload, Payload, SamplerPayload, payload_from_bytes
from backends.profiles import load_profile
from backends.validate import check_fits
from tests.errors import naming

THETA = Parameter("θ")
LOSS = Kraus([[[1, 0], [0, 0.6]], [[0, 0.8], [0, 0]]]).to_instruction()


@pytest.fixture(scope="module")
def aer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AerBackend]:
    backend = create({"processes": 1}, state_dir=tmp_path_factory.mktemp("aer"))
    yield backend
    backend.close()


def ran(aer: AerBackend, payload: Payload, tag: str) -> Any:
    session = aer.acquire()
    task = aer.start(session, payload_from_bytes(payload.to_bytes()), tag)
    aer.wait(task, 60)
    return aer.result(task).native


def standard_gates() -> Iterator[Any]:
    for name, gate in get_standard_gate_name_mapping().items():
        if name in ("delay", "measure", "reset"):
            continue
        yield gate.base_class(*(0.1 * (i + 1) for i in range(len(gate.params))))
        if gate.params:
            yield gate.base_class(*((i + 1) * THETA for i in range(len(gate.params))))


def defined(angle: Any) -> Any:
    circuit = QuantumCircuit(2, name="mine", global_phase=0.3)
    circuit.h(0)
    circuit.crx(angle, 0, 1)
    return circuit.to_gate()


def other_gates() -> Iterator[Any]:
    matrix = random_unitary(4, seed=3).data
    yield from (library.UnitaryGate(matrix), library.MCXGate(3, ctrl_state=2))
    yield from (library.MCPhaseGate(0.3, 2), library.MCPhaseGate(THETA, 2, ctrl_state=1))
    yield from (
        library.RXGate(0.3).control(2, annotated=False),
        library.RXGate(THETA).control(2, ctrl_state=1, annotated=False),
    )
    yield from (library.CXGate(ctrl_state=0), library.C4XGate(ctrl_state=5))
    yield from (library.MCMTGate(library.YGate(), 2, 2), library.PermutationGate([2, 0, 1]))
    yield from (library.LinearFunction([[1, 1], [0, 1]]), library.QFTGate(3))
    yield from (library.PauliGate("XYZ"), library.DiagonalGate([1, -1, 1j, 1]))
    yield from (library.UCRXGate([0.1, 0.2]), library.UCRYGate([0.1, 0.2]))
    yield from (library.UCRZGate([0.1, 0.2]), library.UCPauliRotGate([0.1, 0.3], "X"))
    yield library.UCGate([np.eye(2), random_unitary(2, seed=1).data])
    yield library.HamiltonianGate(np.array([[1, 0.2], [0.2, -1]]), 0.3)
    yield from (library.StatePreparation([0.6, 0.8]), library.StatePreparation("1+"))
    yield library.StatePreparation([0.6, 0.8], inverse=True)
    # Terms that commute: otherwise the product formula is not the exponential.
    yield library.PauliEvolutionGate(SparsePauliOp(["XX", "ZZ"], [0.5, 1]), 0.3)
    yield library.PauliEvolutionGate(SparsePauliOp(["XX", "ZZ"], [0.5, 1]), THETA)
    yield from (random_clifford(2, seed=1), random_clifford(2, seed=1).to_instruction())
    yield from (Pauli("-iXY"), library.RVGate(0.1, 0.2, 0.3))
    yield from (library.FullAdderGate(1), library.ModularAdderGate(2), library.MultiplierGate(1))
    yield from (library.AndGate(2), library.OrGate(2), library.InnerProductGate(2))
    yield LOSS
    yield SuperOp(Kraus([np.eye(2) * 0.6, np.array([[0, 0.8], [0.8, 0]])])).to_instruction()
    yield from (defined(0.7), defined(THETA), defined(0.7).control(ctrl_state=0, annotated=False))
    yield from (
        defined(THETA).control(annotated=False),
        defined(0.7).inverse(),
        defined(0.7).power(2),
    )


def annotated_gates() -> Iterator[AnnotatedOperation]:
    yield AnnotatedOperation(library.SGate(), InverseModifier())
    yield AnnotatedOperation(library.RXGate(0.3), [ControlModifier(1, 0), PowerModifier(2)])
    yield AnnotatedOperation(library.SXGate(), PowerModifier(0.5))
    yield AnnotatedOperation(library.RXGate(THETA), [ControlModifier(1), InverseModifier()])
    yield AnnotatedOperation(library.PermutationGate([1, 0]), ControlModifier(1))
    yield AnnotatedOperation(library.LinearFunction([[1, 1], [0, 1]]), ControlModifier(1))
    yield AnnotatedOperation(defined(0.7), ControlModifier(1))
    yield AnnotatedOperation(Clifford(random_clifford(2, seed=1)), InverseModifier())
    inverse = AnnotatedOperation(library.SGate(), InverseModifier())
    yield AnnotatedOperation(inverse, ControlModifier(1))


def evolved(circuit: QuantumCircuit) -> DensityMatrix:
    state = DensityMatrix.from_label("0" * circuit.num_qubits)
    for step in circuit.data:
        operation: Any = step.operation
        if operation.name in ("kraus", "superop"):
            operation = SuperOp(operation)
        state = state.evolve(operation, [circuit.find_bit(q).index for q in step.qubits])
    return state


def in_a_state(gate: Any) -> QuantumCircuit:
    """Apply a gate to a product state that distinguishes all its matrix elements."""
    circuit = QuantumCircuit(max(1, gate.num_qubits))
    for qubit in range(circuit.num_qubits):
        circuit.ry(0.3 + 0.2 * qubit, qubit)
        circuit.rz(0.1 * (qubit + 1), qubit)
    circuit.append(gate, range(gate.num_qubits))
    return circuit


@pytest.mark.filterwarnings(
    "ignore::scipy.sparse.SparseEfficiencyWarning"
)  # Qiskit's matrix of a time evolution
@pytest.mark.parametrize("gates", [standard_gates, other_gates, annotated_gates])
def test_expectation_values_are_those_of_quantum_info(
    aer: AerBackend, gates: Callable[[], Iterator[Any]]
) -> None:
    circuits = [in_a_state(gate) for gate in gates()]
    pubs, expected = [], []
    for circuit in circuits:
        width, values = circuit.num_qubits, [0.7] * circuit.num_parameters
        observables = ["Z" * width, "I" * (width - 1) + "X", "Y" * width, "X" + "I" * (width - 1)]
        pubs.append((circuit, observables, values))
        state = evolved(circuit.assign_parameters(values))
        expected.append([state.expectation_value(Pauli(o)).real for o in observables])
    found = ran(aer, EstimatorPayload.coerce(pubs), gates.__name__)
    for circuit, values, result in zip(circuits, expected, found, strict=True):
        assert np.allclose(result.data.evs, values, atol=1e-7), circuit.data[-1].name


A, B, OUT = ClassicalRegister(2, "a"), ClassicalRegister(3, "b"), ClassicalRegister(1, "out")
CONDITIONS: list[tuple[Any, Callable[[int, int], bool]]] = [
    ((A, 2), lambda a, b: a == 2),
    ((B[1], 0), lambda a, b: not b & 2),
    (expr.equal(A, B), lambda a, b: a == b),
    (expr.less(A, B), lambda a, b: a < b),
    (expr.less_equal(B, 3), lambda a, b: b <= 3),
    (expr.greater(B, A), lambda a, b: b > a),
    (expr.greater_equal(B, 5), lambda a, b: b >= 5),
    (expr.not_equal(A, 2), lambda a, b: a != 2),
    (expr.equal(expr.bit_not(A), 2), lambda a, b: a == 1),
    (expr.equal(expr.bit_and(A, 1), 1), lambda a, b: bool(a & 1)),
    (expr.equal(expr.bit_or(A, 1), 3), lambda a, b: a | 1 == 3),
    (expr.equal(expr.bit_xor(B, 5), 2), lambda a, b: b ^ 5 == 2),
    (expr.bit_xor(A[0], B[1]), lambda a, b: bool(a & 1) != bool(b & 2)),
    (expr.logic_and(A[0], expr.logic_not(B[0])), lambda a, b: bool(a & 1 and not b & 1)),
    (expr.logic_or(A[1], expr.greater(B, 5)), lambda a, b: bool(a & 2 or b > 5)),
    (expr.equal(expr.cast(A[0], types.Uint(2)), 1), lambda a, b: bool(a & 1)),
    (expr.equal(expr.cast(B, types.Uint(2)), 3), lambda a, b: b & 3 == 3),
    (expr.lift(A[1]), lambda a, b: bool(a & 2)),
]


def test_conditions_hold_when_they_are_true(aer: AerBackend) -> None:
    circuits = []
    for condition, _ in CONDITIONS:
        circuit = QuantumCircuit(QuantumRegister(6), A, B, OUT)
        circuit.h(range(5))
        circuit.measure(range(5), range(5))
        with circuit.if_test(condition):
            circuit.x(5)
        circuit.measure(5, OUT[0])
        circuits.append(circuit)
    results = ran(aer, SamplerPayload.coerce(circuits, shots=200, seed=1), "conditions")
    for (condition, holds), result in zip(CONDITIONS, results, strict=True):
        data = result.data
        shots = zip(*(data[name].get_bitstrings() for name in ("a", "b", "out")), strict=True)
        for a, b, out in shots:
            assert bool(int(out)) is holds(int(a, 2), int(b, 2)), condition


def started() -> QuantumCircuit:
    """Qubit 0 is 1 and measured into bit 0 of two."""
    circuit = QuantumCircuit(QuantumRegister(2, "q"), ClassicalRegister(2, "c"))
    circuit.x(0)
    circuit.measure(0, 0)
    return circuit


def boxed() -> QuantumCircuit:
    circuit = started()
    with circuit.box(), circuit.if_test((circuit.clbits[0], 1)), circuit.box():
        circuit.x(1)
    circuit.measure(1, 1)
    return circuit


def stored() -> QuantumCircuit:
    circuit = started()
    circuit.store(circuit.clbits[1], expr.logic_not(circuit.clbits[0]))
    return circuit


def repeated() -> QuantumCircuit:
    circuit = started()
    with circuit.for_loop(range(3)) as turn:
        circuit.rx(turn * np.pi / 3, 1)
    circuit.measure(1, 1)
    return circuit


def left_early() -> QuantumCircuit:
    circuit = started()
    with circuit.for_loop(range(5)):
        circuit.x(1)
        with circuit.if_test((circuit.clbits[0], 1)):
            circuit.break_loop()
    circuit.measure(1, 1)
    return circuit


def passed_over() -> QuantumCircuit:
    circuit = started()
    with circuit.for_loop([1, 2, 3]):
        with circuit.if_test((circuit.clbits[0], 1)):
            circuit.continue_loop()
        circuit.x(1)
    circuit.measure(1, 1)
    return circuit


def repeated_until() -> QuantumCircuit:
    circuit = started()
    circuit.h(1)
    circuit.measure(1, 1)
    with circuit.while_loop((circuit.clbits[1], 0)):
        circuit.h(1)
        circuit.measure(1, 1)
    return circuit


def switched() -> QuantumCircuit:
    circuit = started()
    with circuit.switch(circuit.cregs[0]) as case:
        with case(0):
            pass
        with case(1, 2):
            circuit.x(1)
        with case(case.DEFAULT):
            circuit.h(1)
    circuit.measure(1, 1)
    return circuit


def measured_inside() -> QuantumCircuit:
    inner = QuantumCircuit(1, 1, name="inner")
    inner.x(0)
    inner.measure(0, 0)
    circuit = QuantumCircuit(QuantumRegister(2), ClassicalRegister(2, "c"))
    circuit.append(inner.to_instruction(), [1], [1])
    return circuit


def parities() -> QuantumCircuit:
    circuit = started()
    circuit.append(library.PauliProductMeasurement(Pauli("ZZ")), [0, 1], [0])
    circuit.append(library.PauliProductMeasurement(Pauli("-ZZ")), [0, 1], [1])
    return circuit


def initialized() -> QuantumCircuit:
    circuit = QuantumCircuit(QuantumRegister(2), ClassicalRegister(2, "c"))
    circuit.initialize([0, 0, 1, 0], [0, 1])
    circuit.measure([0, 1], [0, 1])
    return circuit


RIGHT = {
    boxed: "11",
    stored: "01",
    repeated: "11",
    left_early: "11",
    passed_over: "01",
    repeated_until: "11",
    switched: "11",
    measured_inside: "10",
    parities: "01",
    initialized: "10",
}


def test_control_flow_and_composites_give_the_right_bits(aer: AerBackend) -> None:
    payload = SamplerPayload.coerce([make() for make in RIGHT], shots=50, seed=1)
    for result, make in zip(ran(aer, payload, "flow"), RIGHT, strict=True):
        assert result.data.c.get_counts() == {RIGHT[make]: 50}, make.__name__


class Twirl(Annotation):  # type: ignore[misc]
    namespace = "test.twirl"


def changed(change: Callable[[QuantumCircuit], Any]) -> QuantumCircuit:
    circuit = started()
    change(circuit)
    circuit.measure_all()
    return circuit


def when(condition: Callable[[ClassicalRegister], Any]) -> Callable[[QuantumCircuit], Any]:
    def change(circuit: QuantumCircuit) -> None:
        with circuit.if_test(condition(circuit.cregs[0])):
            circuit.x(1)

    return change


def chosen(circuit: QuantumCircuit) -> None:
    with circuit.switch(expr.bit_and(circuit.cregs[0], 1)) as case, case(1):
        circuit.x(1)


def boxed_with(**options: Any) -> Callable[[QuantumCircuit], Any]:
    def change(circuit: QuantumCircuit) -> None:
        with circuit.box(**options):
            circuit.x(1)

    return change


def inner_variable(circuit: QuantumCircuit) -> None:
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.add_var("inner", expr.lift(True))


def inside_a_gate(circuit: QuantumCircuit) -> None:
    inner = QuantumCircuit(1, name="inner")
    inner.save_statevector()
    circuit.append(inner.to_instruction(), [0])


REFUSED: list[tuple[Callable[[QuantumCircuit], Any], str]] = [
    (lambda c: c.add_var("flag", expr.lift(c.clbits[0])), naming("flag", "Parameter")),
    (lambda c: c.add_input("given", types.Bool()), naming("given")),
    (inner_variable, naming("inner")),
    (lambda c: c.delay(c.add_stretch("slack"), 0), naming("slack")),
    (lambda c: c.delay(THETA, 0, "us"), naming("delay")),
    (lambda c: c.append(Delay(expr.mul(expr.lift(Duration.ns(9)), 2.0)), [0]), naming("delay")),
    (lambda c: c.save_statevector(), naming("save_statevector")),
    (lambda c: c.save_expectation_value(Pauli("Z"), [0]), naming("save_expval")),
    (lambda c: c.set_statevector([1, 0, 0, 0]), naming("set_statevector")),
    (inside_a_gate, naming("save_statevector")),
    (boxed_with(duration=100, unit="ns"), naming("box", "duration")),
    (boxed_with(annotations=[Twirl()]), naming("box", "annotations")),
    (lambda c: c.append(library.RVGate(THETA, 0.1, 0.2), [0]), naming("rv", "θ", "bind")),
    (
        lambda c: c.append(library.HamiltonianGate(np.eye(2), THETA), [0]),
        naming("hamiltonian", "θ"),
    ),
    (when(lambda c: expr.cast(c, types.Bool())), naming("expr.not_equal")),
    (when(expr.logic_not), naming("expr.not_equal")),
    (when(lambda c: expr.index(c, 0)), naming("Index")),
    (when(lambda c: expr.equal(expr.add(c, 1), 2)), naming("ADD")),
    (when(lambda c: expr.equal(expr.shift_left(c, 1), 2)), naming("SHIFT_LEFT")),
    (when(lambda c: expr.less(expr.lift(0.5), 1.5)), naming("Float")),
    (chosen, naming("switch")),
]


@pytest.mark.parametrize(("change", "named"), REFUSED)
def test_what_no_qpu_does_is_refused_at_the_door(
    change: Callable[[QuantumCircuit], Any], named: str
) -> None:
    circuit = changed(change)
    values = [0.5] * circuit.num_parameters
    with pytest.raises(PayloadRejected, match=named) as refused:
        SamplerPayload.coerce([(circuit, values)], shots=1)
    assert str(refused.value).startswith("PUB 0: ")


ONCE, MIDDLE = load_profile("vlq").target(), load_profile("helmi").target()
SITE = load_profile("euro-q-exa").target()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (when(lambda c: (c, 1)), naming("if_else", "vlq")),
        (lambda c: c.reset(0), naming("reset", "vlq")),
        (lambda c: c.initialize([0, 1], 0), naming("reset", "vlq")),
        (lambda c: c.append(LOSS, [0]), naming("kraus")),
    ],
)
def test_what_a_device_cannot_do_is_refused_by_what_it_is(
    change: Callable[[QuantumCircuit], Any], words: str
) -> None:
    with pytest.raises(PayloadRejected, match=words):
        NativeCompiler(ONCE).compile(changed(change))


@pytest.mark.parametrize("target", [MIDDLE, SITE], ids=["here", "at the site"])
def test_a_jump_out_of_a_loop_is_refused_before_a_device_gets_it(target: Any) -> None:
    payload = SamplerPayload.coerce([left_early()], shots=1)
    with pytest.raises(PayloadRejected, match=naming("break_loop")):
        check_fits(payload, target)
    with pytest.raises(PayloadRejected, match=naming("break_loop")):
        NativeCompiler(target).compile(left_early())


@pytest.mark.parametrize("make", [initialized, measured_inside])
def test_devices_without_reset_run_what_needs_none(make: Callable[[], QuantumCircuit]) -> None:
    native, _ = NativeCompiler(ONCE).compile(make())
    assert "reset" not in native.count_ops()
    assert native.count_ops()["measure"] == make().decompose().count_ops()["measure"]


def test_loops_that_only_repeat_are_written_out_for_devices() -> None:
    circuit = QuantumCircuit(1, 1)
    with circuit.for_loop(range(3)) as turn:
        circuit.rx(turn * np.pi / 3, 0)
    circuit.measure(0, 0)
    native, _ = NativeCompiler(ONCE).compile(circuit)
    assert set(native.count_ops()) == {"r", "measure"}


@pytest.mark.parametrize("kind", ["loose", "one register", "shared"])
def test_conditions_within_blocks_find_their_bits(aer: AerBackend, kind: str) -> None:
    def circuit_of(values: tuple[bool, ...]) -> QuantumCircuit:
        circuit = QuantumCircuit(4)
        if kind == "one register":
            circuit.add_register(ClassicalRegister(4, "c"))
        else:
            circuit.add_bits([Clbit() for _ in range(4)])
        if kind == "shared":
            circuit.add_register(ClassicalRegister(bits=circuit.clbits[:2], name="low"))
            circuit.add_register(ClassicalRegister(bits=circuit.clbits[1:3], name="middle"))
        a, b, c, last = circuit.clbits
        for qubit, value in enumerate(values):
            if value:
                circuit.x(qubit)
            circuit.measure(qubit, qubit)
        with circuit.if_test((a, 1)), circuit.switch(b) as case:
            with case(False), circuit.if_test((c, 1)):
                circuit.x(3)
            with case(True), circuit.for_loop(range(2)), circuit.if_test((c, 0)):
                circuit.sx(3)
        circuit.measure(3, last)
        return circuit

    for values in itertools.product((False, True), repeat=3):
        payload = SamplerPayload.coerce([circuit_of(values)], shots=20, seed=1)
        (result,) = ran(aer, payload, "-".join(map(str, (*kind.split(), *values))))
        a, b, c = values
        expected = int(a and (c if not b else not c))
        registers = payload.pubs[0].circuit.circuit.cregs
        bits = payload.pubs[0].circuit.circuit.clbits
        (name, place) = next((r.name, list(r).index(bits[3])) for r in registers if bits[3] in r)
        counts = result.data[name].slice_bits([place]).get_counts()
        assert counts == {str(expected): 20}, values
