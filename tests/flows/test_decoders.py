"""Decoders against Stim's own answers, brute force, and the published figures of Sycamore."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pymatching", reason="the decoder extra is not installed")
pytest.importorskip("stim", reason="the decoder extra is not installed")

import stim

from backends.profiles import load_profile
from flows._comparison import Figure
from flows._decoder.codes import (
    Memory,
    Noise,
    ideal_circuit,
    noise_of_profile,
    noise_of_target,
    noisy,
    on_qiskit,
    with_fresh_qubits,
)
from flows._decoder.experiments import unpacked
from flows._decoder.matching import Drawing, drawn, soft_inputs
from flows._decoder.networks import Shape, grid_of, initial, logits
from flows._decoder.published import check_folder, read_experiment
from flows._decoder.standings import difference, per_round, standings, verdict
from flows._decoder.trained import Trained, load, save
from flows._inputs import InputError
from tests.errors import naming

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "qec"
published = pytest.mark.skipif(not DATA.exists(), reason=f"needs the public data in {DATA}")
MEMORIES = [
    Memory(code="surface", distance=3, rounds=3, basis="x"),
    Memory(code="surface", distance=3, rounds=2, basis="z"),
    Memory(code="repetition", distance=5, rounds=4, basis="z"),
    Memory(code="surface", distance=5, rounds=1, basis="z"),
]
WEAK = Noise(one_qubit=0.002, two_qubits=0.01, readout=0.02)


def test_the_error_of_a_round_gives_the_share_of_wrong_answers_back() -> None:
    for rounds, error in itertools.product((1, 5, 25), (0.0, 0.001, 0.03, 0.06)):
        share = (1 - (1 - 2 * error) ** rounds) / 2
        found = per_round(Figure(value=share, error=1e-6), rounds)
        assert found.value == pytest.approx(error, abs=1e-12)
        moved = per_round(Figure(value=share + 1e-6, error=1e-6), rounds)
        assert moved.value - found.value == pytest.approx(found.error, rel=1e-3)
    assert per_round(Figure(value=0.52, error=0.1), 5).value == 0.5


@pytest.mark.parametrize("memory", MEMORIES)
def test_circuits_have_detectors_that_are_silent_without_noise(memory: Memory) -> None:
    circuit = ideal_circuit(memory)
    for made in (circuit, with_fresh_qubits(circuit)):
        events, flips = made.compile_detector_sampler(seed=1).sample(50, separate_observables=True)
        assert not events.any()
        assert not flips.any()
        assert made.num_detectors == circuit.num_detectors > 0
    # The distance: so many errors at least are needed to flip the observable unseen.
    model = noisy(circuit, WEAK)
    assert len(model.shortest_graphlike_error()) == memory.distance


@pytest.mark.parametrize("memory", MEMORIES[:3])
@pytest.mark.parametrize("fresh", [False, True])
def test_qiskit_executes_the_same_circuit(memory: Memory, fresh: bool) -> None:
    qiskit_aer = pytest.importorskip("qiskit_aer")
    circuit = ideal_circuit(memory)
    if fresh:
        circuit = with_fresh_qubits(circuit)
    translated = on_qiskit(circuit)
    measured = {step.qubits[0] for step in translated.data if step.name == "measure"}
    if fresh:
        assert len(measured) == circuit.num_measurements
        assert not translated.count_ops().get("reset")
    simulator = qiskit_aer.AerSimulator(method="stabilizer", seed_simulator=3)
    memory_bits = simulator.run(translated, shots=64, memory=True).result().get_memory()
    bits = np.array([[bit == "1" for bit in reversed(row)] for row in memory_bits])
    assert len({*memory_bits}) > 1 or memory.code == "repetition"  # stabilizers are random at first
    events, flips = circuit.compile_m2d_converter().convert(
        measurements=bits, separate_observables=True
    )
    assert not events.any()
    assert not flips.any()


def test_an_error_in_qiskits_circuit_is_seen_where_stim_says() -> None:
    """A flipped data qubit before the last measurements, on both sides."""
    qiskit_aer = pytest.importorskip("qiskit_aer")
    circuit = ideal_circuit(MEMORIES[1])
    for qubit in (1, 5, 12):
        wrong = stim.Circuit()
        for number, step in enumerate(circuit):
            if number == len(circuit) - 1 - next(
                back for back, one in enumerate(reversed(list(circuit))) if one.name == "M"
            ):
                wrong.append("X", [qubit])
            wrong.append(step)
        simulator = qiskit_aer.AerSimulator(method="stabilizer", seed_simulator=3)
        rows = simulator.run(on_qiskit(wrong), shots=4, memory=True).result().get_memory()
        bits = np.array([[bit == "1" for bit in reversed(row)] for row in rows])
        events, _ = circuit.compile_m2d_converter().convert(
            measurements=bits, separate_observables=True
        )
        expected = wrong.reference_sample()
        theirs, _ = circuit.compile_m2d_converter().convert(
            measurements=expected[None, :], separate_observables=True
        )
        assert events.any()
        assert (events == theirs).all()


def test_noise_has_the_average_errors_of_its_profile() -> None:
    """A depolarised state loses d/(d+1) of the error probability on average (Nielsen)."""
    from qiskit.quantum_info import Operator, Pauli, average_gate_fidelity

    profile = load_profile("ibm-fez")
    noise = noise_of_profile(profile)
    stated = {gate.name: gate.error for gate in profile.gates}
    for qubits, probability, error in (
        (1, noise.one_qubit, stated["sx"]),
        (2, noise.two_qubits, stated["cz"]),
    ):
        labels = ["".join(one) for one in itertools.product("IXYZ", repeat=qubits)]
        fidelities = [average_gate_fidelity(Operator(Pauli(label))) for label in labels]
        mixed = (1 - probability) * fidelities[0] + probability * np.mean(fidelities[1:])
        assert 1 - mixed == pytest.approx(error, rel=1e-9)
    x, y, z = noise.idle
    t1, t2 = profile.coherence.t1_s, profile.coherence.t2_s
    wait = profile.readout.duration_s
    assert 1 - 2 * (x + y) == pytest.approx(math.exp(-wait / t1))
    assert 1 - 2 * (x + z) == pytest.approx(math.exp(-wait / t2))


def test_gates_of_three_qubits_do_not_count() -> None:
    from qiskit.circuit.library import CCZGate, CZGate, SXGate
    from qiskit.circuit.measure import Measure
    from qiskit.transpiler import InstructionProperties, Target

    target = Target(num_qubits=3)
    for gate, places, error in (
        (SXGate(), (0,), 0.001),
        (CZGate(), (0, 1), 0.01),
        (CCZGate(), (0, 1, 2), 0.2),
        (Measure(), (0,), 0.03),
    ):
        target.add_instruction(gate, {places: InstructionProperties(error=error)})
    found = noise_of_target(target)
    assert found is not None
    assert (found.one_qubit, found.two_qubits) == pytest.approx((0.0015, 0.0125))
    assert found.readout == 0.03


def test_gaps_are_log_odds_of_a_code_that_can_be_summed() -> None:
    """One round of three bits: the gap against all explanations, by enumeration."""
    model = "error(0.1) D0 L0\nerror(0.2) D0 D1\nerror(0.05) D1"
    weights = [math.log(0.9 / 0.1), math.log(0.8 / 0.2), math.log(0.95 / 0.05)]
    effects = [((1, 0), 1), ((1, 1), 0), ((0, 1), 0)]
    for events in itertools.product((0, 1), repeat=2):
        best = {0: math.inf, 1: math.inf}
        for chosen in itertools.product((0, 1), repeat=3):
            seen = [
                sum(effect[0][k] for effect, on in zip(effects, chosen, strict=True) if on) % 2
                for k in (0, 1)
            ]
            flip = sum(effect[1] for effect, on in zip(effects, chosen, strict=True) if on) % 2
            if tuple(seen) == events:
                cost = sum(w for w, on in zip(weights, chosen, strict=True) if on)
                best[flip] = min(best[flip], cost)
        (found,) = soft_inputs(model, np.array([events], dtype=bool))
        assert found[:2] == pytest.approx([best[1] - best[0]] * 2, abs=0.05)  # weights are rounded
        assert found[2] == (1 if best[0] < best[1] else -1)


def test_an_observable_in_the_bulk_is_refused() -> None:
    with pytest.raises(ValueError, match="observable"):
        soft_inputs("error(0.1) D0 D1 L0\nerror(0.1) D0", np.zeros((1, 2), dtype=bool))


@pytest.fixture
def shape() -> Shape:
    circuit = ideal_circuit(MEMORIES[0])
    coordinates = np.array([circuit.get_detector_coordinates()[k] for k in range(24)])
    return Shape(kind="attention", detectors=24, width=8, grid=grid_of(coordinates))


def test_a_grid_has_every_detector_once_by_round_and_place(shape: Shape) -> None:
    grid = shape.grid.detector
    assert grid.shape == (4, 8)
    assert sorted(grid[grid >= 0].tolist()) == list(range(24))
    assert (grid[0] < 0).sum() == (grid[-1] < 0).sum() == 4  # half the stabilizers begin random


@pytest.mark.parametrize("kind", ["residual", "attention"])
def test_networks_begin_with_matchings_answer_and_are_equal_in_jax(shape: Shape, kind: Any) -> None:
    jnp = pytest.importorskip("jax.numpy", reason="the decoder extra is not installed")
    own = Shape(kind=kind, detectors=24, width=8, grid=shape.grid)
    weights = initial(own, 3)
    rng = np.random.default_rng(1)
    events = rng.integers(0, 2, (50, 24)).astype(np.float32)
    soft = rng.normal(scale=4, size=(50, 3)).astype(np.float32)
    soft[:, 1] = soft[:, 0]
    found = logits(np, own, weights, events, soft)
    sure = np.abs(soft[:, 0]) > 1
    assert ((found > 0) == (soft[:, 0] < 0))[sure].all()
    weights |= {"out_w": rng.normal(size=(8, 1)).astype(np.float32)}
    ours = logits(np, own, weights, events, soft)
    theirs = np.asarray(logits(jnp, own, weights, events, soft))
    assert ours == pytest.approx(theirs, abs=1e-4)
    # Every detector matters, and each in its own way.
    for detector in range(24):
        other = events.copy()
        other[:, detector] = 1 - other[:, detector]
        assert (logits(np, own, weights, other, soft) != ours).any()


def test_a_decoder_is_the_same_after_its_file(shape: Shape, tmp_path: Path) -> None:
    model = str(noisy(ideal_circuit(MEMORIES[0]), WEAK).detector_error_model(decompose_errors=True))
    made = Trained(shape=shape, weights=initial(shape, 5), model=model, title="a test")
    shots = drawn(Drawing(model=model, detectors=24, shots=200, seed=4))
    file = tmp_path / "one.decoder"
    save(made, file)
    again = load(file)
    assert (again.title, again.parameters) == ("a test", made.parameters)
    assert (again.log_odds(shots.packed) == made.log_odds(shots.packed)).all()
    whole = file.read_bytes()
    for content in (b"", b"text", whole[:1000], whole.replace(b"weight_gap", b"weight_gab")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=naming("one.decoder")):
            load(file)
    with pytest.raises(InputError, match=naming("none.decoder")):
        load(tmp_path / "none.decoder")


def test_standings_are_of_all_shots_and_of_the_test() -> None:
    flips = np.array([0, 1, 0, 1, 0, 0, 0, 0], dtype=bool)
    answer = np.array([1, 1, 0, 0, 0, 0, 1, 1], dtype=bool)
    test = np.arange(0, 8, 2)
    whole, part = standings({"a": answer, "b": answer[test]}, flips, test, 1)
    assert whole.wrong is not None
    assert whole.wrong.value == 0.5
    assert whole.test_wrong == part.test_wrong
    assert whole.test_wrong.value == 0.5
    assert part.wrong is None
    said = verdict(whole, part, Figure(value=-0.1, error=0.02))
    assert said.startswith("A won")
    assert verdict(whole, part, Figure(value=0.1, error=0.02)).startswith("B won")
    assert verdict(whole, part, Figure(value=0.01, error=0.02)).startswith("Nobody won")
    assert difference(answer, answer, 1) == Figure(value=0.0, error=0.0)


@published
@pytest.mark.parametrize("folder", ["d3_r01", "d3_r05", "d3_r11", "d5_r05"])
def test_published_experiments_are_read(folder: str) -> None:
    found = read_experiment(str(DATA / folder))
    assert found.shots == 50_000
    assert (found.distance, found.rounds) == (int(folder[1]), int(folder[4:]))
    events, flips = _converted(DATA / folder)
    assert (unpacked(found.packed, found.detectors) == events).all()
    assert (found.flips == flips).all()
    assert set(found.published) == {
        "pymatching",
        "correlated matching",
        "belief matching",
        "tensor network contraction",
    }


def _converted(folder: Path) -> tuple[Any, Any]:
    """Take events and flips from the raw measurements with Stim alone."""
    circuit = stim.Circuit.from_file(str(folder / "circuit_ideal.stim"))
    raw, sweep = (
        stim.read_shot_data_file(path=str(folder / name), format="b8", num_measurements=bits)
        for name, bits in (
            ("measurements.b8", circuit.num_measurements),
            ("sweep.b8", circuit.num_sweep_bits),
        )
    )
    events, flips = circuit.compile_m2d_converter().convert(
        measurements=raw, sweep_bits=sweep, separate_observables=True
    )
    return events, flips[:, 0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment of a hundred shots in the published layout."""
    circuit = ideal_circuit(MEMORIES[2])
    loud = noisy(circuit, WEAK)
    made = tmp_path / "repetition"
    made.mkdir()
    (made / "properties.yml").write_text(
        "type: repetition_code_memory_experiment\nbasis: Z\nrounds: 4\ndistance: 5\n"
    )
    (made / "circuit_ideal.stim").write_text(str(circuit))
    model = str(loud.detector_error_model(decompose_errors=True))
    (made / "circuit_detector_error_model.dem").write_text(model)
    events, flips = loud.compile_detector_sampler(seed=2).sample(100, separate_observables=True)
    np.packbits(events, axis=1, bitorder="little").tofile(made / "detection_events.b8")
    text = "".join(f"{int(flip)}\n" for flip in flips[:, 0])
    (made / "obs_flips_actual.01").write_text(text)
    (made / "obs_flips_predicted_by_guessing.01").write_text("0\n" * 100)
    return made


