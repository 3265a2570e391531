"""States, judges and the flow `flows.entanglement` against Qiskit's quantum information."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import DensityMatrix, Statevector, concurrence, negativity, partial_trace

pytest.importorskip("optax", reason="the learning extra is not installed")

from flows._entanglement.judges import (
    JudgingSettings,
    SettingCounts,
    bell_fidelity,
    chsh,
    counts_of,
    network_scores,
    parities,
    ppt_scores,
    reconstructed,
    shares_of,
    threshold_for,
)
from flows._entanglement.states import circuit_of, drawn, settings_of
from flows._inputs import InputError
from flows._networks import Training
from flows.entanglement import entanglement, judge, measure
from orchestrator.runs import Run
from tests.errors import naming

Check = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize("qubits", [2, 3])
def test_the_circuit_prepares_the_state(qubits: int) -> None:
    states = drawn(qubits, 8, seed=4)
    circuit = circuit_of(qubits).remove_final_measurements(inplace=False)
    for matrix, angles in zip(states.matrices, states.angles, strict=True):
        values = np.concatenate([angles, np.zeros(2 * qubits)])
        whole = Statevector(circuit.assign_parameters(values))
        found = partial_trace(whole, range(qubits, 2 * qubits)).data
        np.testing.assert_allclose(found, matrix, atol=1e-12)


@pytest.mark.parametrize("qubits", [2, 3])
def test_labels_are_those_of_qiskit(qubits: int) -> None:
    states = drawn(qubits, 40, seed=2)
    assert states.is_entangled.sum() == 20
    for matrix, is_entangled in zip(states.matrices, states.is_entangled, strict=True):
        state = DensityMatrix(matrix)
        cuts = [negativity(state, [qubit]) for qubit in range(qubits)]
        assert (max(cuts) > 1e-12) == is_entangled
        if qubits == 2:
            assert (concurrence(state) > 1e-9) == is_entangled


def test_a_quarter_of_all_states_is_separable() -> None:
    states = drawn(2, 2000, seed=1)
    error = np.sqrt(8 / 33 * 25 / 33 / 4000)
    assert 1 - states.share == pytest.approx(8 / 33, abs=4 * error)


def exact(matrices: Any, qubits: int, shots: int = 10**9) -> SettingCounts:
    """Return what so many shots give on average, from the states' probabilities."""
    labels = settings_of(qubits)
    counts = []
    for label in labels:
        rows = []
        for matrix in matrices:
            state = DensityMatrix(matrix)
            for qubit, axis in enumerate(reversed(label)):
                # Columns of what turns the axis into z.
                turn = {
                    "X": np.array([[1, 1], [1, -1]]) / 2**0.5,
                    "Y": np.array([[1, -1j], [1, 1j]]) / 2**0.5,
                    "Z": np.eye(2),
                }[axis]
                from qiskit.quantum_info import Operator

                state = state.evolve(Operator(turn), [qubit])
            rows.append(np.round(state.probabilities() * shots))
        counts.append(rows)
    return SettingCounts(settings=labels, counts=np.array(counts, dtype=np.int64).swapaxes(0, 1))


@pytest.mark.parametrize("qubits", [2, 3])
def test_frequencies_are_those_of_the_state(qubits: int) -> None:
    states = drawn(qubits, 4, seed=9)
    shots = 500
    labels = settings_of(qubits)[:: 1 if qubits == 2 else 4]
    counts = counts_of(StatevectorSampler(seed=3), qubits, states.angles, labels, shots)
    assert (counts.sum(axis=-1) == shots).all()
    everything = exact(states.matrices, qubits, shots=10**6)
    places = [everything.settings.index(label) for label in labels]
    share = everything.counts[:, places] / 10**6
    deviations = (counts / shots - share) / np.sqrt(share * (1 - share) / shots)
    assert np.abs(deviations).max() < 5
    assert 0.8 < deviations.std() < 1.2


