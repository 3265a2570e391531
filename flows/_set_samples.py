"""Samples of sets of nodes as masks: bit i is node i."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from flows._independent_sets import Conflicts
from flows._set_sampling import Choice

__all__ = [
    "SetSamples",
    "from_choice",
    "from_rows",
    "greedy_set",
    "made_independent",
    "random_samples",
]

_RESTARTS = 100
_TIE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSamples:
    """How often each set came, as pairs of its mask and its count, sorted. asked: nodes asked about."""

    counts: tuple[tuple[int, int], ...]
    asked: int

    @property
    def shots(self) -> int:
        """How many samples there are."""
        return sum(count for _, count in self.counts)

    def independent_share(self, conflicts: Conflicts, weight: float = 0.0) -> float:
        """Return the share of samples that have no conflict and so much weight at least."""
        near, weights = conflicts.neighbours(), conflicts.weights
        good = sum(
            count
            for mask, count in self.counts
            if not _has_conflict(mask, near)
            and sum(weights[node] for node in _nodes(mask)) >= weight * (1 - _TIE)
        )
        return good / self.shots


def from_rows(rows: ArrayLike, counts: Iterable[int]) -> SetSamples:
    """Return samples from rows of 0 and 1, shape (samples, nodes), and how often each came."""
    bits = np.asarray(rows, dtype=np.uint8)
    packed = np.packbits(bits, axis=1, bitorder="little")
    found: Counter[int] = Counter()
    for row, count in zip(packed, counts, strict=True):
        found[int.from_bytes(row.tobytes(), "little")] += int(count)
    return SetSamples(counts=tuple(sorted(found.items())), asked=bits.shape[1])


def from_choice(choice: Choice, nodes: int, shots: int, seed: int) -> SetSamples:
    """Return samples of the whole graph from those of its components.

    The samples of different components are independent of each other, so they are joined in random
    order. Nodes that exclude nothing are in no sample; making it independent adds them.
    """
    rng = np.random.default_rng(seed)
    masks = [0] * shots
    for part in choice.parts:
        drawn = [
            _mask(part.asked, bits)
            for bits in sorted(part.counts)
            for _ in range(part.counts[bits])
        ]
        for place, index in enumerate(rng.permutation(len(drawn))):
            masks[place] |= drawn[index]
    left_out = sum(len(part.nodes) - len(part.asked) for part in choice.parts)
    return SetSamples(counts=tuple(sorted(Counter(masks).items())), asked=nodes - left_out)


def random_samples(nodes: int, shots: int, seed: int) -> SetSamples:
    """Return samples whose bits are 0 or 1 equally often."""
    rng = np.random.default_rng(seed)
    return from_rows(rng.integers(0, 2, (shots, nodes), dtype=np.uint8), [1] * shots)


def made_independent(samples: SetSamples, conflicts: Conflicts) -> Mapping[int, int]:
    """Return how often each independent set comes when every sample is made one.

    Of the chosen nodes the heavier stay; then whatever still fits is added, heavier nodes first.
    """
    near = conflicts.neighbours()
    order = _by_weight(conflicts)
    found: Counter[int] = Counter()
    for mask, count in samples.counts:
        kept = _taken((node for node in order if mask >> node & 1), near, 0)
        found[_taken(order, near, kept)] += count
    return found


def greedy_set(conflicts: Conflicts, seed: int) -> tuple[int, ...]:
    """Return the best of many greedy sets.

    Each takes the node of largest weight for each neighbour left; after the first, with random
    preferences.
    """
    near, rng = conflicts.neighbours(), np.random.default_rng(seed)
    weights = np.array(conflicts.weights)
    best, largest = 0, -1.0
    for restart in range(_RESTARTS):
        liked = weights * (1.0 if restart == 0 else rng.uniform(0.5, 1.5, len(weights)))
        mask = _greedy(near, liked.tolist())
        weight = float(sum(conflicts.weights[node] for node in _nodes(mask)))
        if weight > largest + 1e-9:
            best, largest = mask, weight
    return tuple(_nodes(best))


def _greedy(near: Sequence[int], liked: Sequence[float]) -> int:
    degrees = [mask.bit_count() for mask in near]
    left, taken = set(range(len(near))), 0
    while left:
        node = max(left, key=lambda n: (liked[n] / (1 + degrees[n]), -n))
        taken |= 1 << node
        for gone in [node, *(other for other in _nodes(near[node]) if other in left)]:
            left.discard(gone)
            for other in _nodes(near[gone]):
                degrees[other] -= 1
    return taken


def _by_weight(conflicts: Conflicts) -> list[int]:
    return sorted(range(len(conflicts.weights)), key=lambda node: (-conflicts.weights[node], node))


def _taken(nodes: Iterable[int], near: Sequence[int], taken: int) -> int:
    for node in nodes:
        if not near[node] & taken:
            taken |= 1 << node
    return taken


def _has_conflict(mask: int, near: Sequence[int]) -> bool:
    return any(near[node] & mask for node in _nodes(mask))


def _mask(asked: Sequence[int], bits: str) -> int:
    return sum(1 << node for node, bit in zip(asked, reversed(bits), strict=True) if bit == "1")


def _nodes(mask: int) -> list[int]:
    found = []
    while mask:
        found.append((mask & -mask).bit_length() - 1)
        mask &= mask - 1
    return found
