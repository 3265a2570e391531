"""A device profile: what a simulator must know to behave like one real QPU."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Literal

from qiskit.transpiler import InstructionProperties
from qiskit.transpiler import Target as QiskitTarget

from backends.api import Calibration, QualityWindow, Target
from backends.error_rates import Coherence
from backends.gates import CONTROL_FLOW, native_operation
from backends.metering import Metering
from backends.timing import TimingModel

__all__ = ["GATE_QUBITS", "NativeGate", "Pairs", "PrecisionRule", "Profile", "Readout"]

# Qubits that are neighbours, the smaller number first.
Pairs = tuple[tuple[int, int], ...]
PrecisionRule = Literal["sampled", "exact"]

# Part of the calibration id: results of a profile from before delays relaxed are not used again.
_NOISE_REVISION = 2

# The gates a profile may call native, and how many qubits each takes.
GATE_QUBITS: Mapping[str, int] = {
    **dict.fromkeys(("h", "id", "p", "r", "rx", "ry", "rz", "s", "sdg", "sx", "u", "x", "z"), 1),
    **dict.fromkeys(("cp", "cx", "cz", "ecr", "iswap", "move", "rxx", "rzz"), 2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeGate:
    """A gate the device executes. error: average gate error, relaxation during it included."""

    name: str
    duration_s: float
    error: float

    @property
    def num_qubits(self) -> int:
        """How many qubits the gate takes."""
        return GATE_QUBITS[self.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """How often a measurement lies. zero_as_one: probability to read 1 where 0 was prepared."""

    zero_as_one: float
    one_as_zero: float
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One device as data; ``sources`` does not count in comparisons.

    coupling: undirected; None for all to all, or a star. resonator: index of a star's centre, one
    past the last qubit. control_flow: Qiskit's names of what depends on a measurement, of a device
    that measures in the middle. idle_relaxation: whether waiting qubits relax. precision: whether an
    estimator samples shots or computes exactly. sources: by dotted key, or "assumed: why".
    """

    name: str
    title: str
    num_qubits: int
    unusable_qubits: tuple[int, ...] = ()
    coupling: Pairs | None
    resonator: int | None = None
    gates: tuple[NativeGate, ...]
    coherence: Coherence | None = None
    resonator_coherence: Coherence | None = None
    idle_relaxation: bool = False
    readout: Readout
    mid_circuit_measurement: bool = True
    control_flow: tuple[str, ...] = ()
    site_transpiles: bool = False
    payloads: frozenset[str] = frozenset({"sampler"})
    precision: PrecisionRule = "sampled"
    max_shots: int | None = None
    max_circuits: int | None = None
    max_concurrent_tasks: int | None = 1
    credential_lifetime_s: float | None = None
    coalesces: bool = False
    quality_windows: tuple[QualityWindow, ...] = ()
    timing: TimingModel
    metering: Metering
    taken_at: datetime
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def calibration(self) -> Calibration:
        """The calibration; its id changes with errors, times and coupling, not with the name."""
        content = (
            self.num_qubits,
            self.unusable_qubits,
            self.coupling,
            self.resonator,
            [asdict(gate) for gate in self.gates],
            [asdict(one) if one else None for one in (self.coherence, self.resonator_coherence)],
            asdict(self.readout),
            self.idle_relaxation,
            _NOISE_REVISION,
        )
        digest = hashlib.blake2b(repr(content).encode(), digest_size=6).hexdigest()
        return Calibration(id=f"{self.name}-{digest}", taken_at=self.taken_at)

    @property
    def durations_s(self) -> dict[str, float]:
        """How long each native gate takes, and a measurement, by name."""
        gates = {gate.name: gate.duration_s for gate in self.gates}
        return {**gates, "measure": self.readout.duration_s}

    def wire_coherence(self, wire: int) -> Coherence | None:
        """Return how a qubit, or the resonator, relaxes while it waits."""
        if wire == self.resonator:
            return self.resonator_coherence or self.coherence
        return self.coherence

    def gate_coherences(self, gate: NativeGate) -> tuple[Coherence | None, ...]:
        """Return the coherence of each operand; on a star these are (qubit, resonator)."""
        if gate.num_qubits == 2 and self.resonator is not None:
            return (self.coherence, self.resonator_coherence or self.coherence)
        return (self.coherence,) * gate.num_qubits

    def target(self, name: str | None = None) -> Target:
        """Return the published target, with a `qiskit.transpiler.Target` as ``native``."""
        return Target(
            name=name or self.name,
            num_qubits=self.num_qubits,
            payload_kinds=self.payloads,
            native_gates=tuple(gate.name for gate in self.gates),
            coupling=self.coupling,
            resonator=self.resonator,
            unusable_qubits=self.unusable_qubits,
            site_transpiles=self.site_transpiles,
            mid_circuit_measurement=self.mid_circuit_measurement,
            max_shots=self.max_shots,
            max_circuits=self.max_circuits,
            max_concurrent_tasks=self.max_concurrent_tasks,
            coalesces=self.coalesces,
            calibration=self.calibration,
            metering=self.metering,
            timing=self.timing,
            quality_windows=self.quality_windows,
            credential_lifetime_s=self.credential_lifetime_s,
            native=_native_target(self),
            sources=self.sources,
        )


# Devices and one target each: a site has a handful of QPUs.
@lru_cache(maxsize=16)
def _native_target(profile: Profile) -> QiskitTarget:
    """Return the native gates with durations and errors, in both directions. Do not change it.

    On a star a pair is (qubit, resonator), with the resonator on one wire more.
    """
    wires = profile.num_qubits + (profile.resonator is not None)
    target = QiskitTarget(description=profile.title, num_qubits=wires)
    usable = [q for q in range(profile.num_qubits) if q not in profile.unusable_qubits]
    for gate in profile.gates:
        places = _pairs(profile, usable) if gate.num_qubits > 1 else [(q,) for q in usable]
        properties = InstructionProperties(duration=gate.duration_s, error=gate.error)
        target.add_instruction(native_operation(gate.name), dict.fromkeys(places, properties))
    wrong = (profile.readout.zero_as_one + profile.readout.one_as_zero) / 2
    measured = InstructionProperties(duration=profile.readout.duration_s, error=wrong)
    target.add_instruction(native_operation("measure"), {(q,): measured for q in usable})
    for name in ("delay", "reset") if profile.mid_circuit_measurement else ("delay",):
        target.add_instruction(native_operation(name), {(q,): None for q in usable})
    for name in profile.control_flow:
        target.add_instruction(CONTROL_FLOW[name], name=name)
    return target


def _pairs(profile: Profile, usable: Sequence[int]) -> Iterator[tuple[int, int]]:
    if profile.resonator is not None:
        yield from ((q, profile.resonator) for q in usable)
        return
    all_pairs = itertools.combinations(usable, 2)
    for a, b in all_pairs if profile.coupling is None else profile.coupling:
        if a in usable and b in usable:
            yield (a, b)
            yield (b, a)