@pytest.mark.parametrize("qubits", [2, 3])
def test_tomography_of_exact_frequencies_is_the_state(qubits: int) -> None:
    states = drawn(qubits, 6, seed=5)
    measured = exact(states.matrices, qubits)
    np.testing.assert_allclose(reconstructed(measured), states.matrices, atol=1e-6)
    assert ((ppt_scores(measured) > 1e-7) == states.is_entangled).all()


def test_a_reconstructed_state_is_physical() -> None:
    states = drawn(2, 20, seed=6)
    counts = counts_of(StatevectorSampler(seed=3), 2, states.angles, settings_of(2), 10)
    found = reconstructed(SettingCounts(settings=settings_of(2), counts=counts))
    spectra = np.linalg.eigvalsh(found)
    assert spectra.min() > -1e-12
    np.testing.assert_allclose(spectra.sum(axis=1), 1.0)
    assert (spectra[:, 0] < 1e-9).any()  # some were not, before


def test_witnesses_never_accuse_a_separable_state() -> None:
    states = drawn(2, 300, seed=7)
    bell = Statevector([1, 0, 0, 1] / np.sqrt(2)).to_operator().data
    turned = np.array([bell, *states.matrices])
    measured = exact(turned, 2)
    fidelity, violation = bell_fidelity(measured), chsh(measured)
    assert fidelity[0] == pytest.approx(1)
    assert violation[0] == pytest.approx(1)  # two, where 1 is the limit
    for scores, limit in ((fidelity, 0.5), (violation, 0.0)):
        accused = scores[1:] > limit + 1e-6
        assert not (accused & ~states.is_entangled).any()
        assert accused.any()


def test_fewer_shots_are_some_of_those_taken() -> None:
    rng = np.random.default_rng(1)
    counts = rng.multinomial(60, [0.4, 0.3, 0.2, 0.1], size=(200, 3))
    measured = SettingCounts(settings=("XX", "YY", "ZZ"), counts=counts)
    fewer = shares_of(measured, 20, rng).counts
    assert (fewer.sum(axis=-1) == 20).all()
    assert (fewer <= counts).all()
    assert fewer.mean(axis=(0, 1)) == pytest.approx(counts.mean(axis=(0, 1)) / 3, abs=0.35)
    assert shares_of(measured, 60, rng) is measured


@pytest.mark.parametrize("numbers", [(5, 9), (9,), (3, 9)])
def test_witnesses_have_their_shots_whatever_the_networks_get(numbers: tuple[int, ...]) -> None:
    states = drawn(2, 40, seed=3)
    asked = JudgingSettings(numbers=numbers, training=20, shots=90)
    labels = settings_of(2)
    counts = counts_of(
        StatevectorSampler(seed=3), 2, states.angles, labels, asked.most_shots(states.qubits)
    )
    found = judge.fn(states, SettingCounts(settings=labels, counts=counts), asked)
    assert {one.name: one.settings for one in found}["Bell witness"] == 3


def test_a_threshold_errs_least() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        scores = rng.normal(size=12)
        labels = rng.random(12) < 0.5
        found = ((scores > threshold_for(scores, labels)) == labels).sum()
        assert found == max(((scores > t) == labels).sum() for t in [*scores, scores.min() - 1])


def test_states_of_two_pubs_have_noise_of_their_own(
    monkeypatch: pytest.MonkeyPatch, run_on: Callable[[str], Run]
) -> None:
    monkeypatch.setattr("flows.entanglement._STATES_OF_A_PUB", 2)
    run_on("aer")
    known = drawn(2, 2, seed=3)
    twice = replace(
        known,
        matrices=np.tile(known.matrices, (2, 1, 1)),
        angles=np.tile(known.angles, (2, 1)),
        is_entangled=np.tile(known.is_entangled, 2),
    )
    counts = measure.fn(twice, JudgingSettings(training=2, shots=900)).counts
    assert (counts[:2] != counts[2:]).any(axis=(1, 2)).all()


@pytest.mark.slow
def test_a_network_learns_what_no_linear_model_can() -> None:
    states = drawn(2, 900, seed=3)
    measured = exact_fast(states.matrices)
    train = SettingCounts(settings=measured.settings, counts=measured.counts[:700])
    test = SettingCounts(settings=measured.settings, counts=measured.counts[700:])
    found = []
    for hidden in ((64, 64), ()):
        training = Training(hidden=hidden, epochs=15, batch=256, rate=5e-3, seed=1)
        scores = network_scores(train, states.is_entangled[:700], test, training)
        found.append(((scores > 0) == states.is_entangled[700:]).mean())
    assert found[0] > 0.75
    assert found[1] < 0.62


