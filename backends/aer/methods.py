"""Which simulation method a PUB gets, and what that method costs in time and memory (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction, Gate, Instruction, Qubit

from backends.api import InsufficientMemory, PayloadRejected
from backends.payloads import FrozenSamplerPub

__all__ = [
    "Traits",
    "check_memory",
    "check_samples",
    "choose_method",
    "density_is_cheaper",
    "draws_each_shot",
    "gate_seconds",
    "memory_needed",
    "samples_needed",
    "state_log2",
    "traits_of",
]

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

    It depends only on circuit and shots, since the two forms give other counts for one seed.
    """
    if num_qubits > _WIDEST_DENSITY:
        return False
    density_s = gate_seconds("density_matrix", num_qubits)
    return density_s <= shots * gate_seconds("statevector", num_qubits)


_PURE = frozenset({"barrier", "delay", "measure", "store"})
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
_AMPLITUDE_LOG2 = 4  # complex128 is 2^4 bytes
_TABLEAU_BYTES = 32  # per qubit squared, as Aer itself reckons
_SHOT_BYTES = 128  # measured: 104 to 120, however wide the circuit
_COPIES = 6  # the array, its frame and its message; again where they are read
_READABLE_BYTES = 1 << 60
_LARGEST_LOG2 = 1000  # more than any machine has, and still a float


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What of a circuit decides how it is simulated.

    num_qubits: without idle ones. gates: those in blocks count once. branches: it continues after a
    measurement, so every shot is an evolution of its own. mixes: something in it, other than
    measurement, need not keep a pure state pure.
    """

    num_qubits: int
    gates: int
    clifford: bool
    branches: bool
    measures: bool
    mixes: bool


def traits_of(circuit: QuantumCircuit) -> Traits:
    """Read a circuit's traits, in one pass over its instructions."""
    touched: set[Qubit] = set()
    moved: set[Qubit] = set()
    measured: set[Qubit] = set()
    names = set()
    branches = mixes = False
    for instruction in circuit.data:
        name = instruction.name
        names.add(name)
        # On qubits that are still in |0⟩ these two leave a pure state.
        fresh = name in ("initialize", "reset") and moved.isdisjoint(instruction.qubits)
        mixes = mixes or not (fresh or _is_pure(instruction))
        if name != "barrier":
            touched.update(instruction.qubits)
            branches = branches or not measured.isdisjoint(instruction.qubits)
        if name == "measure":
            measured.update(instruction.qubits)
        if name not in ("barrier", "reset"):
            moved.update(instruction.qubits)
        if instruction.is_control_flow():
            branches = True
    return Traits(
        num_qubits=max(1, len(touched)),
        gates=len(circuit.data),
        clifford=names <= _CLIFFORD,
        branches=branches,
        measures="measure" in names,
        mixes=mixes,
    )


def _is_pure(step: CircuitInstruction) -> bool:
    operation = step.operation
    if step.is_standard_gate() or step.is_control_flow() or isinstance(operation, Gate):
        return True
    if not isinstance(operation, Instruction) or step.name in _PURE:
        return True
    definition = operation.definition
    return definition is not None and all(_is_pure(inner) for inner in definition.data)


def choose_method(
    requested: str, traits: Traits, *, noisy: bool, exact: bool, shots: int = 1
) -> str:
    """Return the Aer method for one PUB; a fixed ``requested`` one wins.

    Otherwise: noise → a density matrix where it must be exact or costs less than trajectories for
    each of the ``shots`` of a point, else a statevector; Clifford → stabilizer; else statevector.
    Raises `PayloadRejected` if a fixed method is a stabilizer for a circuit that is not Clifford,
    or follows one random trajectory where exact values are asked.
    """
    mixed = noisy or traits.mixes
    if requested != "automatic":
        if exact and mixed and requested != "density_matrix":
            cause = "noise" if noisy else "resets, initialisations or channels"
            raise PayloadRejected(
                f"method {requested!r} follows one random trajectory through {cause}, so it has "
                "no exact expectation values; use method 'automatic' or 'density_matrix', or "
                "precision 'sampled'"
            )
        if requested == "stabilizer" and not traits.clifford:
            raise PayloadRejected(
                "method 'stabilizer' was asked for a circuit with gates outside the Clifford "
                "group; use method 'automatic'"
            )
        return requested
    if noisy:
        # After a measurement a density matrix, too, is evolved for every shot.
        cheaper = not traits.branches and density_is_cheaper(traits.num_qubits, shots)
        return "density_matrix" if (exact or cheaper) else "statevector"
    if exact and mixed:
        return "density_matrix"
    if traits.clifford:
        return "stabilizer"
    return "statevector"


def draws_each_shot(method: str, traits: Traits, *, noisy: bool) -> bool:
    """Whether every shot is an evolution of its own rather than a sample of one state."""
    return traits.branches or (method != "density_matrix" and (noisy or traits.mixes))


def memory_needed(method: str, num_qubits: int) -> int:
    """Return the bytes of the state: statevector 16·2^n, density matrix 16·4^n, stabilizer 32·n².

    Other methods grow polynomially and are not checked. Beyond 2^1000 bytes all is the same.
    """
    match method:
        case "statevector" | "density_matrix":
            return 1 << min(_LARGEST_LOG2, _AMPLITUDE_LOG2 + state_log2(method, num_qubits))
        case "stabilizer":
            return _TABLEAU_BYTES * num_qubits**2
        case _:
            return 0


def samples_needed(pub: FrozenSamplerPub) -> tuple[int, int]:
    """Return the bytes of a PUB's outcomes: while one point runs, and of all points together.

    Aer takes some hundred bytes per shot until it counts; results take whole bytes per register
    and shot, several times over.
    """
    registers = pub.circuit.circuit.cregs
    kept = pub.shots * sum((register.size + 7) // 8 for register in registers)
    return pub.shots * _SHOT_BYTES, pub.points * kept * _COPIES


def check_memory(method: str, num_qubits: int, available_bytes: int) -> None:
    """Raise `InsufficientMemory`, with both sizes and the way out, if the state is too large."""
    needed = memory_needed(method, num_qubits)
    if needed <= available_bytes:
        return
    vector = method in ("statevector", "density_matrix")
    shown = _size(needed)
    if vector and needed > _READABLE_BYTES:
        shown = f"2^{_AMPLITUDE_LOG2 + state_log2(method, num_qubits)} bytes"
    remedy = "method 'matrix_product_state', " if vector else ""
    raise InsufficientMemory(
        f"a {method.replace('_', ' ')} of {num_qubits} qubits needs {shown}, "
        f"available are {_size(available_bytes)}; use at most "
        f"{_most_qubits(method, available_bytes)} qubits, {remedy}or a machine with more memory"
    )


def check_samples(needed_bytes: int, shots: int, available_bytes: int) -> None:
    """Raise `InsufficientMemory` if a task's outcomes do not fit. shots: all of the task."""
    if needed_bytes <= available_bytes:
        return
    raise InsufficientMemory(
        f"the outcomes of {shots} shots need {_size(needed_bytes)}, available are "
        f"{_size(available_bytes)}; ask for fewer shots or parameter points at a time"
    )


def _most_qubits(method: str, available_bytes: int) -> int:
    most = 0
    while memory_needed(method, most + 1) <= available_bytes:
        most += 1
    return most


def _size(amount: int) -> str:
    return f"{amount} bytes ({amount / 2**30:.3g} GiB)"
