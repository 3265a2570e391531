"""PUBs from users' bytes: everything that they state is checked before it is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Gate, Instruction
from qiskit.circuit.library import PauliEvolutionGate

from backends.circuits import FrozenCircuit
from backends.errors import PayloadRejected
from backends.frames import array_from_frame
from backends.payloads.kind import PayloadLimits
from backends.payloads.pubs import Values, check_points, numbered, whole_seed
from backends.qpy_outline import check_qpy

__all__ = ["ObservablesReader", "PubReader", "is_real"]

_LABEL = re.compile(r"[IXYZ01+\-lr]+")
_DEFINED = (Gate, Instruction)  # what a user made of a circuit
_DIMENSIONS = 32
_SIZES = 2**63
# Qiskit takes a coefficient up to this for zero.
_NOTHING = 1e-8
_TROTTER_STEPS, _TROTTER_ORDER = 1000, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PubReader:
    """Reads the PUBs of one payload. fields: that each states, ``seed`` included."""

    limits: PayloadLimits
    fields: set[str]
    check_circuit: Callable[[QuantumCircuit], None] | None = None

    def read(
        self,
        header: Mapping[str, Any],
        frames: Sequence[bytes],
        made: Callable[[FrozenCircuit, dict[str, Any], Values], Any],
    ) -> tuple[Any, ...]:
        """Return the PUBs. made: checks a PUB's fields and returns it. Raises `PayloadRejected`."""
        if set(header) != {"kind", "circuits", "pubs"}:
            raise PayloadRejected("the header must hold kind, circuits and pubs, and nothing else")
        number, entries = header["circuits"], header["pubs"]
        if not isinstance(entries, list) or not 0 < len(entries) <= self.limits.items:
            raise PayloadRejected(f"a payload has 1 to {self.limits.items} PUBs")
        if not _whole(number, 1, len(entries)) or len(frames) != number + len(entries):
            raise PayloadRejected("the header does not describe the frames that follow it")
        circuits = [self._circuit(frame) for frame in frames[:number]]
        pubs = []
        for index, (entry, frame) in enumerate(zip(entries, frames[number:], strict=True)):
            with numbered(index):
                circuit, fields = self._entry(entry, circuits)
                pubs.append(made(circuit, fields, _values(entry["values"], frame, circuit)))
                check_points(pubs[-1])
        return tuple(pubs)

    def _circuit(self, data: bytes) -> FrozenCircuit:
        check_qpy(data, self.limits.circuit)
        frozen = FrozenCircuit.from_qpy(data)
        _check_steps(frozen.circuit)
        if self.check_circuit is not None:
            self.check_circuit(frozen.circuit)
        return frozen

    def _entry(
        self, entry: Any, circuits: Sequence[FrozenCircuit]
    ) -> tuple[FrozenCircuit, dict[str, Any]]:
        if not isinstance(entry, dict) or set(entry) != {"circuit", "values", "fields"}:
            raise PayloadRejected("an entry holds circuit, values and fields, and nothing else")
        fields, position = entry["fields"], entry["circuit"]
        if not isinstance(fields, dict) or set(fields) != self.fields:
            raise PayloadRejected(f"its fields are {', '.join(sorted(self.fields))}, and no others")
        if not _whole(position, 0, len(circuits) - 1):
            raise PayloadRejected(f"circuit {position!r:.60} of {len(circuits)}")
        whole_seed(fields["seed"])
        return circuits[position], fields


@dataclass(slots=True, kw_only=True)
class ObservablesReader:
    """Checks observables, and counts the terms of all of them. most: terms."""

    most: int
    terms: int = 0

    def check(self, given: Any, width: int, depth: int = 0) -> tuple[int, ...]:
        """Check nested lists of {Pauli string: coefficient}; return their shape."""
        if isinstance(given, dict):
            self.terms += len(given)
            if not given or self.terms > self.most:
                raise PayloadRejected(f"observables have 1 to {self.most} terms")
            for label, coefficient in given.items():
                if len(label) != width or (width and not _LABEL.fullmatch(label)):
                    raise PayloadRejected(
                        f"observable {label!r:.60}; give {width} of I X Y Z 0 1 + - l r, one for "
                        "each qubit"
                    )
                if not is_real(coefficient):
                    raise PayloadRejected(
                        f"coefficient {coefficient!r:.60}; give a finite real number"
                    )
            if all(abs(c) <= _NOTHING for c in given.values()):  # Qiskit drops such terms
                raise PayloadRejected("an observable all of whose coefficients are 0")
            return ()
        if not isinstance(given, list) or depth == _DIMENSIONS:
            raise PayloadRejected("observables are lists of {Pauli string: coefficient}")
        self.terms += len(given)
        shapes = {self.check(part, width, depth + 1) for part in given}
        if len(shapes) > 1:
            raise PayloadRejected("the lists of observables differ in length")
        return (len(given), *(shapes.pop() if shapes else ()))


def _values(entry: Any, frame: bytes, circuit: FrozenCircuit) -> Values:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape"} or entry["dtype"] != "<f8":
        raise PayloadRejected("parameter values are float64 with a shape")
    shape, width = entry["shape"], circuit.circuit.num_parameters
    if not isinstance(shape, list) or not 0 < len(shape) <= _DIMENSIONS:
        raise PayloadRejected(f"values have 1 to {_DIMENSIONS} dimensions")
    if not all(_whole(size, 0, _SIZES) for size in shape) or 8 * math.prod(shape) != len(frame):
        raise PayloadRejected(f"values of shape {shape!r:.60} in {len(frame)} bytes")
    if shape[-1] != width:
        raise PayloadRejected(
            f"{shape[-1]} values for each point; the circuit has {width} parameters"
        )
    values: Values = array_from_frame(entry, frame)
    if not np.isfinite(values).all():
        raise PayloadRejected("NaN or infinite parameter values")
    return values


def _check_steps(circuit: QuantumCircuit) -> None:
    """Refuse instructions that do not fit their wires."""
    for step in circuit.data:
        operation = step.operation
        wires = (*step.qubits, *step.clbits)
        counts = (len(step.qubits), len(step.clbits))
        if counts != (operation.num_qubits, operation.num_clbits) or len(set(wires)) < len(wires):
            raise PayloadRejected(
                f"instruction {operation.name!r:.60} does not fit its qubits and bits"
            )
        for value in getattr(operation, "params", ()):
            if isinstance(value, float | complex) and not np.isfinite(value):
                raise PayloadRejected(f"instruction {operation.name!r:.60} has a parameter {value}")
        if isinstance(operation, PauliEvolutionGate):
            _check_evolution(operation)
        if type(operation) in _DEFINED and operation.definition is not None:
            _check_steps(operation.definition)
        for block in getattr(operation, "blocks", ()):
            _check_steps(block)


def _check_evolution(gate: PauliEvolutionGate) -> None:
    reps, order = (getattr(gate.synthesis, name, 1) for name in ("reps", "order"))
    if not _whole(reps, 1, _TROTTER_STEPS) or not _whole(order, 1, _TROTTER_ORDER):
        raise PayloadRejected(
            f"a time evolution of order {order!r:.20} in {reps!r:.20} steps; at most "
            f"{_TROTTER_ORDER} and {_TROTTER_STEPS}, or decompose it first"
        )


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_real(value: Any) -> bool:
    """Whether a value is a finite real number, and no truth value."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
