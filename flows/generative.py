"""A transformer that proposes circuits for a molecule's ground state, trained by their energies.

The generative eigensolver (arXiv:2401.09253): a circuit is a sequence of tokens, each an excitation with
an angle; the QPU measures its energy, and the transformer is trained on the best circuits so far, so
that better ones become likelier. The active space and its excitations are those of `flows.dissociation`,
whose variational ground state and exact diagonalisation stand beside it, and random search with as many
circuits of the same tokens. All of it for several seeds; errors are standard errors over them.
``hpcqc run flows.generative -p name=value …`` takes:

- ``molecule``: built in, as for flows.dissociation: h2, h4 (the default), hf, h2o, lih or n2.
- ``bond``: bond length in Å; 1.0 by default.
- ``length`` of a circuit in tokens; ``rounds``, ``circuits`` of each round and seed.
- ``seeds``: how many, at least 5; ``seed``: the first.
- ``precision``: standard error of an energy in Hartree, 0 for exact; by default exact where the QPU can
  be, else 0.05. Of sampled energies the lowest is too low by chance: those shown are exact for the circuit
  that was chosen by the measured one, computed without the QPU.

Needs the extras ``hpcqc[chemistry]`` and JAX with Optax, as in ``hpcqc[learning]``. Beside the keys that
`flows` documents, the result has ``molecule``, ``qubits``, ``tokens``, ``circuits`` (measured in all),
``hf``, ``exact``, ``variational`` (energies in Hartree), ``errors_mha`` (of each way above exact, with
``std_error``) and ``history`` (mean error of the best circuit after each round in mHa: ``transformer``,
``random``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from flows._active_space import SpaceChoice
from flows._comparison import Comparison, Figure, Way, over_seeds
from flows._fermions import Problem
from flows._generative.circuits import Vocabulary
from flows._generative.transformer import beginning, improved, proposed
from flows._inputs import InputError, require_extra
from flows._molecules import MOLECULES, Scan, built_in_curve
from flows.dissociation import Settings, exact, ground_state, integrals
from hpcqc import Qpu, checked_by, fan_out, quantum
from orchestrator.wording import counted

__all__ = ["CircuitSearch", "Found", "generative", "proposals", "search"]

_Values = NDArray[np.float64]
_SAMPLED_PRECISION = 0.05
_ELITE, _SHARPNESS = 16, 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitSearch:
    """How circuits are searched; see the module's text."""

    length: int
    rounds: int
    circuits: int
    seeds: int
    seed: int
    precision: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Errors of the best circuits after each round, in Hartree above exact: (rounds, seeds)."""

    transformer: _Values
    random: _Values
    qubits: int
    tokens: int
    circuits: int


@quantum
def search(qpu: Qpu, problem: Problem, lowest: float, wish: CircuitSearch) -> Found:
    """Search with the transformer and at random; each round is one job, a PUB for each circuit."""
    from qiskit.quantum_info import Statevector

    precision = wish.precision
    if precision is None:
        precision = 0.0 if "estimator" in qpu.target.payload_kinds else _SAMPLED_PRECISION
    words = Vocabulary.of(problem)
    seeds = range(wish.seed, wish.seed + wish.seeds)
    weights = [beginning(words.tokens, wish.length, seed) for seed in seeds]
    known: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in seeds]
    best: dict[str, list[tuple[float, Any]]] = {
        name: [(math.inf, None)] * wish.seeds for name in ("transformer", "random")
    }
    history: dict[str, list[list[float]]] = {name: [] for name in best}
    with qpu.lease():
        for turn in range(wish.rounds):
            drawn = proposals(weights, words, wish, turn)
            circuits = [
                words.circuit(row) for way in drawn.values() for rows in way for row in rows
            ]
            estimator = qpu.estimator(precision=precision, seed=wish.seed + turn)
            pubs: list[Any] = [(circuit, words.hamiltonian, [], precision) for circuit in circuits]
            told = [float(one.data.evs) for one in estimator.run(pubs).result()]
            energies = np.array(told).reshape(len(drawn), wish.seeds, wish.circuits)
            for name, measured in zip(drawn, energies, strict=True):
                for index in range(wish.seeds):
                    at = int(measured[index].argmin())
                    if measured[index, at] < best[name][index][0]:
                        best[name][index] = (float(measured[index, at]), drawn[name][index][at])
                history[name].append(
                    [
                        float(
                            Statevector(words.circuit(row))
                            .expectation_value(words.hamiltonian)
                            .real
                        )
                        - lowest
                        for _, row in best[name]
                    ]
                )
            for index, rows in enumerate(drawn["transformer"]):
                known[index] += [
                    (float(energy), tuple(int(token) for token in row))
                    for energy, row in zip(energies[0, index], rows, strict=True)
                ]
            weights = fan_out(_taught, list(zip(weights, map(_elite, known), strict=True)))
    return Found(
        transformer=np.array(history["transformer"]),
        random=np.array(history["random"]),
        qubits=words.support.num_qubits,
        tokens=words.tokens,
        circuits=2 * wish.rounds * wish.seeds * wish.circuits,
    )


def proposals(
    weights: Sequence[Any], words: Vocabulary, wish: CircuitSearch, turn: int
) -> dict[str, list[NDArray[np.int64]]]:
    """Return the sequences of a round for each seed: of the transformers, and at random."""
    return {
        "transformer": [
            proposed(one, wish.circuits, wish.length, [wish.seed + index, turn, 1])
            for index, one in enumerate(weights)
        ],
        "random": [
            words.random(wish.circuits, wish.length, [wish.seed + index, turn, 2])
            for index in range(wish.seeds)
        ],
    }


def _elite(
    known: Sequence[tuple[float, tuple[int, ...]]],
) -> tuple[NDArray[np.int64], _Values]:
    """Return the best circuits so far, and how much each teaches: the better, the more."""
    rows = sorted(set(known))[:_ELITE]
    rows = [*rows, *[rows[-1]] * (_ELITE - len(rows))]
    shares = np.exp(-_SHARPNESS * np.arange(len(rows)) / len(rows))
    return np.array([row for _, row in rows]), shares / shares.sum()


def _taught(given: tuple[Any, tuple[NDArray[np.int64], _Values]]) -> Any:
    weights, (rows, shares) = given
    return improved(weights, rows, shares)


def _checked(given: Mapping[str, Any]) -> Any:
    """Return the geometry, once all parameters have been found usable."""
    require_extra("chemistry", ("pyscf", "ffsim"))
    require_extra("learning", ("jax", "optax"))
    bounds = {
        "length": (1, 60),
        "rounds": (1, 1000),
        "circuits": (2, 10_000),
        "seeds": (5, 100),
        "seed": (0, 2**31),
    }
    for name, (least, most) in bounds.items():
        if not least <= given[name] <= most:
            raise InputError(
                f"{name} {given[name]}: expected a whole number from {least} to {most}"
            )
    precision = given["precision"]
    if precision is not None and not (math.isfinite(precision) and precision >= 0):
        raise InputError(f"precision {precision}: expected Hartree, ≥ 0 (0 is exact)")
    return built_in_curve(given["molecule"], Scan(lengths=[given["bond"]]))


@flow
@checked_by(_checked)
def generative(
    molecule: str = "h4",
    bond: float = 1.0,
    length: int = 10,
    rounds: int = 10,
    circuits: int = 16,
    seeds: int = 5,
    precision: float | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Generate circuits; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, and `MissingExtra` where an
    extra is not installed.
    """
    curve = _checked(locals())
    usual = MOLECULES.get(curve.name.lower())
    choice = SpaceChoice(
        basis="sto-3g",
        electrons=None if usual is None else usual.electrons,
        orbitals=None if usual is None else usual.orbitals,
        spin=None,
        charge=0,
    )
    wish = CircuitSearch(
        length=length,
        rounds=rounds,
        circuits=circuits,
        seeds=seeds,
        seed=seed,
        precision=precision,
    )
    prepared = integrals(curve.points[0], choice)
    lowest = exact(prepared)
    variational = ground_state.submit(prepared, Settings(precision=precision, seed=seed))
    found = search(prepared.problem, lowest, wish)
    return _result(
        prepared.space.label, prepared.space.hf_energy, lowest, variational.result(), found, wish
    )


