"""The payload kind of Qiskit's estimator: PUBs that return expectation values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from qiskit.primitives import PrimitiveResult
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.observables_array import ObservablesArray

from backends.circuits import FrozenCircuit
from backends.errors import PayloadRejected
from backends.payloads.checked import ObservablesReader, PubReader, is_real
from backends.payloads.circuit_checks import check_pubs
from backends.payloads.kind import PayloadLimits
from backends.payloads.pub_results import (
    pub_results,
    pub_results_from_frames,
    pub_results_to_frames,
)
from backends.payloads.pubs import (
    FrozenPub,
    PubPayload,
    as_qiskit,
    coerced_pubs,
    frozen_values,
    pubs_from_frames,
    whole_seed,
)
from backends.shapes import Piece

if TYPE_CHECKING:
    from backends.api import Target

__all__ = ["ESTIMATOR", "EstimatorKind", "EstimatorPayload", "FrozenEstimatorPub"]


@dataclass(frozen=True, eq=False, kw_only=True)
class FrozenEstimatorPub(FrozenPub):
    """One estimator PUB. values and observables broadcast against each other (NumPy's rule).

    observables: nested lists of {Pauli string: real coefficient}, of any shape.
    precision: standard error asked for; 0 asks for the exact value.
    """

    observables: Any
    precision: float

    @cached_property
    def observables_array(self) -> ObservablesArray:
        """The observables as Qiskit's container."""
        return ObservablesArray(self.observables)

    @property
    def points(self) -> int:
        """Expectation values in this PUB: the product of the broadcast shape."""
        shape = np.broadcast_shapes(self.values.shape[:-1], _shape(self.observables))
        return math.prod(shape)

    @property
    def fields(self) -> dict[str, Any]:
        """What the payload's header states of it, beside circuit and values."""
        return {"precision": self.precision, "seed": self.seed, "observables": self.observables}

    def to_qiskit(self) -> EstimatorPub:
        """Return the PUB as Qiskit's primitives take it."""
        observables = self.observables_array
        return EstimatorPub(self.circuit.circuit, observables, self.bindings, self.precision)


@dataclass(frozen=True, eq=False, kw_only=True)
class EstimatorPayload(PubPayload):
    """Estimator PUBs that run as one qpu_task; the result has one entry per PUB, in order."""

    kind: ClassVar[str] = "estimator"
    pubs: tuple[FrozenEstimatorPub, ...]

    @classmethod
    def coerce(
        cls, pubs: Iterable[Any], *, precision: float = 0.0, seed: int | None = None
    ) -> EstimatorPayload:
        """Build from whatever ``EstimatorV2.run`` accepts.

        Args:
            pubs: The PUBs.
            precision: Of a PUB that states none.
            seed: From 0 to 2^63 - 1.

        Raises:
            PayloadRejected: Another seed, an empty list, unbound, NaN, miscounted or no
                parameters, no observables or some of another width, or a negative or NaN
                precision.
        """
        seed = whole_seed(seed)

        def freeze(pub: Any, points: int) -> FrozenPub:
            del points
            coerced = as_qiskit(EstimatorPub, pub, precision)
            _check_precision(coerced.precision)
            observables = coerced.observables.tolist()
            if not all(np.isfinite(c) for o in _leaves(observables) for c in o.values()):
                raise PayloadRejected("an observable has a coefficient that is NaN")
            circuit = FrozenCircuit.of(coerced.circuit)
            return FrozenEstimatorPub(
                circuit=circuit,
                values=frozen_values(coerced, circuit),
                observables=observables,
                precision=float(coerced.precision),
                seed=seed,
            )

        return cls(pubs=coerced_pubs(pubs, freeze))  # type: ignore[arg-type]  # as freeze makes them


class EstimatorKind:
    """How estimator payloads are read and joined (`backends.payloads.kind.PayloadKind`)."""

    name: ClassVar[str] = "estimator"
    remedy: ClassVar[str] = (
        "lower it to sampler PUBs first (backends.sampling.lower), or choose another QPU"
    )

    items = staticmethod(pub_results)
    pack_result = staticmethod(pub_results_to_frames)
    unpack_result = staticmethod(pub_results_from_frames)

    def read(
        self, header: Mapping[str, Any], frames: list[bytes], limits: PayloadLimits | None
    ) -> EstimatorPayload:
        """See `PayloadKind.read`."""
        if limits is None:
            return EstimatorPayload(pubs=pubs_from_frames(FrozenEstimatorPub, header, frames))
        observables = ObservablesReader(most=limits.terms)

        def made(circuit: FrozenCircuit, fields: dict[str, Any], values: Any) -> FrozenPub:
            _check_precision(fields["precision"])
            observables.check(fields["observables"], circuit.circuit.num_qubits)
            return FrozenEstimatorPub(circuit=circuit, values=values, **fields)

        reader = PubReader(limits=limits, fields={"precision", "seed", "observables"})
        return EstimatorPayload(pubs=reader.read(header, frames, made))

    def check(self, payload: EstimatorPayload, target: Target) -> None:
        """See `PayloadKind.check`."""
        check_pubs(payload, target, unmeasured=True)

    def assemble(self, pieces: Sequence[tuple[EstimatorPayload, Piece]]) -> EstimatorPayload:
        """See `PayloadKind.assemble`; PUBs stay whole."""
        return EstimatorPayload(pubs=tuple(payload.pubs[piece.pub] for payload, piece in pieces))

    def merge(
        self, pieces: Sequence[tuple[Piece, Any]], payload: Callable[[], EstimatorPayload]
    ) -> PrimitiveResult[Any]:
        """See `PayloadKind.merge`."""
        del payload
        by_pub = {piece.pub: result for piece, result in pieces}
        return PrimitiveResult([by_pub[pub] for pub in sorted(by_pub)], metadata={"version": 2})


ESTIMATOR = EstimatorKind()


def _check_precision(precision: Any) -> None:
    if not is_real(precision) or precision < 0:
        raise PayloadRejected(
            f"precision {precision!r:.60}; give a number ≥ 0 (0 for the exact value)"
        )


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
