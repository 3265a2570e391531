"""Models on the qubits of an annealer: each variable as a chain of qubits that hold together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from backends.errors import PayloadRejected
from backends.quadratic_models import SPIN, BinaryQuadraticModel

__all__ = ["Chains", "chain_strength", "embedded", "find_chains", "unembedded"]

# The qubits of each variable.
Chains = tuple[tuple[int, ...], ...]

_TORQUE = 1.414
_SEED = 1


def find_chains(
    model: BinaryQuadraticModel,
    qubits: Sequence[int],
    couplers: Iterable[tuple[int, int]],
    *,
    timeout_s: float,
) -> Chains:
    """Return chains on which a model can be annealed; the model's own qubits if it fits as it is.

    Blocks for at most ``timeout_s``. Raises `PayloadRejected` if no embedding is found.
    """
    edges = {(min(pair), max(pair)) for pair in couplers}
    pairs = [(int(i), int(j)) for i, j in model.pairs]
    known = set(qubits)
    if all(pair in edges for pair in pairs) and known.issuperset(range(model.num_variables)):
        return tuple((variable,) for variable in range(model.num_variables))
    import minorminer

    found: Mapping[int, Iterable[int]] = minorminer.find_embedding(
        pairs, sorted(edges), timeout=timeout_s, random_seed=_SEED, threads=1
    )
    if pairs and not found:
        raise PayloadRejected(
            f"no embedding of a model of {model.num_variables} variables and {len(pairs)} "
            f"interactions into {len(qubits)} qubits was found within {timeout_s:g} s; give a smaller "
            "or sparser model"
        )
    taken = {qubit for chain in found.values() for qubit in chain}
    free = iter(sorted(known - taken))
    chains = []
    for variable in range(model.num_variables):
        chain = tuple(sorted(found.get(variable, ())))
        if not chain and (qubit := next(free, None)) is not None:
            chain = (qubit,)
        if not chain:
            raise PayloadRejected(
                f"a model of {model.num_variables} variables; not so many of {len(qubits)} qubits are "
                "left by its interactions"
            )
        chains.append(chain)
    return tuple(chains)


def chain_strength(model: BinaryQuadraticModel) -> float:
    """Return how strongly the qubits of a chain attract each other.

    Random interactions of the model turn a chain with about this torque (uniform torque
    compensation, as D-Wave's own tools set it).
    """
    if not len(model.quadratic):
        return 1.0
    rms = math.sqrt(float(np.mean(np.square(model.quadratic))))
    return _TORQUE * rms * math.sqrt(2 * len(model.quadratic) / model.num_variables)


def embedded(
    model: BinaryQuadraticModel, chains: Chains, couplers: Iterable[tuple[int, int]]
) -> tuple[dict[int, float], dict[tuple[int, int], float]]:
    """Return fields and couplings of qubits whose lowest states are those of a model of spins.

    A field is shared by the qubits of its chain, an interaction by all couplers between two chains.
    """
    if model.vartype != SPIN:
        raise ValueError(f"a model of vartype {model.vartype}; expected {SPIN}")
    owner = {qubit: variable for variable, chain in enumerate(chains) for qubit in chain}
    between: dict[tuple[int, int], list[tuple[int, int]]] = {}
    inside: list[tuple[int, int]] = []
    for a, b in sorted({(min(pair), max(pair)) for pair in couplers}):
        if a in owner and b in owner:
            i, j = sorted((owner[a], owner[b]))
            if i == j:
                inside.append((a, b))
            else:
                between.setdefault((i, j), []).append((a, b))
    fields = {
        qubit: float(model.linear[variable]) / len(chain)
        for variable, chain in enumerate(chains)
        for qubit in chain
    }
    strength = chain_strength(model)
    couplings = dict.fromkeys(inside, -strength)
    for (i, j), interaction in zip(model.pairs.tolist(), model.quadratic.tolist(), strict=True):
        shared = between[i, j]
        for pair in shared:
            couplings[pair] = interaction / len(shared)
    return fields, couplings


def unembedded(spins: NDArray[np.int8], chains: Chains) -> tuple[NDArray[np.int8], float]:
    """Return a spin for each variable, by the majority of its chain, and the share of broken chains.

    spins: shape (samples, qubits). A chain without majority is 1.
    """
    columns, broken = [], 0
    for chain in chains:
        total = spins[:, list(chain)].sum(axis=1, dtype=np.int64)
        broken += int((np.abs(total) != len(chain)).sum())
        columns.append(np.where(total >= 0, 1, -1).astype(np.int8))
    share = broken / max(1, len(spins) * len(chains))
    return np.column_stack(columns), share
