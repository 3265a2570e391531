"""What simulations cost, as measured on one core: seconds per gate, and which form is cheaper (pure)."""

from __future__ import annotations

__all__ = ["density_is_cheaper", "gate_seconds", "state_log2"]

# Seconds for a gate with its noise, and for each amplitude; measured on random circuits of one-
# and two-qubit gates. A density matrix takes a superoperator where a trajectory takes a gate.
_GATE_S = {"statevector": 1.4e-6, "density_matrix": 6e-6}
_AMPLITUDE_S = {"statevector": 2.5e-9, "density_matrix": 3.5e-9}
_OTHER_GATE_S = 4e-7
# 256 MiB: a machine with less memory must choose the same way, so that counts are the same.
_WIDEST_DENSITY = 12


def state_log2(method: str, num_qubits: int) -> int:
    """Return log2 of the amplitudes a simulation holds; 0 where it holds no vector."""
    match method:
        case "statevector":
            return num_qubits
        case "density_matrix":
            return 2 * num_qubits
        case _:
            return 0


def gate_seconds(method: str, num_qubits: int) -> float:
    """Return the seconds that one gate takes, to within a factor of 3."""
    if method not in _GATE_S:
        return _OTHER_GATE_S
    return _GATE_S[method] + _AMPLITUDE_S[method] * 2.0 ** state_log2(method, num_qubits)


def density_is_cheaper(num_qubits: int, shots: int) -> bool:
    """Whether one density matrix costs less than a trajectory for each shot.

    It depends on nothing but circuit and shots: the two forms give other counts for one seed.
    """
    if num_qubits > _WIDEST_DENSITY:
        return False
    density_s = gate_seconds("density_matrix", num_qubits)
    return density_s <= shots * gate_seconds("statevector", num_qubits)
