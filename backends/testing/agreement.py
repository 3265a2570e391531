"""Whether a backend's values and counts of random circuits are those of quantum mechanics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.primitives import DataBin
from qiskit.transpiler import Target as QiskitTarget
from scipy.stats import binom

from backends.api import BackendError, Target
from backends.lowering import NativeCompiler, usable_qubits
from backends.payloads import EstimatorPayload, SamplerPayload
from backends.testing.cases import placed_observable
from backends.testing.physics import NotApplicable, Trial
from backends.testing.random_circuits import Kinds, Question, random_question, random_samples
from backends.testing.reference import ProfileNoise, distribution, expectation, final_state

__all__ = ["counts_follow_probabilities", "kinds_for", "values_are_exact"]

_WIDEST = 5
_LONGEST, _LONGEST_NOISY = 24, 10
_SHOTS = 1000
# PUBs of one task, each with at most two points of four observables.
_TOGETHER, _LARGEST_PUB = 10, 8
# A right backend fails one example in a million: 16 outcomes at most, two sides each.
_SMALLEST_CHANCE = 1e-8
# Below this a probability is a rounding error, and an outcome with it never comes.
_IMPOSSIBLE = 1e-9
_CLOSE = 1e-6
# Qiskit's passes leave out rotations too small to matter; what is compiled wrongly is further off.
_COMPILED = 1e-3


def kinds_for(target: Target) -> Kinds:
    """Return what random circuits for a target may hold."""
    free = target.native_gates is None
    dynamic = target.mid_circuit_measurement
    listed = target.native.operation_names if isinstance(target.native, QiskitTarget) else ()
    repeats = "if_else" not in listed or "while_loop" in listed
    return Kinds(
        resets=dynamic,
        channels=dynamic and free,
        branches=dynamic,
        loops=free,
        repeats=repeats,
    )


def values_are_exact(trial: Trial, examples: int, kinds: Kinds) -> None:
    """Compare expectation values, projectors and constants included, at each parameter point.

    Values that come with a standard error may be five of them away.
    """
    trial.needs("estimator")
    noise = _noise(trial)

    def compare(questions: Sequence[Question]) -> None:
        natives = [trial.native(question.circuit, trial.target) for question in questions]
        pubs = [
            (
                native,
                [placed_observable(one, native, layout) for one in question.observables],
                _columns(question, native)[:, None, :],
            )
            for question, (native, layout) in zip(questions, natives, strict=True)
        ]
        results = trial.run(EstimatorPayload.coerce(pubs, seed=5)).native
        for question, (native, layout), result in zip(questions, natives, results, strict=True):
            expected = _expectations(trial, question, native, layout, noise)
            assert result.data.evs.shape == expected.shape
            off = np.abs(result.data.evs - expected) - 5 * result.data.stds
            assert off.max() < _CLOSE, (
                f"{result.data.evs} are not {expected}, the means of {question.observables} "
                f"after\n{question.circuit}"
            )

    _ask(trial, examples, partial(random_question, kinds=kinds), compare)


def counts_follow_probabilities(trial: Trial, examples: int, kinds: Kinds) -> None:
    """Compare how often each outcome of all registers together comes with its probability."""
    trial.needs("sampler")
    noise = _noise(trial)
    shots = min(_SHOTS, trial.target.max_shots or _SHOTS)

    def compare(questions: Sequence[Question]) -> None:
        natives = [trial.native(question.circuit, trial.target)[0] for question in questions]
        pubs = [(n, _columns(q, n)) for q, n in zip(questions, natives, strict=True)]
        results = trial.run(SamplerPayload.coerce(pubs, shots=shots, seed=9)).native
        for question, native, result in zip(questions, natives, results, strict=True):
            assert result.data.shape == (len(question.values),)
            executed = _executed(trial, native)[0]
            for row, point in enumerate(_columns(question, executed)):
                bound = executed.assign_parameters(point)
                if executed is not question.circuit:
                    asked = question.circuit.assign_parameters(question.values[row])
                    _check_equal(distribution(bound), distribution(asked))
                _check_counts(
                    _outcomes(native, result.data, row), distribution(bound, noise), question
                )

    _ask(trial, examples, partial(random_samples, kinds=kinds), compare)


def _ask(
    trial: Trial,
    examples: int,
    make: Callable[[int, int, int], Question],
    compare: Callable[[Sequence[Question]], None],
) -> None:
    """Compare so many questions, several in a task; of what is wrong, show the shortest circuit."""
    widest = min(_WIDEST, len(usable_qubits(trial.target)) or _WIDEST)
    longest = _LONGEST if trial.target.native_gates is None else _LONGEST_NOISY
    sizes = np.random.default_rng(examples).integers(
        (1, 0), (widest + 1, longest + 1), (examples, 2)
    )
    asked = [(seed, int(width), int(length)) for seed, (width, length) in enumerate(sizes)]
    room = trial.target.max_circuits or _TOGETHER * _LARGEST_PUB
    together = max(1, min(_TOGETHER, room // _LARGEST_PUB))

    def fit(question: Question) -> Question:
        return question if room >= _LARGEST_PUB else question.smallest()

    for start in range(0, len(asked), together):
        batch = asked[start : start + together]
        try:
            compare([fit(make(*one)) for one in batch])
        except (AssertionError, BackendError):
            for seed, width, length in batch:
                for shorter in range(length + 1):
                    compare([fit(make(seed, width, shorter))])
            raise


def _noise(trial: Trial) -> ProfileNoise | None:
    if trial.noise and trial.profile is None:
        raise NotApplicable("the noise is not checked: the suite has no profile of it")
    return None if trial.profile is None else ProfileNoise(trial.profile)


def _executed(trial: Trial, native: QuantumCircuit) -> tuple[QuantumCircuit, Sequence[int] | None]:
    """Return what runs on the device in the end, and where qubits are then."""
    if trial.profile is not None and trial.target.site_transpiles:
        return NativeCompiler(trial.target).compile(native)
    return native, None


def _expectations(
    trial: Trial,
    question: Question,
    native: QuantumCircuit,
    layout: Sequence[int] | None,
    noise: ProfileNoise | None,
) -> NDArray[np.float64]:
    executed, moved = _executed(trial, native)
    virtual = range(question.circuit.num_qubits)
    places = [q if layout is None else layout[q] for q in virtual]
    places = places if moved is None else [moved[q] for q in places]
    rows = []
    for asked_at, point in zip(question.values, _columns(question, executed), strict=True):
        bound = executed.assign_parameters(point)
        if executed is not question.circuit:
            asked = question.circuit.assign_parameters(asked_at)
            ideal = final_state(bound, places)
            np.testing.assert_allclose(ideal, final_state(asked, virtual), atol=_COMPILED)
        state = final_state(bound, places, noise)
        rows.append([expectation(state, one, noise) for one in question.observables])
    return np.array(rows)


def _columns(question: Question, native: QuantumCircuit) -> NDArray[np.float64]:
    """Return the points' values in the order of another circuit's parameters."""
    names = [parameter.name for parameter in question.circuit.parameters]
    return question.values[:, [names.index(parameter.name) for parameter in native.parameters]]


def _outcomes(circuit: QuantumCircuit, data: DataBin, row: int) -> dict[int, int]:
    """Return how often each value of all classical bits together came."""
    places = {bit: index for index, bit in enumerate(circuit.clbits)}
    total: NDArray[np.int64] | int = 0
    for register in circuit.cregs:
        bits = np.unpackbits(data[register.name].array[row][:, ::-1], axis=1, bitorder="little")
        for place, bit in enumerate(register):
            total = total + (bits[:, place].astype(np.int64) << places[bit])
    values, tally = np.unique(total, return_counts=True)
    return dict(zip(values.tolist(), tally.tolist(), strict=True))


def _check_counts(
    counts: Mapping[int, int], chances: Mapping[int, float], question: Question
) -> None:
    """Refuse counts of which one is further off than a fair draw is, but for a tiny chance."""
    shots = sum(counts.values())
    for outcome in counts.keys() | chances.keys():
        count, chance = counts.get(outcome, 0), chances.get(outcome, 0.0)
        if chance < _IMPOSSIBLE:
            assert count == 0, (
                f"{count} of {shots} shots gave {outcome:b}, which cannot come\n{question.circuit}"
            )
            continue
        chance = min(chance, 1.0)
        tail = min(binom.cdf(count, shots, chance), binom.sf(count - 1, shots, chance))
        assert tail > _SMALLEST_CHANCE, (
            f"{count} of {shots} shots gave {outcome:b}, whose probability is {chance:.4f}"
            f"\n{question.circuit}"
        )


def _check_equal(first: Mapping[int, float], second: Mapping[int, float]) -> None:
    for outcome in first.keys() | second.keys():
        assert abs(first.get(outcome, 0.0) - second.get(outcome, 0.0)) < _COMPILED