def _result(
    label: str, hf: float, lowest: float, variational: Any, found: Found, wish: CircuitSearch
) -> dict[str, Any]:
    ways = [
        Way(
            name="generative transformer",
            figure=over_seeds(1000 * found.transformer[-1]),
            is_quantum=True,
        ),
        Way(name="random search", figure=over_seeds(1000 * found.random[-1])),
        Way(name="Hartree-Fock", figure=Figure(value=1000 * (hf - lowest), error=0.0)),
    ]
    vqe = Way(
        name="variational",
        figure=Figure(
            value=1000 * (variational.energy - lowest), error=1000 * variational.std_error
        ),
        is_quantum=True,
    )
    comparison = Comparison(
        ways=ways,
        measure="error in mHa",
        higher_is_better=False,
        data=f"{label}, {counted(found.circuits // 2, 'circuit')} each",
    )
    per_round = wish.circuits
    series = [
        {
            "label": name,
            "y": (1000 * values.mean(axis=1)).tolist(),
            "y_error": (1000 * values.std(axis=1, ddof=1) / math.sqrt(wish.seeds)).tolist(),
            "style": "points",
        }
        for name, values in (("transformer", found.transformer), ("random", found.random))
    ]
    flat = [("Hartree-Fock", ways[2]), ("variational", vqe)]
    series += [
        {"label": name, "y": [way.figure.value] * wish.rounds, "style": "line"}
        for name, way in flat
    ]
    better = vqe.figure.value < ways[0].figure.value
    return {
        "molecule": label,
        "qubits": found.qubits,
        "tokens": found.tokens,
        "circuits": found.circuits,
        "hf": hf,
        "exact": lowest,
        "variational": variational.energy,
        "errors_mha": {
            way.name: {"error": way.figure.value, "std_error": way.figure.error}
            for way in [*ways, vqe]
        },
        "history": {
            "transformer": (1000 * found.transformer.mean(axis=1)).tolist(),
            "random": (1000 * found.random.mean(axis=1)).tolist(),
        },
        "comparisons": [comparison.as_record()],
        "plot": {
            "title": f"Energy of the best circuit: {label}",
            "x_label": "Circuits measured for each seed",
            "y_label": "Error (mHa)",
            "x": [per_round * (turn + 1) for turn in range(wish.rounds)],
            "series": series,
        },
        "table": {
            "columns": ["Way", "Error / mHa", "±"],
            "rows": [
                [way.name, round(way.figure.value, 3), round(way.figure.error, 3)]
                for way in [*ways, vqe]
            ],
        },
        "summary": [
            comparison.verdict,
            (
                f"The variational ground state of flows.dissociation has an error of {vqe.figure} mHa with "
                f"{variational.evaluations} energies: "
                f"{'better than' if better else 'not better than'} the transformer."
            ),
            (
                f"{label}: {counted(found.qubits, 'qubit')}, {counted(found.tokens, 'token')}, "
                f"{counted(wish.length, 'token')} in a circuit; {found.circuits:,} circuits in all, "
                f"{counted(wish.seeds, 'seed')}. Energies shown are exact for the circuits chosen."
            ),
        ],
    }
