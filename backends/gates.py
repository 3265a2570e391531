"""Gates and instructions: the MOVE of stars, users' gates, and what no QPU or simulator executes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from qiskit import QuantumCircuit
from qiskit.circuit import (
    AnnotatedOperation,
    Barrier,
    BoxOp,
    CircuitInstruction,
    ClassicalRegister,
    Clbit,
    ControlFlowOp,
    ControlledGate,
    ControlModifier,
    Delay,
    ForLoopOp,
    Gate,
    IfElseOp,
    Instruction,
    InverseModifier,
    Measure,
    Operation,
    ParameterExpression,
    PowerModifier,
    Reset,
    Store,
    SwitchCaseOp,
    WhileLoopOp,
)
from qiskit.circuit.annotated_operation import Modifier
from qiskit.circuit.classical import expr, types
from qiskit.circuit.library import (
    DiagonalGate,
    Initialize,
    LinearFunction,
    MCPhaseGate,
    MCXGate,
    PauliEvolutionGate,
    PauliGate,
    PermutationGate,
    QFTGate,
    SwapGate,
    UnitaryGate,
)
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.exceptions import QiskitError
from qiskit.quantum_info import Clifford, Operator

from backends.errors import PayloadRejected

__all__ = [
    "CONTROL_FLOW",
    "CONTROL_FLOW_NAMES",
    "MOVE",
    "MoveGate",
    "check_for_device",
    "check_instructions",
    "inline_definitions",
    "is_own",
    "native_operation",
    "with_blocks",
    "without_moves",
]

MOVE = "move"
# What Qiskit lists in a target without a place.
CONTROL_FLOW: Mapping[str, type[ControlFlowOp]] = {
    "for_loop": ForLoopOp,
    "if_else": IfElseOp,
    "switch_case": SwitchCaseOp,
    "while_loop": WhileLoopOp,
}
_JUMPS = frozenset({"break_loop", "continue_loop"})
CONTROL_FLOW_NAMES = frozenset({*CONTROL_FLOW, *_JUMPS})
_MATRIX_QUBITS = 6

# Instructions of exactly these types are what a user, or QPY, made of a definition.
_BLANK = frozenset({ControlledGate, Gate, Instruction})
# Gates that a program in OpenQASM 2 defines have types of their own until they went through QPY.
_QASM2 = "qiskit.qasm2"

# What Qiskit's synthesis or Aer does something of its own for, going by the name alone, besides
# Qiskit's standard gates: a gate without a definition must not be called so.
_SPECIAL_NAMES = """
AND BitwiseXor FullAdder HalfAdder InnerProduct IntComp ModularAdder Multiplier OR
PauliEvolution WeightedSum aer_store annotated break_loop clifford continue_loop delay
diagonal for_loop if_else initialize jump kraus linear_function mark mcmt mcp mcphase mcr
mcrx mcry mcrz mcswap mcsx mcu mcu1 mcu2 mcu3 mcx mcx_gray mcy mcz measure move multiplexer
pauli permutation qerror_loc qft quantum_channel reset roerror set_density_matrix
set_matrix_product_state set_stabilizer set_statevector set_superop set_unitary snapshot store
superop switch_case unitary while_loop
"""
# Kept as they are. Of Qiskit's other gates many cannot be read back from its QPY, or come back as
# another gate (an inverse StatePreparation as a plain one); what they are defined as can.
_KEPT = frozenset(
    {
        *(Barrier, Delay, DiagonalGate, Initialize, LinearFunction, MCPhaseGate, MCXGate, Measure),
        *(PauliGate, PermutationGate, QFTGate, Reset, Store, UnitaryGate),
    }
)
_SPECIAL = frozenset(_SPECIAL_NAMES.split())
_CHANNELS = frozenset({"kraus", "quantum_channel", "superop"})
_BINARY = expr.Binary.Op
_OPERATIONS = frozenset(
    {
        *(_BINARY.BIT_AND, _BINARY.BIT_OR, _BINARY.BIT_XOR, _BINARY.LOGIC_AND, _BINARY.LOGIC_OR),
        *(_BINARY.EQUAL, _BINARY.NOT_EQUAL, _BINARY.LESS, _BINARY.LESS_EQUAL),
        *(_BINARY.GREATER, _BINARY.GREATER_EQUAL),
    }
)
_AER_ONLY = ("save_", "set_")
_AER_NAMES = frozenset({"jump", "mark", "snapshot", "aer_store"})


class MoveGate(Gate):  # type: ignore[misc]  # Qiskit has no types
    """Moves a state into the empty resonator of a star, or back: (qubit, resonator).

    MOVE is defined only while one of the two is empty, where it equals a swap. QPY returns it as
    a plain ``Gate``, so compare names, not types.
    """

    def __init__(self, label: str | None = None) -> None:
        super().__init__(MOVE, 2, [], label=label)

    def _define(self) -> None:
        definition = QuantumCircuit(2, name=MOVE)
        definition.swap(0, 1)
        self.definition = definition

    def inverse(self, annotated: bool = False) -> MoveGate:  # noqa: ARG002  # Gate's signature
        """Return the gate itself."""
        return MoveGate(label=self.label)


def native_operation(name: str) -> Instruction:
    """Return a native gate, measurement, reset or delay by name. Raises ``ValueError``."""
    known: Mapping[str, Instruction] = {MOVE: MoveGate(), **get_standard_gate_name_mapping()}
    if name not in known:
        raise ValueError(f"unknown gate {name!r}; expected {MOVE!r} or a name of Qiskit's gates")
    return known[name]


def without_moves(circuit: QuantumCircuit) -> QuantumCircuit:
    """Return the circuit with each MOVE as a swap, which no star has natively."""
    if not any(step.operation.name == MOVE for step in circuit.data):
        return circuit
    swap = SwapGate()
    rewritten = circuit.copy_empty_like()
    for step in circuit.data:
        known = step.replace(operation=swap) if step.operation.name == MOVE else step
        rewritten.append(known)
    return rewritten


def with_blocks(
    step: CircuitInstruction, change: Callable[[QuantumCircuit], QuantumCircuit]
) -> CircuitInstruction:
    """Return an instruction with each block of its control flow, if it has any, changed."""
    if not step.is_control_flow():
        return step
    blocks = [change(block) for block in step.operation.blocks]
    return step.replace(operation=step.operation.replace_blocks(blocks))


def is_own(operation: Operation) -> bool:
    """Return whether an instruction is Qiskit's own (or MOVE), so that its name defines it."""
    kind = getattr(operation, "base_class", type(operation))
    if operation.name == MOVE:
        return _is_swap(operation)
    if kind in _BLANK or kind.__module__.startswith(_QASM2):
        return False
    return kind.__module__.split(".")[0] in ("qiskit", "qiskit_aer")


