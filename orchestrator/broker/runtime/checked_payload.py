"""What the broker knows of a payload without reading it: its size, its digest, its bytes."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

from backends.api import PayloadRejected, Target
from backends.frames import pack, unpack
from backends.payloads import Payload
from backends.shapes import ItemShape
from backends.validate import check_fits

__all__ = ["CheckedPayload", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedPayload:
    """A payload that was read once, in its canonical bytes."""

    kind: str
    digest: str
    num_qubits: int
    pubs: tuple[ItemShape, ...]
    data: bytes
    unfit: str | None = None  # why the QPU that it is meant for can never run it, None if it can
    payload: Payload | None = field(default=None, compare=False)  # if this process read it

    @classmethod
    def of(cls, payload: Payload, target: Target | None = None) -> CheckedPayload:
        """Check a payload against a target, if one is given, and encode it."""
        unfit = None
        if target is not None:
            try:
                check_fits(payload, target)
            except PayloadRejected as error:
                unfit = str(error)
        return cls(
            kind=payload.kind,
            digest=payload.digest,
            num_qubits=payload.num_qubits,
            pubs=payload.shapes,
            data=payload.to_bytes(),
            unfit=unfit,
            payload=payload,
        )

    def to_bytes(self) -> bytes:
        """Return it as `from_bytes` reads it."""
        header = {
            "kind": self.kind,
            "digest": self.digest,
            "num_qubits": self.num_qubits,
            "pubs": [astuple(shape) for shape in self.pubs],
            "unfit": self.unfit,
        }
        return pack(header, [self.data])

    @classmethod
    def from_bytes(cls, data: bytes) -> CheckedPayload:
        """Rebuild it. Raises `PayloadRejected` if the bytes say that it was refused."""
        header, frames = unpack(data)
        if "rejected" in header:
            raise PayloadRejected(header["rejected"])
        pubs = tuple(
            ItemShape(points=points, shots=shots, num_qubits=width, depth=depth)
            for points, shots, width, depth in header.pop("pubs")
        )
        return cls(**header, pubs=pubs, data=frames[0])


def rejected(reason: str) -> bytes:
    """Return what `CheckedPayload.from_bytes` reads as a refusal."""
    return pack({"rejected": reason})
