"""The payload kind of Qiskit's sampler: PUBs that return counts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from qiskit.circuit import Clbit, QuantumCircuit
from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult
from qiskit.primitives.containers.sampler_pub import SamplerPub

from backends.circuits import FrozenCircuit
from backends.errors import PayloadRejected
from backends.payloads.checked import PubReader
from backends.payloads.circuit_checks import check_pubs
from backends.payloads.kind import PayloadLimits
from backends.payloads.pub_results import (
    pub_results,
    pub_results_from_frames,
    pub_results_to_frames,
)
from backends.payloads.pubs import (
    SEEDS,
    FrozenPub,
    PubPayload,
    as_qiskit,
    coerced_pubs,
    frozen_values,
    is_whole,
    pubs_from_frames,
    whole_seed,
)
from backends.shapes import Piece

__all__ = [
    "MOST_SHOTS",
    "SAMPLER",
    "SEED_STRIDE",
    "FrozenSamplerPub",
    "SamplerKind",
    "SamplerPayload",
    "piece_seed",
]

# Aer seeds the i-th bound circuit of a run with seed + 2113·i; PUBs keep that rule however
# they are grouped, so that equal circuits in one call still get different samples.
SEED_STRIDE = 2113
# More shots of one circuit than this would never end on any QPU there is.
MOST_SHOTS = 10**9
_RESULT_NAMES = frozenset({"items", "keys", "ndim", "shape", "size", "values"})


@dataclass(frozen=True, eq=False, kw_only=True)
class FrozenSamplerPub(FrozenPub):
    """One sampler PUB. shots: per parameter point."""

    shots: int

    @property
    def fields(self) -> dict[str, Any]:
        """What the payload's header states of it, beside circuit and values."""
        return {"shots": self.shots, "seed": self.seed}

    def to_qiskit(self) -> SamplerPub:
        """Return the PUB as Qiskit's primitives take it."""
        return SamplerPub(self.circuit.circuit, self.bindings, self.shots)


@dataclass(frozen=True, eq=False, kw_only=True)
class SamplerPayload(PubPayload):
    """Sampler PUBs that run as one qpu_task; the result has one entry per PUB, in order."""

    kind: ClassVar[str] = "sampler"
    pubs: tuple[FrozenSamplerPub, ...]

    @classmethod
    def coerce(
        cls, pubs: Iterable[Any], *, shots: int | None = None, seed: int | None = None
    ) -> SamplerPayload:
        """Build from whatever ``SamplerV2.run`` accepts.

        Args:
            pubs: The PUBs.
            shots: Of a PUB that states none.
            seed: Of the first bound circuit, from 0 to 2^63 - 1; later ones follow it at a fixed
                stride.

        Raises:
            PayloadRejected: Another seed, an empty list, unbound, NaN, miscounted or no
                parameters, a circuit that measures nothing, or shots that are not positive whole
                numbers.
        """
        seed = whole_seed(seed)

        def freeze(pub: Any, points: int) -> FrozenPub:
            if shots is not None:
                _check_shots(shots)
            coerced = as_qiskit(SamplerPub, pub, shots)
            circuit = FrozenCircuit.of(coerced.circuit)
            _check_sampled(circuit.circuit)
            _check_shots(coerced.shots)
            return FrozenSamplerPub(
                circuit=circuit,
                values=frozen_values(coerced, circuit),
                shots=int(coerced.shots),
                seed=None if seed is None else (seed + SEED_STRIDE * points) % SEEDS,
            )

        return cls(pubs=coerced_pubs(pubs, freeze))  # type: ignore[arg-type]  # as freeze makes them


class SamplerKind:
    """How sampler payloads are read, cut and merged (`backends.payloads.kind.PayloadKind`)."""

    name: ClassVar[str] = "sampler"
    remedy: ClassVar[str] = "choose another QPU"

    check = staticmethod(check_pubs)
    items = staticmethod(pub_results)
    pack_result = staticmethod(pub_results_to_frames)
    unpack_result = staticmethod(pub_results_from_frames)

    def read(
        self, header: Mapping[str, Any], frames: list[bytes], limits: PayloadLimits | None
    ) -> SamplerPayload:
        """See `PayloadKind.read`."""
        if limits is None:
            return SamplerPayload(pubs=pubs_from_frames(FrozenSamplerPub, header, frames))

        def made(circuit: FrozenCircuit, fields: dict[str, Any], values: Any) -> FrozenPub:
            _check_shots(fields["shots"])
            return FrozenSamplerPub(circuit=circuit, values=values, **fields)

        reader = PubReader(limits=limits, fields={"shots", "seed"}, check_circuit=_check_sampled)
        return SamplerPayload(pubs=reader.read(header, frames, made))

    def assemble(self, pieces: Sequence[tuple[SamplerPayload, Piece]]) -> SamplerPayload:
        """See `PayloadKind.assemble`; one PUB is cut between points and between shots."""
        return SamplerPayload(
            pubs=tuple(_cut(payload.pubs[piece.pub], piece) for payload, piece in pieces)
        )

    def merge(
        self, pieces: Sequence[tuple[Piece, Any]], payload: Callable[[], SamplerPayload]
    ) -> PrimitiveResult[Any]:
        """See `PayloadKind.merge`; counts are put together along points and shots."""
        by_pub: dict[int, list[tuple[Piece, Any]]] = {}
        for piece, result in pieces:
            by_pub.setdefault(piece.pub, []).append((piece, result))
        merged = [
            found[0][1] if len(found) == 1 else _merged(found, payload)
            for _, found in sorted(by_pub.items())
        ]
        return PrimitiveResult(merged, metadata={"version": 2})


