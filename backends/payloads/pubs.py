"""PUBs that no longer change: what the payloads of Qiskit's primitives have in common."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import QuantumCircuit
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.estimator_pub import EstimatorPub

from backends.circuits import FrozenCircuit
from backends.errors import PayloadRejected
from backends.frames import array_from_frame, frame_from_array, pack
from backends.gates import inline_definitions
from backends.pub_faults import check_names, fault_of
from backends.shapes import ItemShape

__all__ = [
    "SEEDS",
    "FrozenPub",
    "PubPayload",
    "Values",
    "as_qiskit",
    "check_points",
    "coerced_pubs",
    "frozen_values",
    "is_whole",
    "numbered",
    "pubs_from_frames",
    "whole_seed",
]

Values = NDArray[np.float64]

SEEDS = 2**63  # Aer takes a signed machine word


@dataclass(frozen=True, eq=False, kw_only=True)
class FrozenPub:
    """A circuit with its parameter values, of shape (*pub shape, parameters).

    seed: start of the simulator's random stream, None for a fresh one; real QPUs ignore it.
    """

    circuit: FrozenCircuit
    values: Values
    seed: int | None = None

    @property
    def points(self) -> int:
        """Bound circuits in this PUB: the product of its shape."""
        return math.prod(self.values.shape[:-1])

    @property
    def fields(self) -> dict[str, Any]:
        """What the payload's header states of it, beside circuit and values."""
        return {"seed": self.seed}

    @property
    def shape(self) -> ItemShape:
        """Its size, as the broker schedules it."""
        return ItemShape(
            points=self.points,
            shots=self.fields.get("shots", 0),
            num_qubits=self.circuit.active_qubits,
            depth=self.circuit.layers,
        )

    @property
    def bindings(self) -> BindingsArray:
        """The values as Qiskit's container."""
        if not self.circuit.parameter_names:
            return BindingsArray(shape=self.values.shape[:-1])
        return BindingsArray({self.circuit.parameter_names: self.values})


