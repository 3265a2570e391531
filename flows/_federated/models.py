"""Two models of who is ill, as vectors of weights: a logistic regression and a variational circuit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flows._federated.patients import FEATURES, QUBIT_FEATURES, Patients, columns_of

__all__ = [
    "Circuit",
    "PrivacyNoise",
    "SiteTraining",
    "correct",
    "fitted",
    "initial",
    "noise_for",
    "trained",
]

_Values = NDArray[np.float64]
_Model = Literal["logistic", "circuit"]
Circuit = Callable[[_Values, int], _Values]  # bindings (points, parameters), seed → ⟨Z⟩ (points,)

_DELTA = 1e-5
# The circuit's answer, from -1 to 1, as log-odds.
_STEEPNESS = 6.0
_RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)
_FOLDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyNoise:
    """Differential privacy of one patient at a site: sums are of clipped parts, with noise.

    Each step of training releases such a sum; multiplier: of the clipping bound, the noise's deviation.
    """

    multiplier: float
    clip: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTraining:
    """What a site is asked to do with the weights of a round. batch: patients of a step, 0 for all."""

    model: _Model
    seed: int
    round: int
    steps: int
    rate: float
    batch: int = 0
    layers: int = 2
    qubits: int = 4
    noise: PrivacyNoise | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_plain(cls, stated: Mapping[str, Any]) -> SiteTraining:
        """Return what `to_plain` gave."""
        noise = stated.get("noise")
        return cls(**{**stated, "noise": None if noise is None else PrivacyNoise(**noise)})


def noise_for(epsilon: float, releases: int) -> PrivacyNoise:
    """Return the noise by which so many releases are (ε, 1e-5)-private in all.

    Gaussian mechanism under zero-concentrated privacy, ε = ρ + 2 √(ρ ln(1/δ)) (Bun and Steinke,
    arXiv:1605.02065), where one patient more or less changes a sum by at most the bound.
    """
    log = math.log(1 / _DELTA)
    root = math.sqrt(log + epsilon) - math.sqrt(log)
    return PrivacyNoise(multiplier=math.sqrt(releases / (2 * root**2)))


def initial(training: SiteTraining) -> _Values:
    """Return the weights that training begins with, the same at every site."""
    if training.model == "logistic":
        return np.zeros(len(FEATURES) + 1)
    rng = np.random.default_rng([training.seed, 17])
    size = 2 * training.layers * training.qubits
    return np.append(rng.normal(0, 0.1, size), 0.0)


def trained(
    weights: _Values,
    patients: Patients,
    training: SiteTraining,
    circuit: Circuit | None,
    noise_rng: np.random.Generator,
) -> _Values:
    """Return the weights after some steps on a site's patients."""
    if training.model == "logistic":
        return _logistic_steps(weights, patients, training, noise_rng)
    if circuit is None:
        raise ValueError("a circuit needs a QPU")
    return _circuit_steps(weights, patients, training, circuit, noise_rng)


def correct(
    weights: _Values, patients: Patients, training: SiteTraining, circuit: Circuit | None
) -> NDArray[np.bool_]:
    """Return for each patient whether the model says what is the case."""
    if training.model == "logistic":
        odds = _with_one(patients.features) @ weights
    else:
        if circuit is None:
            raise ValueError("a circuit needs a QPU")
        odds = _odds(circuit, weights, patients, training, training.seed)
    return np.asarray((odds > 0) == (patients.ill > 0.5))


def fitted(patients: Patients, seed: int) -> _Values:
    """Return the logistic regression that an expert would fit, its ridge chosen by inner validation."""
    rng = np.random.default_rng([seed, 5])
    folds = rng.permutation(len(patients)) % _FOLDS
    x, y = _with_one(patients.features), patients.ill
    scores = []
    for ridge in _RIDGES:
        hits = 0
        for fold in range(_FOLDS):
            inside = folds != fold
            w = _regressed(x[inside], y[inside], ridge)
            hits += int(np.count_nonzero((x[~inside] @ w > 0) == (y[~inside] > 0.5)))
        scores.append(hits)
    return _regressed(x, y, _RIDGES[int(np.argmax(scores))])


