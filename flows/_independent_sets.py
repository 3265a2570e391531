"""Independent sets of largest weight: exact, and as a gain that QAOA maximises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from flows._qaoa import Ising

__all__ = [
    "Conflicts",
    "best_set",
    "components",
    "gain",
    "largest_within",
    "penalties",
    "repaired",
    "weight_of",
]

# Above 1, leaving out the lighter of two nodes in conflict always gains.
_PENALTY = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflicts:
    """Nodes with positive weights; two that exclude each other are an edge (u, v), u < v."""

    weights: tuple[float, ...]
    edges: tuple[tuple[int, int], ...]

    def neighbours(self) -> list[int]:
        """Return for each node its neighbours, as a mask of bits."""
        masks = [0] * len(self.weights)
        for u, v in self.edges:
            masks[u] |= 1 << v
            masks[v] |= 1 << u
        return masks

    def among(self, nodes: Sequence[int]) -> Conflicts:
        """Return the conflicts among some nodes, which are renumbered in the order given."""
        place = {node: index for index, node in enumerate(nodes)}
        pairs = ((place[u], place[v]) for u, v in self.edges if u in place and v in place)
        return Conflicts(
            weights=tuple(self.weights[node] for node in nodes),
            edges=tuple(sorted((min(pair), max(pair)) for pair in pairs)),
        )


def weight_of(conflicts: Conflicts, nodes: Iterable[int]) -> float:
    """Return the sum of the weights of some nodes."""
    return float(sum(conflicts.weights[node] for node in nodes))


def components(conflicts: Conflicts) -> list[tuple[int, ...]]:
    """Return the connected components, each sorted, in the order of their first nodes."""
    near, left, found = conflicts.neighbours(), (1 << len(conflicts.weights)) - 1, []
    while left:
        part = _component(near, left)
        left &= ~part
        found.append(tuple(_bits(part)))
    return found


def best_set(conflicts: Conflicts) -> tuple[int, ...]:
    """Return an independent set of the largest weight there is, sorted.

    Branches on the node with most neighbours; each component of the rest is solved by itself.
    """
    near = conflicts.neighbours()
    known: dict[int, tuple[float, int]] = {0: (0.0, 0)}

    def best(left: int) -> tuple[float, int]:
        if left in known:
            return known[left]
        part = _component(near, left)
        if part != left:
            (one, ones), (rest, others) = best(part), best(left & ~part)
            known[left] = (one + rest, ones | others)
            return known[left]
        node = max(_bits(left), key=lambda n: ((near[n] & left).bit_count(), -n))
        without = best(left & ~(1 << node))
        value, chosen = best(left & ~(1 << node) & ~near[node])
        with_it = (value + conflicts.weights[node], chosen | 1 << node)
        known[left] = max(without, with_it, key=lambda pair: pair[0])
        return known[left]

    return tuple(_bits(best((1 << len(conflicts.weights)) - 1)[1]))


def largest_within(conflicts: Conflicts, part: Sequence[int], most: int) -> tuple[int, ...]:
    """Return the nodes of a component that a QPU of so many qubits is asked about.

    A node goes without loss where a neighbour, at least as heavy, excludes nothing else than the
    node and what the node excludes (domination). If too many are left, the lightest go.
    """
    near, left = conflicts.neighbours(), sum(1 << node for node in part)
    if len(part) > most:
        for node in sorted(part, key=lambda n: (conflicts.weights[n], n)):
            closed = (near[node] | 1 << node) & left
            if any(
                conflicts.weights[other] >= conflicts.weights[node]
                and not ((near[other] | 1 << other) & left & ~closed)
                for other in _bits(near[node] & left)
            ):
                left &= ~(1 << node)
    by_weight = sorted(_bits(left), key=lambda n: (-conflicts.weights[n], n))
    return tuple(sorted(by_weight[:most]))


def penalties(conflicts: Conflicts) -> dict[tuple[int, int], float]:
    """Return for each edge 1.25 min(w_u, w_v): taking both nodes loses more than either gains."""
    weights = conflicts.weights
    return {(u, v): _PENALTY * min(weights[u], weights[v]) for u, v in conflicts.edges}


def gain(conflicts: Conflicts) -> Ising:
    """Return Σ w_i x_i − 1.25 Σ min(w_u, w_v) x_u x_v over edges, with x = (1 − Z) / 2.

    Its largest value is the weight of the best independent set, at that set (Lucas,
    arXiv:1302.5843, section 4.3).
    """
    fields = [-weight / 2 for weight in conflicts.weights]
    couplings, constant = [], sum(conflicts.weights) / 2
    for (u, v), penalty in penalties(conflicts).items():
        quarter = penalty / 4
        fields[u] += quarter
        fields[v] += quarter
        constant -= quarter
        couplings.append((u, v, -quarter))
    return Ising(fields=tuple(fields), couplings=tuple(couplings), constant=constant)


def repaired(conflicts: Conflicts, chosen: Iterable[int]) -> tuple[int, ...]:
    """Return an independent set near a choice: heavier nodes first, then whatever still fits."""
    near, taken, wanted = conflicts.neighbours(), 0, set(chosen)
    order = sorted(
        range(len(conflicts.weights)), key=lambda n: (n not in wanted, -conflicts.weights[n], n)
    )
    for node in order:
        if not near[node] & taken:
            taken |= 1 << node
    return tuple(_bits(taken))


def _component(near: Sequence[int], left: int) -> int:
    """Return the component of the lowest node that is left, as a mask."""
    part = frontier = left & -left
    while frontier:
        reached = 0
        for node in _bits(frontier):
            reached |= near[node]
        frontier = reached & left & ~part
        part |= frontier
    return part


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1
