"""What a payload kind brings; the broker knows every payload by this alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from backends.qpy_outline import Bounds
from backends.shapes import ItemShape, Piece

if TYPE_CHECKING:
    from backends.api import Target

__all__ = ["Payload", "PayloadKind", "PayloadLimits"]


class Payload(Protocol):
    """What one ``start`` carries. It never changes, and its bytes state all of it."""

    @property
    def kind(self) -> str:
        """Name of its kind."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of `to_bytes`, in hex."""
        ...

    @property
    def seed(self) -> int | None:
        """Start of its random streams; None where a run draws one, or has none."""
        ...

    @property
    def num_qubits(self) -> int:
        """Qubits, or what else its devices count, that its largest item uses."""
        ...

    @property
    def shapes(self) -> tuple[ItemShape, ...]:
        """Size of each item."""
        ...

    def to_bytes(self) -> bytes:
        """Return `backends.frames.pack` of a header, whose ``kind`` is the kind's name, and frames.

        Equal payloads give equal bytes in every process.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadLimits:
    """What one payload may hold.

    items: for the primitives PUBs. points, shots: over all items. terms: of all observables, or of
    what else a kind lists. header_bytes: of the JSON header. circuit: bounds of each circuit.
    """

    items: int = 3_000
    points: int = 1_000_000
    shots: int = 10**10
    terms: int = 1_000_000
    header_bytes: int = 2 << 20
    circuit: Bounds = field(default_factory=Bounds)


class PayloadKind(Protocol):
    """A kind of payload: how it is read, checked, cut, merged, and how its results are written.

    A package registers an object with these members in the entry point group ``hpcqc.payloads``
    under the kind's name, and its conformance cases in ``hpcqc.payload_cases``
    (`backends.testing.PayloadCases`).
    """

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        ...

    @property
    def remedy(self) -> str:
        """What to do where a QPU does not take this kind, for error messages."""
        ...

    def read(
        self, header: Mapping[str, Any], frames: list[bytes], limits: PayloadLimits | None
    ) -> Payload:
        """Rebuild a payload from its bytes, after `backends.frames.unpack`.

        Args:
            header: The JSON header, ``kind`` included.
            frames: The binary frames.
            limits: Set for bytes from users: check everything that they state before allocating
                for it, and execute nothing. None for bytes that `Payload.to_bytes` made.

        Raises:
            PayloadRejected: The bytes are damaged or hold more than the limits allow. Any other
                ``Exception`` counts as damage, too.
        """
        ...

    def check(self, payload: Any, target: Target) -> None:
        """Raise ``PayloadRejected`` for an item that can never run on a target.

        The kind and the target's limits of shots and circuits are checked elsewhere.
        """
        ...

    def assemble(self, pieces: Sequence[tuple[Any, Piece]]) -> Payload:
        """Return the payload of one task: one item for each piece, in order.

        Args:
            pieces: Payloads of this kind, each with the piece of it to run, which lies within one
                block. A seeded piece takes its random stream from the item's seed and its own
                place alone, so that results do not depend on the cuts.
        """
        ...

    def items(self, native: Any) -> Sequence[Any]:
        """Return a task's results, one for each item of its payload."""
        ...

    def merge(self, pieces: Sequence[tuple[Piece, Any]], payload: Callable[[], Any]) -> Any:
        """Return a job's native result from the results of its pieces, which cover all of it.

        Args:
            pieces: Every piece of the job with its entry of `items`, in any order.
            payload: Reads the job's payload, which may take long; call it only if it is needed.
        """
        ...

    def pack_result(self, native: Any) -> tuple[Any, list[bytes]]:
        """Return a native result as JSON types and binary frames."""
        ...

    def unpack_result(self, header: Any, frames: list[bytes]) -> Any:
        """Rebuild a native result. Any ``Exception`` counts as damage."""
        ...
