"""Molecules from a small network whose prior is a Born machine on the QPU, beside classical priors.

A recurrent network spells molecules as SELFIES, token by token, from a code of eight bits: which of
eight properties (weight, logP, polar surface, acceptors, donors, rotatable bonds, aromatic rings, sp3
share) are above the median of the molecules that it learned from. A prior draws the codes: a Born
machine, whose circuit of eight qubits is fitted to how often codes are wanted (maximum mean
discrepancy, an evolution strategy, each generation one broadcast PUB); a classical table of the same
frequencies; or all codes alike. Then a loop: codes are drawn, molecules spelled and scored by RDKit on
Dask workers, the network is trained further on the better ones, and codes with a large reward are
wanted more often. Reward: QED times ease of synthesis, halved where a filter (PAINS, Brenk) holds.
``hpcqc run flows.molecules -p name=value …`` takes:

- ``data``: a file with a SMILES first in each line, or a table with a column ``SMILES``, as MOSES's CSV
  (``SMILES,SPLIT``), perhaps gzipped; or a folder with one file *train*. By default 2000 molecules of MOSES (MIT licence, see the page).
- ``molecules``: of them, drawn at random, that the network learns from; ``epochs`` it learns for.
- ``rounds`` of the loop; ``samples`` of a round for each prior, and twice as many at the end.
- ``generations`` of the Born machine's evolution at first; a third of it in each round; ``shots``.
- ``seed`` of all that is random.

Needs the extra ``hpcqc[molecules]``. Beside the keys that `flows` documents, the result has
``source``, ``learned_from``, ``unreadable`` (lines that were no molecules), ``mixtures`` (of which the
largest part was learned), ``priors`` (for each ``valid``, ``unique``, ``novel``, ``qed``, ``sa``,
``passes``, ``reward`` and their ``std_error`` of the molecules made at the end, ``history`` of mean
rewards by round, and ``discrepancy`` of the codes drawn to those wanted) and ``best`` (SMILES with QED,
SA and prior).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from flows._comparison import Comparison, Figure, Way, bootstrapped
from flows._drug_like.born import (
    born_circuit,
    born_parameters,
    code_bits,
    discrepancy,
    frequencies,
)
from flows._drug_like.chemistry import (
    BITS,
    Library,
    MoleculeScore,
    check_readable,
    codes_of,
    drawn,
    library,
    read_smiles,
    scored,
    spelled,
)
from flows._drug_like.making import Made, MakingSettings, Schooled
from flows._drug_like.network import Speller, refitted, sampled, trained
from flows._evolution import Evolution
from flows._inputs import check_whole, require_extra
from hpcqc import Qpu, checked_by, classical, fan_out, quantum
from orchestrator.wording import counted

__all__ = [
    "BORN",
    "TABLE",
    "UNIFORM",
    "DrawnCodes",
    "draw_codes",
    "drawn_codes",
    "learn",
    "made_from",
    "make",
    "molecules",
    "result",
    "searched",
]

_Values = NDArray[np.float64]
_Spread = Callable[..., Iterable[Any]]

BORN, TABLE, UNIFORM = "Born machine", "classical table", "uniform codes"
_CODES = 2**BITS
_PAIRS, _STEP, _RATE = 8, 0.15, 0.3
_TEMPERATURE = 0.1  # of rewards, when codes are wanted more often
_KEPT = 0.5  # of the wanted frequencies in a round
_REFIT_EPOCHS, _REFIT_RATE, _REFIT_SHARE = 2, 1e-3, 0.3
_BEST = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnCodes:
    """Codes from the Born machine, as numbers. parameters: its angles; apart: from what was wanted."""

    codes: NDArray[np.int64]
    parameters: _Values
    apart: float


@classical
def learn(title: str, smiles: Sequence[str], settings: MakingSettings) -> Schooled:
    """Read molecules, and train the network that all priors begin with."""
    known = library(title, smiles, settings.molecules, settings.seed)
    speller = trained(
        known.spellings, known.codes, len(known.tokens), settings.epochs, settings.seed
    )
    return Schooled(known=known, speller=speller)


@quantum
def draw_codes(
    qpu: Qpu, wanted: _Values, start: _Values | None, draw: int, settings: MakingSettings, turn: int
) -> DrawnCodes:
    """Fit the Born machine on the QPU of this stage to wanted frequencies, and draw codes from it."""
    return drawn_codes(qpu, wanted, start, draw, settings, turn)


def drawn_codes(
    qpu: Qpu, wanted: _Values, start: _Values | None, draw: int, settings: MakingSettings, turn: int
) -> DrawnCodes:
    """Draw as `draw_codes` does."""
    seed = settings.seed + 1000 * turn
    circuit = born_circuit(BITS)
    if start is None:
        start = np.random.default_rng(seed).normal(0, 0.3, born_parameters(BITS))
    generations = settings.generations if turn == 0 else max(1, settings.generations // 3)
    evolution = Evolution(start, 2 * _PAIRS, _STEP, _RATE, seed)
    with qpu.lease():
        for generation in range(generations):
            candidates = evolution.candidates()
            sampler = qpu.sampler(default_shots=settings.shots, seed=seed + generation)
            found = sampler.run([(circuit, candidates)]).result()[0].data.meas
            shares = frequencies(found, BITS)
            evolution.learn(candidates, [discrepancy(one, wanted) for one in shares])
        sampler = qpu.sampler(default_shots=draw, seed=seed + generations)
        last = sampler.run([(circuit, evolution.best)]).result()[0].data.meas
    (shares,) = frequencies(last, BITS)
    codes = np.repeat(np.arange(_CODES), np.rint(shares * draw).astype(int))
    return DrawnCodes(
        codes=np.random.default_rng(seed).permutation(codes),
        parameters=evolution.best,
        apart=discrepancy(shares, wanted),
    )


@classical
def make(
    known: Library, speller: Speller, codes: NDArray[np.int64], settings: MakingSettings, turn: int
) -> Made:
    """Spell a molecule for each code, score all on the workers, and train the network further."""
    return made_from(known, speller, codes, settings, turn, fan_out)


def made_from(
    known: Library,
    speller: Speller,
    codes: NDArray[np.int64],
    settings: MakingSettings,
    turn: int,
    spread: _Spread,
) -> Made:
    """Make as `make` does; ``spread`` applies a function to parts of the molecules, as `map` does."""
    spellings = sampled(speller, code_bits(codes, BITS), settings.seed + 17 * turn + 1)
    texts = [spelled(known.tokens, one) for one in spellings]
    parts = [texts[begin : begin + 50] for begin in range(0, len(texts), 50)]
    scores = [score for part in spread(_scored, parts) for score in part]
    if turn == settings.rounds:  # the last ones teach nobody
        return Made(scores=tuple(scores), speller=speller)
    # The better ones, each once, teach with the codes that they have, not those that were asked for.
    best: dict[str, int] = {}
    for index in sorted(range(len(scores)), key=lambda index: -scores[index].reward):
        if scores[index].smiles and len(best) < _REFIT_SHARE * len(scores):
            best.setdefault(scores[index].smiles, index)
    if best:
        rows = list(best.values())
        told = codes_of([scores[row].properties for row in rows], known.medians)
        speller = refitted(
            speller, spellings[rows], told, _REFIT_EPOCHS, _REFIT_RATE, settings.seed + turn
        )
    return Made(scores=tuple(scores), speller=speller)


def _scored(texts: Sequence[str]) -> list[MoleculeScore]:
    return [scored(text) for text in texts]


def _checked(given: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return a title and SMILES, once all parameters have been found usable."""
    require_extra("molecules", ("rdkit", "selfies", "jax", "optax"))
    bounds = {
        "molecules": (100, 100_000),
        "epochs": (1, 1000),
        "rounds": (1, 100),
        "samples": (20, 100_000),
        "generations": (1, 10_000),
        "shots": (10, 10**6),
        "seed": (0, 2**31),
    }
    check_whole(given, bounds)
    title, smiles = read_smiles(given["data"])
    check_readable(title, smiles)
    return title, smiles


