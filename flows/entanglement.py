"""Entanglement judged from few measurement settings: networks beside witnesses and tomography.

A QPU prepares random mixed states and measures them in settings of Pauli axes, all with the same
number of shots for each state, divided among the settings. Networks learn from the states of a
training part which are entangled; a linear model learns the same. Beside them, at equal shots: the
witness of the fidelity with a Bell state, CHSH's inequality, and tomography with the partial
transpose, which needs all settings. The labels are computed from the states as they were meant,
by simulation: a QPU with noise prepares others. ``hpcqc run flows.entanglement -p name=value …``
takes:

- ``qubits``: 2, or 3. Two: states of four qubits with two traced out, by the Hilbert-Schmidt
  measure; the label is exact. Three: mixtures whose label is whether a partial transpose is
  negative, which is sufficient for entanglement, not necessary.
- ``training`` and ``test``: numbers of states; half of all are entangled.
- ``settings``: numbers of settings at which the networks are compared; the last must be all, 9 or
  27. By default 3, 5, 6 and 9, or 3, 9, 18 and 27.
- ``shots``: for each state, in all.
- ``networks``: trained from so many seeds for each number of settings. ``seed`` of all that is random.

No side is quantum here: the QPU makes the data of all. Beside the keys that `flows` documents, the
result has ``qubits``, ``training``, ``test``, ``shots``, ``entangled_share`` (of the states drawn
before they were balanced), ``expected_share`` (1 − 8/33 for two qubits, else None), ``ways`` (``name``,
``settings``, ``value``, ``error``, ``by_seed``) and ``won`` (name of the best way, or "neither" where the
best network and the best of the others differ within their error). Errors are of a bootstrap over the
test states, and networks are judged by the mean of their seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from backends.payloads import SEED_STRIDE
from flows._comparison import Comparison, Way, resampled
from flows._entanglement.judges import (
    WITNESS_SETTINGS,
    Judgement,
    JudgingSettings,
    SettingCounts,
    above,
    bell_fidelity,
    chsh,
    counts_of,
    network_scores,
    ppt_scores,
    shares_of,
    threshold_for,
)
from flows._entanglement.picture import picture
from flows._entanglement.states import RandomStates, drawn, least_eigenvalue, settings_of
from flows._inputs import InputError, check_whole, require_extra
from flows._networks import Training
from hpcqc import Qpu, checked_by, classical, fan_out, open_qpu, quantum
from orchestrator.wording import counted

__all__ = ["draw", "judge", "learnt", "measure", "result", "train"]

_Values = NDArray[np.float64]

_DEFAULT_SETTINGS = {2: (3, 5, 6, 9), 3: (3, 9, 18, 27)}
_STATES_OF_A_PUB = 500
_SEPARABLE_SHARE = 8 / 33  # of two qubits by the Hilbert-Schmidt measure (Slater and Dunkl 2012)
_NETWORK, _LINEAR = "network", "linear model"
_PPT, _TUNED = "tomography with PPT", "tomography with PPT, threshold tuned"
_GROUPS = {_NETWORK: "network", _LINEAR: "linear model", _PPT: "tomography", _TUNED: "tomography"}


@classical
def draw(qubits: int, count: int, seed: int) -> RandomStates:
    """Draw states; of all together half are entangled."""
    return drawn(qubits, count, seed)


@quantum
def measure(qpu: Qpu, states: RandomStates, settings: JudgingSettings) -> SettingCounts:
    """Prepare all states and measure them in all settings, with the most shots that a way takes."""
    labels = settings_of(states.qubits)
    shots = settings.most_shots(states.qubits)
    counts = []
    for first in range(0, len(states.angles), _STATES_OF_A_PUB):
        # Seeds go on as in a single PUB; from equal ones, states of two PUBs would share their noise.
        sampler = qpu.sampler(seed=settings.seed + SEED_STRIDE * first * len(labels))
        angles = states.angles[first : first + _STATES_OF_A_PUB]
        counts.append(counts_of(sampler, states.qubits, angles, labels, shots))
    return SettingCounts(settings=labels, counts=np.concatenate(counts))


@classical(nodes=(1, 3))
def train(
    states: RandomStates, measured: SettingCounts, settings: JudgingSettings
) -> list[Judgement]:
    """Train networks and linear models for each number of settings, and judge the test states."""
    return learnt(states, measured, settings, fan_out)


def learnt(
    states: RandomStates,
    measured: SettingCounts,
    settings: JudgingSettings,
    apply: Callable[..., Any],
) -> list[Judgement]:
    """Return what networks and linear models judge; ``apply`` is `map`, or spreads over workers."""
    # All networks of one shape at one worker, which compiles their training once.
    items = [(name, number) for number in settings.numbers for name in (_NETWORK, _LINEAR)]
    found = apply(partial(_trained, states, measured, settings), items)
    return [
        Judgement(name=name, settings=number, rights=rights)
        for (name, number), rights in zip(items, found, strict=True)
    ]


def _trained(
    states: RandomStates,
    measured: SettingCounts,
    settings: JudgingSettings,
    item: tuple[str, int],
) -> NDArray[np.bool_]:
    name, number = item
    hidden, seeds = ((64, 64), settings.networks) if name == _NETWORK else ((), 1)
    seen = _seen(measured, settings, number)
    labels, first = states.is_entangled, settings.training
    rights = []
    for seed in range(settings.seed, settings.seed + seeds):
        training = Training(hidden=hidden, epochs=10, batch=512, rate=5e-3, decay=1e-2, seed=seed)
        scores = network_scores(_part(seen, 0, first), labels[:first], _part(seen, first), training)
        rights.append((scores > 0) == labels[first:])
    return np.array(rights)


def _seen(measured: SettingCounts, settings: JudgingSettings, number: int) -> SettingCounts:
    """Return what so many settings give for the shots of a state."""
    part = SettingCounts(settings=measured.settings[:number], counts=measured.counts[:, :number])
    rng = np.random.default_rng([settings.seed, number])
    return shares_of(part, settings.shots // number, rng)


def _part(measured: SettingCounts, first: int, end: int | None = None) -> SettingCounts:
    return SettingCounts(settings=measured.settings, counts=measured.counts[first:end])


@classical
def judge(
    states: RandomStates, measured: SettingCounts, settings: JudgingSettings
) -> list[Judgement]:
    """Judge the test states by witnesses and tomography, at the same shots."""
    labels, first = states.is_entangled, settings.training
    everything = _seen(measured, settings, len(measured.settings))
    scores = ppt_scores(everything)
    found = [
        (_PPT, everything, scores, 0.0),
        (_TUNED, everything, scores, threshold_for(scores[:first], labels[:first])),
    ]
    if states.qubits == 2:
        three = _seen(measured, settings, WITNESS_SETTINGS)
        fidelity = bell_fidelity(three)
        found += [
            ("Bell witness", three, fidelity, 0.5),
            (
                "Bell witness, threshold tuned",
                three,
                fidelity,
                threshold_for(fidelity[:first], labels[:first]),
            ),
            ("CHSH inequality", everything, chsh(everything), 0.0),
        ]
    return [
        Judgement(
            name=name,
            settings=len(seen.settings),
            rights=np.array([above(values[first:], threshold) == labels[first:]]),
        )
        for name, seen, values, threshold in found
    ]


def _checked(given: Mapping[str, Any]) -> JudgingSettings:
    """Return the settings, once all parameters have been found usable."""
    require_extra("learning", ("jax", "optax"))
    qubits, numbers = given["qubits"], given["settings"]
    bounds = {
        "qubits": (2, 3),
        "training": (100, 100_000),
        "test": (100, 100_000),
        "networks": (1, 100),
        "seed": (0, 2**31 - 1),
    }
    check_whole(given, bounds)
    everything = 3**qubits
    numbers = tuple(sorted(set(_DEFAULT_SETTINGS[qubits] if numbers is None else numbers)))
    if not numbers or numbers[0] < 3 or numbers[-1] != everything:
        raise InputError(
            f"settings {list(numbers)}: expected numbers from 3 on, the last of them {everything}, "
            f"which is all of {qubits} qubits"
        )
    if not everything <= given["shots"] <= 10**6:
        raise InputError(
            f"shots {given['shots']}: expected {everything} to 1000000, at least one for each of all "
            "settings"
        )
    return JudgingSettings(
        numbers=numbers,
        training=given["training"],
        shots=given["shots"],
        networks=given["networks"],
        seed=given["seed"],
    )


@flow
@checked_by(_checked)
def entanglement(
    qubits: int = 2,
    training: int = 2000,
    test: int = 1000,
    settings: list[int] | None = None,
    shots: int = 900,
    networks: int = 5,
    seed: int = 1,
) -> dict[str, Any]:
    """Compare judges of entanglement; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for parameters that cannot be used.
    """
    chosen = _checked(locals())
    most = open_qpu().target.num_qubits
    if most is not None and 2 * qubits > most:
        raise InputError(
            f"qubits {qubits}: the preparation takes {2 * qubits}, and this QPU has {most}"
        )
    states = draw(qubits, training + test, seed)
    measured = measure(states, chosen)
    taught = train.submit(states, measured, chosen)
    known = judge(states, measured, chosen)
    return result(states, chosen, [*taught.result(), *known])


def result(
    states: RandomStates, settings: JudgingSettings, found: Sequence[Judgement]
) -> dict[str, Any]:
    """Return what the flow does, from all judgements."""
    ways = {(one.name, one.settings): _as_way(one, settings.seed) for one in found}
    tests = found[0].rights.shape[1]
    title = "Hilbert-Schmidt states of two qubits" if states.qubits == 2 else "mixtures of 3 qubits"
    data = f"{title}, {tests} balanced, {settings.shots} shots each"
    whole = Comparison(ways=list(ways.values()), measure="accuracy", data=data)
    fewest = settings.numbers[0]
    few = replace(
        whole,
        ways=[way for (_, number), way in ways.items() if number <= fewest],
        data=f"{data}, {counted(fewest, 'setting')}",
    )
    return {
        "qubits": states.qubits,
        "training": settings.training,
        "test": tests,
        "shots": settings.shots,
        "seed": settings.seed,
        "entangled_share": states.share,
        "expected_share": 1 - _SEPARABLE_SHARE if states.qubits == 2 else None,
        "won": whole.winner,
        "ways": [
            {
                "name": one.name,
                "settings": one.settings,
                "value": ways[one.name, one.settings].figure.value,
                "error": ways[one.name, one.settings].figure.error,
                "by_seed": one.rights.mean(axis=1).tolist(),
            }
            for one in found
        ],
        "comparisons": [one.as_record() for one in (whole, few)[: len(settings.numbers)]],
        "plot": _picture(states, settings, found, ways),
        "table": {
            "columns": ["Way", "Settings", "Shots of each", "Accuracy", "Std. error"],
            "rows": [
                [
                    one.name,
                    one.settings,
                    settings.shots // one.settings,
                    round(ways[one.name, one.settings].figure.value, 4),
                    round(ways[one.name, one.settings].figure.error, 4),
                ]
                for one in sorted(found, key=lambda one: (one.settings, one.name))
            ],
        },
        "summary": _summary(states, settings, whole, few, tests),
    }


def _as_way(one: Judgement, seed: int) -> Way:
    """Return the accuracy with its error over states that all ways are judged on."""
    scores = one.rights.mean(axis=0)
    figure, draws = resampled(lambda chosen: float(scores[chosen].mean()), scores.size, seed)
    name = f"{one.name}, {counted(one.settings, 'setting')}"
    return Way(name=name, figure=figure, group=_GROUPS.get(one.name, "witness"), draws=draws)


def _picture(
    states: RandomStates,
    settings: JudgingSettings,
    found: Sequence[Judgement],
    ways: Mapping[tuple[str, int], Way],
) -> str:
    curves = (_NETWORK, _LINEAR)
    everything = 3**states.qubits
    shown = [
        one
        for one in found
        if (one.name, one.settings)
        in ((_NETWORK, everything), (_NETWORK, settings.numbers[0]), (_TUNED, everything))
    ]
    return picture(
        settings.numbers,
        {name: [ways[name, number].figure for number in settings.numbers] for name in curves},
        {
            one.name: (one.settings, ways[one.name, one.settings].figure)
            for one in found
            if one.name not in curves
        },
        least_eigenvalue(states.matrices[settings.training :]),
        {ways[one.name, one.settings].name: one.rights.mean(axis=0) for one in shown},
    )


def _summary(
    states: RandomStates,
    settings: JudgingSettings,
    whole: Comparison,
    few: Comparison,
    tests: int,
) -> list[str]:
    lines = [whole.verdict]
    if len(settings.numbers) > 1:
        lines.append(f"With {counted(settings.numbers[0], 'setting')}: {few.verdict}")
    lines.append(
        f"{tests} test states after {settings.training} of training, half of all entangled; "
        f"{counted(settings.shots, 'shot')} for each state, whatever the number of settings."
    )
    if states.qubits == 2:
        lines.append(
            f"Of the states drawn, {states.share:.4f} were entangled; theory: "
            f"{1 - _SEPARABLE_SHARE:.4f}."
        )
    else:
        lines.append(
            "The label of three qubits is a negative partial transpose, which is sufficient for "
            "entanglement, not necessary."
        )
    lines.append(
        "All ways judge what the QPU measured; labels are computed from the states as they were "
        "meant, by simulation."
    )
    return lines