def test_an_experiment_of_another_code_is_read(folder: Path) -> None:
    found = read_experiment(str(folder))
    assert (found.code, found.distance, found.rounds, found.shots) == ("repetition", 5, 4, 100)
    assert set(found.published) == {"guessing"}
    assert found.model_for_even == found.model
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("properties.yml", b"type: other\nrounds: 4\ndistance: 5\n", naming("other")),
        ("properties.yml", b"hello\n", naming("properties.yml", 1)),
        (
            "properties.yml",
            b"type: repetition_code_memory_experiment\nrounds: x\ndistance: 5\n",
            naming("rounds", "x"),
        ),
        (
            "circuit_detector_error_model.dem",
            b"hello\n",
            naming("circuit_detector_error_model.dem"),
        ),
        (
            "properties.yml",
            b"type: repetition_code_memory_experiment\nrounds: 9\ndistance: 5\n",
            naming("rounds", 9, 4),
        ),
        (
            "properties.yml",
            b"type: repetition_code_memory_experiment\nrounds: 4\ndistance: 5\nshots: 50000\n",
            naming("shots", 50000, 100),
        ),
        ("circuit_ideal.stim", b"HH 1\n", naming("circuit_ideal.stim")),
        ("circuit_ideal.stim", b"M 0\nDETECTOR rec[-1]\n", naming("circuit_ideal.stim", 1, 20)),
        (
            "circuit_detector_error_model.dem",
            b"error(2) D0\n",
            naming("circuit_detector_error_model.dem"),
        ),
        (
            "pij_from_odd_for_even.dem",
            b"error(0.1) D0 L0\n",
            naming("pij_from_odd_for_even.dem", 20),
        ),
        ("detection_events.b8", b"", naming("detection_events.b8", 0)),
        ("detection_events.b8", bytes(301), naming("detection_events.b8", 301, 3)),
        ("detection_events.b8", b"\xff" * 300, naming("detection_events.b8", 19)),
        ("obs_flips_actual.01", b"0\n" * 99, naming("obs_flips_actual.01", 100)),
        ("obs_flips_actual.01", b"2\n" * 100, naming("obs_flips_actual.01")),
        (
            "obs_flips_predicted_by_guessing.01",
            b"0\n",
            naming("obs_flips_predicted_by_guessing.01", 100),
        ),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_experiment(str(folder))


def test_folders_of_another_layout_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match=naming("repetition")):  # one level too high
        check_folder(str(folder.parent))
    (folder / "detection_events.b8").unlink()
    with pytest.raises(InputError, match=naming("detection_events.b8")):
        check_folder(str(folder))
    with pytest.raises(InputError, match=naming("nowhere")):
        check_folder(str(folder / "nowhere"))