def _regressed(x: _Values, y: _Values, ridge: float) -> _Values:
    """Minimise the log-loss by Newton's method; the intercept is not shrunk."""
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 1e-6
    w = np.zeros(x.shape[1])
    for _ in range(30):
        p = _sigmoid(x @ w)
        step = np.linalg.solve(
            (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty), x.T @ (p - y) + penalty * w
        )
        w = w - step
        if float(np.abs(step).max()) < 1e-8:
            break
    return w


def _logistic_steps(
    weights: _Values, patients: Patients, training: SiteTraining, noise_rng: np.random.Generator
) -> _Values:
    x, y, w = _with_one(patients.features), patients.ill, weights.copy()
    for _ in range(training.steps):
        each = x * (_sigmoid(x @ w) - y)[:, None]
        if training.noise is not None:
            bound = training.noise.clip
            norms = np.linalg.norm(each, axis=1, keepdims=True)
            each = each / np.maximum(1, norms / bound)
            noise = noise_rng.normal(0, training.noise.multiplier * bound, w.size)
        else:
            noise = np.zeros(w.size)
        w = w - training.rate * ((each.sum(axis=0) + noise) / len(y) + 1e-3 * w)
    return w


def _circuit_steps(
    weights: _Values,
    patients: Patients,
    training: SiteTraining,
    circuit: Circuit,
    noise_rng: np.random.Generator,
) -> _Values:
    """Descend by simultaneous perturbation (Spall 1992): two evaluations of all weights a step."""
    w = weights.copy()
    for step in range(training.steps):
        count = training.round * training.steps + step
        rng = np.random.default_rng([training.seed, count, *patients.hospital.encode()])
        chosen = patients
        if training.noise is None and 0 < training.batch < len(patients):
            at = rng.choice(len(patients), training.batch, replace=False)
            chosen = Patients(
                hospital=patients.hospital, features=patients.features[at], ill=patients.ill[at]
            )
        # The same direction at all sites, so that their steps add up.
        shared = np.random.default_rng([training.seed, count])
        direction = shared.choice((-1.0, 1.0), w.size)
        width = 0.2 / (1 + count) ** 0.101
        seed = int(rng.integers(2**31))
        both = [
            _losses(circuit, w + sign * width * direction, chosen, training, seed)
            for sign in (1, -1)
        ]
        each = (both[0] - both[1]) / (2 * width)
        if training.noise is not None:
            bound = training.noise.clip
            total = np.clip(each, -bound, bound).sum()
            total += noise_rng.normal(0, training.noise.multiplier * bound)
        else:
            total = each.sum()
        rate = training.rate / (1 + count / 20) ** 0.602
        w = w - rate * (total / len(chosen)) * direction
    return w


def _losses(
    circuit: Circuit, weights: _Values, patients: Patients, training: SiteTraining, seed: int
) -> _Values:
    odds = _odds(circuit, weights, patients, training, seed)
    losses: _Values = np.asarray(np.logaddexp(0, np.where(patients.ill > 0.5, -odds, odds)))
    return losses


def _odds(
    circuit: Circuit, weights: _Values, patients: Patients, training: SiteTraining, seed: int
) -> _Values:
    names = QUBIT_FEATURES[: training.qubits]
    # In all layers together at most a quarter turn, over which the answer rises with the feature.
    turn = math.pi / 4 / training.layers
    angles = np.clip(patients.features[:, columns_of(names)], -2, 2) * turn
    shared = np.broadcast_to(weights[:-1], (len(patients), weights.size - 1))
    values = circuit(np.column_stack([angles, shared]), seed)
    odds: _Values = _STEEPNESS * (values + weights[-1])
    return odds


def _with_one(features: _Values) -> _Values:
    return np.column_stack([features, np.ones(len(features))])


def _sigmoid(odds: _Values) -> _Values:
    risk: _Values = 0.5 * (1 + np.tanh(odds / 2))
    return risk
