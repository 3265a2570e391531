"""A device profile as Qiskit's transpiler sees a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from qiskit.circuit import Delay, Gate, Measure, Parameter, Reset
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.transpiler import InstructionProperties, Target

from backends.gates import MOVE, MoveGate
from backends.profiles.profile import NativeGate, Profile

__all__ = ["native_target"]

# Devices and one target each: a site has a handful of QPUs.
_REMEMBERED = 16


@lru_cache(maxsize=_REMEMBERED)
def native_target(profile: Profile) -> Target:
    """Return the profile's gates on its usable qubits, with durations and average errors.

    Two-qubit gates are listed in both directions, on a star as (qubit, resonator), the
    resonator being one wire more. The result is shared: do not change it.
    """
    wires = profile.num_qubits + (profile.resonator is not None)
    target = Target(description=profile.title, num_qubits=wires)
    usable = [q for q in range(profile.num_qubits) if q not in profile.unusable_qubits]
    for gate in profile.gates:
        places = _pairs(profile, usable) if gate.num_qubits > 1 else [(q,) for q in usable]
        properties = InstructionProperties(duration=gate.duration_s, error=gate.error)
        target.add_instruction(_operation(gate), dict.fromkeys(places, properties))
    wrong = (profile.readout.zero_as_one + profile.readout.one_as_zero) / 2
    measured = InstructionProperties(duration=profile.readout.duration_s, error=wrong)
    target.add_instruction(Measure(), {(q,): measured for q in usable})
    target.add_instruction(Delay(Parameter("t")), {(q,): None for q in usable})
    if profile.mid_circuit_measurement:
        target.add_instruction(Reset(), {(q,): None for q in usable})
    return target


def _operation(gate: NativeGate) -> Gate:
    if gate.name == MOVE:
        return MoveGate()
    operation: Gate = get_standard_gate_name_mapping()[gate.name]
    return operation


def _pairs(profile: Profile, usable: Iterable[int]) -> Iterator[tuple[int, int]]:
    qubits = list(usable)
    if profile.resonator is not None:
        yield from ((q, profile.resonator) for q in qubits)
        return
    pairs = profile.coupling
    if pairs is None:
        pairs = tuple((a, b) for a in qubits for b in qubits if a < b)
    for a, b in pairs:
        if a in qubits and b in qubits:
            yield (a, b)
            yield (b, a)
