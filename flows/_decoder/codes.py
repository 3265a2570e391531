"""Circuits of memory experiments, with the noise of a device, and as a QPU executes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from backends.profiles import Profile

if TYPE_CHECKING:
    import stim
    from qiskit import QuantumCircuit
    from qiskit.transpiler import Target as QiskitTarget

__all__ = [
    "Code",
    "Memory",
    "Noise",
    "ideal_circuit",
    "noise_of_profile",
    "noise_of_target",
    "noisy",
    "on_qiskit",
    "with_fresh_qubits",
]

Code = Literal["surface", "repetition"]

# An average gate error as the probability of a Pauli error: d / (d + 1) of these are errors of a
# random state (M. Nielsen, Phys. Lett. A 303 (2002) 249).
_ONE_QUBIT, _TWO_QUBITS = 3 / 2, 5 / 4
_SINGLE = ("H", "X", "Y", "Z", "S", "S_DAG")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A memory experiment. basis: of the logical state, "x" or "z"; repetition codes have "z"."""

    code: Code
    distance: int
    rounds: int
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Circuit-level noise: probabilities that a Pauli error follows, or that a bit is wrong.

    readout_s, t1_s, t2_s: how long a measurement takes, in which the other qubits relax; 0 and inf
    for qubits that do not relax.
    """

    one_qubit: float
    two_qubits: float
    readout: float
    reset: float = 0.0
    readout_s: float = 0.0
    t1_s: float = math.inf
    t2_s: float = math.inf
    source: str = ""

    @property
    def idle(self) -> tuple[float, float, float]:
        """Probabilities of X, Y and Z on a qubit that waits for a measurement (Pauli twirl)."""
        flip = -math.expm1(-self.readout_s / self.t1_s) / 4
        phase = -math.expm1(-self.readout_s / self.t2_s) / 2 - flip
        return (flip, flip, max(phase, 0.0))


def noise_of_profile(profile: Profile) -> Noise:
    """Return the noise of a device profile on any of its qubits, with coupled ones side by side."""
    found = noise_of_target(profile.target().native)
    coherence = profile.coherence
    if found is None or coherence is None:
        raise ValueError(f"profile {profile.name!r}: no gate errors or no coherence times")
    return Noise(
        one_qubit=found.one_qubit,
        two_qubits=found.two_qubits,
        readout=found.readout,
        reset=found.readout,
        readout_s=profile.readout.duration_s,
        t1_s=coherence.t1_s,
        t2_s=coherence.t2_s,
        source=f"profile {profile.name}",
    )


def noise_of_target(target: QiskitTarget | None) -> Noise | None:
    """Return the noise that a target states, as medians; None if it states none."""
    if target is None:
        return None
    errors: dict[str, list[float]] = {"one": [], "two": [], "measure": []}
    for name in target.operation_names:
        for places, properties in (target[name] or {}).items():
            if places is None or properties is None or properties.error is None:
                continue
            if len(places) not in (1, 2):  # the code has no such gates
                continue
            kind = "measure" if name == "measure" else ("one", "two")[len(places) - 1]
            errors[kind].append(properties.error)
    # Virtual gates are free; the code's gates are not.
    single = [error for error in errors["one"] if error > 0]
    if not (errors["two"] and errors["measure"]):
        return None
    return Noise(
        one_qubit=min(_ONE_QUBIT * float(np.median(single)) if single else 0.0, 0.75),
        two_qubits=min(_TWO_QUBITS * float(np.median(errors["two"])), 0.9375),
        readout=float(np.median(errors["measure"])),
        source=target.description or "",
    )


def ideal_circuit(memory: Memory) -> stim.Circuit:
    """Return the circuit of H, CX, resets and measurements, with detectors and the observable."""
    import stim

    task = (
        "repetition_code:memory"
        if memory.code == "repetition"
        else f"surface_code:rotated_memory_{memory.basis}"
    )
    circuit = stim.Circuit.generated(task, distance=memory.distance, rounds=memory.rounds)
    return _elementary(circuit.flattened())


def _elementary(circuit: stim.Circuit) -> stim.Circuit:
    """Write measurements with reset, and those in the X basis, as H, M and R."""
    import stim

    made = stim.Circuit()
    for step in circuit:
        name, targets = step.name, step.targets_copy()
        if name in ("M", "MX", "MR", "MRX", "R", "RX") and name not in ("M", "R"):
            if name in ("MX", "MRX"):
                made.append("H", targets)
            if name.startswith("M"):
                made.append("M", targets)
            if "R" in name:
                made.append("R", targets)
            if name in ("RX", "MRX"):
                made.append("H", targets)
        else:
            made.append(step)
    return made


def noisy(circuit: stim.Circuit, noise: Noise) -> stim.Circuit:
    """Return the circuit with noise after each operation and before each measurement.

    A CX counts as one two-qubit gate with a gate before and after it on its target, as on devices
    with CZ. While some qubits are measured, those that were used before and are not measured relax.
    """
    import stim

    made = stim.Circuit()
    used: set[int] = set()
    for step in circuit:
        name = step.name
        targets = [one.value for one in step.targets_copy()] if name != "DETECTOR" else []
        if name == "M":
            made.append("X_ERROR", targets, noise.readout)
            made.append(step)
            idle = sorted(used - set(targets))
            if idle and any(noise.idle):
                made.append("PAULI_CHANNEL_1", idle, noise.idle)
            continue
        made.append(step)
        if name == "R":
            made.append("X_ERROR", targets, noise.reset)
        elif name in _SINGLE:
            made.append("DEPOLARIZE1", targets, noise.one_qubit)
        elif name in ("CX", "CZ"):
            made.append("DEPOLARIZE2", targets, noise.two_qubits)
            if name == "CX":
                made.append("DEPOLARIZE1", targets[1::2], min(2 * noise.one_qubit, 0.75))
        if name in ("R", "CX", "CZ", *_SINGLE):
            used.update(targets)
    return made


def with_fresh_qubits(circuit: stim.Circuit) -> stim.Circuit:
    """Return the circuit with a new qubit in place of each that is reset after a measurement.

    For QPUs that measure at the end only: every qubit is measured once, and never reset.
    """
    import stim

    made = stim.Circuit()
    place: dict[int, int] = {}
    measured: set[int] = set()
    fresh = circuit.num_qubits
    for step in circuit:
        if step.name in ("DETECTOR", "OBSERVABLE_INCLUDE", "QUBIT_COORDS", "TICK", "SHIFT_COORDS"):
            made.append(step)
            continue
        targets = [one.value for one in step.targets_copy()]
        if step.name == "R":
            for qubit in targets:
                if qubit in measured:
                    place[qubit], fresh = fresh, fresh + 1
                    measured.discard(qubit)
        elif step.name == "M":
            measured.update(targets)
        elif not measured.isdisjoint(targets):
            raise ValueError(f"{step}: a qubit goes on after its measurement without a reset")
        made.append(
            step.name, [place.get(qubit, qubit) for qubit in targets], step.gate_args_copy()
        )
    return made


def on_qiskit(circuit: stim.Circuit) -> QuantumCircuit:
    """Return the circuit for Qiskit; bit k of register ``m`` is measurement k of the circuit.

    Qubits without operations are left out. Resets of unused qubits do nothing and are left out.
    """
    from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister

    qubits = sorted(set(_touched(circuit)))
    index = {qubit: number for number, qubit in enumerate(qubits)}
    bits = ClassicalRegister(circuit.num_measurements, "m")
    made = QuantumCircuit(QuantumRegister(len(qubits), "q"), bits)
    used: set[int] = set()
    measured = 0
    for step in circuit:
        if step.name == "TICK":
            made.barrier()
            continue
        if step.name not in ("R", "M", "CX", "CZ", *_SINGLE):
            continue
        targets = [index[one.value] for one in step.targets_copy()]
        if step.name == "M":
            made.measure(targets, bits[measured : measured + len(targets)])
            measured += len(targets)
        elif step.name == "R":
            for qubit in used.intersection(targets):
                made.reset(qubit)
        else:
            _append(made, step.name, targets)
        used.update(targets)
    return made


def _append(made: QuantumCircuit, name: str, targets: Sequence[int]) -> None:
    if name in ("CX", "CZ"):
        gate = made.cx if name == "CX" else made.cz
        for first, second in zip(targets[::2], targets[1::2], strict=True):
            gate(first, second)
        return
    gates = {"H": made.h, "X": made.x, "Y": made.y, "Z": made.z, "S": made.s, "S_DAG": made.sdg}
    for qubit in targets:
        gates[name](qubit)


def _touched(circuit: stim.Circuit) -> Iterator[int]:
    for step in circuit:
        if step.name in ("R", "M", "CX", "CZ", *_SINGLE):
            yield from (one.value for one in step.targets_copy())
