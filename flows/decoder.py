"""Decoders of a quantum memory: matching, correlated matching and a network that learns.

A memory experiment of a surface or a repetition code gives detection events and says whether the
logical observable flipped; a decoder must tell that from the events. Matching (PyMatching) answers
at once. A network (JAX) corrects the answer of correlated matching: it learns from shots that Dask
workers draw from the error model, with the gaps of the matching, then from the odd shots of the
experiment itself; all decoders are judged on the even ones. ``hpcqc run flows.decoder -p name=value …``
takes:

- ``data``: folder of an experiment in the layout of Zenodo 6804040 (Google's Sycamore, Nature 614,
  676 (2023)), whose published predictions are compared as well.
- ``source``: without data, "generated" (the default: Stim draws shots with the noise of a profile)
  or "qpu": the run's QPU executes the circuits, and the events are taken from its counts. A QPU that
  measures at the end only gets a fresh qubit for each measurement.
- ``code``: "surface" (default, generated) or "repetition" (default, qpu); ``distance``: odd, 3 by
  default; ``rounds``: 5 by default; ``basis``: "z" or "x", of a surface code.
- ``profile``: device whose noise is generated, by default ibm-fez.
- ``shots``: of the experiment, by default 50 000 generated or 4000 on a QPU.
- ``network``: "residual" (dense layers, the default) or "attention" (recurrent over the rounds, with
  attention among stabilizers: minutes to hours); ``width`` of its layers, by default 192 or 32.
- ``samples``: shots to draw for training; ``passes`` over them; ``gpus``: 1 to train on one.
- ``save``: file for the trained decoder, which ``hpcqc realtime serve`` reads.
- ``seed`` of all that is random.

Beside the keys that `flows` documents, the result has ``experiment``, ``source``, ``code``,
``distance``, ``rounds``, ``shots``, ``test_shots``, ``detection_share``, ``decoders`` (by name:
``wrong`` and ``per_round`` on all shots, or None; ``test_wrong`` and ``test_per_round``; each a
``value`` and its standard ``error``), ``best``, ``better`` ("network", "matching" or "neither": the
network and the better matching within two standard errors), ``difference`` (network minus the better
matching in shares of wrong answers, paired), ``network`` (``kind``, ``parameters``, ``drawn``,
``measured_passes``, ``steps``) and ``file``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from backends.api import Target
from backends.lowering import usable_qubits
from backends.profiles import ProfileError, load_profile
from flows._comparison import Comparison, Figure, Way
from flows._decoder import trained as files
from flows._decoder.codes import (
    Code,
    Memory,
    Noise,
    ideal_circuit,
    noise_of_profile,
    noise_of_target,
    noisy,
    on_qiskit,
    with_fresh_qubits,
)
from flows._decoder.experiments import Bits, Experiment, coordinates_of, unpacked
from flows._decoder.matching import Drawing, Matched, TrainingShots, drawn, matched, soft_inputs
from flows._decoder.networks import Kind, Shape, grid_of
from flows._decoder.pictures import picture
from flows._decoder.published import check_folder, read_experiment
from flows._decoder.standings import Standing, better, difference, standings, verdict
from flows._decoder.trained import Trained
from flows._decoder.training import Learned, Schedule, train
from flows._inputs import InputError, check_whole, require_extra
from hpcqc import Qpu, checked_by, classical, fan_out, open_qpu, quantum
from orchestrator.runs import current_run
from orchestrator.wording import counted

__all__ = [
    "Measured",
    "MemorySettings",
    "answers",
    "checked",
    "decoder",
    "execute",
    "experiment_for",
    "experiment_of_counts",
    "generated",
    "learn",
    "network_answers",
    "read",
    "result",
    "training_shots",
]

_EXTRA = ("decoder", ("stim", "pymatching", "jax", "optax"))
_DRAWN_AT_ONCE = 25_000
_MATCHED_AT_ONCE = 5_000
_WIDTH = {"residual": 192, "attention": 32}
_MEASURED_PASSES = 5
_PUBLISHED = "published"
# Where a QPU states no errors, so that matching has weights: about what good devices have.
_UNKNOWN = Noise(one_qubit=0.0005, two_qubits=0.005, readout=0.01, source="assumed, none stated")
_NOTHING = Noise(one_qubit=0.0, two_qubits=0.0, readout=0.0)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Measured:
    """What a QPU measured. bits: of each measurement of the circuit (shots, measurements)."""

    bits: NDArray[np.uint8]
    measurements: int
    fresh: bool
    noise: Noise
    qpu: str


@classical
def read(folder: str) -> Experiment:
    """Read the experiment of a folder."""
    return read_experiment(folder)


@classical
def generated(memory: Memory, noise: Noise, shots: int, seed: int) -> Experiment:
    """Draw the shots of an experiment with this noise."""
    circuit = noisy(ideal_circuit(memory), noise)
    events, flips = circuit.compile_detector_sampler(seed=seed).sample(
        shots, separate_observables=True
    )
    return _experiment(memory, noise, events, flips[:, 0], f"noise of {noise.source}")


@quantum
def execute(qpu: Qpu, memory: Memory, shots: int, seed: int) -> Measured:
    """Execute the circuit of an experiment on the QPU of this stage."""
    fresh = not qpu.target.mid_circuit_measurement
    circuit = ideal_circuit(memory)
    if fresh:
        circuit = with_fresh_qubits(circuit)
    job = qpu.sampler(default_shots=shots, seed=seed).run([on_qiskit(circuit)])
    bits = job.result()[0].data.m.to_bool_array(order="little")
    return Measured(
        bits=np.packbits(bits, axis=1, bitorder="little"),
        measurements=circuit.num_measurements,
        fresh=fresh,
        noise=_noise_of(qpu.target),
        qpu=qpu.name,
    )


@classical
def experiment_of_counts(memory: Memory, measured: Measured, seed: int) -> Experiment:
    """Take detection events from what a QPU measured."""
    circuit = ideal_circuit(memory)
    if measured.fresh:
        circuit = with_fresh_qubits(circuit)
    bits = unpacked(measured.bits, measured.measurements)
    events, flips = circuit.compile_m2d_converter().convert(
        measurements=bits, separate_observables=True
    )
    # Counts come sorted, and odd and even shots are different halves.
    order = np.random.default_rng(seed).permutation(len(events))
    made = _experiment(memory, measured.noise, events[order], flips[order, 0], f"on {measured.qpu}")
    return replace(made, notes=(f"Error model of the matching: {measured.noise.source}.",))


@classical(nodes=(1, 3))
def answers(experiment: Experiment) -> dict[str, Bits]:
    """Decode all shots by matching, on the workers."""
    plain = _matched(experiment.model, experiment.packed, experiment.detectors, correlated=False)
    correlated = np.zeros(experiment.shots, dtype=bool)
    for half, model in enumerate((experiment.model_for_even, experiment.model_for_odd)):
        packed = experiment.packed[half::2]
        correlated[half::2] = _matched(model, packed, experiment.detectors, correlated=True)
    return {"matching": plain, "correlated matching": correlated}


def _matched(model: str, packed: NDArray[np.uint8], detectors: int, *, correlated: bool) -> Bits:
    parts = [
        Matched(
            model=model,
            detectors=detectors,
            packed=packed[start : start + _MATCHED_AT_ONCE],
            correlated=correlated,
        )
        for start in range(0, len(packed), _MATCHED_AT_ONCE)
    ]
    return np.concatenate(fan_out(matched, parts))


@classical(nodes=(1, 3))
def training_shots(model: str, detectors: int, samples: int, seed: int) -> TrainingShots:
    """Draw shots from a model on the workers, with the gaps of their matching."""
    sizes = [min(_DRAWN_AT_ONCE, samples - at) for at in range(0, samples, _DRAWN_AT_ONCE)]
    seeds = np.random.SeedSequence(seed).generate_state(len(sizes)).tolist()
    parts = [
        Drawing(model=model, detectors=detectors, shots=size, seed=own)
        for size, own in zip(sizes, seeds, strict=True)
    ]
    return TrainingShots.joined(fan_out(drawn, parts))


def _learn(
    experiment: Experiment, shape: Shape, given: TrainingShots, schedule: Schedule
) -> Learned:
    """Train a network on drawn shots and on the odd ones of the experiment."""
    odd = experiment.packed[1::2]
    events = unpacked(odd, experiment.detectors)
    measured = TrainingShots(
        packed=odd,
        soft=soft_inputs(experiment.model_for_even, events),
        flips=experiment.flips[1::2],
    )
    return train(shape, given, measured, schedule)


learn = classical(_learn)


@classical
def network_answers(trained: Trained, packed: NDArray[np.uint8]) -> Bits:
    """Decode shots by the network."""
    return trained.flips(packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """Which experiment to decode. noise: of a generated one. width: of the network's layers."""

    source: str
    memory: Memory
    noise: Noise
    shots: int
    width: int


