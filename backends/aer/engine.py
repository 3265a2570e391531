"""One PUB on Aer's native simulator: circuits are assembled once and run many times.

Only worker processes import this module's dependencies; it drives Aer's controller directly
because `AerSimulator.run` assembles each circuit anew and starts a thread for each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import (
    CircuitError,
    CircuitInstruction,
    ControlFlowOp,
    Parameter,
    ParameterExpression,
    Store,
    SwitchCaseOp,
)
from qiskit.circuit._classical_resource_map import VariableMapper
from qiskit.circuit.equivalence_library import SessionEquivalenceLibrary
from qiskit.transpiler import PassManager
from qiskit.transpiler.exceptions import TranspilerError
from qiskit.transpiler.passes import BasisTranslator, HighLevelSynthesis, UnrollCustomDefinitions

from backends.gates import CONTROL_FLOW_NAMES, inline_definitions, without_moves
from backends.lowering import NativeCompiler
from backends.noise import DeviceNoise, device_noise
from backends.payloads import SEED_STRIDE, SEEDS
from backends.profiles import Profile

__all__ = ["Angles", "Engine", "Job", "Program", "SimulationFailed"]

_Floats = NDArray[np.float64]
_STRUCTURE = ("barrier", "delay", "measure", "reset", "save_expval", "store")


class SimulationFailed(Exception):
    """Aer refused or gave up; the message is Aer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How to run a program. seed: of the first point; point i uses seed + 2113·i, as Aer does."""

    method: str
    threads: int
    shots: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A circuit in Aer's own form, the places of its parameters, and Aer's settings for it."""

    native: Sequence[Any]
    angles: Angles
    config: Any


class Engine:
    """Aer's controller, ideal or with a device's noise; transpiles where the site does."""

    def __init__(self, profile: Profile | None = None, *, noisy: bool = True) -> None:
        from qiskit_aer import AerSimulator
        from qiskit_aer.backends.backend_utils import LIBRARY_DIR
        from qiskit_aer.backends.controller_wrappers import aer_controller_execute

        simulator = AerSimulator()
        self._options = simulator.options
        self._library = LIBRARY_DIR
        self._controller = aer_controller_execute()
        self._noise: dict[str, Any] = {}
        self._device: DeviceNoise | None = None
        self._site: NativeCompiler | None = None
        if profile is not None and noisy:
            self._device = device_noise(profile)
            self._noise = self._device.model.to_dict(serializable=True)
        if profile is not None:
            self._site = NativeCompiler(profile.target()) if profile.site_transpiles else None

    def place(self, circuit: QuantumCircuit) -> tuple[QuantumCircuit, tuple[int, ...] | None]:
        """Transpile and add idle relaxation; also return where each qubit ends, if transpiled."""
        layout = None
        if self._site is not None:
            circuit, layout = self._site.compile(circuit)
        if self._device is None:
            return _without_delays(circuit), layout
        return self._device.waited(circuit), layout

    def compile(
        self, circuit: QuantumCircuit, *, method: str, parameters: Iterable[Parameter]
    ) -> Program:
        """Compile a circuit for Aer; ``parameters`` are the columns of the values to come."""
        from qiskit_aer.backends.aer_compiler import (
            assemble_circuits,
            compile_circuit,
            generate_aer_config,
        )

        if self._device is not None:
            circuit = self._device.damped(inline_definitions(circuit))
        (inlined,) = compile_circuit([_with_shared_bits(_lower(circuit, method))])
        # Assembly sets the parameters of a CU gate to 0, in the gate itself.
        native, index_maps = assemble_circuits([inlined.copy()])
        native[0].circ_id = 0
        angles = _angles_of(inlined, index_maps[0] if index_maps else None, parameters)
        config = generate_aer_config([inlined], self._options)
        config.library_dir = self._library
        # Circuits come as their light cones; Aer's own removal of idle qubits leaves
        # observables on the wrong ones (qiskit-aer #2442).
        config.enable_truncation = False
        # Fuses one-qubit gates to diagonals and then orders these wrongly (qiskit-aer #2245).
        config._fusion_enable_n_qubits_1 = False  # noqa: SLF001
        # Fused with the gates beside it, relaxation is Kraus operators of several qubits.
        relaxes = self._device is not None and any(step.name == "kraus" for step in inlined.data)
        config.fusion_enable = not (relaxes and method == "statevector")
        return Program(native=native, angles=angles, config=config)

    def run(self, program: Program, values: _Floats, job: Job) -> list[Mapping[str, Any]]:
        """Return Aer's data of each point; values has shape (points, parameters).

        Raises `SimulationFailed` with Aer's message.
        """
        config = program.config
        config.method = job.method
        config.shots = job.shots
        config.seed_simulator = job.seed
        config.max_parallel_threads = job.threads
        if program.angles:
            config.parameterizations = [program.angles.bind(values)]
            return self._executed(program)
        results = []
        for point in range(len(values)):
            config.seed_simulator = (job.seed + SEED_STRIDE * point) % SEEDS
            results += self._executed(program)
        return results

    def _executed(self, program: Program) -> list[Mapping[str, Any]]:
        output = self._controller.execute(program.native, self._noise, program.config)
        if not output.get("success", False):
            raise SimulationFailed(_reason(output))
        return [entry["data"] for entry in output["results"]]


