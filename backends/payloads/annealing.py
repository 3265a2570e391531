"""The payload kind of annealers: binary quadratic models that return samples of low energy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from backends.annealing.wire import (
    AnnealingProblem,
    AnnealingSamples,
    problems_from_frames,
    problems_to_frames,
    samples_from_frames,
    samples_to_frames,
)
from backends.errors import PayloadRejected
from backends.frames import pack
from backends.payloads.kind import PayloadLimits
from backends.payloads.pubs import SEEDS, is_whole, whole_seed
from backends.payloads.sampler import MOST_SHOTS, SEED_STRIDE, piece_seed
from backends.quadratic_models import BinaryQuadraticModel
from backends.shapes import ItemShape, Piece

if TYPE_CHECKING:
    from backends.api import Target

__all__ = ["ANNEALING", "AnnealingKind", "AnnealingPayload"]


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnealingPayload:
    """Problems that run as one qpu_task; the result has `AnnealingSamples` for each, in order."""

    problems: tuple[AnnealingProblem, ...]

    kind: ClassVar[str] = "annealing"

    @classmethod
    def coerce(
        cls, models: Iterable[Any], *, reads: int | None = None, seed: int | None = None
    ) -> AnnealingPayload:
        """Build from models, or from pairs of a model and its reads.

        Args:
            models: Each a `BinaryQuadraticModel`, or one of dimod with variables numbered from 0.
            reads: How often a model is annealed that states no number itself.
            seed: Of the first problem, from 0 to 2^63 - 1; later ones follow at a fixed stride.

        Raises:
            PayloadRejected: No models, invalid ones, or reads or a seed out of range.
        """
        seed, problems = whole_seed(seed), []
        if isinstance(models, BinaryQuadraticModel) or hasattr(models, "vartype"):
            raise PayloadRejected("got a model where a list of models is expected; write [model]")
        for index, given in enumerate(models):
            model, own = given if isinstance(given, tuple) else (given, reads)
            try:
                coerced = BinaryQuadraticModel.coerce(model)
                _check_reads(own)
            except PayloadRejected as error:
                raise PayloadRejected(f"problem {index}: {error}") from error
            stream = None if seed is None else (seed + SEED_STRIDE * index) % SEEDS
            problems.append(AnnealingProblem(model=coerced, reads=int(own), seed=stream))
        if not problems:
            raise PayloadRejected("the list of models is empty; give at least one")
        return cls(problems=tuple(problems))

    @property
    def seed(self) -> int | None:
        """Seed of the first problem, which the others follow."""
        return self.problems[0].seed

    @property
    def num_qubits(self) -> int:
        """Variables of the largest model."""
        return max(problem.model.num_variables for problem in self.problems)

    @cached_property
    def shapes(self) -> tuple[ItemShape, ...]:
        """Size of each problem; its shots are its reads."""
        return tuple(
            ItemShape(points=1, shots=problem.reads, num_qubits=problem.model.num_variables)
            for problem in self.problems
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_bytes`, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Serialise as a JSON header and typed arrays."""
        return self._bytes

    @cached_property
    def _bytes(self) -> bytes:
        entries, frames = problems_to_frames(self.problems)
        return pack({"kind": self.kind, "problems": entries}, frames)


