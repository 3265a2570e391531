"""A device profile as the noise model of Qiskit Aer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.error_rates import Coherence, depolarising_parameter
from backends.gates import MOVE
from backends.profiles.profile import NativeGate, Profile

if TYPE_CHECKING:
    from qiskit_aer.noise import NoiseModel, QuantumError

__all__ = ["noise_model"]


def noise_model(profile: Profile) -> NoiseModel:
    """Build the noise of a profile for native circuits on any of its qubits.

    After each native gate its qubits relax for the gate's duration and are depolarised so
    that the gate's average error is the one stated (`error_rates`). Measured bits flip with
    the readout error. Noise depends on the kind of gate, not on the qubit, so a circuit may
    be compacted to the qubits it uses. On a star the second operand of ``cz`` and ``move``
    is the resonator and relaxes with its own times. Idle qubits do not relax.

    Aer knows no ``move``: write it as the swap it is (`without_moves`), with the label "move"
    or without one. No star has a native swap, so the errors of ``move`` are found under both
    names, once. Imports Aer: call it in the simulating process only.
    """
    from qiskit_aer.noise import NoiseModel, ReadoutError

    model = NoiseModel(basis_gates=[_aer_names(gate)[0] for gate in profile.gates])
    for gate in profile.gates:
        if gate.error > 0:
            model.add_all_qubit_quantum_error(_gate_error(profile, gate), _aer_names(gate))
    up, down = profile.readout.zero_as_one, profile.readout.one_as_zero
    if up or down:
        model.add_all_qubit_readout_error(ReadoutError([[1 - up, up], [down, 1 - down]]))
    return model


def _aer_names(gate: NativeGate) -> list[str]:
    """Return the instruction names, or labels, under which Aer meets a gate."""
    return ["swap", MOVE] if gate.name == MOVE else [gate.name]


def _gate_error(profile: Profile, gate: NativeGate) -> QuantumError:
    from qiskit_aer.noise import depolarizing_error, pauli_error

    coherences = profile.gate_coherences(gate)
    parameter = depolarising_parameter(gate.error, gate.duration_s, coherences)
    error = pauli_error([("I" * gate.num_qubits, 1.0)])
    if any(coherences):
        # operands count from the right of a tensor product: expand puts the later one left
        first, *others = [_relaxation(one, gate.duration_s) for one in coherences]
        error = first
        for other in others:
            error = error.expand(other)
    return error.compose(depolarizing_error(parameter, gate.num_qubits))


def _relaxation(coherence: Coherence | None, duration_s: float) -> QuantumError:
    from qiskit_aer.noise import pauli_error, thermal_relaxation_error

    if coherence is None:
        return pauli_error([("I", 1.0)])
    return thermal_relaxation_error(coherence.t1_s, coherence.t2_s, duration_s)
