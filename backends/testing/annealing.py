"""Quadratic models whose energies and ground states are known, as checks of annealers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from backends.api import Target
from backends.payloads import AnnealingPayload, AnnealingSamples, BinaryQuadraticModel
from backends.quadratic_models import BINARY, SPIN
from backends.testing.cases import Native
from backends.testing.physics import NotApplicable, Trial

__all__ = [
    "ANNEALING_CHECKS",
    "all_samples",
    "ground_states_are_found",
    "lengthy_annealing",
    "pairs_agree_both_ways",
    "problems_keep_their_order",
    "random_model",
    "reported_energies_are_right",
    "smallest_annealing",
    "spins_and_bits_agree",
]

_READS = 100
_LENGTHY_VARIABLES, _LENGTHY_READS = 12, 2000


def smallest_annealing(target: Target, native: Native, shots: int) -> AnnealingPayload:
    """Return one model of one variable."""
    del target, native
    return AnnealingPayload.coerce([BinaryQuadraticModel.of([1.0])], reads=shots)


def lengthy_annealing(target: Target, native: Native) -> AnnealingPayload:
    """Return a model with many reads, or what fits into one task."""
    del native
    model = random_model(np.random.default_rng(0), _size(target, _LENGTHY_VARIABLES), SPIN, target)
    reads = min(_LENGTHY_READS, target.max_shots or _LENGTHY_READS)
    return AnnealingPayload.coerce([model] * min(10, target.max_circuits or 10), reads=reads)


def random_model(
    rng: np.random.Generator, variables: int, vartype: str, target: Target | None = None
) -> BinaryQuadraticModel:
    """Return a model with numbers of a few binary digits, so that all its energies are exact.

    target: whose couplers it uses; None couples all variables.
    """
    pairs = [(i, j) for i in range(variables) for j in range(i + 1, variables)]
    if target is not None and target.coupling is not None and not target.site_transpiles:
        couplers = {(min(pair), max(pair)) for pair in target.coupling}
        pairs = [pair for pair in pairs if pair in couplers]
    return BinaryQuadraticModel.of(
        (rng.integers(-16, 17, variables) / 8).tolist(),
        {pair: float(rng.integers(-16, 17)) / 8 for pair in pairs},
        vartype=vartype,
        offset=float(rng.integers(-16, 17)) / 8,
    )


def all_samples(model: BinaryQuadraticModel) -> NDArray[np.int8]:
    """Return every sample that there is, shape (2^variables, variables)."""
    values = (-1, 1) if model.vartype == SPIN else (0, 1)
    return np.array(list(product(values, repeat=model.num_variables)), dtype=np.int8)


def reported_energies_are_right(trial: Trial) -> None:
    """Each reported energy is that of its sample, and the occurrences are the reads."""
    for vartype in (SPIN, BINARY):
        models = _models(trial, vartype)
        for model, found in zip(models, _annealed(trial, models), strict=True):
            assert found.vartype == vartype
            assert set(np.unique(found.samples)) <= ({-1, 1} if vartype == SPIN else {0, 1})
            assert found.samples.shape == (len(found.energies), model.num_variables)
            np.testing.assert_allclose(found.energies, model.energies(found.samples), atol=1e-9)
            assert (np.diff(found.energies) >= 0).all(), "low energies come first"
            assert len(np.unique(found.samples, axis=0)) == len(found.samples)
            assert (found.occurrences > 0).all()
            assert found.reads == min(_READS, trial.target.max_shots or _READS)


def ground_states_are_found(trial: Trial) -> None:
    """The lowest energy of some random small models is that of all their samples."""
    for vartype in (SPIN, BINARY):
        models = _models(trial, vartype)
        for model, found in zip(models, _annealed(trial, models), strict=True):
            lowest = model.energies(all_samples(model)).min()
            assert found.energies[0] <= lowest + trial.noise * abs(lowest) + 1e-9


def spins_and_bits_agree(trial: Trial) -> None:
    """A model over spins and the same one over bits have the same lowest energy."""
    models = _models(trial, SPIN)
    spins = _annealed(trial, models)
    bits = _annealed(trial, [model.as_vartype(BINARY) for model in models])
    for one, other in zip(spins, bits, strict=True):
        allowed = trial.noise * abs(one.energies[0]) + 1e-9
        np.testing.assert_allclose(one.energies[0], other.energies[0], atol=allowed)


def problems_keep_their_order(trial: Trial) -> None:
    """Of several models in one task, and of the variables of one, each keeps its place."""
    _needs(trial, variables=3, problems=3)
    wanted = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    models = [
        BinaryQuadraticModel.of([-2.0 if bit else 2.0 for bit in bits], offset=2.0 * number)
        for number, bits in enumerate(wanted)
    ]
    for number, found in enumerate(_annealed(trial, models)):
        assert found.lowest.tolist() == wanted[number]
        assert found.energies[0] == 2.0 * number - 2.0


def pairs_agree_both_ways(trial: Trial) -> None:
    """Two spins that attract each other are equal: both ways, since nothing prefers one."""
    _needs(trial, variables=2)
    if trial.target.coupling is not None and not trial.target.site_transpiles:
        raise NotApplicable("the target has couplers of its own")
    pair = BinaryQuadraticModel.of([0.0, 0.0], {(0, 1): -1.0}, vartype=SPIN)
    (found,) = _annealed(trial, [pair])
    agreeing = found.occurrences[found.samples[:, 0] == found.samples[:, 1]].sum()
    assert agreeing >= (1 - trial.noise) * 0.9 * found.reads
    assert {tuple(row) for row in found.samples.tolist()} >= {(1, 1), (-1, -1)}


def _models(trial: Trial, vartype: str) -> list[BinaryQuadraticModel]:
    _needs(trial)
    rng = np.random.default_rng(11)
    sizes = [_size(trial.target, size) for size in (1, 2, 5, 8, 10)]
    target = trial.target
    return [random_model(rng, size, vartype, target) for size in sizes][: target.max_circuits or 5]


def _size(target: Target, wanted: int) -> int:
    return min(wanted, target.num_qubits or wanted)


def _needs(trial: Trial, *, variables: int = 1, problems: int = 1) -> None:
    trial.needs("annealing", num_qubits=variables, circuits=problems)


def _annealed(trial: Trial, models: list[BinaryQuadraticModel]) -> list[AnnealingSamples]:
    reads = min(_READS, trial.target.max_shots or _READS)
    payload = AnnealingPayload.coerce(models, reads=reads, seed=5)
    native: list[AnnealingSamples] = trial.run(payload).native
    return native


ANNEALING_CHECKS: tuple[Callable[[Trial], None], ...] = (
    reported_energies_are_right,
    ground_states_are_found,
    spins_and_bits_agree,
    problems_keep_their_order,
    pairs_agree_both_ways,
)
