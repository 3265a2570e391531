"""A metering formula with a price for each task and each shot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotPrice:
    per_task: float
    per_shot: float = 0.0
    kind: ClassVar[str] = "shot-price"

    def amount(self, *, qpu_seconds, shots, num_qubits):
        return self.per_task + shots * self.per_shot

    def in_words(self):
        return f"{self.per_task:g} per task"
