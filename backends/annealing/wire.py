"""Annealing problems and samples as JSON types and typed bytes; no Qiskit is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backends.errors import PayloadRejected
from backends.frames import array_from_frame, frame_from_array
from backends.quadratic_models import BinaryQuadraticModel

__all__ = [
    "AnnealingProblem",
    "AnnealingSamples",
    "problems_from_frames",
    "problems_to_frames",
    "samples_from_frames",
    "samples_to_frames",
]

_LARGEST = sys.float_info.max
_STATED = {"vartype", "variables", "interactions", "offset", "reads", "seed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnealingProblem:
    """A model and how often it is annealed. seed: for simulators; None draws one."""

    model: BinaryQuadraticModel
    reads: int
    seed: int | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnealingSamples:
    """What an annealer returned of one model: different samples, those of low energy first.

    samples: int8, shape (samples, variables), with the values of the model's vartype. energies:
    shape (samples,). occurrences: how many of the reads gave each, shape (samples,).
    """

    vartype: str
    samples: NDArray[np.int8]
    energies: NDArray[np.float64]
    occurrences: NDArray[np.int64]

    def __eq__(self, other: object) -> bool:
        """Whether the samples, their energies and their occurrences are equal."""
        if not isinstance(other, AnnealingSamples):
            return NotImplemented
        return (
            self.vartype == other.vartype
            and np.array_equal(self.samples, other.samples)
            and np.array_equal(self.energies, other.energies)
            and np.array_equal(self.occurrences, other.occurrences)
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays

    @classmethod
    def counted(
        cls,
        vartype: str,
        samples: ArrayLike,
        energies: ArrayLike,
        occurrences: ArrayLike | None = None,
    ) -> AnnealingSamples:
        """Count equal samples and put those of low energy first.

        Args:
            vartype: Of the model.
            samples: Shape (rows, variables); equal rows have the same energy.
            energies: Shape (rows,).
            occurrences: Of each row; None counts each once.

        Returns:
            The samples; of equal energies those with smaller values first.
        """
        rows = np.ascontiguousarray(samples, dtype=np.int8)
        given = np.asarray(energies, dtype=np.float64)
        times = (
            np.ones(len(rows), dtype=np.int64)
            if occurrences is None
            else np.asarray(occurrences, dtype=np.int64)
        )
        _, first, place = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        counts = np.zeros(len(first), dtype=np.int64)
        np.add.at(counts, place.reshape(-1), times)
        order = np.argsort(given[first], kind="stable")  # equal energies: by their samples
        kept = first[order]
        return cls(
            vartype=vartype, samples=rows[kept], energies=given[kept], occurrences=counts[order]
        )

    @property
    def reads(self) -> int:
        """How many reads there were."""
        return int(self.occurrences.sum())

    @property
    def lowest(self) -> NDArray[np.int8]:
        """The sample of the lowest energy, shape (variables,)."""
        best: NDArray[np.int8] = self.samples[0]
        return best


def problems_to_frames(
    problems: Iterable[AnnealingProblem],
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return an entry and two frames for each problem: float64 numbers, and int32 pairs."""
    entries, frames = [], []
    for problem in problems:
        model = problem.model
        entries.append(
            {
                "vartype": model.vartype,
                "variables": model.num_variables,
                "interactions": len(model.quadratic),
                "offset": model.offset,
                "reads": problem.reads,
                "seed": problem.seed,
            }
        )
        numbers = np.concatenate([model.linear, model.quadratic])
        frames += [numbers.astype("<f8").tobytes(), model.pairs.astype("<i4").tobytes()]
    return entries, frames


def problems_from_frames(
    entries: Sequence[Any], frames: Sequence[bytes]
) -> tuple[AnnealingProblem, ...]:
    """Rebuild problems from `problems_to_frames`. Raises `PayloadRejected` for other bytes."""
    if not isinstance(entries, list) or not entries or len(frames) != 2 * len(entries):
        raise PayloadRejected(
            f"an annealing payload of {len(frames)} frames; it has two for each problem"
        )
    pairs = zip(entries, frames[::2], frames[1::2], strict=True)
    return tuple(_problem(entry, numbers, places) for entry, numbers, places in pairs)


def samples_to_frames(items: Iterable[AnnealingSamples]) -> tuple[list[Any], list[bytes]]:
    """Return an entry and three frames for the samples of each problem."""
    entries, frames = [], []
    for item in items:
        parts = [
            frame_from_array(array) for array in (item.samples, item.energies, item.occurrences)
        ]
        entries.append({"vartype": item.vartype, "arrays": [entry for entry, _ in parts]})
        frames += [frame for _, frame in parts]
    return entries, frames


def samples_from_frames(entries: Sequence[Any], frames: Sequence[bytes]) -> list[AnnealingSamples]:
    """Rebuild samples from `samples_to_frames`. Raises ``ValueError`` for other bytes."""
    if len(frames) != 3 * len(entries):
        raise ValueError(f"{len(frames)} frames for the samples of {len(entries)} problems")
    return [_samples(entry, frames[3 * i : 3 * i + 3]) for i, entry in enumerate(entries)]


def _samples(entry: Mapping[str, Any], frames: Sequence[bytes]) -> AnnealingSamples:
    samples, energies, occurrences = (
        array_from_frame(*both) for both in zip(entry["arrays"], frames, strict=True)
    )
    if samples.ndim != 2 or not energies.shape == occurrences.shape == (len(samples),):
        raise ValueError(f"samples of shape {samples.shape} with {energies.shape} energies")
    return AnnealingSamples(
        vartype=entry["vartype"],
        samples=samples.astype(np.int8),
        energies=energies.astype(np.float64),
        occurrences=occurrences.astype(np.int64),
    )


def _problem(entry: Any, numbers: bytes, places: bytes) -> AnnealingProblem:
    if not isinstance(entry, Mapping) or set(entry) != _STATED:
        raise PayloadRejected(f"a problem states {', '.join(sorted(_STATED))}, and nothing else")
    size, couplings, offset = entry["variables"], entry["interactions"], entry["offset"]
    if not (
        _is_count(size)
        and _is_count(couplings)
        and len(numbers) == 8 * (size + couplings)
        and len(places) == 8 * couplings
    ):
        raise PayloadRejected("a problem's frames do not have the size that it states")
    if isinstance(offset, bool) or not isinstance(offset, int | float) or abs(offset) > _LARGEST:
        raise PayloadRejected(f"offset {offset!r:.40}; give a finite number")
    values = np.frombuffer(numbers, dtype="<f8").astype(np.float64)
    model = BinaryQuadraticModel(
        vartype=entry["vartype"],
        linear=values[:size],
        pairs=np.frombuffer(places, dtype="<i4").astype(np.int32).reshape(-1, 2),
        quadratic=values[size:],
        offset=float(offset),
    )
    return AnnealingProblem(model=model.checked(), reads=entry["reads"], seed=entry["seed"])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
