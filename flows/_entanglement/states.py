"""Random mixed states of two or three qubits, and circuits that prepare and measure them.

A state ρ = U diag(p) U† is prepared from its purification: √p on as many further qubits, copied by CX,
then U; the further qubits are not measured. All states of a number of qubits share one circuit, so
that many make one broadcast PUB.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import ParameterVector

from flows._pauli_axes import TURNS_TO_Z

__all__ = [
    "RandomStates",
    "circuit_of",
    "drawn",
    "least_eigenvalue",
    "setting_angles",
    "settings_of",
]

_Values = NDArray[np.float64]
_Matrices = NDArray[np.complex128]

_LAYERS = 4  # of a random circuit on three qubits
_MOST_LEVELS = 32  # of an environment: about as many states of three qubits are entangled as not
_BLOCK = 500
_MOST_BLOCKS = 200


@dataclass(frozen=True, eq=False, kw_only=True)
class RandomStates:
    """States with their preparation.

    matrices: (states, 2ⁿ, 2ⁿ). angles: (states, parameters of the preparation). is_entangled: whether
    a partial transpose has a negative eigenvalue, which for two qubits is entanglement itself. share:
    of entangled states among all that were drawn until both kinds were enough.
    """

    qubits: int
    matrices: _Matrices
    angles: _Values
    is_entangled: NDArray[np.bool_]
    share: float


def drawn(qubits: int, count: int, seed: int) -> RandomStates:
    """Draw random states until there are half as many of each kind as are wanted.

    Of two qubits: by the Hilbert-Schmidt measure, as of pure states of four with two traced out. Of
    three: spectra of environments of 8 to 32 levels, eigenvectors of a random circuit, since nearly
    all states of the Hilbert-Schmidt measure are entangled.

    Raises:
        ValueError: one kind is too rare.
    """
    rng = np.random.default_rng([seed, qubits])
    kept: dict[bool, list[tuple[_Matrices, _Values]]] = {True: [], False: []}
    seen = entangled = 0
    half = (count + 1) // 2
    for _ in range(_MOST_BLOCKS):
        if min(map(len, kept.values())) >= half:
            break
        for matrix, angles in (_one(qubits, rng) for _ in range(_BLOCK)):
            kind = bool(least_eigenvalue(matrix[np.newaxis])[0] < 0)
            seen, entangled = seen + 1, entangled + kind
            if len(kept[kind]) < half:
                kept[kind].append((matrix, angles))
    else:
        raise ValueError(f"{seen} random states have too few of one kind for {count} balanced ones")
    order = rng.permutation(2 * half)[:count]
    both = kept[True] + kept[False]
    return RandomStates(
        qubits=qubits,
        matrices=np.array([both[i][0] for i in order]),
        angles=np.array([both[i][1] for i in order]),
        is_entangled=order < half,
        share=entangled / seen,
    )


def _one(qubits: int, rng: np.random.Generator) -> tuple[_Matrices, _Values]:
    """Return a random state, and the angles that prepare it."""
    size = 2**qubits
    levels = size if qubits == 2 else int(rng.integers(size, _MOST_LEVELS + 1))
    ginibre = rng.normal(size=(size, levels)) + 1j * rng.normal(size=(size, levels))
    matrix = ginibre @ ginibre.conj().T
    spectrum, vectors = np.linalg.eigh(matrix / np.trace(matrix).real)
    spectrum = np.clip(spectrum, 0.0, None) / np.clip(spectrum, 0.0, None).sum()
    if qubits == 2:
        turns = _angles_of(vectors)
    else:
        turns = rng.uniform(-math.pi, math.pi, 3 * qubits * _LAYERS)
        vectors = _random_unitary(qubits, turns)
    return (vectors * spectrum) @ vectors.conj().T, np.concatenate([_roots(spectrum), turns])


def _angles_of(unitary: _Matrices) -> _Values:
    """Return the angles of `_two_qubit_unitary` for a matrix, from its Weyl decomposition."""
    from qiskit.synthesis import OneQubitEulerDecomposer, TwoQubitWeylDecomposition

    euler = OneQubitEulerDecomposer("U")
    parts = TwoQubitWeylDecomposition(unitary)
    local = [euler.angles(one) for one in (parts.K2r, parts.K2l, parts.K1r, parts.K1l)]
    middle = [-2 * parts.a, -2 * parts.b, -2 * parts.c]
    return np.array([*local[0], *local[1], *middle, *local[2], *local[3]])


def _two_qubit_unitary(angles: Any) -> QuantumCircuit:
    """Return any unitary of two qubits: turns, an interaction along three axes, turns."""
    circuit = QuantumCircuit(2)
    circuit.u(*angles[:3], 0)
    circuit.u(*angles[3:6], 1)
    circuit.rxx(angles[6], 0, 1)
    circuit.ryy(angles[7], 0, 1)
    circuit.rzz(angles[8], 0, 1)
    circuit.u(*angles[9:12], 0)
    circuit.u(*angles[12:15], 1)
    return circuit


def _random_circuit(qubits: int, angles: Any) -> QuantumCircuit:
    circuit = QuantumCircuit(qubits)
    for layer in range(_LAYERS):
        for qubit in range(qubits):
            start = 3 * (layer * qubits + qubit)
            circuit.u(*angles[start : start + 3], qubit)
        if layer + 1 < _LAYERS:
            for qubit in range(qubits):
                circuit.cz(qubit, (qubit + 1) % qubits)
    return circuit


def _random_unitary(qubits: int, angles: _Values) -> _Matrices:
    """Return the matrix of `_random_circuit`; Qiskit's own way takes a hundred times longer."""
    bits = [(np.arange(2**qubits) >> qubit) & 1 for qubit in range(qubits)]
    signs = np.ones(2**qubits)
    for qubit in range(qubits):
        signs = signs * (-1) ** (bits[qubit] * bits[(qubit + 1) % qubits])
    found = np.eye(2**qubits, dtype=complex)
    for layer, turns in enumerate(angles.reshape(_LAYERS, qubits, 3)):
        if layer:
            found = signs[:, np.newaxis] * found
        local = np.eye(1, dtype=complex)
        for theta, phi, lam in turns:
            cosine, sine = math.cos(theta / 2), math.sin(theta / 2)
            turn = np.array(
                [
                    [cosine, -np.exp(1j * lam) * sine],
                    [np.exp(1j * phi) * sine, np.exp(1j * (phi + lam)) * cosine],
                ]
            )
            local = np.kron(turn, local)
        found = local @ found
    return np.asarray(found)