def checked(given: Mapping[str, Any]) -> MemorySettings:
    """Return the settings, once all parameters have been found usable."""
    require_extra(*_EXTRA)
    bounds = {
        "distance": (3, 25),
        "rounds": (1, 1000),
        "shots": (100, 10**7),
        "samples": (2_000, 10**8),
        "passes": (1, 1000),
        "width": (4, 4096),
        "gpus": (0, 1),
        "seed": (0, 2**63 - 1),
    }
    check_whole(given, bounds)
    choices = {
        "source": (None, "generated", "qpu"),
        "code": (None, "surface", "repetition"),
        "basis": ("x", "z"),
        "network": tuple(_WIDTH),
    }
    for name, known in choices.items():
        if given[name] not in known:
            expected = ", ".join(one for one in known if one)
            raise InputError(f"{name} {given[name]!r}: expected one of {expected}")
    if given["distance"] % 2 == 0:
        raise InputError(f"distance {given['distance']}: expected an odd number")
    width = given["width"] or _WIDTH[given["network"]]
    if given["network"] == "attention" and width % 4:
        raise InputError(f"width {width}: expected a multiple of 4, for heads of attention")
    if given["data"] is not None:
        if given["source"] is not None:
            raise InputError(f"data and source {given['source']!r}: give one of them")
        check_folder(given["data"])
    return _settings(given, width)


