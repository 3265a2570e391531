"""A payload kind: Ising problems, whose result is spins and their energies."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from backends.api import PayloadRejected
from backends.frames import array_from_frame, frame_from_array, pack
from backends.payloads import ItemShape


@dataclass(frozen=True)
class Samples:
    """What one problem returned. spins: shape (reads, spins), each 1 or -1; energies: (reads,)."""

    spins: np.ndarray
    energies: np.ndarray


@dataclass(frozen=True)
class AnnealingPayload:
    """Problems of couplings (i, j, strength). reads: how often each is annealed."""

    problems: tuple[tuple[tuple[int, int, float], ...], ...]
    reads: tuple[int, ...]

    kind: ClassVar[str] = "annealing-toy"
    seed: ClassVar[None] = None

    @property
    def num_qubits(self):
        return max(shape.num_qubits for shape in self.shapes)

    @property
    def shapes(self):
        return tuple(
            ItemShape(points=1, shots=reads, num_qubits=spins_of(problem))
            for problem, reads in zip(self.problems, self.reads, strict=True)
        )

    @cached_property
    def digest(self):
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self):
        return pack({"kind": self.kind, "problems": self.problems, "reads": self.reads})


def spins_of(problem):
    return 1 + max(max(i, j) for i, j, _ in problem)


class AnnealingKind:
    name = "annealing-toy"
    remedy = "choose an annealer"

    def read(self, header, frames, limits):
        problems, reads = header["problems"], header["reads"]
        if limits is not None and sum(map(len, problems)) > limits.terms:
            raise PayloadRejected(f"more than {limits.terms} couplings in one payload")
        if not (problems and all(problems) and all(type(n) is int and n > 0 for n in reads)):
            raise PayloadRejected("give at least one problem of at least one coupling and read")
        couplings = (tuple((int(i), int(j), float(s)) for i, j, s in one) for one in problems)
        payload = AnnealingPayload(problems=tuple(couplings), reads=tuple(reads))
        if any(min(i, j) < 0 for one in payload.problems for i, j, _ in one):
            raise PayloadRejected("spins are numbered from 0")
        assert len(payload.shapes) == len(reads)
        return payload

    def check(self, payload, target):
        if target.num_qubits is not None and payload.num_qubits > target.num_qubits:
            raise PayloadRejected(
                f"{payload.num_qubits} spins; {target.name} has {target.num_qubits}"
            )

    def assemble(self, pieces):
        return AnnealingPayload(
            problems=tuple(payload.problems[piece.pub] for payload, piece in pieces),
            reads=tuple(piece.shots for _, piece in pieces),
        )

    def items(self, native):
        return native

    def merge(self, pieces, payload):
        found = {}
        for piece, samples in sorted(pieces, key=lambda found: found[0].first_shot):
            found.setdefault(piece.pub, []).append(samples)
        return [
            Samples(
                spins=np.concatenate([one.spins for one in found[pub]]),
                energies=np.concatenate([one.energies for one in found[pub]]),
            )
            for pub in sorted(found)
        ]

    def pack_result(self, native):
        packed = [frame_from_array(a) for one in native for a in (one.spins, one.energies)]
        return [entry for entry, _ in packed], [frame for _, frame in packed]

    def unpack_result(self, header, frames):
        arrays = [array_from_frame(*both) for both in zip(header, frames, strict=True)]
        pairs = zip(arrays[::2], arrays[1::2], strict=True)
        return [Samples(spins=spins, energies=energies) for spins, energies in pairs]


KIND = AnnealingKind()