@flow
@checked_by(_checked)
def molecules(
    data: str | None = None,
    molecules: int = 1200,
    epochs: int = 12,
    rounds: int = 3,
    samples: int = 250,
    generations: int = 30,
    shots: int = 1000,
    seed: int = 1,
) -> dict[str, Any]:
    """Make molecules; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, and `MissingExtra` where RDKit,
    selfies, JAX or Optax are not installed.
    """
    title, smiles = _checked(locals())
    settings = MakingSettings(
        molecules=molecules,
        epochs=epochs,
        rounds=rounds,
        samples=samples,
        generations=generations,
        shots=shots,
        seed=seed,
    )
    learned = learn(title, smiles, settings)
    return searched(learned, settings, draw_codes, make.submit)


def searched(
    learned: Schooled,
    settings: MakingSettings,
    draw: Callable[..., DrawnCodes],
    begin: Callable[..., Any],
) -> dict[str, Any]:
    """Run the loop for all priors.

    Args:
        learned: The molecules, and the network.
        settings: See `MakingSettings`.
        draw: `draw_codes`, or a function like it.
        begin: Begins what `make` does, and returns a future.
    """
    known, speller = learned.known, learned.speller
    wanted = {BORN: _frequencies(known.codes), TABLE: _frequencies(known.codes)}
    spellers = dict.fromkeys((BORN, TABLE, UNIFORM), speller)
    history: dict[str, list[float]] = {name: [] for name in spellers}
    apart: dict[str, float] = {}
    parameters: _Values | None = None
    scores: dict[str, tuple[MoleculeScore, ...]] = {}
    for turn in range(settings.rounds + 1):
        count = settings.samples * (2 if turn == settings.rounds else 1)
        rng = np.random.default_rng([settings.seed, turn])
        codes = {
            TABLE: rng.choice(_CODES, count, p=wanted[TABLE]),
            UNIFORM: rng.integers(0, _CODES, count),
        }
        waiting = {
            name: begin(known, spellers[name], ours, settings, turn) for name, ours in codes.items()
        }
        quantum_codes = draw(wanted[BORN], parameters, count, settings, turn)
        parameters, codes[BORN] = quantum_codes.parameters, quantum_codes.codes
        waiting[BORN] = begin(known, spellers[BORN], codes[BORN], settings, turn)
        apart = {
            BORN: quantum_codes.apart,
            TABLE: discrepancy(np.bincount(codes[TABLE], minlength=_CODES) / count, wanted[TABLE]),
        }
        for name, future in waiting.items():
            made = future.result()
            spellers[name], scores[name] = made.speller, made.scores
            history[name].append(float(np.mean([one.reward for one in made.scores])))
            if name in wanted:
                wanted[name] = _rewarded(wanted[name], codes[name], made.scores)
    return result(known, settings, scores, history, apart)


