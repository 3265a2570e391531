"""What one backend start carries: frozen sampler and estimator PUBs with a canonical digest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import Clbit, QuantumCircuit
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.primitives.containers.sampler_pub import SamplerPub

from backends.circuits import FrozenCircuit
from backends.errors import PayloadRejected
from backends.frames import FrameError, array_from_frame, frame_from_array, pack, unpack
from backends.gates import inline_definitions
from backends.pub_faults import check_names, fault_of

__all__ = [
    "MOST_SHOTS",
    "SEEDS",
    "SEED_STRIDE",
    "EstimatorPayload",
    "FrozenEstimatorPub",
    "FrozenSamplerPub",
    "Payload",
    "SamplerPayload",
    "Values",
    "measures",
    "payload_from_bytes",
]

Values = NDArray[np.float64]
_RESULT_NAMES = frozenset({"items", "keys", "ndim", "shape", "size", "values"})

# Aer seeds the i-th bound circuit of a run with seed + 2113·i; PUBs keep that rule however
# they are grouped, so that equal circuits in one call still get different samples.
SEED_STRIDE = 2113
SEEDS = 2**63  # Aer takes a signed machine word
# More shots of one circuit than this would never end on any QPU there is.
MOST_SHOTS = 10**9


@dataclass(frozen=True, eq=False, kw_only=True)
class FrozenSamplerPub:
    """One sampler PUB. values: shape (*pub shape, parameters); shots: per parameter point.

    seed: start of the simulator's random stream, None for a fresh one; real QPUs ignore it.
    """

    circuit: FrozenCircuit
    values: Values
    shots: int
    seed: int | None = None

    @property
    def points(self) -> int:
        """Bound circuits in this PUB: the product of its shape."""
        return math.prod(self.values.shape[:-1])

    def to_qiskit(self) -> SamplerPub:
        """Return the PUB as Qiskit's primitives take it."""
        bindings = BindingsArray({self.circuit.parameter_names: self.values})
        if not self.circuit.parameter_names:
            bindings = BindingsArray(shape=self.values.shape[:-1])
        return SamplerPub(self.circuit.circuit, bindings, self.shots)


@dataclass(frozen=True, eq=False, kw_only=True)
class FrozenEstimatorPub:
    """One estimator PUB. values and observables broadcast against each other (NumPy's rule).

    observables: nested lists of {Pauli string: real coefficient}, of any shape.
    precision: standard error asked for; 0 asks for the exact value.
    """

    circuit: FrozenCircuit
    values: Values
    observables: Any
    precision: float
    seed: int | None = None

    @cached_property
    def observables_array(self) -> ObservablesArray:
        """The observables as Qiskit's container."""
        return ObservablesArray(self.observables)

    @property
    def points(self) -> int:
        """Expectation values in this PUB: the product of the broadcast shape."""
        shape = np.broadcast_shapes(self.values.shape[:-1], _shape(self.observables))
        return math.prod(shape)

    def to_qiskit(self) -> EstimatorPub:
        """Return the PUB as Qiskit's primitives take it."""
        bindings = BindingsArray({self.circuit.parameter_names: self.values})
        if not self.circuit.parameter_names:
            bindings = BindingsArray(shape=self.values.shape[:-1])
        return EstimatorPub(self.circuit.circuit, self.observables_array, bindings, self.precision)


