"""Gates a receiver does not know, written with gates it knows; all else stays untouched."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from qiskit import QuantumCircuit
from qiskit.circuit.equivalence_library import SessionEquivalenceLibrary
from qiskit.circuit.exceptions import CircuitError
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.transpiler import PassManager
from qiskit.transpiler.exceptions import TranspilerError
from qiskit.transpiler.passes import BasisTranslator, HighLevelSynthesis

from backends.api import PayloadRejected
from backends.gates import inline_definitions, is_own

__all__ = ["AER_GATES", "knows_all", "standard_gates", "unroll"]

_STRUCTURE: Final = frozenset(
    {
        *("barrier", "delay", "measure", "reset", "store"),
        *("break_loop", "continue_loop", "for_loop", "if_else", "switch_case", "while_loop"),
    }
)

_AER_NAMES = """
ccx ccz cp crx cry crz cswap csx cu cu1 cu2 cu3 cx cy cz diagonal ecr h id initialize kraus mcp
mcphase mcr mcrx mcry mcrz mcswap mcsx mcu mcu1 mcu2 mcu3 mcx mcy mcz p pauli
quantum_channel r rx rxx ry ryy rz rzx rzz s sdg superop swap sx sxdg t tdg u u1 u2 u3 unitary
x y z
"""

# What Aer's simulator takes as it is. Data, because the process that asks never imports Aer.
# Not its multiplexer: Qiskit writes a UCGate to QPY and cannot read it back.
AER_GATES: Final = frozenset(_AER_NAMES.split()) | _STRUCTURE


@lru_cache(maxsize=1)
def standard_gates() -> frozenset[str]:
    """Return Qiskit's standard gates and what is no gate: all that OpenQASM can say."""
    return frozenset(get_standard_gate_name_mapping()) | _STRUCTURE


def knows_all(circuit: QuantumCircuit, known: frozenset[str]) -> bool:
    """Whether every instruction is known, inside control flow too, and is what its name says."""
    for step in circuit.data:
        if step.name not in known:
            return False
        if step.is_standard_gate():
            continue
        if not is_own(step.operation):
            return False
        if step.is_control_flow() and not all(
            knows_all(block, known) for block in step.operation.blocks
        ):
            return False
    return True


def unroll(circuit: QuantumCircuit, known: frozenset[str]) -> QuantumCircuit:
    """Return an equal circuit of known instructions; one that needs nothing is returned itself.

    Wires, registers and parameters stay. Raises `PayloadRejected` for an instruction that has
    no definition.
    """
    if knows_all(circuit, known):
        return circuit
    try:
        unrolled: QuantumCircuit = _passes(known).run(inline_definitions(circuit))
    except (TranspilerError, CircuitError) as error:
        raise PayloadRejected(
            f"the circuit holds an instruction that cannot be written with known gates: "
            f"{error.message}"
        ) from error
    unknown = sorted(set(unrolled.count_ops()) - known)
    if unknown:
        raise PayloadRejected(
            f"instruction {unknown[0]!r} is not known and has no definition; define it by gates"
        )
    return unrolled


def _passes(known: frozenset[str]) -> PassManager:
    names = sorted(known)
    equivalences = SessionEquivalenceLibrary
    return PassManager(
        [
            HighLevelSynthesis(equivalence_library=equivalences, basis_gates=names),
            BasisTranslator(equivalences, names),
        ]
    )