def _frequencies(codes: NDArray[np.int64]) -> _Values:
    numbers = codes @ (1 << np.arange(BITS))
    found: _Values = np.bincount(numbers, minlength=_CODES) / len(numbers)
    return found


def _rewarded(
    wanted: _Values, codes: NDArray[np.int64], scores: Sequence[MoleculeScore]
) -> _Values:
    """Return frequencies in which codes of rewarded molecules are more often wanted."""
    weights = np.exp(np.array([one.reward for one in scores]) / _TEMPERATURE)
    found = np.bincount(codes, weights=weights / weights.sum(), minlength=_CODES)
    new = _KEPT * wanted + (1 - _KEPT) * found
    result: _Values = new / new.sum()
    return result


def result(
    known: Library,
    settings: MakingSettings,
    scores: Mapping[str, Sequence[MoleculeScore]],
    history: Mapping[str, Sequence[float]],
    apart: Mapping[str, float],
) -> dict[str, Any]:
    """Return what the flow returns, from what its stages found."""
    measures = {name: _measured(found, known, settings.seed) for name, found in scores.items()}
    order = (BORN, TABLE, UNIFORM)
    comparison = Comparison(
        ways=[
            Way(name=name, figure=measures[name]["reward"], is_quantum=name == BORN)
            for name in order
        ],
        measure="mean reward",
        data=f"{len(known.smiles)} of {known.title}",
        trained_once=True,
    )
    best = _best(scores)
    return {
        "source": known.title,
        "learned_from": len(known.smiles),
        "unreadable": known.unreadable,
        "mixtures": known.mixtures,
        "priors": {
            name: {
                **{what: figure.value for what, figure in measures[name].items()},
                "std_error": {what: figure.error for what, figure in measures[name].items()},
                "history": list(history[name]),
                "discrepancy": apart.get(name),
            }
            for name in order
        },
        "best": [
            {"smiles": score.smiles, "qed": score.qed, "sa": score.sa, "prior": name}
            for name, score in best
        ],
        "comparisons": [comparison.as_record()],
        "plot": drawn(
            [score for _, score in best],
            [f"QED {score.qed:.2f}, SA {score.sa:.1f}, {name}" for name, score in best],
        ),
        "table": {
            "columns": ["Prior", "Valid", "Unique", "Novel", "QED", "SA", "Pass filters", "Reward"],
            "rows": [[name, *(str(measures[name][what]) for what in _MEASURES)] for name in order],
        },
        "summary": _summary(comparison, known, settings, measures, apart),
    }