@dataclass(frozen=True, eq=False, kw_only=True)
class PubPayload:
    """PUBs that run as one qpu_task; the result has one entry per PUB, in order."""

    kind: ClassVar[str]
    pubs: tuple[Any, ...]

    @property
    def circuits(self) -> int:
        """Bound circuits, or expectation values, in the payload."""
        return sum(pub.points for pub in self.pubs)

    @property
    def shots(self) -> int:
        """Shots over all bound circuits; 0 where the PUBs state a precision instead."""
        return sum(shape.points * shape.shots for shape in self.shapes)

    @property
    def num_qubits(self) -> int:
        """Qubits that the widest circuit acts on."""
        return max(shape.num_qubits for shape in self.shapes)

    @property
    def seed(self) -> int | None:
        """Seed of the first PUB, which the others follow."""
        seed: int | None = self.pubs[0].seed
        return seed

    @cached_property
    def shapes(self) -> tuple[ItemShape, ...]:
        """Size of each PUB."""
        return tuple(pub.shape for pub in self.pubs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_bytes`, in hex; equal content is equal in every process."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Serialise without pickle: QPY circuits, typed arrays, a JSON header."""
        return self._bytes

    @cached_property
    def _bytes(self) -> bytes:
        positions: dict[str, int] = {}
        circuits: list[bytes] = []
        entries: list[dict[str, Any]] = []
        arrays: list[bytes] = []
        for pub in self.pubs:
            position = positions.setdefault(pub.circuit.digest, len(circuits))
            if position == len(circuits):
                circuits.append(pub.circuit.qpy)
            values, frame = frame_from_array(pub.values)
            entries.append({"circuit": position, "values": values, "fields": pub.fields})
            arrays.append(frame)
        header = {"kind": self.kind, "circuits": len(circuits), "pubs": entries}
        return pack(header, circuits + arrays)


def pubs_from_frames(
    pub_type: Callable[..., Any],
    header: Mapping[str, Any],
    frames: Sequence[bytes],
    read_circuit: Callable[[bytes], FrozenCircuit] = FrozenCircuit.from_qpy,
) -> tuple[Any, ...]:
    """Rebuild the PUBs of a payload's own bytes."""
    number = header["circuits"]
    circuits = [read_circuit(frame) for frame in frames[:number]]
    return tuple(
        pub_type(
            circuit=circuits[entry["circuit"]],
            values=array_from_frame(entry["values"], frame),
            **entry["fields"],
        )
        for entry, frame in zip(header["pubs"], frames[number:], strict=True)
    )


def coerced_pubs(
    pubs: Iterable[Any], freeze: Callable[[Any, int], FrozenPub]
) -> tuple[FrozenPub, ...]:
    """Freeze each PUB of what a user gave. freeze: also takes the points of the PUBs before.

    Raises `PayloadRejected` with the PUB's number.
    """
    if isinstance(pubs, QuantumCircuit):
        raise PayloadRejected("got a circuit where a list of PUBs is expected; write [circuit]")
    try:
        listed = list(pubs)
    except TypeError:
        raise PayloadRejected(
            f"got {type(pubs).__name__} where a list of PUBs is expected; write [(circuit, …)]"
        ) from None
    if not listed:
        raise PayloadRejected("the list of PUBs is empty; give at least one")
    frozen: list[FrozenPub] = []
    points = 0
    for index, pub in enumerate(listed):
        with numbered(index):
            frozen.append(freeze(pub, points))
            check_points(frozen[-1])
        points += frozen[-1].points
    return tuple(frozen)


@contextmanager
def numbered(index: int) -> Iterator[None]:
    """State a PUB's number in errors about it."""
    try:
        yield
    except PayloadRejected as error:
        raise PayloadRejected(f"PUB {index}: {error}") from error


def as_qiskit(pub_type: Any, pub: Any, default: Any) -> Any:
    """Return what a user gave as Qiskit's PUB. Raises `PayloadRejected` with the fault."""
    try:
        coerced = pub_type.coerce(pub, default)
        check_names(coerced.circuit, coerced.parameter_values)
    except Exception as error:  # qiskit raises ValueError, TypeError, QiskitError, CircuitError
        fault = fault_of(pub, error, estimator=pub_type is EstimatorPub)
        raise PayloadRejected(fault) from error
    return coerced


def frozen_values(pub: Any, frozen: FrozenCircuit) -> Values:
    """Return the values of the parameters that the frozen circuit has, a column each.

    A parameter that no definition uses is gone with the gate that took it.
    """
    parameters = pub.circuit.parameters
    values = np.asarray(pub.parameter_values.as_array(parameters), dtype=np.float64)
    if not np.isfinite(values).all():
        bad = [p.name for i, p in enumerate(parameters) if not np.isfinite(values[..., i]).all()]
        raise PayloadRejected(f"NaN or infinite values for {', '.join(bad)}")
    if frozen.circuit.num_parameters < len(parameters):
        used = inline_definitions(pub.circuit).parameters
        values = values[..., [i for i, p in enumerate(parameters) if p in used]]
    return np.ascontiguousarray(values)


def check_points(pub: FrozenPub) -> None:
    """Raise `PayloadRejected` for a PUB without points."""
    if pub.points == 0:
        observables = " with the observables given" if hasattr(pub, "observables") else ""
        raise PayloadRejected(
            f"parameter values of shape {pub.values.shape}{observables} are empty, so nothing "
            "would run; give at least one point"
        )


def whole_seed(seed: Any) -> int | None:
    """Return a seed as Python's integer. Raises `PayloadRejected` for one out of range."""
    if seed is not None and not (is_whole(seed) and 0 <= seed < SEEDS):
        raise PayloadRejected(f"seed {seed!r:.60}; give a whole number from 0 to 2^63 - 1, or None")
    return None if seed is None else int(seed)


def is_whole(value: Any) -> bool:
    """Whether a value is an integer, of Python or NumPy, and no truth value."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
