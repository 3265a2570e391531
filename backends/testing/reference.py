"""What quantum mechanics says of a small circuit: density matrices by ``qiskit.quantum_info`` alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.circuit import CASE_DEFAULT, Clbit, Instruction
from qiskit.circuit.library import PermutationGate
from qiskit.quantum_info import (
    DensityMatrix,
    Kraus,
    Operator,
    Pauli,
    SuperOp,
    average_gate_fidelity,
    partial_trace,
)

from backends.error_rates import Coherence
from backends.profiles import NativeGate, Profile

__all__ = ["ProfileNoise", "distribution", "expectation", "final_state"]

# A density matrix, not normalised, for each value of the classical bits, bit 0 lowest.
_Branches = dict[int, DensityMatrix]
_ZERO, _ONE = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
_RESET = Kraus([_ZERO, np.array([[0.0, 1.0], [0.0, 0.0]])])
_PAULIS = {letter: Pauli(letter).to_matrix() for letter in "IXYZ"}
# The axis that each letter of an observable is measured along, and its value for outcome 0 and 1.
_MEASURED = {
    **{letter: (letter, 1.0, -1.0) for letter in "XYZ"},
    **dict(zip("0+r", (("Z", 1.0, 0.0), ("X", 1.0, 0.0), ("Y", 1.0, 0.0)), strict=True)),
    **dict(zip("1-l", (("Z", 0.0, 1.0), ("X", 0.0, 1.0), ("Y", 0.0, 1.0)), strict=True)),
}
_NEGLIGIBLE = 1e-14


class ProfileNoise:
    """What a profile says of its device's errors, as channels; made without Aer."""

    def __init__(self, profile: Profile) -> None:
        self.zero_as_one = profile.readout.zero_as_one
        self.one_as_zero = profile.readout.one_as_zero
        self._channels = {
            gate.name: _gate_channel(profile, gate) for gate in profile.gates if gate.error > 0
        }

    def after(self, gate: str) -> SuperOp | None:
        """Return what happens to a gate's qubits after it, None for nothing."""
        return self._channels.get(gate)


def final_state(
    circuit: QuantumCircuit, kept: Sequence[int], noise: ProfileNoise | None = None
) -> DensityMatrix:
    """Return the state of some of a circuit's qubits at its end, in the given order."""
    active, branches = _evolved(circuit, kept, noise)
    total: DensityMatrix = functools.reduce(lambda a, b: a + b, branches.values())
    return _reduced(total, [active.index(qubit) for qubit in kept])


def distribution(circuit: QuantumCircuit, noise: ProfileNoise | None = None) -> dict[int, float]:
    """Return the probability of each value of all classical bits, the circuit's first lowest."""
    _, branches = _evolved(circuit, (), noise)
    return {bits: float(state.trace().real) for bits, state in branches.items()}


def expectation(
    state: DensityMatrix, observable: Mapping[str, float], noise: ProfileNoise | None = None
) -> float:
    """Return the mean of an observable as a measurement of its letters would find it."""
    up, down = (0.0, 0.0) if noise is None else (noise.zero_as_one, noise.one_as_zero)
    total = 0.0
    for label, weight in observable.items():
        matrix = np.array([[1.0]])
        for letter in label:
            matrix = np.kron(matrix, _letter(letter, up, down))
        total += weight * float(np.trace(matrix @ state.data).real)
    return total


def _letter(letter: str, up: float, down: float) -> NDArray[Any]:
    if letter == "I":
        return np.eye(2)
    axis, if_zero, if_one = _MEASURED[letter]
    zero, one = (_PAULIS["I"] + _PAULIS[axis]) / 2, (_PAULIS["I"] - _PAULIS[axis]) / 2
    reads_zero, reads_one = (1 - up) * zero + down * one, up * zero + (1 - down) * one
    return np.asarray(if_zero * reads_zero + if_one * reads_one)


def _reduced(state: DensityMatrix, kept: Sequence[int]) -> DensityMatrix:
    others = [qubit for qubit in range(state.num_qubits) if qubit not in kept]
    order = PermutationGate([sorted(kept).index(qubit) for qubit in kept])
    return partial_trace(state, others).evolve(Operator(order))


def _evolved(
    circuit: QuantumCircuit, kept: Sequence[int], noise: ProfileNoise | None
) -> tuple[list[int], _Branches]:
    """Return the qubits that anything is done to, or that are kept, and the branches on them."""
    touched = {
        circuit.find_bit(qubit).index
        for step in circuit.data
        if step.name != "barrier"
        for qubit in step.qubits
    }
    active = sorted(touched.union(kept)) or [0]
    places = {circuit.qubits[qubit]: place for place, qubit in enumerate(active)}
    bits = {bit: index for index, bit in enumerate(circuit.clbits)}
    start = {0: DensityMatrix.from_label("0" * len(active))}
    return active, _Evolution(noise).run(circuit, places, bits, start)