_MEASURES = ("valid", "unique", "novel", "qed", "sa", "passes", "reward")


def _measured(scores: Sequence[MoleculeScore], known: Library, seed: int) -> dict[str, Figure]:
    """Return each measure of the molecules made, with its bootstrap error; of SMILES where valid."""
    valid = [one for one in scores if one.smiles]
    seen: set[str] = set()
    first = [not (one.smiles in seen or seen.add(one.smiles)) for one in valid]  # type: ignore[func-returns-value]
    taught = set(known.smiles)
    found: dict[str, Sequence[float]] = {
        "valid": [bool(one.smiles) for one in scores],
        "unique": first,
        "novel": [one.smiles not in taught for one in valid],
        "qed": [one.qed for one in valid],
        "sa": [one.sa for one in valid],
        "passes": [one.passes for one in valid],
        "reward": [one.reward for one in scores],
    }
    return {
        what: bootstrapped(values, seed) if values else Figure(value=0.0, error=0.0)
        for what, values in found.items()
    }


def _best(scores: Mapping[str, Sequence[MoleculeScore]]) -> list[tuple[str, MoleculeScore]]:
    found: dict[str, tuple[str, MoleculeScore]] = {}
    for name, made in scores.items():
        for score in made:
            if score.smiles:
                found.setdefault(score.smiles, (name, score))
    return sorted(found.values(), key=lambda pair: (-pair[1].reward, pair[1].smiles))[:_BEST]


def _summary(
    comparison: Comparison,
    known: Library,
    settings: MakingSettings,
    measures: Mapping[str, Mapping[str, Figure]],
    apart: Mapping[str, float],
) -> list[str]:
    ours = measures[BORN]
    lines = [
        comparison.verdict,
        (
            f"Learned from {len(known.smiles)} of {known.title}; "
            f"{counted(settings.rounds, 'round')} of rewards, {counted(2 * settings.samples, 'molecule')} "
            "of each prior at the end; errors are of resampled molecules, not of repeated training."
        ),
        (
            f"With the Born machine {ours['valid']} are valid, {ours['unique']} of these unique, "
            f"{ours['novel']} novel; QED {ours['qed']}, SA {ours['sa']}, {ours['passes']} pass the filters."
        ),
        (
            f"Codes drawn miss those wanted by a discrepancy of {apart[BORN]:.2g} (Born machine) and "
            f"{apart[TABLE]:.2g} (table). A published study of KRAS inhibitors reports 21.5 % "
            "better passing of filters beside a network without a prior (doi:10.1038/s41587-024-02526-3)."
        ),
    ]
    if known.unreadable:
        lines.append(
            f"{counted(known.unreadable, 'line')} of the file held no molecule and were left out."
        )
    if known.mixtures:
        lines.append(
            f"{counted(known.mixtures, 'line')} of the file held a salt or a mixture; its largest part was "
            "learned."
        )
    return lines