def exact_fast(matrices: Any) -> SettingCounts:
    """Return `exact` of two qubits, for many states."""
    turns = {
        "X": np.array([[1, 1], [1, -1]]) / 2**0.5,
        "Y": np.array([[1, -1j], [1, 1j]]) / 2**0.5,
        "Z": np.eye(2),
    }
    labels = settings_of(2)
    both = [np.kron(turns[a], turns[b]) for a, b in labels]
    shares = np.einsum("kab,sbc,kac->ska", both, matrices, np.conj(both)).real
    return SettingCounts(settings=labels, counts=np.round(shares * 10**6).astype(np.int64))


def test_parities_are_means_of_products() -> None:
    states = drawn(2, 5, seed=8)
    np.testing.assert_allclose(
        parities(exact_fast(states.matrices)), parities(exact(states.matrices, 2)), atol=1e-5
    )
    from qiskit.quantum_info import Pauli

    measured = exact(states.matrices, 2)
    for matrix, found in zip(states.matrices, parities(measured), strict=True):
        state = DensityMatrix(matrix)
        for (a, b), row in zip(measured.settings, found, strict=True):
            labels = (f"I{b}", f"{a}I", f"{a}{b}")
            values = [state.expectation_value(Pauli(label)).real for label in labels]
            np.testing.assert_allclose(row, values, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("qpu", "qubits", "shots"), [("aer", 3, 27_000), ("vlq", 2, 270)])
def test_states_are_judged(
    qpu: str, qubits: int, shots: int, run_on: Callable[[str], Run], kept: Check
) -> None:
    run_on(qpu)
    parameters: dict[str, Any] = {"qubits": qubits, "training": 120, "test": 100, "networks": 2}
    parameters["settings"] = [3, 3**qubits]
    parameters["shots"] = shots
    result = kept(entanglement(**parameters))
    ways = {(way["name"], way["settings"]): way for way in result["ways"]}
    assert len(ways[("network", 3)]["by_seed"]) == 2
    assert {settings for _, settings in ways} == {3, 3**qubits}
    if qpu == "aer":  # little is left of entanglement under noise at few shots
        assert ways["tomography with PPT, threshold tuned", 3**qubits]["value"] > 0.75
    assert (("CHSH inequality", 9) in ways) is (qubits == 2)
    assert result["summary"][0].startswith(("Nobody won", "Tomography", "Network", "Bell"))
    record, few = result["comparisons"]
    assert record["won"] == result["won"]
    assert not any(way["is_quantum"] for way in record["ways"])
    assert all(way["name"].endswith(", 3 settings") for way in few["ways"])
    assert "<svg" in result["plot"]
    assert entanglement(**parameters) == result


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"qubits": 4}, naming("qubits", 4, 3)),
        ({"training": 99}, naming("training", 99, 100)),
        ({"test": 0}, naming("test", 0)),
        ({"networks": 0}, naming("networks", 0)),
        ({"seed": -1}, naming("seed", -1)),
        ({"settings": [3, 8]}, naming(8, 9)),
        ({"settings": [2, 9]}, naming(2, 9)),
        ({"settings": []}, naming("settings", 9)),
        ({"qubits": 3, "shots": 26}, naming("shots", 26, 27)),
    ],
)
def test_what_cannot_be_judged_is_refused_before_any_stage(
    parameters: dict[str, Any], said: str, run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        entanglement(**parameters)
    assert run.spans() == []


@pytest.mark.usefixtures("prefect_server")
def test_a_qpu_without_place_for_the_environment_is_refused(
    run_on: Callable[[str], Run],
) -> None:
    run = run_on("helmi")
    with pytest.raises(InputError, match=naming("qubits", 3, 6, 5)):
        entanglement(qubits=3)
    assert run.spans() == []
