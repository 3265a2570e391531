"""Circuits for a target: left as they are, unrolled or compiled, each once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Generic, TypeVar

from qiskit import QuantumCircuit
from qiskit.circuit.equivalence_library import SessionEquivalenceLibrary
from qiskit.circuit.exceptions import CircuitError
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.transpiler import PassManager
from qiskit.transpiler.exceptions import TranspilerError
from qiskit.transpiler.passes import BasisTranslator, HighLevelSynthesis

from backends.api import PayloadRejected, Target
from backends.circuits import FrozenCircuit
from backends.gates import CONTROL_FLOW_NAMES, MOVE, inline_definitions, is_own
from backends.lowering import NativeCompiler, usable_qubits
from orchestrator.transpile.moves import insert_moves

__all__ = ["AER_GATES", "Transpiled", "Transpiler", "conforms", "standard_gates", "unroll"]

_STRUCTURE: Final = CONTROL_FLOW_NAMES | {"barrier", "delay", "measure", "reset", "store"}

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
    """Return what OpenQASM can express: Qiskit's standard gates, and instructions like measure."""
    return frozenset(get_standard_gate_name_mapping()) | _STRUCTURE


def _knows_all(circuit: QuantumCircuit, known: frozenset[str]) -> bool:
    """Whether every instruction is known, inside control flow too, and is what its name says."""
    for step in circuit.data:
        if step.name not in known:
            return False
        if step.is_standard_gate():
            continue
        if not is_own(step.operation):
            return False
        if step.is_control_flow() and not all(
            _knows_all(block, known) for block in step.operation.blocks
        ):
            return False
    return True


def unroll(circuit: QuantumCircuit, known: frozenset[str]) -> QuantumCircuit:
    """Return an equal circuit of known instructions, or raise `PayloadRejected`."""
    if _knows_all(circuit, known):
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


_Steps = list[tuple[str, tuple[int, ...]]]


def conforms(circuit: QuantumCircuit, target: Target) -> bool:
    """Whether all gates are native, on usable and coupled qubits, without control flow."""
    known = {"barrier", "delay", "measure", *(target.native_gates or ())}
    if target.mid_circuit_measurement:
        known.add("reset")
    if not all(step.name in known and is_own(step.operation) for step in circuit.data):
        return False
    number = {bit: i for i, bit in enumerate(circuit.qubits)}
    steps: _Steps = [
        (step.name, tuple(number[bit] for bit in step.qubits))
        for step in circuit.data
        if step.name != "barrier"
    ]
    if target.resonator is not None:
        return _fit_star(steps, usable_qubits(target), target.resonator)
    return _fit_pairs(steps, usable_qubits(target), target.coupling)


def _fit_pairs(
    steps: _Steps, usable: Iterable[int], coupling: Iterable[tuple[int, int]] | None
) -> bool:
    alive = set(usable)
    coupled = None if coupling is None else {frozenset(pair) for pair in coupling}
    return all(
        alive.issuperset(qubits)
        and (len(qubits) < 2 or coupled is None or frozenset(qubits) in coupled)
        for _, qubits in steps
    )


def _fit_star(steps: _Steps, usable: Iterable[int], resonator: int) -> bool:
    alive = set(usable)
    inside: int | None = None
    for name, qubits in steps:
        qubit = qubits[0]
        if qubit not in alive or (len(qubits) > 1 and qubits[1] != resonator):
            return False
        if name == MOVE:
            if inside not in (None, qubit):
                return False
            inside = qubit if inside is None else None
        elif inside == qubit or (len(qubits) > 1 and inside is None):
            return False
    return inside is None


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_CACHED_CIRCUITS = 512
_CACHED_TARGETS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Transpiled:
    """A circuit a target takes, and where the qubits of the original are in it."""

    circuit: FrozenCircuit
    layout: tuple[int, ...] | None  # last wire of each original qubit; None: unchanged
    columns: tuple[int, ...]  # of the original's parameter values, those still used

    @classmethod
    def of(
        cls, original: FrozenCircuit, made: QuantumCircuit, layout: tuple[int, ...] | None = None
    ) -> Transpiled:
        """Return a transpiled circuit, of which ``made`` may be the original itself."""
        if made is original.circuit:
            columns = tuple(range(made.num_parameters))
            return cls(circuit=original, layout=layout, columns=columns)
        column = {parameter: i for i, parameter in enumerate(original.circuit.parameters)}
        columns = tuple(column[parameter] for parameter in made.parameters)
        return cls(circuit=FrozenCircuit.of(made), layout=layout, columns=columns)


# A circuit is compiled again if gates, coupling, usable qubits or calibration differ.
class Transpiler:
    """Makes circuits fit targets, from any thread, each pair of circuit and target once."""

    def __init__(self, *, capacity: int = _CACHED_CIRCUITS) -> None:
        self._circuits: _Once[tuple[str, tuple[object, ...]], Transpiled] = _Once(capacity)
        self._compilers: _Once[tuple[object, ...], NativeCompiler] = _Once(_CACHED_TARGETS)

    def transpile(self, circuit: FrozenCircuit, target: Target) -> Transpiled:
        """Return the circuit as the target takes it; the first time may take seconds.

        For an ideal simulator (no native gates) and a site that transpiles, unknown instructions
        are unrolled on the circuit's own wires. Any other target gets native gates on its physical
        qubits, on a star with MOVEs. Raises `PayloadRejected` if the target cannot run the circuit.
        """
        if target.native_gates is None or target.site_transpiles:
            known = AER_GATES if target.native_gates is None else standard_gates()
            if _knows_all(circuit.circuit, known):
                return Transpiled.of(circuit, circuit.circuit)
            unrolled = (circuit.digest, ("unrolled", target.site_transpiles))
            return self._circuits.get(
                unrolled, lambda: Transpiled.of(circuit, unroll(circuit.circuit, known))
            )
        fingerprint = _fingerprint(target)
        return self._circuits.get(
            (circuit.digest, fingerprint), lambda: self._native(circuit, target, fingerprint)
        )

    def _native(
        self, circuit: FrozenCircuit, target: Target, fingerprint: tuple[object, ...]
    ) -> Transpiled:
        if conforms(circuit.circuit, target):
            return Transpiled.of(circuit, circuit.circuit)
        compiler = self._compilers.get(fingerprint, lambda: NativeCompiler(target))
        native, layout = compiler.compile(circuit.circuit)
        if target.resonator is not None:
            native = insert_moves(native, target.resonator)
        return Transpiled.of(circuit, native, layout)


def _fingerprint(target: Target) -> tuple[object, ...]:
    """Return the parts of a target that a compiled circuit depends on."""
    return (
        target.name,
        target.num_qubits,
        target.native_gates,
        target.coupling,
        target.resonator,
        target.unusable_qubits,
        target.mid_circuit_measurement,
        target.calibration.id,
    )


class _Once(Generic[_Key, _Value]):
    """A bounded cache that makes each value once, while other threads wait for it or its error."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._futures: OrderedDict[_Key, Future[_Value]] = OrderedDict()

    def get(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        with self._lock:
            future = self._futures.get(key)
            mine = future is None
            if future is None:
                future = self._futures[key] = Future()
                if len(self._futures) > self._capacity:
                    self._futures.popitem(last=False)
            else:
                self._futures.move_to_end(key)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    if self._futures.get(key) is future:
                        del self._futures[key]
                future.set_exception(error)
                raise
        return future.result()
