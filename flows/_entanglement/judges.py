"""Judges of entanglement from measured frequencies: networks, witnesses, tomography."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._entanglement.states import circuit_of, least_eigenvalue, setting_angles
from flows._networks import Training, trained

__all__ = [
    "WITNESS_SETTINGS",
    "Judgement",
    "JudgingSettings",
    "SettingCounts",
    "above",
    "bell_fidelity",
    "chsh",
    "counts_of",
    "network_scores",
    "parities",
    "ppt_scores",
    "reconstructed",
    "shares_of",
    "threshold_for",
]

_Values = NDArray[np.float64]
_Counts = NDArray[np.int64]

_PAULIS = {
    "I": np.eye(2, dtype=complex),
    "X": np.array([[0, 1], [1, 0]], dtype=complex),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.array([[1, 0], [0, -1]], dtype=complex),
}
WITNESS_SETTINGS = 3
_DIGITS = 10
# Signs of XX, YY and ZZ in the four Bell states.
_BELL = np.array([[1, -1, 1], [-1, 1, 1], [1, 1, -1], [-1, -1, -1]])


@dataclass(frozen=True, eq=False, kw_only=True)
class SettingCounts:
    """Counts of states in settings: (states, settings, outcomes); bit k of an outcome is qubit k."""

    settings: tuple[str, ...]
    counts: _Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingSettings:
    """How states are measured and judged. numbers: of settings."""

    numbers: tuple[int, ...] = (3, 5, 6, 9)
    training: int = 2000
    shots: int = 900
    networks: int = 5
    seed: int = 1

    def most_shots(self, qubits: int) -> int:
        """Return the most shots that a way takes of one setting; witnesses of two qubits take three."""
        fewest = min(self.numbers)
        return self.shots // (min(fewest, WITNESS_SETTINGS) if qubits == 2 else fewest)


@dataclass(frozen=True, eq=False, kw_only=True)
class Judgement:
    """What a way says of each test state. rights: (seeds, states), whether it is right."""

    name: str
    settings: int
    rights: NDArray[np.bool_]


def counts_of(
    sampler: Any, qubits: int, angles: _Values, settings: Sequence[str], shots: int
) -> _Counts:
    """Prepare states and measure them in all settings, in one broadcast PUB.

    Returns:
        (states, settings, 2ⁿ) counts.
    """
    bases = np.array([setting_angles(label) for label in settings])
    points, prepared = len(angles), angles.shape[1]
    bound = np.concatenate(
        [
            np.broadcast_to(angles[:, np.newaxis], (points, len(bases), prepared)),
            np.broadcast_to(bases, (points, *bases.shape)),
        ],
        axis=2,
    )
    data = sampler.run([(circuit_of(qubits), bound)], shots=shots).result()[0].data.meas
    outcomes = data.array[..., -1]
    return np.stack([(outcomes == value).sum(axis=-1) for value in range(2**qubits)], axis=-1)


def shares_of(measured: SettingCounts, shots: int, rng: np.random.Generator) -> SettingCounts:
    """Return so many shots of each setting, chosen at random without replacement."""
    rows = measured.counts.reshape(-1, measured.counts.shape[-1])
    if shots == rows[0].sum():
        return measured
    chosen = np.array([rng.multivariate_hypergeometric(row, shots) for row in rows])
    return SettingCounts(settings=measured.settings, counts=chosen.reshape(measured.counts.shape))


def parities(measured: SettingCounts) -> _Values:
    """Return the mean of each product of outcomes ±1: (states, settings, 2ⁿ − 1)."""
    size = measured.counts.shape[-1]
    signs = np.array(
        [[(-1) ** (mask & value).bit_count() for mask in range(1, size)] for value in range(size)]
    )
    return np.asarray(measured.counts @ signs / measured.counts.sum(axis=-1, keepdims=True))


def network_scores(
    train: SettingCounts, is_entangled: NDArray[np.bool_], test: SettingCounts, training: Training
) -> _Values:
    """Return logits of the test states from a network trained on the others.

    A Pauli operator on a qubit turns a state into another one that is as entangled, and only flips
    outcomes: the network learns each state of the training part in all these turns.
    """
    turned = _turns(train.settings) * parities(train)
    network = trained(
        turned.reshape(-1, turned[0, 0].size), np.tile(is_entangled, len(turned)), training
    )
    features = parities(test)
    return network(features.reshape(len(features), -1))[:, 0]


def _turns(settings: Sequence[str]) -> _Values:
    """Return how products of outcomes change by a Pauli operator on each qubit.

    (operators, 1, settings, 2ⁿ − 1): 1 or −1.
    """
    qubits = len(settings[0])
    found = []
    for operators in itertools.product("IXYZ", repeat=qubits):
        # By setting and qubit; the last letter of a label is qubit 0.
        flips = [
            [
                -1 if operator not in ("I", axis) else 1
                for operator, axis in zip(operators, reversed(label), strict=True)
            ]
            for label in settings
        ]
        found.append(
            [
                [
                    math.prod(flip for qubit, flip in enumerate(row) if mask >> qubit & 1)
                    for mask in range(1, 2**qubits)
                ]
                for row in flips
            ]
        )
    return np.array(found, dtype=float)[:, np.newaxis]


def reconstructed(measured: SettingCounts) -> NDArray[np.complex128]:
    """Return states from complete measurements: linear inversion, then the nearest physical one.

    The nearest in the 2-norm, as of Smolin, Gambetta and Smith (PRL 108, 070502, 2012).
    """
    means = _pauli_means(measured)
    size = measured.counts.shape[-1]
    states = np.zeros((len(measured.counts), size, size), dtype=complex)
    for label, values in means.items():
        states += values[:, np.newaxis, np.newaxis] * _operator(label) / size
    spectra, vectors = np.linalg.eigh(states)
    return np.asarray(
        (vectors * _onto_simplex(spectra)[:, np.newaxis]) @ vectors.conj().swapaxes(1, 2)
    )


def _pauli_means(measured: SettingCounts) -> dict[str, _Values]:
    """Return the mean of each Pauli operator, from all settings that contain it."""
    qubits = len(measured.settings[0])
    found = parities(measured)
    means: dict[str, list[_Values]] = {"I" * qubits: [np.ones(len(found))]}
    for number, setting in enumerate(measured.settings):
        for mask in range(1, 2**qubits):
            label = "".join(
                axis if mask >> (qubits - 1 - place) & 1 else "I"
                for place, axis in enumerate(setting)
            )
            means.setdefault(label, []).append(found[:, number, mask - 1])
    return {label: np.mean(values, axis=0) for label, values in means.items()}


def _operator(label: str) -> NDArray[np.complex128]:
    made = np.eye(1, dtype=complex)
    for axis in label:
        made = np.kron(made, _PAULIS[axis])
    return made


def _onto_simplex(spectra: _Values) -> _Values:
    """Return the nearest probabilities to each row."""
    descending = np.sort(spectra, axis=1)[:, ::-1]
    places = np.arange(1, spectra.shape[1] + 1)
    shifts = (np.cumsum(descending, axis=1) - 1) / places
    last = (descending > shifts).sum(axis=1) - 1
    shift = shifts[np.arange(len(spectra)), last][:, np.newaxis]
    return np.asarray(np.clip(spectra - shift, 0.0, None))


def bell_fidelity(measured: SettingCounts) -> _Values:
    """Return the largest fidelity with a Bell state; above 1/2, a state is entangled.

    It takes the settings XX, YY and ZZ, as witnesses of entanglement do (Gühne and Tóth, Physics
    Reports 474, 1, 2009).
    """
    found = parities(measured)
    places = [measured.settings.index(label) for label in ("XX", "YY", "ZZ")]
    return np.asarray((1 + found[:, places, 2] @ _BELL.T).max(axis=1) / 4)


def chsh(measured: SettingCounts) -> _Values:
    """Return the largest violation of CHSH's inequality, minus 1 (Horodecki, PLA 200, 340, 1995)."""
    means = _pauli_means(measured)
    rows = ["".join(pair) for pair in itertools.product("XYZ", repeat=2)]
    tensors = np.stack([means[label] for label in rows], axis=1).reshape(-1, 3, 3)
    squares = np.linalg.svd(tensors, compute_uv=False) ** 2
    return np.asarray(squares[:, :2].sum(axis=1) - 1)


def threshold_for(scores: _Values, is_entangled: NDArray[np.bool_]) -> float:
    """Return the threshold above which states count as entangled with the fewest errors.

    It lies between two scores, or beyond all: equal ones, which are frequent with few shots, stay together.
    """
    rounded = np.round(scores, _DIGITS)
    order = np.argsort(rounded, kind="stable")
    ranked, labels = rounded[order], is_entangled[order]
    errors = np.concatenate([[0], np.cumsum(labels)]) + (~labels).sum()
    errors = errors - np.concatenate([[0], np.cumsum(~labels)])
    padded = np.concatenate([[ranked[0] - 1], ranked, [ranked[-1] + 1]])
    best = int(np.argmin(np.where(np.diff(padded) > 0, errors, len(errors))))
    return float((padded[best] + padded[best + 1]) / 2)


def above(scores: _Values, threshold: float) -> NDArray[np.bool_]:
    """Return which scores are above a threshold by more than rounding: few shots often meet it exactly."""
    return np.asarray(np.round(scores - threshold, _DIGITS) > 0)


def ppt_scores(measured: SettingCounts) -> _Values:
    """Return minus the least eigenvalue of a partial transpose of each reconstructed state."""
    return np.asarray(-least_eigenvalue(reconstructed(measured)))
