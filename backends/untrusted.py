"""Payloads from strangers: everything the bytes state is checked before it is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Gate, Instruction
from qiskit.circuit.library import PauliEvolutionGate

from backends.circuits import FrozenCircuit, is_panic
from backends.errors import PayloadRejected
from backends.frames import FrameError, array_from_frame, unpack
from backends.payloads import (
    MOST_SHOTS,
    EstimatorPayload,
    FrozenEstimatorPub,
    FrozenSamplerPub,
    Payload,
    SamplerPayload,
    Values,
    measures,
)
from backends.qpy_outline import Bounds, check_qpy

__all__ = ["PayloadLimits", "payload_from_untrusted"]

_LABEL = re.compile(r"[IXYZ01+\-lr]+")
_FIELDS = {"sampler": {"shots", "seed"}, "estimator": {"precision", "seed", "observables"}}
_RESULT_NAMES = frozenset({"items", "keys", "ndim", "shape", "size", "values"})
_DEFINED = (Gate, Instruction)  # what a user made of a circuit
_DIMENSIONS = 32
_SEEDS = 2**63
# Qiskit takes a coefficient up to this for zero.
_NOTHING = 1e-8
_TROTTER_STEPS, _TROTTER_ORDER = 1000, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadLimits:
    """What one payload may hold.

    points: bound circuits, or expectation values; terms: of all observables; shots: over all
    points; header_bytes: of the JSON that describes the rest.
    """

    pubs: int = 3_000
    points: int = 1_000_000
    shots: int = 10**10
    terms: int = 1_000_000
    header_bytes: int = 2 << 20
    circuit: Bounds = field(default_factory=Bounds)


def payload_from_untrusted(data: bytes, *, limits: PayloadLimits) -> Payload:
    """Rebuild a payload as `payload_from_bytes` does, believing nothing that it states.

    Any payload that ``coerce`` makes within the limits comes back with the same digest. Raises
    `PayloadRejected` for all other bytes, and nothing else; executes nothing of what it reads.
    """
    try:
        return _Reader(limits).read(data)
    except PayloadRejected:
        raise
    except (MemoryError, RecursionError, FrameError) as error:
        raise _rejected(f"damaged payload of {len(data)} bytes: {error}") from error
    except BaseException as error:  # Qiskit raises many kinds, and Rust's panics are no Exception
        if isinstance(error, Exception) or is_panic(error):
            raise _rejected(f"damaged payload of {len(data)} bytes: {error}") from error
        raise


def _rejected(reason: str) -> PayloadRejected:
    return PayloadRejected(reason[:500])


@dataclass(slots=True)
class _Reader:
    """Reads one payload and counts what it holds."""

    limits: PayloadLimits
    points: int = 0
    shots: int = 0
    terms: int = 0

    def read(self, data: bytes) -> Payload:
        limits = self.limits
        count = int.from_bytes(data[4:8], "little")
        if count > 2 * limits.pubs + 1:
            raise _rejected(f"a payload of {count} frames; send at most {limits.pubs} PUBs at once")
        if int.from_bytes(data[8:16], "little") > limits.header_bytes:
            raise _rejected(f"a header of more than {limits.header_bytes} bytes is not taken")
        header, frames = unpack(data)
        if not isinstance(header, dict) or set(header) != {"kind", "circuits", "pubs"}:
            raise _rejected("the header must hold kind, circuits and pubs, and nothing else")
        kind, number, pubs = header["kind"], header["circuits"], header["pubs"]
        if not isinstance(kind, str) or kind not in _FIELDS:
            raise _rejected(f"payload of kind {kind!r:.60}; known are sampler and estimator")
        if not isinstance(pubs, list) or not 0 < len(pubs) <= limits.pubs:
            raise _rejected(f"a payload has 1 to {limits.pubs} PUBs")
        if not _whole(number, 1, len(pubs)) or len(frames) != number + len(pubs):
            raise _rejected("the frames are not those that the header tells of")
        circuits = [self._circuit(frame, kind) for frame in frames[:number]]
        read = self._sampler_pub if kind == "sampler" else self._estimator_pub
        made: list[Any] = []
        for index, (entry, frame) in enumerate(zip(pubs, frames[number:], strict=True)):
            try:
                circuit, fields = _entry(entry, circuits, _FIELDS[kind])
                made.append(read(circuit, _values(entry["values"], frame, circuit), fields))
            except PayloadRejected as error:
                raise _rejected(f"PUB {index}: {error}") from error
        payload = SamplerPayload if kind == "sampler" else EstimatorPayload
        return payload(pubs=tuple(made))

    def _circuit(self, data: bytes, kind: str) -> FrozenCircuit:
        check_qpy(data, self.limits.circuit)
        frozen = FrozenCircuit.from_qpy(data)
        _check_steps(frozen.circuit)
        if kind == "sampler":
            loose = sum(not frozen.circuit.find_bit(b).registers for b in frozen.circuit.clbits)
            if loose:
                raise _rejected(
                    f"{loose} classical bits are in no register, so no result would show them; "
                    "put them into one"
                )
            if not measures(frozen.circuit):
                raise _rejected("a circuit measures nothing; add measurements")
            taken = _RESULT_NAMES.intersection(register.name for register in frozen.circuit.cregs)
            if taken:
                raise _rejected(f"a classical register is called {min(taken)!r}; rename it")
        return frozen

    def _sampler_pub(
        self, circuit: FrozenCircuit, values: Values, fields: Mapping[str, Any]
    ) -> FrozenSamplerPub:
        if not _whole(fields["shots"], 1, MOST_SHOTS):
            raise _rejected(
                f"shots {fields['shots']!r:.60}; give a whole number from 1 to {MOST_SHOTS}"
            )
        pub = FrozenSamplerPub(circuit=circuit, values=values, **fields)
        self._count(pub.points)
        self.shots += pub.points * pub.shots
        if self.shots > self.limits.shots:
            raise _rejected(f"more than {self.limits.shots} shots in one payload; send several")
        return pub

    def _estimator_pub(
        self, circuit: FrozenCircuit, values: Values, fields: Mapping[str, Any]
    ) -> FrozenEstimatorPub:
        precision = fields["precision"]
        if not _real(precision) or precision < 0:
            raise _rejected(f"precision {precision!r:.60}; give a number ≥ 0 (0 for exact values)")
        shape = self._observables(fields["observables"], circuit.circuit.num_qubits, 0)
        self._count(math.prod(np.broadcast_shapes(values.shape[:-1], shape)))
        return FrozenEstimatorPub(circuit=circuit, values=values, **fields)

    def _count(self, points: int) -> None:
        self.points += points
        if points < 1:
            raise _rejected("its parameter values or observables are empty; give at least one")
        if self.points > self.limits.points:
            raise _rejected(f"more than {self.limits.points} points in one payload; send several")

    def _observables(self, given: Any, width: int, depth: int) -> tuple[int, ...]:
        """Check nested lists of {Pauli string: coefficient}; return their shape."""
        if isinstance(given, dict):
            self.terms += len(given)
            if not given or self.terms > self.limits.terms:
                raise _rejected(f"observables have 1 to {self.limits.terms} terms")
            for label, coefficient in given.items():
                if len(label) != width or (width and not _LABEL.fullmatch(label)):
                    raise _rejected(
                        f"observable {label!r:.60}; give {width} of I X Y Z 0 1 + - l r, one for "
                        "each qubit"
                    )
                if not _real(coefficient):
                    raise _rejected(f"coefficient {coefficient!r:.60}; give a finite real number")
            if all(abs(c) <= _NOTHING for c in given.values()):  # Qiskit drops such terms
                raise _rejected("an observable all of whose coefficients are 0")
            return ()
        if not isinstance(given, list) or depth == _DIMENSIONS:
            raise _rejected("observables are lists of {Pauli string: coefficient}")
        self.terms += len(given)
        shapes = {self._observables(part, width, depth + 1) for part in given}
        if len(shapes) > 1:
            raise _rejected("the lists of observables differ in length")
        return (len(given), *(shapes.pop() if shapes else ()))


def _entry(
    entry: Any, circuits: Sequence[FrozenCircuit], names: set[str]
) -> tuple[FrozenCircuit, dict[str, Any]]:
    if not isinstance(entry, dict) or set(entry) != {"circuit", "values", "fields"}:
        raise _rejected("an entry holds circuit, values and fields, and nothing else")
    fields, position = entry["fields"], entry["circuit"]
    if not isinstance(fields, dict) or set(fields) != names:
        raise _rejected(f"its fields are {', '.join(sorted(names))}, and no others")
    if not _whole(position, 0, len(circuits) - 1):
        raise _rejected(f"circuit {position!r:.60} of {len(circuits)}")
    seed = fields["seed"]
    if seed is not None and not _whole(seed, 0, _SEEDS - 1):
        raise _rejected(f"seed {seed!r:.60}; give a whole number from 0 to 2^63 - 1, or None")
    return circuits[position], fields


def _values(entry: Any, frame: bytes, circuit: FrozenCircuit) -> Values:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape"} or entry["dtype"] != "<f8":
        raise _rejected("parameter values are float64 with a shape")
    shape, width = entry["shape"], circuit.circuit.num_parameters
    if not isinstance(shape, list) or not 0 < len(shape) <= _DIMENSIONS:
        raise _rejected(f"values have 1 to {_DIMENSIONS} dimensions")
    if not all(_whole(size, 0, _SEEDS) for size in shape) or 8 * math.prod(shape) != len(frame):
        raise _rejected(f"values of shape {shape!r:.60} in {len(frame)} bytes")
    if shape[-1] != width:
        raise _rejected(f"{shape[-1]} values for each point; the circuit has {width} parameters")
    values: Values = array_from_frame(entry, frame)
    if not np.isfinite(values).all():
        raise _rejected("NaN or infinite parameter values")
    return values


def _check_steps(circuit: QuantumCircuit) -> None:
    """Refuse instructions that do not fit their wires."""
    for step in circuit.data:
        operation = step.operation
        wires = (*step.qubits, *step.clbits)
        counts = (len(step.qubits), len(step.clbits))
        if counts != (operation.num_qubits, operation.num_clbits) or len(set(wires)) < len(wires):
            raise _rejected(f"instruction {operation.name!r:.60} does not fit its qubits and bits")
        for value in getattr(operation, "params", ()):
            if isinstance(value, float | complex) and not np.isfinite(value):
                raise _rejected(f"instruction {operation.name!r:.60} has a parameter {value}")
        if isinstance(operation, PauliEvolutionGate):
            _check_evolution(operation)
        if type(operation) in _DEFINED and operation.definition is not None:
            _check_steps(operation.definition)
        for block in getattr(operation, "blocks", ()):
            _check_steps(block)


def _check_evolution(gate: PauliEvolutionGate) -> None:
    reps, order = (getattr(gate.synthesis, name, 1) for name in ("reps", "order"))
    if not _whole(reps, 1, _TROTTER_STEPS) or not _whole(order, 1, _TROTTER_ORDER):
        raise _rejected(
            f"a time evolution of order {order!r:.20} in {reps!r:.20} steps; at most "
            f"{_TROTTER_ORDER} and {_TROTTER_STEPS}, or decompose it first"
        )


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _real(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
