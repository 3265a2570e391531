"""MOVE gates for a star: every two-qubit gate is between a qubit and the resonator (pure).

A CZ between two qubits of a star is: MOVE one into the resonator, CZ the other with the
resonator, MOVE the first back. While it is there the first may meet further qubits. CZs
commute, so they are done in the order that saves MOVEs.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from qiskit import QuantumCircuit
from qiskit.circuit import Bit, CircuitInstruction
from qiskit.circuit.library import CZGate

from backends.api import PayloadRejected
from backends.gates import MoveGate

__all__ = ["insert_moves"]

_CZ, _MOVE = CZGate(), MoveGate()


def insert_moves(circuit: QuantumCircuit, resonator: int) -> QuantumCircuit:
    """Return the circuit with one wire more, the resonator, and its CZs done through it.

    circuit: one-qubit gates, ``cz``, measurements, resets, barriers and delays on
    ``resonator`` wires. Every ``move`` and ``cz`` of the result is (qubit, resonator). A qubit
    is back on its wire before anything but a CZ touches it, and at the end. Classical
    registers stay as they are. Raises `PayloadRejected` on control flow and other gates.
    """
    star = QuantumCircuit(resonator + 1, global_phase=circuit.global_phase)
    star.add_bits(circuit.clbits)
    for register in circuit.cregs:
        star.add_register(register)
    return _Router(circuit, star).run()


class _Router:
    """One pass; an instruction is ready when all it must follow is written.

    What needs no MOVE is written first, in the order of the circuit.
    """

    def __init__(self, circuit: QuantumCircuit, star: QuantumCircuit) -> None:
        self._star = star
        self._wire = dict(zip(circuit.qubits, star.qubits[:-1], strict=True))
        at_resonator = [(wire, star.qubits[-1]) for wire in star.qubits[:-1]]
        self._moves = [CircuitInstruction(_MOVE, at) for at in at_resonator]
        self._czs = [CircuitInstruction(_CZ, at) for at in at_resonator]
        self._steps: list[CircuitInstruction] = list(circuit.data)
        for step in self._steps:
            _check(step)
        number = {qubit: i for i, qubit in enumerate(circuit.qubits)}
        self._qubits = [[number[qubit] for qubit in step.qubits] for step in self._steps]
        self._followers, self._missing = _order(self._steps)
        self._quiet: list[int] = []  # ready and no CZ: a heap
        self._meetings: list[set[int]] = [set() for _ in number]  # ready CZs of each qubit
        self._inside: int | None = None
        self._waiting: list[int] = []  # as quiet, but on the qubit in the resonator
        for i, count in enumerate(self._missing):
            if count == 0:
                self._enter(i)

    def run(self) -> QuantumCircuit:
        """Write everything, moving a qubit where nothing else is ready."""
        while True:
            if self._quiet:
                self._write(heappop(self._quiet))
            elif self._inside is not None and self._meetings[self._inside]:
                self._write_cz(min(self._meetings[self._inside]))
            elif self._inside is not None:
                self._move(self._inside)
                self._inside = None
                self._quiet, self._waiting = self._waiting, []
                heapify(self._quiet)
            elif any(self._meetings):
                self._inside = self._busiest()
                self._move(self._inside)
            else:
                return self._star

    def _enter(self, i: int) -> None:
        """Take up an instruction that is ready."""
        if self._steps[i].name == "cz":
            for qubit in self._qubits[i]:
                self._meetings[qubit].add(i)
        elif self._inside in self._qubits[i]:
            self._waiting.append(i)
        else:
            heappush(self._quiet, i)

    def _move(self, qubit: int) -> None:
        self._star._append(self._moves[qubit])  # noqa: SLF001  # its wires are known

    def _write(self, i: int) -> None:
        step = self._steps[i]
        placed = step.replace(qubits=[self._wire[qubit] for qubit in step.qubits])
        self._star._append(placed)  # noqa: SLF001  # its wires are known
        self._done(i)

    def _write_cz(self, i: int) -> None:
        for qubit in self._qubits[i]:
            self._meetings[qubit].remove(i)
        (other,) = (qubit for qubit in self._qubits[i] if qubit != self._inside)
        self._star._append(self._czs[other])  # noqa: SLF001  # its wires are known
        self._done(i)

    def _done(self, i: int) -> None:
        for follower in self._followers[i]:
            self._missing[follower] -= 1
            if self._missing[follower] == 0:
                self._enter(follower)

    def _busiest(self) -> int:
        """Return the qubit with most CZs ready; of equals, the one that comes first."""
        most = max(map(len, self._meetings))
        busiest = [qubit for qubit, ready in enumerate(self._meetings) if len(ready) == most]
        if len(busiest) == 1:
            return busiest[0]
        first = min(min(self._meetings[qubit]) for qubit in busiest)
        return next(qubit for qubit in self._qubits[first] if qubit in busiest)


def _order(steps: list[CircuitInstruction]) -> tuple[list[list[int]], list[int]]:
    """Return which instructions must follow each one, and how many each must wait for."""
    followers: list[list[int]] = [[] for _ in steps]
    missing = [0] * len(steps)
    last: dict[Bit, int] = {}
    since: dict[Bit, list[int]] = {}
    for i, step in enumerate(steps):
        before: set[int] = set()
        is_cz = step.name == "cz"
        for bit in (*step.qubits, *step.clbits):
            if bit in last:
                before.add(last[bit])
            if is_cz:
                since.setdefault(bit, []).append(i)
            else:
                before.update(since.pop(bit, []))
                last[bit] = i
        missing[i] = len(before)
        for one in before:
            followers[one].append(i)
    return followers, missing


def _check(step: CircuitInstruction) -> None:
    if step.is_control_flow():
        raise PayloadRejected(
            f"{step.name!r}: a star takes no control flow; use a QPU that measures mid-circuit"
        )
    if len(step.qubits) > 1 and step.name not in ("barrier", "cz"):
        raise PayloadRejected(f"gate {step.name!r} on a star; expected cz and one-qubit gates")
