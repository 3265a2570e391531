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
`flows` documents, the result has ``molecule``, ``qubits``, ``tokens``, ``circuits`` (measured in all,
equal ones once for each way and seed), ``hf``, ``exact``, ``variational`` (energies in Hartree),
``errors_mha`` (of each way above exact, with ``std_error``) and ``history`` (mean error of the best circuit
after each round in mHa: ``transformer``, ``random``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from flows._active_space import SpaceChoice
from flows._comparison import Comparison, Figure, Way, decided, over_seeds
from flows._fermions import Problem
from flows._generative.circuits import Vocabulary
from flows._generative.transformer import beginning, improved, proposed
from flows._inputs import InputError, check_whole, require_extra
from flows._molecules import MOLECULES, Scan, built_in_curve
from flows.dissociation import Settings, exact, ground_state, integrals
from hpcqc import Qpu, checked_by, fan_out, quantum
from orchestrator.wording import counted

__all__ = ["CircuitSearch", "Found", "generative", "proposals", "search"]

_Values = NDArray[np.float64]
_SAMPLED_PRECISION = 0.05
_MEASURE = "energy above exact in mHa"
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
    precision = wish.precision
    if precision is None:
        precision = 0.0 if "estimator" in qpu.target.payload_kinds else _SAMPLED_PRECISION
    words = Vocabulary.of(problem)
    seeds = [wish.seed + index for index in range(wish.seeds)]
    weights = [beginning(words.tokens, wish.length, seed) for seed in seeds]
    known = {name: [_Known() for _ in seeds] for name in ("transformer", "random")}
    history: dict[str, list[list[float]]] = {name: [] for name in known}
    with qpu.lease():
        for turn in range(wish.rounds):
            drawn = proposals(weights, words, wish, turn)
            _measure(
                qpu.estimator(precision=precision, seed=wish.seed + turn),
                precision,
                words,
                drawn,
                known,
            )
            for name, ways in known.items():
                history[name].append([way.lowest(words) - lowest for way in ways])
            if turn + 1 < wish.rounds:
                elites = [way.elite(wish.length, words.tokens - 1) for way in known["transformer"]]
                weights = fan_out(_taught, list(zip(weights, elites, strict=True)))
    return Found(
        transformer=np.array(history["transformer"]),
        random=np.array(history["random"]),
        qubits=words.support.num_qubits,
        tokens=words.tokens,
        circuits=sum(len(one.energies) for ways in known.values() for one in ways),
    )


@dataclass(slots=True, kw_only=True)
class _Known:
    """Circuits, as their acting tokens, with the energies measured, of one way and seed."""

    energies: dict[tuple[int, ...], float] = field(default_factory=dict)
    best: tuple[tuple[int, ...], float] | None = None

    def lowest(self, words: Vocabulary) -> float:
        """Return the exact energy of the circuit with the lowest measured one."""
        chosen = min(self.energies, key=lambda one: (self.energies[one], one))
        if self.best is None or self.best[0] != chosen:
            self.best = (chosen, words.energy(chosen))
        return self.best[1]

    def elite(self, length: int, nothing: int) -> tuple[NDArray[np.int64], _Values]:
        """Return the best circuits so far, and how much each teaches: the better, the more."""
        rows = sorted((energy, one) for one, energy in self.energies.items())[:_ELITE]
        rows += [rows[-1]] * (_ELITE - len(rows))
        shares = np.exp(-_SHARPNESS * np.arange(_ELITE) / _ELITE)
        filled = [[*one, *[nothing] * (length - len(one))] for _, one in rows]
        return np.array(filled, dtype=np.int64), shares / shares.sum()


def _measure(
    estimator: Any,
    precision: float,
    words: Vocabulary,
    drawn: Mapping[str, Sequence[NDArray[np.int64]]],
    known: Mapping[str, Sequence[_Known]],
) -> None:
    """Measure what is not known yet of its way and seed: one job, each circuit a PUB."""
    wanted = [
        (way, one)
        for name, ways in known.items()
        for way, rows in zip(ways, drawn[name], strict=True)
        for one in sorted({words.acting(row) for row in rows} - way.energies.keys())
    ]
    if not wanted:
        return
    pubs: list[Any] = [(words.circuit(one), words.hamiltonian, [], precision) for _, one in wanted]
    for (way, one), told in zip(wanted, estimator.run(pubs).result(), strict=True):
        # Rounding errors, which differ from run to run with threads, must not rank equal circuits.
        way.energies[one] = round(float(told.data.evs), 10)


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
    check_whole(given, bounds)
    precision = given["precision"]
    if precision is not None and not (math.isfinite(precision) and precision >= 0):
        raise InputError(f"precision {precision}: expected Hartree, ≥ 0 (0 is exact)")
    return built_in_curve(given["molecule"], Scan(lengths=[given["bond"]]))


@flow
@checked_by(_checked)
def generative(
    molecule: str = "h4",
    bond: float = 1.0,
    length: int = 6,
    rounds: int = 12,
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
        f"{curve.name} at {prepared.space.label}",
        prepared.space.hf_energy,
        lowest,
        variational.result(),
        found,
        wish,
    )


def _result(
    label: str, hf: float, lowest: float, variational: Any, found: Found, wish: CircuitSearch
) -> dict[str, Any]:
    transformer = Way(
        name="generative transformer",
        figure=over_seeds(1000 * found.transformer[-1]),
        is_quantum=True,
        group="transformer",
    )
    random = Way(
        name="random search",
        figure=over_seeds(1000 * found.random[-1]),
        is_quantum=True,
        group="random search",
    )
    vqe = Way(
        name="variational flow",
        figure=Figure(
            # What is left of it in the last digits is no difference.
            value=round(1000 * (variational.energy - lowest), 6),
            error=1000 * variational.std_error,
        ),
        is_quantum=True,
        group="variational flow",
    )
    start = Way(name="Hartree-Fock", figure=Figure(value=1000 * (hf - lowest), error=0.0))
    ways = [
        transformer,
        random,
        vqe,
        start,
        Way(name="exact diagonalisation", figure=Figure(value=0.0, error=0.0)),
    ]
    comparison = Comparison(ways=ways, measure=_MEASURE, higher_is_better=False, data=label)
    _, of_circuits = decided(transformer, random, measure=_MEASURE, higher_is_better=False)
    _, of_flows = decided(transformer, vqe, measure=_MEASURE, higher_is_better=False)
    return {
        "molecule": label,
        "qubits": found.qubits,
        "tokens": found.tokens,
        "circuits": found.circuits,
        "hf": hf,
        "exact": lowest,
        "variational": variational.energy,
        "errors_mha": {
            way.name: {"error": way.figure.value, "std_error": way.figure.error} for way in ways
        },
        "history": {
            "transformer": (1000 * found.transformer.mean(axis=1)).tolist(),
            "random": (1000 * found.random.mean(axis=1)).tolist(),
        },
        "comparisons": [comparison.as_record()],
        "plot": _plot(label, found, wish, (start, vqe)),
        "table": {
            "columns": ["Way", "Error / mHa", "±"],
            "rows": [
                [way.name, round(way.figure.value, 3), round(way.figure.error, 3)] for way in ways
            ],
        },
        "summary": [
            f"{comparison.verdict} Exact diagonalisation needs no QPU.",
            f"With the same tokens: {of_circuits}",
            (
                f"Beside flows.dissociation's variational ground state "
                f"({counted(variational.evaluations, 'energy', 'energies')} measured): {of_flows}"
            ),
            (
                f"{label}: {counted(found.qubits, 'qubit')}, {counted(found.tokens, 'token')}; each way "
                f"proposed {wish.rounds * wish.circuits} circuits for each of {wish.seeds} seeds; "
                f"{found.circuits} were measured, equal ones once for each way and seed."
            ),
            (
                "Errors of the transformer and of random search are exact for the circuit whose "
                "measured energy is lowest, computed without the QPU."
            ),
        ],
    }


def _plot(label: str, found: Found, wish: CircuitSearch, flat: Sequence[Way]) -> dict[str, Any]:
    """Return the mean error of the best circuit after each round, with lines for the flat ways."""
    series: list[dict[str, Any]] = [
        {
            "label": name,
            "y": (1000 * values.mean(axis=1)).tolist(),
            "y_error": (1000 * values.std(axis=1, ddof=1) / math.sqrt(wish.seeds)).tolist(),
            "style": "points",
        }
        for name, values in (("transformer", found.transformer), ("random", found.random))
    ]
    series += [
        {"label": way.name, "y": [way.figure.value] * wish.rounds, "style": "line"} for way in flat
    ]
    return {
        "title": f"Energy of the best circuit: {label}",
        "x_label": "Circuits proposed for each seed",
        "y_label": "Error (mHa)",
        "x": [wish.circuits * (turn + 1) for turn in range(wish.rounds)],
        "series": series,
    }
