"""Random circuits and observables of every kind a target may be asked for, made from a seed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Clbit, Gate, Parameter
from qiskit.circuit.library import DiagonalGate, Initialize, PauliGate, UnitaryGate
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.quantum_info import Kraus, random_unitary

__all__ = ["Kinds", "Question", "random_question", "random_samples"]

_CLIFFORD = ("cx", "cy", "cz", "ecr", "h", "id", "s", "sdg", "swap", "sx", "sxdg", "x", "y", "z")
_LETTERS = "IIIIXYZXYZ01+-rl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """What a random circuit may hold besides gates.

    clifford: of gates, only Clifford gates. resets: also inside other instructions. channels:
    initialisations and Kraus channels. branches: measurements in the middle, ``if`` and
    ``switch``. loops: ``for``. repeats: ``while``, among the branches.
    """

    clifford: bool = False
    resets: bool = False
    channels: bool = False
    branches: bool = False
    loops: bool = False
    repeats: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A circuit, its parameter points (points, parameters) and the observables asked of it."""

    circuit: QuantumCircuit
    values: NDArray[np.float64]
    observables: Sequence[dict[str, float]] = ()

    def smallest(self) -> Question:
        """Return the question at its first point, of its first observable."""
        return replace(self, values=self.values[:1], observables=self.observables[:1])


def random_question(seed: int, width: int, length: int, *, kinds: Kinds) -> Question:
    """Return a circuit that measures nothing, and observables on any of its qubits."""
    maker = _Maker(seed, width, kinds)
    for _ in range(length):
        maker.gate()
        if kinds.resets and maker.chance(0.1):
            maker.mix()
    # Together the observables must leave qubits out, as those of people do.
    seen = maker.last.permutation(width)[: maker.last.integers(1, width + 1)]
    observables = [maker.observable(seen) for _ in range(maker.last.integers(1, 5))]
    return Question(circuit=maker.circuit, values=maker.values(), observables=observables)


def random_samples(seed: int, width: int, length: int, *, kinds: Kinds) -> Question:
    """Return a circuit that measures some of its qubits into bits of several registers."""
    maker = _Maker(seed, width, kinds)
    for _ in range(length):
        maker.gate()
        if kinds.resets and maker.chance(0.05):
            maker.mix()
        if kinds.branches and maker.chance(0.15):
            maker.measure(maker.qubits(1)[0])
        if kinds.branches and maker.chance(0.15):
            maker.branch()
    bits = list(maker.last.permutation(maker.circuit.num_clbits))
    for qubit in maker.last.permutation(width)[: maker.last.integers(1, len(bits) + 1)]:
        maker.circuit.measure(int(qubit), int(bits.pop()))
    return Question(circuit=maker.circuit, values=maker.values())


@cache
def _gates(clifford: bool) -> tuple[Gate, ...]:
    """Return Qiskit's standard gates on one to three qubits."""
    return tuple(
        gate
        for name, gate in get_standard_gate_name_mapping().items()
        if isinstance(gate, Gate) and 1 <= gate.num_qubits <= 3
        if not clifford or name in _CLIFFORD
    )


