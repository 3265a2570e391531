"""How long a qpu_task occupies a device, from its circuits, shots and qubits."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TimingModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingModel:
    """T = init_s + decay^min(B, decay_cap) · B · S · (shot_s + qubit_shot_s · n), in seconds.

    B circuits per task, S shots per circuit, n qubits. With decay 1 it is linear in B·S
    (Helmi); with init_s 0 and qubit_shot_s it is Aalto Q20's; with decay, VTT Q50's.
    Source of the three forms: FiQCI resource-estimator (MIT).
    """

    init_s: float = 0.0
    shot_s: float = 0.0
    qubit_shot_s: float = 0.0
    decay: float = 1.0
    decay_cap: float = 1.0

    def duration_s(self, *, circuits: int, shots: int, num_qubits: int) -> float:
        """Return the modelled QPU-seconds of one task.

        shots: summed over all circuits of the task (B·S), so circuits may differ in shots.
        """
        damping = self.decay ** min(circuits, self.decay_cap)
        return self.init_s + damping * shots * (self.shot_s + self.qubit_shot_s * num_qubits)