def _roots(spectrum: _Values) -> _Values:
    """Return the angles of `_spectrum_circuit`: for each qubit, as many as the ones before have values."""
    found: list[float] = []
    size = len(spectrum)
    for level in range(int(math.log2(size))):
        # Qubit 0 divides the spectrum into its even and odd places, and so on.
        parts = [spectrum[start :: 2**level] for start in range(2**level)]
        turns = [
            2 * math.atan2(math.sqrt(part[1::2].sum()), math.sqrt(part[::2].sum()))
            for part in parts
        ]
        found += (_gray(level) @ np.array(turns)).tolist()
    return np.array(found)


def _gray(controls: int) -> _Values:
    """Return the matrix of a multiplexed rotation (Möttönen et al., PRL 93, 130502, 2004)."""
    size = 2**controls
    signs = [
        [(-1) ** ((value & (place ^ (place >> 1))).bit_count()) for value in range(size)]
        for place in range(size)
    ]
    return np.asarray(np.array(signs, dtype=float) / size)


def _spectrum_circuit(qubits: int, angles: Any) -> QuantumCircuit:
    """Return a circuit with the square roots of a spectrum as amplitudes."""
    circuit = QuantumCircuit(qubits)
    taken = 0
    for target in range(qubits):
        size = 2**target
        for place in range(size):
            circuit.ry(angles[taken + place], target)
            if target:
                following = place + 1
                changed = (place ^ (place >> 1)) ^ (following ^ (following >> 1))
                control = target - 1 if following == size else changed.bit_length() - 1
                circuit.cx(control, target)
        taken += size
    return circuit


def circuit_of(qubits: int) -> QuantumCircuit:
    """Return the circuit of all states: angles of the preparation, then two for each qubit measured."""
    turns = 15 if qubits == 2 else 3 * qubits * _LAYERS
    values = 2**qubits - 1
    angles = ParameterVector("angle", values + turns + 2 * qubits)
    system, environment = QuantumRegister(qubits, "system"), QuantumRegister(qubits, "environment")
    circuit = QuantumCircuit(system, environment, ClassicalRegister(qubits, "meas"))
    circuit.compose(_spectrum_circuit(qubits, angles[:values]), environment, inplace=True)
    circuit.cx(environment, system)
    turned = angles[values : values + turns]
    unitary = _two_qubit_unitary(turned) if qubits == 2 else _random_circuit(qubits, turned)
    circuit.compose(unitary, system, inplace=True)
    for qubit in range(qubits):
        first = values + turns + 2 * qubit
        circuit.rx(angles[first], system[qubit])
        circuit.ry(angles[first + 1], system[qubit])
    circuit.measure(system, range(qubits))
    return circuit


def settings_of(qubits: int) -> tuple[str, ...]:
    """Return all settings, as labels of Pauli operators: equal axes first, then the others."""
    labels = ["".join(axes) for axes in itertools.product("XYZ", repeat=qubits)]
    return tuple(sorted(labels, key=lambda label: (len(set(label)), sorted(label), label)))


def setting_angles(label: str) -> list[float]:
    """Return the last angles of the circuit for a setting; qubit 0 is the last letter."""
    return [angle for axis in reversed(label) for angle in TURNS_TO_Z[axis]]


def least_eigenvalue(matrices: _Matrices) -> _Values:
    """Return for each state (states, 2ⁿ, 2ⁿ) the least eigenvalue of its partial transposes."""
    count, size, _ = matrices.shape
    qubits = int(math.log2(size))
    tensors = matrices.reshape(count, *(2,) * (2 * qubits))
    least = np.full(count, np.inf)
    for qubit in range(qubits):  # a cut of three qubits separates one from the others
        turned = np.swapaxes(tensors, 1 + qubit, 1 + qubits + qubit).reshape(count, size, size)
        least = np.minimum(least, np.linalg.eigvalsh(turned)[:, 0])
    return np.asarray(least)