class AnnealingKind:
    """How annealing payloads are read, cut and merged (`backends.payloads.kind.PayloadKind`)."""

    name: ClassVar[str] = "annealing"
    remedy: ClassVar[str] = "choose an annealer"

    def read(
        self, header: Mapping[str, Any], frames: list[bytes], limits: PayloadLimits | None
    ) -> AnnealingPayload:
        """See `PayloadKind.read`."""
        if set(header) != {"kind", "problems"}:
            raise PayloadRejected("the header must hold kind and problems, and nothing else")
        if limits is not None and sum(map(len, frames)) > 16 * limits.terms:
            raise PayloadRejected(f"more than {limits.terms} terms in one payload; send several")
        problems = problems_from_frames(header["problems"], frames)
        for index, problem in enumerate(problems):
            try:
                _check_reads(problem.reads)
                whole_seed(problem.seed)
            except PayloadRejected as error:
                raise PayloadRejected(f"problem {index}: {error}") from error
        if limits is not None and sum(problem.model.terms for problem in problems) > limits.terms:
            raise PayloadRejected(f"more than {limits.terms} terms in one payload; send several")
        return AnnealingPayload(problems=problems)

    def check(self, payload: AnnealingPayload, target: Target) -> None:
        """See `PayloadKind.check`; interactions must be couplers unless the site embeds models."""
        for index, problem in enumerate(payload.problems):
            size = problem.model.num_variables
            if target.num_qubits is not None and size > target.num_qubits:
                raise PayloadRejected(
                    f"problem {index}: {size} variables, {target.name} takes at most "
                    f"{target.num_qubits}; choose another QPU or a smaller model"
                )
            if target.coupling is not None and not target.site_transpiles:
                _check_couplers(problem.model, target, index)

    def assemble(self, pieces: Sequence[tuple[AnnealingPayload, Piece]]) -> AnnealingPayload:
        """See `PayloadKind.assemble`; a problem is cut between reads."""
        return AnnealingPayload(
            problems=tuple(_cut(payload.problems[piece.pub], piece) for payload, piece in pieces)
        )

    def items(self, native: list[AnnealingSamples]) -> list[AnnealingSamples]:
        """See `PayloadKind.items`."""
        return native

    def merge(
        self,
        pieces: Sequence[tuple[Piece, AnnealingSamples]],
        payload: Callable[[], AnnealingPayload],
    ) -> list[AnnealingSamples]:
        """See `PayloadKind.merge`; equal samples of all pieces are counted together."""
        del payload
        by_problem: dict[int, list[tuple[Piece, AnnealingSamples]]] = {}
        for piece, samples in pieces:
            by_problem.setdefault(piece.pub, []).append((piece, samples))
        return [_merged(found) for _, found in sorted(by_problem.items())]

    def pack_result(self, native: list[AnnealingSamples]) -> tuple[Any, list[bytes]]:
        """See `PayloadKind.pack_result`."""
        return samples_to_frames(native)

    def unpack_result(self, header: Any, frames: list[bytes]) -> list[AnnealingSamples]:
        """See `PayloadKind.unpack_result`."""
        return samples_from_frames(header, frames)


ANNEALING = AnnealingKind()


def _check_reads(reads: Any) -> None:
    if not is_whole(reads) or not 1 <= reads <= MOST_SHOTS:
        raise PayloadRejected(f"reads {reads!r:.60}; give a whole number from 1 to {MOST_SHOTS}")


def _check_couplers(model: BinaryQuadraticModel, target: Target, index: int) -> None:
    couplers = {(min(pair), max(pair)) for pair in target.coupling or ()}
    for i, j in model.pairs.tolist():
        if (i, j) not in couplers:
            raise PayloadRejected(
                f"problem {index}: variables {i} and {j} interact, and {target.name} has no coupler "
                "between these qubits; embed the model first"
            )
    broken = set(target.unusable_qubits)
    used = {int(v) for v in np.flatnonzero(model.linear)} | set(model.pairs.ravel().tolist())
    if used & broken:
        raise PayloadRejected(
            f"problem {index}: variable {min(used & broken)} is on a qubit that {target.name} does "
            "not have; embed the model first"
        )


def _cut(problem: AnnealingProblem, piece: Piece) -> AnnealingProblem:
    if piece.shots == problem.reads:
        return problem
    return replace(problem, reads=piece.shots, seed=piece_seed(problem.seed, piece))


def _merged(pieces: list[tuple[Piece, AnnealingSamples]]) -> AnnealingSamples:
    if len(pieces) == 1:
        return pieces[0][1]
    parts = [samples for _, samples in sorted(pieces, key=lambda found: found[0].first_shot)]
    return AnnealingSamples.counted(
        parts[0].vartype,
        np.concatenate([part.samples for part in parts]),
        np.concatenate([part.energies for part in parts]),
        np.concatenate([part.occurrences for part in parts]),
    )