class _Maker:
    """Writes one random circuit, on some of its qubits.

    random: of the gates, so that a shorter circuit is the beginning of a longer one.
    last: of what follows them.
    """

    def __init__(self, seed: int, width: int, kinds: Kinds) -> None:
        self.random, self.last = np.random.default_rng(seed).spawn(2)
        self._seed = seed
        self._kinds = kinds
        registers = [ClassicalRegister(2, "low"), ClassicalRegister(self.number(1, 2), "high")]
        self.circuit = QuantumCircuit(QuantumRegister(width, "q"), *registers)
        busy = self.number(1, width)
        self._busy = [int(q) for q in self.random.permutation(width)[:busy]]
        free = 0 if kinds.clifford else self.number(0, 2)
        self._free = [Parameter(f"p{i}") for i in range(free)]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def qubits(self, count: int) -> list[int]:
        return [int(q) for q in self.random.permutation(self._busy)[:count]]

    def values(self) -> NDArray[np.float64]:
        """Return one or two points; each column is the same in a shorter circuit."""
        points = int(self.last.integers(1, 3)) if self.circuit.num_parameters else 1
        table = np.random.default_rng(self._seed).uniform(-4, 4, (points, len(self._free)))
        return table[:, [self._free.index(p) for p in self.circuit.parameters]]

    def gate(self, circuit: QuantumCircuit | None = None) -> None:
        circuit = self.circuit if circuit is None else circuit
        gate = self._gate()
        while gate.num_qubits > len(self._busy):
            gate = self._gate()
        circuit.append(gate, self.qubits(gate.num_qubits))

    def _gate(self) -> Gate:
        if not self._kinds.clifford and self.chance(0.1):
            size = self.number(1, min(2, len(self._busy)))
            if self.chance(0.5):
                return UnitaryGate(random_unitary(2**size, seed=self.number(0, 2**31)))
            return DiagonalGate(np.exp(1j * self.random.uniform(0, 7, 2**size)).tolist())
        if self.chance(0.05):
            letters = self.random.choice(list("IXYZ"), self.number(1, len(self._busy)))
            return PauliGate("".join(letters))
        gates = _gates(self._kinds.clifford)
        gate = gates[self.number(0, len(gates) - 1)]
        return type(gate)(*(self._angle() for _ in gate.params))

    def _angle(self) -> Any:
        angle = float(self.random.choice([math.pi / 2, self.random.uniform(-4, 4)]))
        if not self._free or self.chance(0.7):
            return angle
        free = self._free[self.number(0, len(self._free) - 1)]
        return [free, 2 * free - angle, free * free, free.sin()][self.number(0, 3)]

    def mix(self) -> None:
        """Append what leaves a mixed state where it meets an entangled one."""
        (qubit,) = self.qubits(1)
        choice = self.number(0, 3 if self._kinds.channels else 1)
        if choice == 0:
            self.circuit.reset(qubit)
        elif choice == 1:
            inner = QuantumCircuit(1)
            inner.h(0)
            inner.reset(0)
            inner.sx(0)
            self.circuit.append(inner.to_instruction(), [qubit])
        elif choice == 2:
            vector = random_unitary(2, seed=self.number(0, 2**31)).data[0]
            self.circuit.append(Initialize(vector), [qubit])
        else:
            damping = self.random.random()
            kept, lost = np.diag([1, math.sqrt(1 - damping)]), np.zeros((2, 2))
            lost[0, 1] = math.sqrt(damping)
            self.circuit.append(Kraus([kept, lost]).to_instruction(), [qubit])

    def measure(self, qubit: int) -> None:
        self.circuit.measure(qubit, self.number(0, self.circuit.num_clbits - 1))

    def branch(self) -> None:
        """Append control flow over one or two gates; loops end after a few rounds."""
        circuit = self.circuit
        bit: Clbit = circuit.clbits[self.number(0, circuit.num_clbits - 1)]
        register = circuit.cregs[self.number(0, 1)]
        choices = [0, 1, 2, *[3] * self._kinds.repeats, *[4] * self._kinds.loops]
        choice = choices[self.number(0, len(choices) - 1)]
        if choice == 0:
            with circuit.if_test((bit, self.number(0, 1))) as other:
                self.gate()
            with other:
                self.gate()
        elif choice == 1:
            with circuit.if_test((register, self.number(0, 2**register.size - 1))):
                self.gate()
                self.measure(self.qubits(1)[0])
        elif choice == 2:
            with circuit.switch(register) as case:
                with case(0, 1):
                    self.gate()
                with case(case.DEFAULT):
                    self.gate()
        elif choice == 3:
            (qubit,) = self.qubits(1)
            with circuit.while_loop((bit, 1)):
                circuit.reset(qubit)
                circuit.measure(qubit, bit)
        else:
            with circuit.for_loop(range(self.number(0, 2))):
                self.gate()

    def observable(self, seen: Collection[int]) -> dict[str, float]:
        observable = {}
        for _ in range(self.last.integers(1, 4)):
            letters = self.last.choice(list(_LETTERS), self.circuit.num_qubits)
            label = "".join(c if q in seen else "I" for q, c in enumerate(letters))
            observable[label] = float(self.last.uniform(-2, 2))
        return observable