SAMPLER = SamplerKind()


def _check_shots(shots: Any) -> None:
    if not is_whole(shots) or not 1 <= shots <= MOST_SHOTS:
        raise PayloadRejected(
            f"shots {shots!r:.60}; give a whole number from 1 to {MOST_SHOTS} for each circuit"
        )


def _check_sampled(circuit: QuantumCircuit) -> None:
    """Raise `PayloadRejected` for a circuit of which a sampler would not return all, or nothing."""
    loose = sum(not circuit.find_bit(bit).registers for bit in circuit.clbits)
    if loose:
        raise PayloadRejected(
            f"{loose} classical bits are in no register, so no result would show them; put them "
            "into one"
        )
    returned = {bit for register in circuit.cregs for bit in register}
    if not any(bit in returned for bit in _measured(circuit)):
        raise PayloadRejected(
            "the circuit measures nothing, so a sampler would return nothing; add measurements, "
            "for example circuit.measure_all()"
        )
    taken = _RESULT_NAMES.intersection(register.name for register in circuit.cregs)
    if taken:
        raise PayloadRejected(
            f"a classical register is called {min(taken)!r}, which every result has already "
            "(Qiskit's DataBin); give it another name"
        )


def _measured(circuit: QuantumCircuit) -> Iterator[Clbit]:
    for step in reversed(circuit.data):  # most measure at the end
        if step.name == "measure":
            yield from step.clbits
        elif step.is_control_flow():
            for block in step.operation.blocks:
                outer = dict(zip(block.clbits, step.clbits, strict=True))
                yield from (outer[bit] for bit in _measured(block))


def _cut(pub: FrozenSamplerPub, piece: Piece) -> FrozenSamplerPub:
    if piece.points == pub.points and piece.shots == pub.shots:
        return pub
    values = pub.values
    if piece.points != pub.points:
        flat = values.reshape(pub.points, values.shape[-1])
        values = flat[piece.first_point : piece.end_point]
    return replace(pub, values=values, shots=piece.shots, seed=piece_seed(pub.seed, piece))


def piece_seed(seed: int | None, piece: Piece) -> int | None:
    """Return a piece's random stream, which follows from the PUB's seed and its place alone.

    Points count on from the PUB's seed as they do in one run; each block of shots but the first
    has a stream of its own. So counts do not depend on how the work was cut.
    """
    if seed is None:
        return None
    if piece.first_shot:
        text = f"{seed}:{piece.first_shot}".encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1
    return (seed + SEED_STRIDE * piece.first_point) % SEEDS


def _merged(
    pieces: Sequence[tuple[Piece, Any]], payload: Callable[[], SamplerPayload]
) -> SamplerPubResult:
    first, template = pieces[0]
    points = max(piece.end_point for piece, _ in pieces)
    shots = max(piece.end_shot for piece, _ in pieces)
    whole = first.points == points  # nothing was cut between points
    shape = template.data.shape if whole else payload().pubs[first.pub].values.shape[:-1]
    fields = {}
    for name, bits in template.data.items():
        num_bytes = bits.array.shape[-1]
        array = np.zeros((points, shots, num_bytes), dtype=np.uint8)
        for piece, result in pieces:
            block = getattr(result.data, name).array.reshape(piece.points, piece.shots, num_bytes)
            array[piece.first_point : piece.end_point, piece.first_shot : piece.end_shot] = block
        fields[name] = BitArray(array.reshape(*shape, shots, num_bytes), bits.num_bits)
    metadata = {**template.metadata, "shots": shots, "parts": len(pieces)}
    return SamplerPubResult(DataBin(**fields, shape=shape), metadata=metadata)