def inline_definitions(circuit: QuantumCircuit) -> QuantumCircuit:
    """Replace composed operations by their definitions: users' gates, boxes, Qiskit's library.

    Qiskit and Aer go by names: a user's gate called "r" would be taken for the native one.
    Raises `PayloadRejected` for a known name without definition, for modifiers that cannot be
    applied, and for too deep nesting.
    """
    try:
        return _inlined(circuit)
    except RecursionError:
        raise PayloadRejected(
            "gates are defined by each other in too many levels; decompose them first"
        ) from None


def _inlined(circuit: QuantumCircuit) -> QuantumCircuit:
    if not any(_is_composed(step) for step in circuit.data):
        return circuit
    plain = circuit.copy_empty_like()
    for step in circuit.data:
        if not _is_composed(step):
            plain._append(step)  # noqa: SLF001  # its wires are known; append() takes tenfold
        elif isinstance(step.operation, ControlFlowOp) and not isinstance(step.operation, BoxOp):
            plain._append(with_blocks(step, _inlined))  # noqa: SLF001
        else:
            inner = _inlined(_content(step.operation))
            plain.compose(inner, step.qubits, step.clbits, inplace=True)
    return plain


def _is_composed(step: CircuitInstruction) -> bool:
    """Whether a step, or one inside its control flow, is to be replaced by its content."""
    if step.is_standard_gate():
        return False
    operation = step.operation
    if isinstance(operation, AnnotatedOperation | BoxOp | Clifford):
        return True
    if isinstance(operation, ControlFlowOp):
        return any(_is_composed(inner) for block in operation.blocks for inner in block.data)
    if operation.base_class in _KEPT or (operation.name == MOVE and _is_swap(operation)):
        return False
    if _definition(operation) is not None:
        return True
    named = operation.name in _SPECIAL or operation.name in get_standard_gate_name_mapping()
    if named and isinstance(operation, Gate) and not is_own(operation):
        raise PayloadRejected(
            f"gate {operation.name!r} is declared with the name of a known gate and without a "
            "definition; define it, or use the known one"
        )
    return False


