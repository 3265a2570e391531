"""How long a qpu_task occupies a device, from its circuits, shots, qubits and depth."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TimingModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingModel:
    """The QPU-seconds of one task, from coefficients that measured jobs give.

    T = init_s + qubit_init_s · n
        + decay^min(B, decay_cap) · B · S · (shot_s + qubit_shot_s · n + layer_shot_s · n · D)

    B circuits per task, S shots per circuit, n qubits, D depth in layers of gates. With only
    init_s and shot_s it is Helmi's published form, with shot_s and qubit_shot_s Aalto Q20's,
    with decay VTT Q50's (FiQCI resource-estimator, MIT). The terms n and n · D are what the
    measured jobs of the two larger devices ask for (benchmarks/fit_timing.py): without them
    the error on rows held out is about three times as large.
    """

    init_s: float = 0.0
    qubit_init_s: float = 0.0
    shot_s: float = 0.0
    qubit_shot_s: float = 0.0
    layer_shot_s: float = 0.0
    decay: float = 1.0
    decay_cap: float = 1.0

    def duration_s(
        self, *, circuits: int, shots: int, num_qubits: int, depth: float = 0.0
    ) -> float:
        """Return the modelled QPU-seconds of one task.

        shots: summed over all circuits of the task (B·S), so circuits may differ in shots.
        num_qubits: qubits used. depth: layers of gates, the mean over the circuits, weighted
        with their shots if these differ; left out, the time is that of very shallow circuits.
        """
        damping: float = self.decay ** min(circuits, self.decay_cap)
        per_shot_s = (
            self.shot_s + self.qubit_shot_s * num_qubits + self.layer_shot_s * num_qubits * depth
        )
        return self.init_s + self.qubit_init_s * num_qubits + damping * shots * per_shot_s
