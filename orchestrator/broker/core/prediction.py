"""How many QPU-seconds a task will take, and what it will cost (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backends.metering import Charge, Metering
from backends.timing import TimingModel
from orchestrator.broker.core.events import JobSubmitted, Part
from orchestrator.identity import JobId

__all__ = [
    "Accuracy",
    "Load",
    "load_of",
    "predicted_charge",
    "predicted_seconds",
]

# How much a new measurement counts against what is known; about the last 20 tasks.
_MEMORY = 0.1
# Exact predictions up to now do not make what comes next an outlier.
_LEAST_SPREAD = 0.02
# The largest correction, however far single tasks are off.
_WIDEST = math.log(20)
# After so many tasks, one that is off by more than so many times the usual counts as that much.
_SETTLED, _OUTLIER = 3, 3.0
# A bias is corrected as far as it exceeds so many of its standard errors; what is mere scatter is
# not, or the correction would make a good model worse.
_CERTAIN = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a task asks of a device. shots: in all; depth: layers, weighted with what runs."""

    circuits: int = 0
    shots: int = 0
    num_qubits: int = 0
    layers: float = 0.0
    weight: float = 0.0

    @property
    def depth(self) -> float:
        """Mean layers of gates."""
        return self.layers / self.weight if self.weight else 0.0

    def plus(self, part: Part, job: JobSubmitted) -> Load:
        """Return the load with one more part of a job."""
        shape = job.pubs[part.pub]
        weight = part.points * (part.shots or 1)
        return Load(
            circuits=self.circuits + part.circuits,
            shots=self.shots + part.points * part.shots,
            num_qubits=max(self.num_qubits, shape.num_qubits or job.num_qubits),
            layers=self.layers + weight * shape.depth,
            weight=self.weight + weight,
        )


def load_of(parts: Iterable[Part], jobs: Mapping[JobId, JobSubmitted]) -> Load:
    """Return what a task of these parts asks for."""
    load = Load()
    for part in parts:
        load = load.plus(part, jobs[part.job])
    return load


@dataclass(slots=True)
class Accuracy:
    """How far predictions of one QPU were off, and the correction that follows."""

    tasks: int = 0  # compared
    bias: float = 0.0  # mean logarithm of actual over modelled seconds, recent ones counting more
    spread: float = 0.0  # how far single tasks lie from the bias
    error: float = 0.0  # mean relative error of all predictions
    seconds_per_circuit: float = 0.0  # of recent tasks, for a QPU without a timing model

    @property
    def factor(self) -> float:
        """What the model's seconds are multiplied with."""
        if not self.bias:
            return 1.0
        doubt = (_CERTAIN * self.spread / self.bias) ** 2 * self._step
        return math.exp(self.bias * max(0.0, 1.0 - doubt))

    @property
    def _step(self) -> float:
        """The weight of the next task; the first few count as a plain mean."""
        return max(_MEMORY, 1 / (self.tasks + 1))

    def learn(self, *, predicted_s: float | None, actual_s: float, circuits: int) -> None:
        """Compare one task's time with what had been predicted for it."""
        if actual_s <= 0:
            return
        if circuits:
            per_circuit = actual_s / circuits
            known = self.seconds_per_circuit
            self.seconds_per_circuit = (
                per_circuit if not known else known + _MEMORY * (per_circuit - known)
            )
        if predicted_s is None or predicted_s <= 0:
            return
        corrected = self.factor
        self.tasks += 1
        self.error += (abs(predicted_s - actual_s) / actual_s - self.error) / self.tasks
        # What was predicted has the correction in it, which is as good as what it was then.
        off = math.log(actual_s / predicted_s * corrected) - self.bias
        if self.tasks > _SETTLED:
            widest = _OUTLIER * max(self.spread, _LEAST_SPREAD)
            off = max(-widest, min(widest, off))
        self.spread += (abs(off) - self.spread) * max(_MEMORY, 1 / self.tasks)
        self.bias = max(-_WIDEST, min(_WIDEST, self.bias + self._step * off))


def predicted_seconds(
    load: Load, timing: TimingModel | None, accuracy: Accuracy | None = None
) -> float | None:
    """Return a task's QPU-seconds, None without a timing model or a measurement."""
    if timing is None:
        known = accuracy.seconds_per_circuit if accuracy is not None else 0.0
        return known * load.circuits if known else None
    seconds = timing.duration_s(
        circuits=load.circuits, shots=load.shots, num_qubits=load.num_qubits, depth=load.depth
    )
    return seconds * (accuracy.factor if accuracy is not None else 1.0)


def predicted_charge(load: Load, metering: Metering, seconds: float | None) -> Charge:
    """Return what a task will be charged, as far as its seconds are known."""
    return metering.charge(qpu_seconds=seconds or 0.0, shots=load.shots, num_qubits=load.num_qubits)
