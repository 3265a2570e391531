"""A device profile as noise for Qiskit Aer, in the cheapest form that is exact."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import Instruction, Reset
from qiskit.circuit.library import IGate, XGate, YGate, ZGate
from qiskit.quantum_info import Kraus

from backends.delays import delay_seconds, with_idle_times
from backends.error_rates import Relaxation, depolarising_parameter, relaxation
from backends.gates import MOVE, with_blocks, without_moves
from backends.profiles.profile import NativeGate, Profile

if TYPE_CHECKING:
    from qiskit_aer.noise import NoiseModel, QuantumError

__all__ = ["DeviceNoise", "device_noise"]

# Operations on one qubit, by letter, in the order in which they act.
_OPERATIONS: Mapping[str, Instruction] = {
    "I": IGate(),
    "X": XGate(),
    "Y": YGate(),
    "Z": ZGate(),
    "R": Reset(),
}
_Matrix = NDArray[np.float64]
_Mixture = Mapping[str, float]
_DEPOLARISED: _Mixture = dict.fromkeys("IXYZ", 0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNoise:
    """Noise in two parts, so that Aer draws what does not depend on the state.

    model: mixtures of Paulis and resets. dampings: by gate, the damping of each operand, or None.
    """

    model: NoiseModel
    dampings: Mapping[str, tuple[Instruction | None, ...]]
    profile: Profile

    def waited(self, circuit: QuantumCircuit) -> QuantumCircuit:
        """Relax delays, after adding those of waiting qubits if the profile relaxes them."""
        if self.profile.idle_relaxation:
            circuit = with_idle_times(circuit, self.profile.durations_s)
        return self._waited(circuit, range(circuit.num_qubits))

    def _waited(self, circuit: QuantumCircuit, wires: Sequence[int]) -> QuantumCircuit:
        """Replace delays. wires: of the device, one for each qubit of the circuit."""
        waited = circuit.copy_empty_like()
        for step in circuit.data:
            if step.name == "delay":
                coherence = self.profile.wire_coherence(
                    wires[circuit.find_bit(step.qubits[0]).index]
                )
                seconds = delay_seconds(step.operation)
                if coherence is not None and seconds > 0:
                    waited.append(_relaxing(relaxation(seconds, coherence)), step.qubits)
                continue
            inner = [wires[circuit.find_bit(qubit).index] for qubit in step.qubits]
            waited.append(with_blocks(step, partial(self._waited, wires=inner)))
        return waited

    def damped(self, circuit: QuantumCircuit) -> QuantumCircuit:
        """Return the circuit with the damping after each gate, within control flow too.

        A MOVE relabels the wires that follow; a labelled identity in its place has its errors.
        """
        if not self.dampings:
            return without_moves(circuit)
        damped = circuit.copy_empty_like()
        wire = {qubit: qubit for qubit in circuit.qubits}
        for step in circuit.data:
            operation = with_blocks(step, lambda block: self.damped(without_moves(block))).operation
            if step.name == MOVE:
                first, second = step.qubits
                wire[first], wire[second] = wire[second], wire[first]
                operation = Instruction("id", 2, 0, [], label=MOVE)  # it has the errors of a MOVE
            qubits = [wire[qubit] for qubit in step.qubits]
            damped.append(operation, qubits, step.clbits)
            for qubit, damping in zip(qubits, self.dampings.get(step.name, ()), strict=False):
                if damping is not None:
                    damped.append(damping, [qubit])
        return damped


def device_noise(profile: Profile) -> DeviceNoise:
    """Return the noise of a profile for native circuits on any of its qubits.

    After each native gate its qubits relax for the gate's duration and are depolarised so
    that the gate's average error is the one stated (`error_rates`). Measured bits flip with
    the readout error. Noise depends on the kind of gate, not on the qubit, so a circuit may
    be compacted to the qubits it uses. On a star the second operand of ``cz`` and ``move``
    is the resonator and relaxes with its own times. Qubits that wait relax by `DeviceNoise.waited`.

    A Kraus operator anywhere in a noise model makes Aer write every error as Kraus operators,
    which takes several times as long. So the model holds none: amplitude damping, which a qubit
    with T2 > T1 needs, goes into the circuit.

    Aer knows no ``move``; its errors are found under the label "move" and, since no star has a
    native swap, under the name "swap". Imports Aer: call it in the simulating process only.
    """
    from qiskit_aer.noise import NoiseModel, ReadoutError

    model = NoiseModel(basis_gates=[_aer_names(gate)[0] for gate in profile.gates])
    dampings = {}
    for gate in profile.gates:
        if gate.error <= 0:
            continue
        relaxations = [relaxation(gate.duration_s, c) for c in profile.gate_coherences(gate)]
        model.add_all_qubit_quantum_error(_drawn(profile, gate, relaxations), _aer_names(gate))
        if any(one.damping for one in relaxations):
            found = tuple(
                Kraus(_damping_operators(one.damping)).to_instruction() if one.damping else None
                for one in relaxations
            )
            dampings.update(dict.fromkeys(_aer_names(gate), found))
    up, down = profile.readout.zero_as_one, profile.readout.one_as_zero
    if up or down:
        model.add_all_qubit_readout_error(ReadoutError([[1 - up, up], [down, 1 - down]]))
    return DeviceNoise(model=model, dampings=dampings, profile=profile)


def _aer_names(gate: NativeGate) -> list[str]:
    """Return the instruction names, or labels, under which Aer meets a gate."""
    return ["swap", MOVE] if gate.name == MOVE else [gate.name]


def _drawn(profile: Profile, gate: NativeGate, relaxations: list[Relaxation]) -> QuantumError:
    """Return the part of a gate's error that does not depend on the state.

    With probability p it replaces the state by the one that the damping to come makes maximally
    mixed, so the whole is relaxation and then depolarisation, exactly.
    """
    from qiskit_aer.noise import QuantumError

    lost = depolarising_parameter(gate.error, gate.duration_s, profile.gate_coherences(gate))
    terms: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for weight, mixtures in (
        (1 - lost, [_waiting(one) for one in relaxations]),
        (lost, [_replaced(one.damping) for one in relaxations]),
    ):
        for drawn in itertools.product(*(mixture.items() for mixture in mixtures)):
            key = tuple(letters for letters, _ in drawn)
            terms[key] += weight * math.prod(probability for _, probability in drawn)
    return QuantumError([(_steps(letters), weight) for letters, weight in terms.items() if weight])


def _waiting(one: Relaxation) -> _Mixture:
    return {"I": 1 - one.phase_flip - one.reset, "Z": one.phase_flip, "R": one.reset}


def _replaced(damping: float) -> _Mixture:
    """Return operations that leave a qubit maximally mixed once it is damped."""
    if not damping:
        return _DEPOLARISED
    excited = 0.5 / (1 - damping)
    return {"R": 1 - excited, "RX": excited}


def _steps(operands: Iterable[str]) -> list[tuple[Instruction, list[int]]]:
    """Return instructions with the operand each acts on; the identity where there are none."""
    steps = [
        (_OPERATIONS[letter], [operand])
        for operand, letters in enumerate(operands)
        for letter in letters
        if letter != "I"
    ]
    return steps or [(_OPERATIONS["I"], [0])]


def _damping_operators(damping: float) -> list[_Matrix]:
    """Return amplitude damping as Kraus operators, the likelier first."""
    stays = np.diag([1.0, math.sqrt(1 - damping)])
    decays = np.array([[0.0, math.sqrt(damping)], [0.0, 0.0]])
    return [stays, decays]


def _relaxing(one: Relaxation) -> Instruction:
    """Return the whole of a relaxation as one instruction."""
    drawn = [
        math.sqrt(1 - one.phase_flip - one.reset) * np.eye(2),
        math.sqrt(one.phase_flip) * np.diag([1.0, -1.0]),
        math.sqrt(one.reset) * np.array([[1.0, 0.0], [0.0, 0.0]]),
        math.sqrt(one.reset) * np.array([[0.0, 1.0], [0.0, 0.0]]),
    ]
    both = [damped @ first for first in drawn for damped in _damping_operators(one.damping)]
    return Kraus([operator for operator in both if operator.any()]).to_instruction()
