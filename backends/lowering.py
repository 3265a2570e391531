"""Circuits into the native gates of a target, on its physical qubits.

The orchestrator does this for sites that want native circuits, a simulated site for itself
where the real one transpiles.
"""

from __future__ import annotations

import itertools
import threading
from functools import cached_property, partial

from qiskit import QuantumCircuit
from qiskit.circuit import IfElseOp
from qiskit.circuit.exceptions import CircuitError
from qiskit.converters import circuit_to_dag, dag_to_circuit
from qiskit.transpiler import InstructionProperties, PassManager, generate_preset_pass_manager
from qiskit.transpiler import Target as QiskitTarget
from qiskit.transpiler.exceptions import TranspilerError
from qiskit.transpiler.passes import Decompose, RemoveResetInZeroState, UnrollForLoops

from backends.all_to_all import all_to_all
from backends.api import PayloadRejected, Target
from backends.delays import check_delays
from backends.gates import (
    CONTROL_FLOW,
    MOVE,
    check_for_device,
    inline_definitions,
    native_operation,
    with_blocks,
)
from backends.pulses import absorb_rz

__all__ = ["NativeCompiler", "usable_qubits"]

# Fixed, so that every process makes the same circuit and the same digest of it.
_SEED = 20260
# In trials level 1 left 15 to 40 % more CZ on lattices; level 3 saved none, at up to 50 times the time.
_LEVEL = 2
# Loops that only repeat are written out; fresh qubits need no reset, which devices may lack.
_UNROLLED = PassManager([UnrollForLoops()])
_FRESH = PassManager([Decompose("initialize"), RemoveResetInZeroState()])
_RESETTING = frozenset({"initialize", "reset"})

_BRANCHES = frozenset(CONTROL_FLOW) - {"for_loop"}  # of devices that do not say which
_Places = dict[tuple[int, ...], InstructionProperties | None]


def _with_else_in_loops(circuit: QuantumCircuit, *, inside: bool = False) -> QuantumCircuit:
    """Give each ``if`` in a ``for`` loop an ``else``: `UnrollForLoops` fails where there is none."""
    if not any(step.is_control_flow() for step in circuit.data):
        return circuit
    whole: QuantumCircuit = circuit.copy_empty_like()
    for step in circuit.data:
        within = inside or step.name == "for_loop"
        new = with_blocks(step, partial(_with_else_in_loops, inside=within))
        if inside and step.name == "if_else" and len(new.operation.blocks) == 1:
            (body,) = new.operation.blocks
            condition, label = step.operation.condition, step.operation.label
            both = IfElseOp(condition, body, body.copy_empty_like(), label=label)
            new = new.replace(operation=both)
        whole._append(new)  # noqa: SLF001  # its wires are known
    return whole


def usable_qubits(target: Target) -> tuple[int, ...]:
    """Return the physical qubits of a target that are in use, in order."""
    return tuple(q for q in range(target.num_qubits or 0) if q not in target.unusable_qubits)