def _definition(operation: Operation) -> QuantumCircuit | None:
    """Return what an operation is made of; None for what is elementary, or not yet bound."""
    try:
        return getattr(operation, "definition", None)
    except (QiskitError, TypeError, ValueError):
        return None


def _content(operation: Operation) -> QuantumCircuit:
    """Return the circuit that a composed operation stands for."""
    if isinstance(operation, AnnotatedOperation):
        return _as_circuit(_modified(operation))
    if isinstance(operation, BoxOp):
        return operation.body
    if isinstance(operation, Clifford):
        return operation.to_circuit()
    if operation.name == "mcx" and is_own(operation):
        return _as_circuit(MCXGate(operation.num_ctrl_qubits, ctrl_state=operation.ctrl_state))
    return operation.definition


def _as_circuit(operation: Operation) -> QuantumCircuit:
    circuit = QuantumCircuit(operation.num_qubits, operation.num_clbits)
    circuit.append(operation, circuit.qubits, circuit.clbits)
    return circuit


def _modified(annotated: AnnotatedOperation) -> Operation:
    """Return the gate that an annotated operation is: inverse, power and controls applied."""
    operation = annotated.base_op
    if isinstance(operation, AnnotatedOperation):
        operation = _modified(operation)
    try:
        return _applied(operation, annotated.modifiers)
    except (QiskitError, TypeError, AttributeError) as error:
        # A permutation, or a Clifford, cannot be controlled as it is; its matrix can.
        with suppress(QiskitError, TypeError):
            if operation.num_qubits <= _MATRIX_QUBITS:
                return _applied(UnitaryGate(Operator(operation)), annotated.modifiers)
        raise PayloadRejected(
            f"an annotated {operation.name!r} cannot be written as gates ({error}); apply its "
            "modifiers yourself"
        ) from error


def _applied(operation: Operation, modifiers: Iterable[Modifier]) -> Operation:
    for modifier in modifiers:
        match modifier:
            case InverseModifier():
                operation = operation.inverse()
            case PowerModifier(power=power):
                operation = operation.power(power)
            case ControlModifier(num_ctrl_qubits=controls, ctrl_state=state):
                operation = operation.control(controls, ctrl_state=state, annotated=False)
    return operation


def _is_swap(operation: Operation) -> bool:
    if isinstance(operation, MoveGate):
        return True
    definition = getattr(operation, "definition", None)
    return definition is not None and [step.name for step in definition.data] == ["swap"]


def check_instructions(circuit: QuantumCircuit) -> None:
    """Raise `PayloadRejected`, with the remedy, for what cannot run on any backend.

    That is: classical variables, instructions for Aer's simulator object, boxes with a duration or
    annotations, delays that are not numbers, and conditions that Aer does not evaluate.
    """
    names = [v.name for v in (*circuit.iter_vars(), *circuit.iter_stretches())]
    if names:
        raise PayloadRejected(
            f"the circuit has the variable {names[0]!r}, and no QPU here keeps variables; use a "
            "Parameter for what is known before it runs, and a classical register for what is "
            "measured"
        )
    for step in circuit.data:
        if not step.is_standard_gate():
            _check_operation(step.operation)


