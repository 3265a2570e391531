"""How a site turns the use of its QPU into what it bills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Charge", "Metering", "MeteringKind"]

MeteringKind = Literal["qpu-seconds", "equivalent-qubit-seconds", "floor-per-task", "device-time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """An amount in a site's own unit, for example 0.9 ``billed-s``."""

    amount: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """A site's metering formula for one qpu_task; the sum over tasks is the bill.

    - ``qpu-seconds``: time on the QPU.
    - ``equivalent-qubit-seconds``: t · n · T1q(reference)/T1q, n the qubits used
      (Euro-Q-Exa; the ratio is ``gate_time_ratio``).
    - ``floor-per-task``: max(shots · ``per_shot_s``, ``floor_s``) (VLQ).
    - ``device-time``: time on the device with loading and re-initialisation (PIAST-Q).

    bills_failed, bills_cancelled: whether the time that a task occupied the QPU is billed by the same
    formula where it failed, or was cancelled while it ran.
    """

    kind: MeteringKind = "qpu-seconds"
    unit: str = "qpu-s"
    gate_time_ratio: float = 1.0
    per_shot_s: float = 0.0
    floor_s: float = 0.0
    bills_failed: bool = False
    bills_cancelled: bool = False

    def charge(self, *, qpu_seconds: float, shots: int, num_qubits: int) -> Charge:
        """Return what one qpu_task costs.

        qpu_seconds: its time on the QPU in seconds. shots: all its shots.
        num_qubits: qubits it used.
        """
        match self.kind:
            case "equivalent-qubit-seconds":
                amount = qpu_seconds * num_qubits * self.gate_time_ratio
            case "floor-per-task":
                amount = max(shots * self.per_shot_s, self.floor_s)
            case "qpu-seconds" | "device-time":
                amount = qpu_seconds
        return Charge(amount=amount, unit=self.unit)