class NativeCompiler:
    """Compiles for one target, thread-safe; a star's qubits count as coupled all to all by CZ."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._gates = tuple(g for g in target.native_gates or () if g != MOVE)
        self._pulses = "r" in self._gates
        self._coupled_all_to_all = target.coupling is None
        self._lock = threading.Lock()
        self._passes: PassManager | None = None

    def compile(self, circuit: QuantumCircuit) -> tuple[QuantumCircuit, tuple[int, ...]]:
        """Return the native circuit, as wide as the device, and where each qubit ends.

        Classical bits stay as they are. Raises `PayloadRejected` if it cannot be compiled.
        """
        check_delays(circuit, self._target)
        usable = usable_qubits(self._target)
        if circuit.num_qubits > len(usable):
            raise PayloadRejected(
                f"the circuit has {circuit.num_qubits} qubits, {self._target.name} has "
                f"{len(usable)} in use; use fewer or choose a wider QPU"
            )
        plain = inline_definitions(circuit)
        if any(step.is_control_flow() for step in plain.data):
            plain = _UNROLLED.run(_with_else_in_loops(plain))
        if not self._target.mid_circuit_measurement and plain.count_ops().keys() & _RESETTING:
            plain = _FRESH.run(plain)
        self._check_branches(plain)
        with self._lock:
            native = self._run(plain)
        placed = tuple(native.layout.final_index_layout(filter_ancillas=True))
        native._layout = None  # noqa: SLF001  # it would travel in the QPY bytes, unread
        if not self._coupled_all_to_all:
            native, placed = self._with_free_qubits_in_order(native, placed)
        if self._pulses:
            native = absorb_rz(native, keep_rz="rz" in self._gates)
        return native, placed

    def _with_free_qubits_in_order(
        self, native: QuantumCircuit, placed: tuple[int, ...]
    ) -> tuple[QuantumCircuit, tuple[int, ...]]:
        """Place qubits that interact with no other: best physical qubit first, then by index.

        Qiskit breaks ties among them differently in every process, and a circuit that is compiled
        again when a run is continued must have the same bytes, or its job would run twice.
        """
        index = {qubit: number for number, qubit in enumerate(native.qubits)}
        coupled = {
            index[qubit]
            for step in native.data
            if len(step.qubits) > 1 and step.name != "barrier"
            for qubit in step.qubits
        }
        free = [q for q in usable_qubits(self._target) if q not in coupled]
        lonely = [place for place in placed if place not in coupled]
        if not lonely:
            return native, placed
        best = sorted(free, key=lambda qubit: (self._error(qubit), qubit))
        rest = [q for q in free if q not in lonely]
        moves = dict(
            zip(lonely + rest, best[: len(lonely)] + sorted(best[len(lonely) :]), strict=True)
        )
        moved: QuantumCircuit = native.copy_empty_like()
        for step in native.data:
            qubits = [native.qubits[moves.get(index[q], index[q])] for q in step.qubits]
            moved._append(step.replace(qubits=qubits))  # noqa: SLF001  # its wires are known
        # Through a graph once more, whose order follows from the qubits.
        in_order = dag_to_circuit(circuit_to_dag(moved))
        return in_order, tuple(moves.get(place, place) for place in placed)

    def _error(self, qubit: int) -> float:
        """Return the sum of the error rates of a qubit's own gates; 0 where none is known."""
        device = self._device
        places = (device[name] for name in device.operation_names)
        known = (at[qubit,] for at in places if at is not None and (qubit,) in at)
        return sum(one.error or 0.0 for one in known if one is not None)

    def _run(self, circuit: QuantumCircuit) -> QuantumCircuit:
        if self._passes is None:
            if self._coupled_all_to_all:
                best = sorted(usable_qubits(self._target), key=self._error)
                self._passes = all_to_all(self._device, best)
            else:
                self._passes = generate_preset_pass_manager(
                    optimization_level=_LEVEL, target=self._device, seed_transpiler=_SEED
                )
        try:
            native: QuantumCircuit = self._passes.run(circuit)
        except (TranspilerError, CircuitError) as error:
            self._check_resets(circuit)
            raise PayloadRejected(
                f"the circuit cannot be brought to {self._target.name}, which has the gates "
                f"{', '.join(self._gates)}: {error.message}"
            ) from error
        return native

    def _check_branches(self, circuit: QuantumCircuit) -> None:
        """Refuse what no device does, and branches where this one measures at the end alone."""
        check_for_device(circuit, self._target.name)
        for step in circuit.data:
            if not self._target.mid_circuit_measurement and step.is_control_flow():
                raise PayloadRejected(
                    f"{step.name!r} depends on a measurement, and {self._target.name} measures "
                    "once, at the end; choose a QPU that measures in the middle, or measure all "
                    "and select the shots afterwards"
                )

    def _check_resets(self, circuit: QuantumCircuit) -> None:
        if "reset" in circuit.count_ops() and not self._target.mid_circuit_measurement:
            raise PayloadRejected(
                f"a qubit that was used before is reset, or initialized, and {self._target.name} "
                "cannot; use a fresh qubit, or a QPU with reset"
            )

    @cached_property
    def _device(self) -> QiskitTarget:
        """Return the target for Qiskit, its pulse R(θ, φ) split into RX and a free RZ."""
        target = self._target
        known = target.native if isinstance(target.native, QiskitTarget) else None
        if known is not None and not self._pulses:
            return known
        usable = usable_qubits(target)
        pairs = target.coupling or itertools.combinations(usable, 2)
        coupled = [pair for pair in pairs if set(usable).issuperset(pair)]
        single: _Places = {(q,): None for q in usable}
        both: _Places = dict.fromkeys([*coupled, *((b, a) for a, b in coupled)])
        sources = {name: name for name in self._gates}
        if self._pulses:
            del sources["r"]
            sources |= {"rx": "r", "rz": ""}
        device = QiskitTarget(num_qubits=target.num_qubits)
        for name, source in sources.items():
            try:
                gate = native_operation(name)
            except ValueError as error:
                raise PayloadRejected(
                    f"{target.name} has the native gate {name!r}, which Qiskit does not know; send "
                    "circuits that use its native gates already"
                ) from error
            places = single if gate.num_qubits == 1 else both
            if not source:
                places = dict.fromkeys(places, InstructionProperties(duration=0.0, error=0.0))
            elif known is not None and source in known.operation_names:
                places = {at: known[source].get(at) for at in places}
            device.add_instruction(gate, places)
        dynamic = target.mid_circuit_measurement
        for name in ("measure", "delay", *["reset"] * dynamic):
            device.add_instruction(native_operation(name), single)
        listed = _BRANCHES if known is None else CONTROL_FLOW.keys() & known.operation_names
        for name in sorted(listed) if dynamic else ():
            device.add_instruction(CONTROL_FLOW[name], name=name)
        return device