def check_for_device(circuit: QuantumCircuit, name: str) -> None:
    """Raise `PayloadRejected` for what only an ideal simulator does: channels, jumps in loops."""
    for step in circuit.data:
        if step.name in _CHANNELS:
            raise PayloadRejected(
                f"{step.name!r} is a channel, not a gate, so {name} cannot run it; remove it, or "
                "use an ideal simulator"
            )
        if step.name in _JUMPS:
            raise PayloadRejected(
                f"{name} has no {step.name!r}; write the loop with a condition, or use an ideal "
                "simulator"
            )
        if step.is_control_flow():
            for block in step.operation.blocks:
                check_for_device(block, name)


def _check_operation(operation: Any) -> None:
    name = operation.name
    if name.startswith(_AER_ONLY) or name in _AER_NAMES:
        raise PayloadRejected(
            f"instruction {name!r} is known to AerSimulator alone; remove it: a sampler returns "
            "counts, an estimator expectation values"
        )
    if isinstance(operation, BoxOp) and (operation.duration is not None or operation.annotations):
        raise PayloadRejected(
            "a box with a duration or annotations cannot run here; use a plain box, or delays "
            "and barriers"
        )
    if name == "delay" and not isinstance(operation.duration, int | float | expr.Value):
        raise PayloadRejected(
            "a delay whose length is an expression or has a free parameter; give a number and a "
            "unit, and a circuit for each length"
        )
    if _is_from_library(operation):
        _check_free_parameters(operation)
    if isinstance(operation, Store):
        _check_expression(operation.lvalue)
        _check_expression(operation.rvalue)
    condition = getattr(operation, "condition", None)
    if isinstance(condition, expr.Expr):
        _check_expression(condition)
    if isinstance(operation, SwitchCaseOp) and not isinstance(
        operation.target, Clbit | ClassicalRegister | expr.Var
    ):
        raise PayloadRejected(
            "a switch over an expression; no QPU here evaluates it: switch over a bit or a "
            "register, or use if_test"
        )
    for block in getattr(operation, "blocks", ()):
        check_instructions(block)
    definition = None if _is_from_library(operation) else getattr(operation, "definition", None)
    if definition is not None:
        check_instructions(definition)


def _check_free_parameters(operation: Any) -> None:
    """Refuse a gate that Qiskit can write with others only once its parameters are numbers."""
    free = [p for p in getattr(operation, "params", ()) if isinstance(p, ParameterExpression)]
    if not free or isinstance(operation, PauliEvolutionGate):
        return
    if _definition(operation) is None:
        raise PayloadRejected(
            f"gate {operation.name!r} with the free parameter {str(free[0])!r} cannot be written "
            "with other gates: Qiskit defines it for numbers; bind it, with a circuit for each "
            "value, or use rx, ry and rz"
        )


def _is_from_library(operation: Any) -> bool:
    kind = getattr(operation, "base_class", type(operation))
    module: str = kind.__module__
    return module.startswith("qiskit.circuit.library")


def _check_expression(node: expr.Expr) -> None:
    """Refuse what Aer does not evaluate, or evaluates wrongly (a register as true or false)."""
    match node:
        case expr.Var() | expr.Value() if isinstance(node.type, types.Bool | types.Uint):
            return
        case expr.Cast(operand=operand) if isinstance(operand.type, types.Uint) and isinstance(
            node.type, types.Bool
        ):
            raise PayloadRejected(
                "a condition takes a register, or a number, for true or false; compare it: "
                "expr.not_equal(register, 0)"
            )
        case expr.Unary(operand=operand) | expr.Cast(operand=operand):
            _check_expression(operand)
        case expr.Binary(op=op, left=left, right=right) if op in _OPERATIONS:
            _check_expression(left)
            _check_expression(right)
        case _:
            what = node.op.name if isinstance(node, expr.Binary) else type(node).__name__
            raise PayloadRejected(
                f"a condition uses {what} on {node.type}; expected comparisons and logic of bits "
                "and registers. Test single bits, or whole registers"
            )