class _Evolution:
    """Runs circuits over branches; a measurement splits them, control flow picks among them."""

    def __init__(self, noise: ProfileNoise | None) -> None:
        self._noise = noise

    def run(
        self,
        circuit: QuantumCircuit,
        places: Mapping[Any, int],
        bits: Mapping[Clbit, int],
        branches: _Branches,
    ) -> _Branches:
        for step in circuit.data:
            if not branches:
                return {}
            at = [places[qubit] for qubit in step.qubits if qubit in places]
            to = [bits[bit] for bit in step.clbits]
            operation = step.operation
            if step.name in ("barrier", "delay"):
                continue
            if step.name == "measure":
                branches = self._measured(branches, at[0], to[0])
            elif step.is_control_flow():
                branches = self._controlled(operation, at, to, bits, branches)
            else:
                branches = {
                    value: self._applied(operation, at, state) for value, state in branches.items()
                }
        return branches

    def _applied(self, operation: Any, at: list[int], state: DensityMatrix) -> DensityMatrix:
        name = operation.name
        if name == "reset":
            return state.evolve(_RESET, at)
        if name == "initialize":
            for qubit in at:
                state = state.evolve(_RESET, [qubit])
            return state.evolve(Operator(operation.gates_to_uncompute().inverse()), at)
        if name in ("kraus", "superop"):
            return state.evolve(SuperOp(operation), at)
        if type(operation) is Instruction:
            for step in operation.definition.data:
                inner = [at[operation.definition.find_bit(q).index] for q in step.qubits]
                state = self._applied(step.operation, inner, state)
            return state
        state = state.evolve(Operator(operation), at)
        after = None if self._noise is None else self._noise.after(name)
        return state if after is None else state.evolve(after, at)

    def _measured(self, branches: _Branches, qubit: int, bit: int) -> _Branches:
        up = self._noise.zero_as_one if self._noise else 0.0
        down = self._noise.one_as_zero if self._noise else 0.0
        result: _Branches = {}
        for value, state in branches.items():
            for projector, reads in ((_ZERO, (1 - up, up)), (_ONE, (down, 1 - down))):
                after = state.evolve(Kraus([projector]), [qubit])
                for outcome, probability in enumerate(reads):
                    read = (value & ~(1 << bit)) | outcome << bit
                    _add(result, read, probability * after)
        return result

    def _controlled(
        self,
        operation: Any,
        at: list[int],
        to: list[int],
        bits: Mapping[Clbit, int],
        branches: _Branches,
    ) -> _Branches:
        def block(index: int, chosen: _Branches) -> _Branches:
            body = operation.blocks[index]
            places = dict(zip(body.qubits, at, strict=True))
            return self.run(body, places, dict(zip(body.clbits, to, strict=True)), chosen)

        if operation.name == "for_loop":
            for _ in operation.params[0]:
                branches = block(0, branches)
            return branches
        result: _Branches = {}
        if operation.name == "while_loop":
            while branches:
                stay = {v: s for v, s in branches.items() if _holds(operation.condition, v, bits)}
                _merge(result, {v: s for v, s in branches.items() if v not in stay})
                branches = block(0, stay)
            return result
        for value, state in branches.items():
            index = _case(operation, value, bits)
            one = {value: state}
            _merge(result, one if index is None else block(index, one))
        return result


def _case(operation: Any, value: int, bits: Mapping[Clbit, int]) -> int | None:
    """Return which block of an if or a switch runs, None for none of them."""
    if operation.name == "if_else":
        index = 0 if _holds(operation.condition, value, bits) else 1
        return index if index < len(operation.blocks) else None
    wanted = _read(operation.target, value, bits)
    for index, labels in enumerate(operation.cases_specifier()):
        if any(label is CASE_DEFAULT or label == wanted for label in labels[0]):
            return index
    return None


def _holds(condition: Any, value: int, bits: Mapping[Clbit, int]) -> bool:
    target, wanted = condition
    return _read(target, value, bits) == int(wanted)


def _read(target: Clbit | ClassicalRegister, value: int, bits: Mapping[Clbit, int]) -> int:
    members = [target] if isinstance(target, Clbit) else list(target)
    return sum((value >> bits[bit] & 1) << place for place, bit in enumerate(members))


def _merge(result: _Branches, more: _Branches) -> None:
    for value, state in more.items():
        _add(result, value, state)


def _add(result: _Branches, value: int, state: DensityMatrix) -> None:
    if state.trace().real > _NEGLIGIBLE:
        result[value] = result[value] + state if value in result else state


def _gate_channel(profile: Profile, gate: NativeGate) -> SuperOp:
    """Relax each qubit for the gate's time, then depolarise to the gate's average error."""
    relaxed = SuperOp(np.eye(1))
    for coherence in profile.gate_coherences(gate):
        relaxed = SuperOp(_relaxation(coherence, gate.duration_s)).tensor(relaxed)
    dimension = 2**gate.num_qubits
    fidelity = average_gate_fidelity(relaxed)
    # Depolarising by p leaves an average fidelity of (1 - p)·fidelity + p/dimension.
    parameter = (fidelity - (1 - gate.error)) / (fidelity - 1 / dimension)
    mixed = np.outer(np.eye(dimension), np.eye(dimension)) / dimension
    identity = np.eye(dimension**2)
    return relaxed.compose(SuperOp((1 - parameter) * identity + parameter * mixed))


def _relaxation(coherence: Coherence | None, duration_s: float) -> Kraus:
    """Amplitude damping over T1, and dephasing for what of T2 that does not explain."""
    if coherence is None:
        return Kraus([_PAULIS["I"]])
    kept = math.exp(-duration_s / coherence.t1_s)
    damped = [np.diag([1.0, math.sqrt(kept)]), np.array([[0.0, math.sqrt(1 - kept)], [0.0, 0.0]])]
    phase = math.exp(-duration_s / coherence.t2_s) / math.sqrt(kept)
    flips = (math.sqrt((1 + phase) / 2), math.sqrt(max(0.0, 1 - phase) / 2))
    return Kraus(
        [f * p @ d for f, p in zip(flips, (np.eye(2), _PAULIS["Z"]), strict=True) for d in damped]
    )
