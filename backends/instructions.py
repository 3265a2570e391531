"""Instructions of Qiskit that no QPU or simulator here can execute (pure)."""

from __future__ import annotations

from typing import Any

from qiskit import QuantumCircuit
from qiskit.circuit import BoxOp, Store
from qiskit.circuit.classical import expr

from backends.api import PayloadRejected

__all__ = ["check_instructions"]

_AER_ONLY = ("save_", "set_")
_AER_NAMES = frozenset({"jump", "mark", "snapshot", "aer_store"})


def check_instructions(circuit: QuantumCircuit) -> None:
    """Raise `PayloadRejected`, with the remedy, for what cannot run on any backend.

    That is: variables and stretches of Qiskit's classical expressions, instructions that only
    Aer's own simulator object answers, boxes with a duration or annotations, waits whose length
    is an expression, and expressions that index a register at run time. Looks inside control
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
            f"a delay of {operation.duration}, whose length is not a number; give a number and a "
            "unit, and a circuit for each length"
        )
    if isinstance(operation, Store):
        _check_expression(operation.lvalue)
        _check_expression(operation.rvalue)
    for condition in (getattr(operation, "condition", None), getattr(operation, "target", None)):
        if isinstance(condition, expr.Expr):
            _check_expression(condition)
    for block in getattr(operation, "blocks", ()):
        check_instructions(block)
    definition = None if _is_qiskits(operation) else getattr(operation, "definition", None)
    if definition is not None:
        check_instructions(definition)


def _is_qiskits(operation: Any) -> bool:
    kind = getattr(operation, "base_class", type(operation))
    module: str = kind.__module__
    return module.startswith("qiskit.circuit.library")


def _check_expression(node: expr.Expr) -> None:
    match node:
        case expr.Var() | expr.Value():
            return
        case expr.Unary(operand=operand) | expr.Cast(operand=operand):
            _check_expression(operand)
        case expr.Binary(left=left, right=right):
            _check_expression(left)
            _check_expression(right)
        case _:
            raise PayloadRejected(
                f"the condition {node} uses {type(node).__name__}, which no QPU here evaluates; "
                "test single bits or whole registers"
            )