@dataclass(frozen=True, eq=False, kw_only=True)
class SamplerPayload:
    """Sampler PUBs that run as one qpu_task; the result has one entry per PUB, in order."""

    kind: ClassVar[str] = "sampler"
    pubs: tuple[FrozenSamplerPub, ...]

    @classmethod
    def coerce(
        cls, pubs: Iterable[Any], *, shots: int | None = None, seed: int | None = None
    ) -> SamplerPayload:
        """Build from whatever ``SamplerV2.run`` accepts.

        seed: of the first bound circuit, from 0 to 2^63 - 1; later ones follow it at a fixed
        stride. Raises `PayloadRejected` on another seed, an empty list, unbound, NaN, miscounted
        or no parameters, a circuit that measures nothing, or shots that are not positive whole
        numbers.
        """
        seed = _seed(seed)
        frozen: list[FrozenSamplerPub] = []
        points = 0
        for index, pub in enumerate(_listed(pubs)):
            coerced = _coerce(SamplerPub, pub, index, shots)
            circuit = _frozen(coerced.circuit, index)
            if not measures(circuit.circuit):
                raise PayloadRejected(
                    f"PUB {index}: circuit {coerced.circuit.name!r} measures nothing, so a sampler "
                    "would return nothing; add measurements, for example circuit.measure_all()"
                )
            _check_registers(circuit.circuit, index)
            _check_shots(coerced.shots, index)
            frozen.append(
                FrozenSamplerPub(
                    circuit=circuit,
                    values=_values(coerced, circuit, index),
                    shots=int(coerced.shots),
                    seed=None if seed is None else (seed + SEED_STRIDE * points) % SEEDS,
                )
            )
            _check_points(frozen[-1], index)
            points += frozen[-1].points
        return cls(pubs=tuple(frozen))

    @property
    def circuits(self) -> int:
        """Bound circuits in the payload."""
        return sum(pub.points for pub in self.pubs)

    @property
    def shots(self) -> int:
        """Shots over all bound circuits."""
        return sum(pub.points * pub.shots for pub in self.pubs)

    @property
    def num_qubits(self) -> int:
        """Qubits that the widest circuit acts on."""
        return max(pub.circuit.active_qubits for pub in self.pubs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_bytes`, in hex; equal content is equal in every process."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Serialise without pickle: QPY circuits, typed arrays, a JSON header."""
        return self._bytes

    @cached_property
    def _bytes(self) -> bytes:
        return _pack(
            self.kind,
            [(p.circuit, p.values, {"shots": p.shots, "seed": p.seed}) for p in self.pubs],
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class EstimatorPayload:
    """Estimator PUBs that run as one qpu_task; the result has one entry per PUB, in order."""

    kind: ClassVar[str] = "estimator"
    pubs: tuple[FrozenEstimatorPub, ...]

    @classmethod
    def coerce(
        cls, pubs: Iterable[Any], *, precision: float = 0.0, seed: int | None = None
    ) -> EstimatorPayload:
        """Build from whatever ``EstimatorV2.run`` accepts.

        seed: from 0 to 2^63 - 1. Raises `PayloadRejected` on another seed, an empty list,
        unbound, NaN, miscounted or no parameters, no observables or some of another width, or
        a negative or NaN precision.
        """
        seed = _seed(seed)
        frozen = []
        for index, pub in enumerate(_listed(pubs)):
            coerced = _coerce(EstimatorPub, pub, index, precision)
            if not (np.isfinite(coerced.precision) and coerced.precision >= 0):
                raise PayloadRejected(
                    f"PUB {index}: precision {coerced.precision!r}; give a number ≥ 0 "
                    "(0 for the exact value)"
                )
            observables = coerced.observables.tolist()
            if not all(np.isfinite(c) for o in _leaves(observables) for c in o.values()):
                raise PayloadRejected(f"PUB {index}: an observable has a coefficient that is NaN")
            circuit = _frozen(coerced.circuit, index)
            frozen.append(
                FrozenEstimatorPub(
                    circuit=circuit,
                    values=_values(coerced, circuit, index),
                    observables=observables,
                    precision=float(coerced.precision),
                    seed=seed,
                )
            )
            _check_points(frozen[-1], index)
        return cls(pubs=tuple(frozen))

    @property
    def circuits(self) -> int:
        """Expectation values in the payload."""
        return sum(pub.points for pub in self.pubs)

    @property
    def shots(self) -> int:
        """0: an estimator payload states a precision, its backend decides on shots."""
        return 0

    @property
    def num_qubits(self) -> int:
        """Qubits that the widest circuit acts on."""
        return max(pub.circuit.active_qubits for pub in self.pubs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_bytes`, in hex; equal content is equal in every process."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Serialise without pickle: QPY circuits, typed arrays, a JSON header."""
        return self._bytes

    @cached_property
    def _bytes(self) -> bytes:
        return _pack(
            self.kind,
            [
                (
                    p.circuit,
                    p.values,
                    {"precision": p.precision, "seed": p.seed, "observables": p.observables},
                )
                for p in self.pubs
            ],
        )


Payload = SamplerPayload | EstimatorPayload
_KINDS: Mapping[str, tuple[Any, Any]] = {
    SamplerPayload.kind: (SamplerPayload, FrozenSamplerPub),
    EstimatorPayload.kind: (EstimatorPayload, FrozenEstimatorPub),
}


def payload_from_bytes(data: bytes) -> Payload:
    """Rebuild a payload from `to_bytes`. Raises `PayloadRejected` on anything else."""
    try:
        header, frames = unpack(data)
        payload_type, pub_type = _KINDS[header["kind"]]
        circuits = [FrozenCircuit.from_qpy(frame) for frame in frames[: header["circuits"]]]
        arrays = frames[header["circuits"] :]
        payload: Payload = payload_type(
            pubs=tuple(
                pub_type(
                    circuit=circuits[entry["circuit"]],
                    values=array_from_frame(entry["values"], frame),
                    **entry["fields"],
                )
                for entry, frame in zip(header["pubs"], arrays, strict=True)
            )
        )
    except (FrameError, KeyError, IndexError, TypeError, ValueError) as error:
        raise PayloadRejected(f"damaged payload of {len(data)} bytes: {error}") from error
    return payload


def _listed(pubs: Iterable[Any]) -> list[Any]:
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
    return listed


def _coerce(pub_type: Any, pub: Any, index: int, default: Any) -> Any:
    try:
        if pub_type is SamplerPub and default is not None:
            _check_shots(default, index)
        coerced = pub_type.coerce(pub, default)
        check_names(coerced.circuit, coerced.parameter_values)
    except PayloadRejected:
        raise
    except Exception as error:  # qiskit raises ValueError, TypeError, QiskitError, CircuitError
        told = fault_of(pub, error, estimator=pub_type is EstimatorPub)
        raise PayloadRejected(f"PUB {index}: {told}") from error
    return coerced


def _check_shots(shots: Any, index: int) -> None:
    whole = isinstance(shots, (int, np.integer)) and not isinstance(shots, bool)
    if not whole or shots < 1:
        raise PayloadRejected(f"PUB {index}: shots {shots!r}; give a whole number ≥ 1")
    if shots > MOST_SHOTS:
        raise PayloadRejected(
            f"PUB {index}: {shots} shots of one circuit; give at most {MOST_SHOTS}"
        )


def _check_registers(circuit: QuantumCircuit, index: int) -> None:
    taken = [register.name for register in circuit.cregs if register.name in _RESULT_NAMES]
    if taken:
        raise PayloadRejected(
            f"PUB {index}: a classical register is called {taken[0]!r}, which every result has "
            "already (Qiskit's DataBin); give it another name"
        )


def _frozen(circuit: QuantumCircuit, index: int) -> FrozenCircuit:
    try:
        return FrozenCircuit.of(circuit)
    except PayloadRejected as error:
        raise PayloadRejected(f"PUB {index}: {error}") from None


def measures(circuit: QuantumCircuit) -> bool:
    """Whether a circuit measures into a bit that a sampler returns: one of a register."""
    returned = {bit for register in circuit.cregs for bit in register}
    return any(bit in returned for bit in _measured(circuit))


def _measured(circuit: QuantumCircuit) -> Iterator[Clbit]:
    for step in reversed(circuit.data):  # most measure at the end
        if step.name == "measure":
            yield from step.clbits
        elif step.is_control_flow():
            for block in step.operation.blocks:
                outer = dict(zip(block.clbits, step.clbits, strict=True))
                yield from (outer[bit] for bit in _measured(block))


def _values(pub: Any, frozen: FrozenCircuit, index: int) -> Values:
    """Return the values of the parameters that the frozen circuit has, a column each.

    A parameter that no definition uses is gone with the gate that took it.
    """
    parameters = pub.circuit.parameters
    values = np.asarray(pub.parameter_values.as_array(parameters), dtype=np.float64)
    if not np.isfinite(values).all():
        bad = [p.name for i, p in enumerate(parameters) if not np.isfinite(values[..., i]).all()]
        raise PayloadRejected(f"PUB {index}: NaN or infinite values for {', '.join(bad)}")
    if frozen.circuit.num_parameters < len(parameters):
        used = inline_definitions(pub.circuit).parameters
        values = values[..., [i for i, p in enumerate(parameters) if p in used]]
    return np.ascontiguousarray(values)


def _check_points(pub: FrozenSamplerPub | FrozenEstimatorPub, index: int) -> None:
    if pub.points == 0:
        observables = "" if isinstance(pub, FrozenSamplerPub) else " with the observables given"
        raise PayloadRejected(
            f"PUB {index}: parameter values of shape {pub.values.shape}{observables} are empty, "
            "so nothing would run; give at least one point"
        )


def _seed(seed: Any) -> int | None:
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if seed is not None and not (whole and 0 <= seed < SEEDS):
        raise PayloadRejected(f"seed {seed!r}; give a whole number from 0 to 2^63 - 1, or None")
    return None if seed is None else int(seed)


def _shape(observables: Any) -> tuple[int, ...]:
    """Return the shape of nested lists without Qiskit's container, which takes 10 µs an element."""
    shape = []
    while isinstance(observables, list):
        shape.append(len(observables))
        observables = observables[0] if observables else None
    return tuple(shape)


def _leaves(observables: Any) -> Iterable[dict[str, float]]:
    if isinstance(observables, dict):
        yield observables
    else:
        for part in observables:
            yield from _leaves(part)


def _pack(kind: str, pubs: Sequence[tuple[FrozenCircuit, Values, dict[str, Any]]]) -> bytes:
    positions: dict[str, int] = {}
    circuits: list[bytes] = []
    entries: list[dict[str, Any]] = []
    arrays: list[bytes] = []
    for circuit, values, fields in pubs:
        if circuit.digest not in positions:
            positions[circuit.digest] = len(circuits)
            circuits.append(circuit.qpy)
        entry, frame = frame_from_array(values)
        entries.append({"circuit": positions[circuit.digest], "values": entry, "fields": fields})
        arrays.append(frame)
    header = {"kind": kind, "circuits": len(circuits), "pubs": entries}
    return pack(header, circuits + arrays)