def _settings(given: Mapping[str, Any], width: int) -> MemorySettings:
    source = "data" if given["data"] is not None else given["source"] or "generated"
    default: Code = "repetition" if source == "qpu" else "surface"
    code = cast("Code", given["code"] or default)
    if code == "repetition" and given["basis"] == "x":
        raise InputError("basis 'x': a repetition code keeps the basis z only")
    _check_parent(given["save"])
    return MemorySettings(
        source=source,
        memory=Memory(
            code=code,
            distance=given["distance"],
            rounds=given["rounds"],
            basis=given["basis"],
        ),
        noise=_profile_noise(given["profile"]) if source == "generated" else _NOTHING,
        shots=given["shots"] or (4_000 if source == "qpu" else 50_000),
        width=width,
    )


def _profile_noise(name: str) -> Noise:
    try:
        return noise_of_profile(load_profile(name))
    except (ProfileError, ValueError) as error:
        raise InputError(f"profile: {error}") from None


def _check_parent(path: str | None) -> None:
    if path is not None and not Path(path).expanduser().absolute().parent.is_dir():
        raise InputError(f"save {path!r}: no folder {Path(path).parent}; make it first")


@flow
@checked_by(checked)
def decoder(
    data: str | None = None,
    source: str | None = None,
    code: str | None = None,
    distance: int = 3,
    rounds: int = 5,
    basis: str = "z",
    profile: str = "ibm-fez",
    shots: int | None = None,
    network: str = "residual",
    width: int | None = None,
    samples: int = 600_000,
    passes: int = 1,
    gpus: int = 0,
    save: str | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Compare decoders of a memory; parameters and result are described in this module's text.

    Raises `InputError` (a ValueError) for input that cannot be used, with the file where there is
    one, and `MissingExtra` where Stim, PyMatching, JAX or Optax is not installed.
    """
    settings = checked(locals())
    experiment = experiment_for(settings, data, seed)
    shape = Shape(
        kind=cast("Kind", network),
        detectors=experiment.detectors,
        width=settings.width,
        grid=grid_of(experiment.coordinates),
    )
    given = training_shots(experiment.model_for_even, experiment.detectors, samples, seed)
    schedule = Schedule(passes=passes, measured_passes=_MEASURED_PASSES, seed=seed, gpu=bool(gpus))
    # Made where it is wanted: the stages of a module are checked against the compute of the site.
    stage = classical(gpus=1)(_learn) if gpus else learn
    learning = stage.submit(experiment, shape, given, schedule)
    found = answers(experiment)  # beside the training, which has one worker
    learned = learning.result()
    trained = Trained(
        shape=shape,
        weights=learned.weights,
        model=experiment.model_for_even,
        title=experiment.title,
    )
    found |= {"network": network_answers(trained, experiment.packed[::2])}
    if save is not None and not current_run().dry:
        files.save(trained, save)
    made = result(experiment, found, trained, learned, seed)
    return made | {"source": settings.source, "file": save}


def experiment_for(settings: MemorySettings, data: str | None, seed: int) -> Experiment:
    """Read, generate or execute an experiment, by its stage."""
    if data is not None:
        return read(str(Path(data).expanduser().absolute()))
    if settings.source == "generated":
        return generated(settings.memory, settings.noise, settings.shots, seed)
    _check_width(settings.memory, open_qpu().target)
    measured = execute(settings.memory, settings.shots, seed)
    return experiment_of_counts(settings.memory, measured, seed)


def _check_width(memory: Memory, target: Target) -> None:
    """Refuse a code that the QPU has too few qubits for."""
    circuit = ideal_circuit(memory)
    remedy = "choose a smaller distance"
    if not target.mid_circuit_measurement:
        circuit = with_fresh_qubits(circuit)
        remedy += f" or fewer rounds: {target.name} measures at the end only"
    needed = on_qiskit(circuit).num_qubits
    if target.num_qubits is not None and needed > len(usable_qubits(target)):
        raise InputError(
            f"{memory.code} code, distance {memory.distance}, {memory.rounds} rounds: {needed} "
            f"qubits, {target.name} has {len(usable_qubits(target))}; {remedy}"
        )


def _noise_of(target: Target) -> Noise:
    from qiskit.transpiler import Target as QiskitTarget

    native = target.native if isinstance(target.native, QiskitTarget) else None
    return noise_of_target(native) or _UNKNOWN


def _experiment(memory: Memory, noise: Noise, events: Bits, flips: Bits, where: str) -> Experiment:
    """Return an experiment of detection events, with the model of this noise."""
    circuit = ideal_circuit(memory)
    model = str(noisy(circuit, noise).detector_error_model(decompose_errors=True))
    detectors = circuit.num_detectors
    basis = f", basis {memory.basis}" if memory.code == "surface" else ""
    return Experiment(
        title=f"{memory.code.capitalize()} code, distance {memory.distance}, "
        f"{counted(memory.rounds, 'round')}{basis} ({where})",
        code=memory.code,
        distance=memory.distance,
        rounds=memory.rounds,
        detectors=detectors,
        packed=np.packbits(events, axis=1, bitorder="little"),
        flips=flips,
        coordinates=coordinates_of(circuit.get_detector_coordinates(), detectors),
        model=model,
        model_for_even=model,
        model_for_odd=model,
    )


def result(
    experiment: Experiment,
    found: Mapping[str, Bits],
    trained: Trained,
    learned: Learned,
    seed: int,
) -> dict[str, Any]:
    """Return what the flow does, but for its source and file."""
    test = np.arange(0, experiment.shots, 2)
    published = {f"{_PUBLISHED} {name}": bits for name, bits in experiment.published.items()}
    rated = standings({**found, **published}, experiment.flips, test, experiment.rounds)
    ours = {one.name: one for one in rated if one.name in found}
    matchings = [one for one in ours.values() if one.name != "network"]
    rival = min(matchings, key=lambda one: one.test_wrong.value)
    flips = experiment.flips[test]
    apart = difference(found["network"] != flips, found[rival.name][test] != flips, seed)
    ahead = better(ours["network"], rival, apart)
    every = {**found, **published}
    strongest = min(
        (one for one in rated if one.name != "network"), key=lambda one: one.test_wrong.value
    )
    lead = difference(
        found["network"] != flips, _tested(every[strongest.name], test) != flips, seed
    )
    winner = better(ours["network"], strongest, lead)
    first = verdict(ours["network"], strongest, lead)
    own = verdict(ours["network"], rival, apart)
    return {
        "experiment": experiment.title,
        "code": experiment.code,
        "distance": experiment.distance,
        "rounds": experiment.rounds,
        "shots": experiment.shots,
        "test_shots": len(test),
        "detection_share": experiment.detection_share,
        "decoders": {one.name: _plain(one) for one in rated},
        "best": min(rated, key=lambda one: one.test_wrong.value).name,
        "better": "neither" if ahead is None else "network" if ahead is not rival else "matching",
        "difference": asdict(apart),
        "network": {
            "kind": trained.shape.kind,
            "parameters": trained.parameters,
            "measured_passes": learned.measured_passes,
            "steps": [asdict(one) for one in learned.steps],
        },
        "comparisons": [
            Comparison(
                ways=sorted((_way(one) for one in rated), key=lambda way: way.group != "network"),
                measure="logical error per round",
                higher_is_better=False,
                data=experiment.title,
            ).as_record()
            | {"won": "neither" if winner is None else winner.name},
            *_reproduced(experiment, rated),
        ],
        "plot": picture(experiment, rated, learned.steps),
        "table": _table(rated),
        "summary": _summary(experiment, first, own, learned),
    }


def _way(one: Standing) -> Way:
    group = "network" if one.name == "network" else "matching"
    if one.name.startswith(_PUBLISHED):
        group = "published"
    return Way(name=one.name, figure=one.test_per_round, group=group)


def _reproduced(experiment: Experiment, rated: Sequence[Standing]) -> list[dict[str, Any]]:
    """Compare matching on all shots with the predictions of matching that came with them."""
    named = {one.name: one for one in rated}
    pair = [named[name] for name in ("matching", f"{_PUBLISHED} pymatching") if name in named]
    if len(pair) < 2:
        return []
    ways = [
        Way(name=one.name, figure=one.wrong, group=one.name)
        for one in pair
        if one.wrong is not None
    ]
    return [
        Comparison(
            ways=ways,
            measure="share of wrong answers",
            higher_is_better=False,
            data=f"{experiment.title}, all {experiment.shots:,} shots",
        ).as_record()
    ]


def _tested(answer: Bits, test: NDArray[np.int64]) -> Bits:
    """Return the answers to the shots of the test, of answers to these or to all."""
    return answer if len(answer) == len(test) else answer[test]


def _plain(one: Standing) -> dict[str, Any]:
    figures = {
        "wrong": one.wrong,
        "per_round": one.per_round,
        "test_wrong": one.test_wrong,
        "test_per_round": one.test_per_round,
    }
    return {name: None if figure is None else asdict(figure) for name, figure in figures.items()}


def _table(rated: Sequence[Standing]) -> dict[str, Any]:
    def shown(figure: Figure | None) -> str | None:
        return None if figure is None else str(figure)

    return {
        "columns": [
            "Decoder",
            "Wrong, all shots",
            "Per round, all shots",
            "Wrong, test",
            "Per round, test",
        ],
        "rows": [
            [
                one.name,
                shown(one.wrong),
                shown(one.per_round),
                shown(one.test_wrong),
                shown(one.test_per_round),
            ]
            for one in rated
        ],
    }


def _summary(experiment: Experiment, first: str, own: str, learned: Learned) -> list[str]:
    lines = [first]
    if own != first:
        lines.append(f"Of the decoders that ran here: {own[0].lower()}{own[1:]}")
    lines += [
        (
            f"{experiment.title}: {counted(experiment.shots, 'shot')}, "
            f"{100 * experiment.detection_share:.1f} % of the detectors report an event. All "
            "decoders are classical; the memory is the quantum part."
        ),
        (
            f"The network learned from shots of the error model and {experiment.shots // 2} odd "
            "shots (passes over these, chosen by a held-out fifth: "
            f"{learned.measured_passes}); figures of the test are of the even shots."
        ),
    ]
    if not experiment.packed.any():
        lines.append(
            "No detector reported an event: the QPU made no errors, and no decoder is tested. "
            "Choose a QPU or a profile with noise."
        )
    return [*lines, *experiment.notes]
