"""Which simulation method a PUB gets, and the memory that method needs: pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from qiskit import QuantumCircuit

from backends.api import InsufficientMemory, PayloadRejected

__all__ = ["Traits", "check_memory", "choose_method", "memory_needed", "traits_of"]

# What Aer's stabilizer simulates whatever the angles; rotations by multiples of π/2 are left
# to the statevector, where they are as fast at the widths at which people use them.
_CLIFFORD = frozenset(
    [
        "barrier",
        "cx",
        "cy",
        "cz",
        "delay",
        "ecr",
        "h",
        "id",
        "measure",
        "pauli",
        "reset",
        "s",
        "sdg",
        "swap",
        "sx",
        "sxdg",
        "x",
        "y",
        "z",
    ]
)
# Above this width a density matrix costs more than 1000 noisy trajectories: 4^n > 1000·2^n.
_DENSITY_QUBITS = 10
_AMPLITUDE_BYTES = 16  # complex128


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What of a circuit decides how it is simulated.

    num_qubits: qubits that anything but a barrier touches. gates: instructions, blocks of
    control flow counted once. dynamic: it has control flow. measures, resets: it has some.
    """

    num_qubits: int
    gates: int
    clifford: bool
    dynamic: bool
    measures: bool
    resets: bool


def traits_of(circuit: QuantumCircuit) -> Traits:
    """Read a circuit's traits, in one pass over its instructions."""
    touched = set()
    names = set()
    dynamic = False
    for instruction in circuit.data:
        name = instruction.name
        names.add(name)
        if name != "barrier":
            touched.update(instruction.qubits)
        if instruction.is_control_flow():
            dynamic = True
    return Traits(
        num_qubits=max(1, len(touched)),
        gates=len(circuit.data),
        clifford=names <= _CLIFFORD,
        dynamic=dynamic,
        measures="measure" in names,
        resets="reset" in names,
    )


def choose_method(requested: str, traits: Traits, *, noisy: bool, exact: bool) -> str:
    """Return the Aer method for one PUB.

    requested: a fixed method wins. exact: expectation values rather than samples are asked.
    Otherwise: noise → density matrix where it is exact (estimator) or small, trajectories
    on a statevector above; Clifford → stabilizer; the rest → statevector.
    Raises `PayloadRejected` if a fixed stabilizer meets a circuit that is not Clifford.
    """
    if requested != "automatic":
        if requested == "stabilizer" and not traits.clifford:
            raise PayloadRejected(
                "method 'stabilizer' was asked for a circuit with gates outside the Clifford "
                "group; use method 'automatic'"
            )
        return requested
    if noisy:
        small = traits.num_qubits <= _DENSITY_QUBITS
        return "density_matrix" if (exact or small) else "statevector"
    if traits.clifford and not (exact and traits.resets):
        return "stabilizer"
    if exact and traits.resets:
        return "density_matrix"
    return "statevector"


def memory_needed(method: str, num_qubits: int) -> int:
    """Return the bytes of the state: 16·2^n for a statevector, 16·4^n for a density matrix.

    The other methods grow polynomially for what they are good at, and are not checked.
    """
    match method:
        case "statevector":
            return _AMPLITUDE_BYTES << num_qubits
        case "density_matrix":
            return _AMPLITUDE_BYTES << (2 * num_qubits)
        case _:
            return 0


def check_memory(method: str, num_qubits: int, available_bytes: int) -> None:
    """Raise `InsufficientMemory`, with both sizes and the way out, if the state is too large."""
    needed = memory_needed(method, num_qubits)
    if needed <= available_bytes:
        return
    most = 0
    while memory_needed(method, most + 1) <= available_bytes:
        most += 1
    raise InsufficientMemory(
        f"a {method.replace('_', ' ')} of {num_qubits} qubits needs {_size(needed)}, "
        f"available are {_size(available_bytes)}; use at most {most} qubits, "
        "method 'matrix_product_state', or a machine with more memory"
    )


def _size(amount: int) -> str:
    return f"{amount} bytes ({amount / 2**30:.3g} GiB)"
