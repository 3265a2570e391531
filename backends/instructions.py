"""Instructions of Qiskit that no QPU or simulator here can execute (pure)."""

from __future__ import annotations

from typing import Any

from qiskit import QuantumCircuit
from qiskit.circuit import (
    BoxOp,
    ClassicalRegister,
    Clbit,
    ParameterExpression,
    Store,
    SwitchCaseOp,
)
from qiskit.circuit.classical import expr, types
from qiskit.circuit.library import PauliEvolutionGate
from qiskit.exceptions import QiskitError

from backends.errors import PayloadRejected

__all__ = ["check_for_device", "check_instructions"]

_CHANNELS = frozenset({"kraus", "quantum_channel", "superop"})
_JUMPS = frozenset({"break_loop", "continue_loop"})
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


def check_instructions(circuit: QuantumCircuit) -> None:
    """Raise `PayloadRejected`, with the remedy, for what cannot run on any backend.

    That is: variables and stretches of Qiskit's classical expressions, instructions that only
    Aer's own simulator object answers, boxes with a duration or annotations, waits whose length
    is not a number, and conditions that Aer does not evaluate. Looks inside control
    flow and users' gates.
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
            _check(step.operation)


def check_for_device(circuit: QuantumCircuit, name: str) -> None:
    """Raise `PayloadRejected` for what only an ideal simulator does: channels, jumps in loops."""
    for step in circuit.data:
        if step.name in _CHANNELS:
            raise PayloadRejected(
                f"{step.name!r} is a channel and no gate, so {name} cannot run it; remove it, or "
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


def _check(operation: Any) -> None:
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
    if _is_qiskits(operation):
        _check_free_parameters(operation)
    if isinstance(operation, Store):
        _check_expression(operation.lvalue)
        _check_expression(operation.rvalue)
    condition = getattr(operation, "condition", None)
    if isinstance(condition, expr.Expr):
        _check_expression(condition)
    if isinstance(operation, SwitchCaseOp) and not _is_plain(operation.target):
        raise PayloadRejected(
            "a switch over an expression; no QPU here evaluates it: switch over a bit or a "
            "register, or use if_test"
        )
    for block in getattr(operation, "blocks", ()):
        check_instructions(block)
    definition = None if _is_qiskits(operation) else getattr(operation, "definition", None)
    if definition is not None:
        check_instructions(definition)


def _check_free_parameters(operation: Any) -> None:
    """Refuse a gate that Qiskit can write with others only once its parameters are numbers."""
    free = [p for p in getattr(operation, "params", ()) if isinstance(p, ParameterExpression)]
    if not free or isinstance(operation, PauliEvolutionGate):
        return
    try:
        found = operation.definition
    except (QiskitError, TypeError, ValueError):
        found = None
    if found is None:
        raise PayloadRejected(
            f"gate {operation.name!r} with the free parameter {str(free[0])!r} cannot be written "
            "with other gates: Qiskit defines it for numbers; bind it, with a circuit for each "
            "value, or use rx, ry and rz"
        )


def _is_plain(target: Any) -> bool:
    return isinstance(target, Clbit | ClassicalRegister | expr.Var)


def _is_qiskits(operation: Any) -> bool:
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
