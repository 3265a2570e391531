"""The payload kind of analog sequences: atoms driven by pulses, measured; returns counts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from backends.analog.sequence import RydbergSequence, check_sequence, parse_sequence
from backends.errors import PayloadRejected
from backends.frames import pack
from backends.payloads.kind import PayloadLimits
from backends.payloads.pubs import SEEDS, is_whole, numbered, whole_seed
from backends.payloads.sampler import MOST_SHOTS, SEED_STRIDE, piece_seed
from backends.shapes import ItemShape, Piece

if TYPE_CHECKING:
    from backends.api import Target

__all__ = ["ANALOG", "AnalogCounts", "AnalogItem", "AnalogKind", "AnalogPayload"]

_MOST_BYTES = 8 << 20  # of one sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalogCounts:
    """What the measurement of one sequence returned.

    atoms: names, in the order of the outcomes' characters: the first is leftmost.
    counts: how often each outcome came; 1 is an atom in the Rydberg state, in the basis
    "ground-rydberg", and the upper state of the others.
    """

    atoms: tuple[str, ...]
    counts: Mapping[str, int]

    @property
    def shots(self) -> int:
        """Measurements in all."""
        return sum(self.counts.values())


@dataclass(frozen=True, eq=False, kw_only=True)
class AnalogItem:
    """One sequence. data: its JSON in UTF-8, exactly as given; seed: None for a fresh one."""

    data: bytes
    shots: int
    seed: int | None = None

    @cached_property
    def sequence(self) -> RydbergSequence:
        """What the sequence states."""
        return parse_sequence(self.data)


@dataclass(frozen=True, eq=False, kw_only=True)
class AnalogPayload:
    """Sequences that run as one qpu_task; the result has an `AnalogCounts` for each, in order."""

    kind: ClassVar[str] = "analog"
    items: tuple[AnalogItem, ...]

    @classmethod
    def coerce(
        cls, sequences: Iterable[Any], *, shots: int | None = None, seed: int | None = None
    ) -> AnalogPayload:
        """Build from sequences in Pulser's abstract representation.

        Args:
            sequences: Each a text, UTF-8 bytes, an object with ``to_abstract_repr()`` such as a
                ``pulser.Sequence``, or a tuple of one of these and shots.
            shots: Of a sequence that states none.
            seed: Of the first sequence, from 0 to 2^63 - 1; later ones follow it at a fixed stride.

        Returns:
            The payload. The bytes of the sequences are kept as they are.

        Raises:
            PayloadRejected: Another seed, an empty list, no sequence, or shots that are not positive
                whole numbers.
        """
        start = whole_seed(seed)
        items = []
        for number, stated in enumerate(_several(sequences)):
            with numbered(number):
                given, wanted = stated if isinstance(stated, tuple) else (stated, shots)
                item = AnalogItem(
                    data=_bytes_of(given),
                    shots=_checked_shots(wanted),
                    seed=None if start is None else (start + SEED_STRIDE * number) % SEEDS,
                )
                item.sequence  # noqa: B018 - reads it, so that mistakes show here
            items.append(item)
        return cls(items=tuple(items))

    def __eq__(self, other: object) -> bool:
        """Whether the bytes are equal."""
        return isinstance(other, AnalogPayload) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash the bytes."""
        return hash(self.digest)

    @property
    def seed(self) -> int | None:
        """Seed of the first sequence."""
        return self.items[0].seed

    @property
    def num_qubits(self) -> int:
        """Atoms of the largest register."""
        return max(len(item.sequence.atoms) for item in self.items)

    @property
    def shapes(self) -> tuple[ItemShape, ...]:
        """Size of each sequence."""
        return tuple(
            ItemShape(points=1, shots=item.shots, num_qubits=len(item.sequence.atoms))
            for item in self.items
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """See `Payload.to_bytes`; each sequence is a frame."""
        entries = [{"shots": item.shots, "seed": item.seed} for item in self.items]
        return pack({"kind": self.kind, "items": entries}, [item.data for item in self.items])


class AnalogKind:
    """How analog payloads are read, cut and merged (`backends.payloads.kind.PayloadKind`)."""

    name: ClassVar[str] = "analog"
    remedy: ClassVar[str] = "choose a QPU of neutral atoms"

    def read(
        self, header: Mapping[str, Any], frames: list[bytes], limits: PayloadLimits | None
    ) -> AnalogPayload:
        """See `PayloadKind.read`."""
        if set(header) != {"kind", "items"} or not isinstance(header["items"], list):
            raise PayloadRejected("the header must hold kind and items, and nothing else")
        entries = header["items"]
        if not entries or len(entries) != len(frames):
            raise PayloadRejected(f"{len(entries)} items and {len(frames)} sequences")
        items = []
        for number, (entry, frame) in enumerate(zip(entries, frames, strict=True)):
            with numbered(number):
                if not isinstance(entry, dict) or set(entry) != {"shots", "seed"}:
                    raise PayloadRejected("an item has shots and seed, and nothing else")
                item = AnalogItem(
                    data=_bytes_of(frame),
                    shots=_checked_shots(entry["shots"]),
                    seed=whole_seed(entry["seed"]),
                )
                steps = len(item.sequence.operations)
                if limits is not None and steps > limits.circuit.steps:
                    raise PayloadRejected(f"{steps} operations; at most {limits.circuit.steps}")
            items.append(item)
        return AnalogPayload(items=tuple(items))

    def check(self, payload: AnalogPayload, target: Target) -> None:
        """See `PayloadKind.check`."""
        for number, item in enumerate(payload.items):
            with numbered(number):
                atoms = len(item.sequence.atoms)
                if target.num_qubits is not None and atoms > target.num_qubits:
                    raise PayloadRejected(
                        f"{atoms} atoms; {target.name} holds at most {target.num_qubits}"
                    )
                if target.rydberg is not None:
                    check_sequence(item.sequence, target.rydberg)

    def assemble(self, pieces: Sequence[tuple[AnalogPayload, Piece]]) -> AnalogPayload:
        """See `PayloadKind.assemble`; a sequence is cut between its shots."""
        return AnalogPayload(
            items=tuple(_cut(payload.items[piece.pub], piece) for payload, piece in pieces)
        )

    def items(self, native: Sequence[AnalogCounts]) -> Sequence[AnalogCounts]:
        """See `PayloadKind.items`."""
        return native

    def merge(
        self, pieces: Sequence[tuple[Piece, AnalogCounts]], payload: Callable[[], AnalogPayload]
    ) -> list[AnalogCounts]:
        """See `PayloadKind.merge`; counts are added."""
        del payload
        found: dict[int, list[AnalogCounts]] = {}
        for piece, counts in pieces:
            found.setdefault(piece.pub, []).append(counts)
        return [_sum(parts) for _, parts in sorted(found.items())]

    def pack_result(self, native: Sequence[AnalogCounts]) -> tuple[Any, list[bytes]]:
        """See `PayloadKind.pack_result`."""
        return [
            {"atoms": list(one.atoms), "counts": dict(sorted(one.counts.items()))} for one in native
        ], []

    def unpack_result(self, header: Any, frames: list[bytes]) -> list[AnalogCounts]:
        """See `PayloadKind.unpack_result`."""
        del frames
        return [_counts(entry) for entry in header]


ANALOG = AnalogKind()


def _several(sequences: Iterable[Any]) -> list[Any]:
    if isinstance(sequences, str | bytes) or hasattr(sequences, "to_abstract_repr"):
        raise PayloadRejected("give a list of sequences, also if there is only one")
    found = list(sequences)
    if not found:
        raise PayloadRejected("no sequences; give at least one")
    return found


def _bytes_of(given: Any) -> bytes:
    if hasattr(given, "to_abstract_repr"):
        given = given.to_abstract_repr()
    data = given.encode() if isinstance(given, str) else given
    if not isinstance(data, bytes):
        raise PayloadRejected(
            f"got {type(given).__name__} where a sequence is expected; give the text of "
            "Sequence.to_abstract_repr()"
        )
    if len(data) > _MOST_BYTES:
        raise PayloadRejected(f"a sequence of {len(data)} bytes; at most {_MOST_BYTES}")
    return data


def _checked_shots(shots: Any) -> int:
    if not is_whole(shots) or not 1 <= shots <= MOST_SHOTS:
        raise PayloadRejected(
            f"shots {shots!r:.60}; give a whole number from 1 to {MOST_SHOTS} for each sequence"
        )
    return int(shots)


def _cut(item: AnalogItem, piece: Piece) -> AnalogItem:
    if piece.shots == item.shots:
        return item
    return replace(item, shots=piece.shots, seed=piece_seed(item.seed, piece))


def _sum(parts: Sequence[AnalogCounts]) -> AnalogCounts:
    total: dict[str, int] = {}
    for part in parts:
        for outcome, number in part.counts.items():
            total[outcome] = total.get(outcome, 0) + number
    return replace(parts[0], counts=dict(sorted(total.items())))


def _counts(entry: Mapping[str, Any]) -> AnalogCounts:
    atoms = tuple(map(str, entry["atoms"]))
    counts = {str(outcome): int(number) for outcome, number in entry["counts"].items()}
    strange = [one for one in counts if len(one) != len(atoms) or set(one) - {"0", "1"}]
    if strange or any(number < 0 for number in counts.values()):
        raise ValueError(f"outcome {strange[:1]} of {len(atoms)} atoms")
    return AnalogCounts(atoms=atoms, counts=counts)
