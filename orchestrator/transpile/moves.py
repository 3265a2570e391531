"""MOVE gates for a star: every two-qubit gate is between a qubit and the resonator (pure).

A CZ between two qubits of a star is: MOVE one into the resonator, CZ the other with the
resonator, MOVE the first back. While it is there the first may meet further qubits. CZs
commute, so they are done in the order that saves MOVEs.
"""

from __future__ import annotations

from qiskit import QuantumCircuit
from qiskit.circuit import Bit, CircuitInstruction, Qubit
from qiskit.circuit.library import CZGate

from backends.api import PayloadRejected
from backends.gates import MoveGate

__all__ = ["insert_moves"]


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
    """One pass; an instruction is ready when all it must follow is written."""

    def __init__(self, circuit: QuantumCircuit, star: QuantumCircuit) -> None:
        self._star = star
        self._wire = dict(zip(circuit.qubits, star.qubits[:-1], strict=True))
        self._steps: list[CircuitInstruction] = list(circuit.data)
        for step in self._steps:
            _check(step)
        self._followers, self._missing = _order(self._steps)
        self._ready = {i for i, count in enumerate(self._missing) if count == 0}
        self._inside: Qubit | None = None

    def run(self) -> QuantumCircuit:
        """Write everything, what needs no MOVE first, else in the order of the circuit."""
        while self._ready:
            quiet = [i for i in self._ready if not self._is_cz(i) and not self._on_inside(i)]
            meetings = [i for i in self._ready if self._is_cz(i) and self._on_inside(i)]
            if quiet:
                self._write(min(quiet))
            elif meetings:
                self._write_cz(min(meetings))
            elif self._inside is not None:
                self._move(self._inside)
            else:
                self._move(self._busiest())
        if self._inside is not None:
            self._move(self._inside)
        return self._star

    def _is_cz(self, i: int) -> bool:
        return bool(self._steps[i].name == "cz")

    def _on_inside(self, i: int) -> bool:
        return self._inside is not None and self._inside in self._steps[i].qubits

    def _move(self, qubit: Qubit) -> None:
        self._star.append(MoveGate(), [self._wire[qubit], self._star.qubits[-1]])
        self._inside = None if self._inside == qubit else qubit

    def _write(self, i: int) -> None:
        step = self._steps[i]
        self._star.append(step.replace(qubits=[self._wire[q] for q in step.qubits]))
        self._done(i)

    def _write_cz(self, i: int) -> None:
        (other,) = (q for q in self._steps[i].qubits if q != self._inside)
        self._star.append(CZGate(), [self._wire[other], self._star.qubits[-1]])
        self._done(i)

    def _done(self, i: int) -> None:
        self._ready.remove(i)
        for follower in self._followers[i]:
            self._missing[follower] -= 1
            if self._missing[follower] == 0:
                self._ready.add(follower)

    def _busiest(self) -> Qubit:
        """Return the qubit with most CZs ready; of equals, the one that comes first."""
        ready: dict[Qubit, int] = {}
        for i in sorted(self._ready):
            for qubit in self._steps[i].qubits:
                ready[qubit] = ready.get(qubit, 0) + 1
        return max(ready, key=lambda qubit: ready[qubit])


def _order(steps: list[CircuitInstruction]) -> tuple[list[list[int]], list[int]]:
    """Return which instructions must follow each one, and how many each must wait for."""
    followers: list[list[int]] = [[] for _ in steps]
    missing = [0] * len(steps)
    last: dict[Bit, int] = {}
    since: dict[Bit, list[int]] = {}
    for i, step in enumerate(steps):
        before: set[int] = set()
        for bit in (*step.qubits, *step.clbits):
            before.update([last[bit]] if bit in last else [])
            if step.name == "cz":
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