def _lower(circuit: QuantumCircuit, method: str) -> QuantumCircuit:
    """Replace gates a method does not know by ones it does; most circuits have none."""
    known = _known(method)
    circuit = without_moves(inline_definitions(circuit))
    if {instruction.name for instruction in circuit.data} <= known:
        return circuit
    basis = sorted({*known, *CONTROL_FLOW_NAMES})
    try:
        lowered: QuantumCircuit = PassManager(
            [
                HighLevelSynthesis(
                    basis_gates=basis, equivalence_library=SessionEquivalenceLibrary
                ),
                UnrollCustomDefinitions(SessionEquivalenceLibrary, basis_gates=basis),
                BasisTranslator(SessionEquivalenceLibrary, basis),
            ]
        ).run(circuit)
    except TranspilerError as error:
        raise SimulationFailed(f"a gate cannot be simulated: {error.message}") from error
    return lowered


def _without_delays(circuit: QuantumCircuit) -> QuantumCircuit:
    """Leave out delays, during which an ideal qubit does not change."""
    if all(instruction.name != "delay" for instruction in circuit.data):
        return circuit
    prompt = circuit.copy_empty_like()
    prompt.data = [instruction for instruction in circuit.data if instruction.name != "delay"]
    return prompt


@cache
def _known(method: str) -> frozenset[str]:
    """Return what a method simulates as it is; blocks of control flow are looked into."""
    from qiskit_aer import AerSimulator

    gates = AerSimulator(method=method).configuration().basis_gates
    # Aer binds the free parameters of a CU wrongly where it does not fuse it.
    return frozenset({*gates, *_STRUCTURE} - {"cu", "mcu", "mcx_gray", *CONTROL_FLOW_NAMES})


def _reason(output: Mapping[str, Any]) -> str:
    statuses = [str(r.get("status", "")) for r in output.get("results", ())]
    reasons = [s for s in statuses if s and s != "DONE"]
    return "Aer: " + "; ".join(dict.fromkeys(reasons or [str(output.get("status", "no reason"))]))


# Position of the global phase in Aer's lists.
_GLOBAL_PHASE = (-1, -1)
_Position = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Angles:
    """The parameterised positions of an assembled circuit: angle = offset + slope · values.

    slopes: shape (positions, parameters). curved: positions evaluated point by point.
    """

    positions: tuple[_Position, ...]
    slopes: _Floats
    offsets: _Floats
    curved: tuple[tuple[_Position, ParameterExpression], ...]
    parameters: tuple[Parameter, ...]

    def __bool__(self) -> bool:
        """Whether any angle depends on parameters."""
        return bool(self.positions or self.curved)

    def bind(self, values: _Floats) -> list[tuple[_Position, list[float]]]:
        """Return every position with its angles. values: shape (points, parameters)."""
        angles = (values @ self.slopes.T + self.offsets).T.tolist()
        bound = list(zip(self.positions, angles, strict=True))
        for position, expression in self.curved:
            names = expression.parameters
            columns = {p: values[:, i] for i, p in enumerate(self.parameters) if p in names}
            bound.append(
                (
                    position,
                    [
                        float(expression.bind({p: float(c[i]) for p, c in columns.items()}))
                        for i in range(len(values))
                    ],
                )
            )
        return bound


def _angles_of(
    circuit: QuantumCircuit, index_map: Sequence[int] | None, parameters: Iterable[Parameter]
) -> Angles:
    """Find the parameterised positions; index_map: Aer's instruction numbers, if they differ."""
    parameters = tuple(parameters)
    column = {parameter: i for i, parameter in enumerate(parameters)}
    positions, slopes, offsets, curved = [], [], [], []
    for position, expression in _expressions(circuit, index_map):
        affine = _affine(expression, column)
        if affine is None:
            curved.append((position, expression))
        else:
            positions.append(position)
            slopes.append(affine[0])
            offsets.append(affine[1])
    return Angles(
        positions=tuple(positions),
        slopes=np.array(slopes, dtype=float).reshape(len(positions), len(parameters)),
        offsets=np.array(offsets, dtype=float),
        curved=tuple(curved),
        parameters=parameters,
    )


