"""States whose statistics everybody knows, as checks of what a backend measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from qiskit import QuantumCircuit

from backends.api import Result, Target
from backends.payloads import EstimatorPayload, Payload, SamplerPayload
from backends.profiles import Profile
from backends.testing.cases import Native, bell, ghz, placed_observable, turned

__all__ = [
    "ESTIMATOR_CHECKS",
    "SAMPLER_CHECKS",
    "NotApplicable",
    "Trial",
    "bell_qubits_agree",
    "broadcast_points_keep_their_shape",
    "estimates_are_right",
    "ghz_neighbours_agree",
    "qubits_keep_their_order",
]


class NotApplicable(Exception):
    """The target does not take what a check needs; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A backend as the checks see it.

    native: brings a circuit into the target's gates. run: executes a payload to its end.
    shots: of each circuit. noise: how far expectation values may be from the ideal ones.
    profile: of the device whose noise is simulated exactly, if one is.
    """

    target: Target
    native: Native
    run: Callable[[Payload], Result]
    shots: int
    noise: float
    profile: Profile | None = None

    def needs(self, kind: str, *, num_qubits: int = 1, circuits: int = 1) -> None:
        """Raise `NotApplicable` unless the target takes this much."""
        if kind not in self.target.payload_kinds:
            raise NotApplicable(f"the target takes no {kind} payloads")
        if num_qubits > (self.target.num_qubits or num_qubits):
            raise NotApplicable(f"the target has fewer than {num_qubits} qubits")
        if circuits > (self.target.max_circuits or circuits):
            raise NotApplicable(f"the target takes fewer than {circuits} circuits in one task")

    @property
    def most_shots(self) -> int:
        """Shots of one circuit, no more than the target takes."""
        return min(self.shots, self.target.max_shots or self.shots)

    def counts(self, circuit: QuantumCircuit) -> tuple[Mapping[str, int], int]:
        """Measure all qubits of a circuit; return the counts and the shots."""
        circuit.measure_all()
        native, _ = self.native(circuit, self.target)
        shots = self.most_shots
        result = self.run(SamplerPayload.coerce([native], shots=shots, seed=7))
        bits = result.native[0].data.meas
        assert bits.num_shots == shots
        return bits.get_counts(), shots


def bell_qubits_agree(trial: Trial) -> None:
    """Both qubits of a Bell pair are 0 or both are 1, equally often."""
    trial.needs("sampler", num_qubits=2)
    counts, shots = trial.counts(bell())
    both = counts.get("11", 0)
    assert (counts.get("00", 0) + both) / shots >= 1 - trial.noise, counts
    assert abs(both / shots - 0.5) <= 2.5 / math.sqrt(shots) + trial.noise, counts


def ghz_neighbours_agree(trial: Trial) -> None:
    """⟨ZZI⟩ and ⟨IZZ⟩ of three qubits in a GHZ state are 1."""
    trial.needs("sampler", num_qubits=3)
    counts, shots = trial.counts(ghz(3))
    for first, second in ((0, 1), (1, 2)):
        agreeing = sum(n for outcome, n in counts.items() if outcome[first] == outcome[second])
        assert 2 * agreeing / shots - 1 >= 1 - 2 * trial.noise, counts


def qubits_keep_their_order(trial: Trial) -> None:
    """A flip of qubit 0 alone is the outcome 001; 01 on a device of two qubits."""
    trial.needs("sampler", num_qubits=2)
    circuit = QuantumCircuit(min(3, trial.target.num_qubits or 3))
    circuit.rx(math.pi, 0)
    counts, _ = trial.counts(circuit)
    flipped = f"{1:0{circuit.num_qubits}b}"
    assert max(counts, key=lambda outcome: counts[outcome]) == flipped, counts


def broadcast_points_keep_their_shape(trial: Trial) -> None:
    """A PUB with an array of angles gives an array of that shape, each point ⟨Z⟩ = cos θ."""
    angles = np.array([[0.0, math.pi / 3, math.pi / 2], [math.pi, 1.0, 2.0]])
    trial.needs("sampler", circuits=angles.size)
    circuit = turned()
    circuit.measure_all()
    native, _ = trial.native(circuit, trial.target)
    shots = trial.most_shots
    payload = SamplerPayload.coerce([(native, angles[..., None])], shots=shots, seed=11)
    data = trial.run(payload).native[0].data
    assert data.shape == angles.shape
    assert data.meas.shape == angles.shape
    allowed = 5 / math.sqrt(shots) + 2 * trial.noise
    np.testing.assert_allclose(data.meas.expectation_values("Z"), np.cos(angles), atol=allowed)


def estimates_are_right(trial: Trial) -> None:
    """⟨ZZ⟩ and ⟨XX⟩ of a Bell pair are 1, ⟨ZI⟩ is 0, ⟨Z⟩ of a turned qubit is its cosine."""
    trial.needs("estimator", num_qubits=2, circuits=8)
    pair, layout = trial.native(bell(), trial.target)
    labels = ("ZZ", "XX", "ZI")
    observables = [placed_observable({label: 1.0}, pair, layout) for label in labels]
    qubit, place = trial.native(turned(), trial.target)
    angles = np.linspace(0, math.pi, 5)
    z = placed_observable({"Z": 1.0}, qubit, place)
    payload = EstimatorPayload.coerce(
        [(pair, observables), (qubit, z, angles[:, None])], precision=0.02, seed=3
    )
    first, second = trial.run(payload).native
    allowed = 0.1 + 2 * trial.noise  # five times the precision asked for
    np.testing.assert_allclose(first.data.evs, [1, 1, 0], atol=allowed)
    np.testing.assert_allclose(second.data.evs, np.cos(angles), atol=allowed)
    assert first.data.stds.shape == (3,)
    assert second.data.evs.shape == angles.shape


SAMPLER_CHECKS: tuple[Callable[[Trial], None], ...] = (
    bell_qubits_agree,
    ghz_neighbours_agree,
    qubits_keep_their_order,
    broadcast_points_keep_their_shape,
)
ESTIMATOR_CHECKS: tuple[Callable[[Trial], None], ...] = (estimates_are_right,)