def _expressions(
    circuit: QuantumCircuit, index_map: Sequence[int] | None
) -> list[tuple[_Position, ParameterExpression]]:
    places = [(_GLOBAL_PHASE, circuit.global_phase)]
    for index, instruction in enumerate(circuit.data):
        number = index_map[index] if index_map else index
        for place, value in enumerate(instruction.operation.params):
            places.append(((number, place), value))
    return [
        (place, value)
        for place, value in places
        if isinstance(value, ParameterExpression) and value.parameters
    ]


def _affine(
    expression: ParameterExpression, column: dict[Parameter, int]
) -> tuple[_Floats, float] | None:
    """Return slope and offset of an affine expression, None for any other."""
    slope = np.zeros(len(column))
    if isinstance(expression, Parameter):
        slope[column[expression]] = 1.0
        return slope, 0.0
    for parameter in expression.parameters:
        gradient = expression.gradient(parameter)
        if isinstance(gradient, ParameterExpression):
            if gradient.parameters:
                return None
            gradient = gradient.numeric()
        if isinstance(gradient, complex):
            return None
        slope[column[parameter]] = float(gradient)
    offset = _value(expression, 0.0)
    if offset is None:
        return None
    # A gradient can hide a jump (sign, abs); two more points tell such a function apart.
    for point in (-1.234567, 2.345678):
        value = _value(expression, point)
        if value is None or abs(value - offset - point * slope.sum()) > 1e-9 * (1 + abs(value)):
            return None
    return slope, offset


def _value(expression: ParameterExpression, point: float) -> float | None:
    """Evaluate with every parameter at ``point``; None where it is complex or not defined."""
    try:
        value = expression.bind(dict.fromkeys(expression.parameters, point)).numeric()
    except (ArithmeticError, CircuitError):
        return None
    return None if isinstance(value, complex) else float(value)


def _with_shared_bits(circuit: QuantumCircuit) -> QuantumCircuit:
    """Give blocks the circuit's own bits: Aer finds a condition's bits there only by register."""
    if not any(step.is_control_flow() for step in circuit.data):
        return circuit
    shared: QuantumCircuit = circuit.copy_empty_like()
    for step in circuit.data:
        if step.is_control_flow():
            blocks = [_placed(block, step, circuit) for block in step.operation.blocks]
            step = step.replace(operation=step.operation.replace_blocks(blocks))  # noqa: PLW2901
        shared._append(step)  # noqa: SLF001  # its wires are known
    return shared


def _placed(
    block: QuantumCircuit, step: CircuitInstruction, around: QuantumCircuit
) -> QuantumCircuit:
    """Return a block of ``step`` on the step's own wires and bits, and so its blocks."""
    bits = set(step.clbits)
    registers = [register for register in around.cregs if bits.issuperset(register)]
    placed = QuantumCircuit(list(step.qubits), list(step.clbits), *registers)
    placed.global_phase = block.global_phase
    wires = dict(zip(block.qubits, step.qubits, strict=True))
    outer = dict(zip(block.clbits, step.clbits, strict=True))
    mapper = VariableMapper(placed.cregs, outer, {}, add_register=placed.add_register)
    for inner in block.data:
        moved = inner.replace(
            qubits=[wires[qubit] for qubit in inner.qubits],
            clbits=[outer[bit] for bit in inner.clbits],
        )
        if inner.is_control_flow():
            moved = moved.replace(operation=_renamed(inner.operation, mapper))
        elif isinstance(inner.operation, Store):
            sides = inner.operation.lvalue, inner.operation.rvalue
            moved = moved.replace(operation=Store(*map(mapper.map_expr, sides)))
        placed._append(moved)  # noqa: SLF001
    return _with_shared_bits(placed)


def _renamed(operation: ControlFlowOp, mapper: VariableMapper) -> ControlFlowOp:
    """Return an operation whose condition or target is on the outer bits."""
    renamed = operation.replace_blocks(operation.blocks)
    if isinstance(operation, SwitchCaseOp):
        renamed.target = mapper.map_target(operation.target)
    elif getattr(operation, "condition", None) is not None:
        renamed.condition = mapper.map_condition(operation.condition)
    return renamed
