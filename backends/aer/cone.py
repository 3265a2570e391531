"""The part of a circuit that what is asked of it depends on, on as few qubits as that needs."""

from __future__ import annotations

from collections.abc import Collection

from qiskit import QuantumCircuit
from qiskit.circuit import Clbit, Qubit

__all__ = ["light_cone"]


def light_cone(
    circuit: QuantumCircuit, observed: Collection[int]
) -> tuple[QuantumCircuit, dict[int, int]]:
    """Return the instructions that classical bits or observed qubits depend on, and their qubits.

    Every instruction left out preserves the trace, so it cannot change what is read elsewhere;
    left out are also measurements that a later one overwrites unread. The circuit keeps its
    classical bits, registers and variables; it has one idle qubit if nothing is left. The
    second value is the new index of each qubit that is left: an observed qubit without one is
    still in its initial state.

    Aer does this too, but then evaluates observables on the wrong qubits (qiskit-aer #2442),
    and the readout errors of all measurements into one bit add up where it samples them.
    """
    needed = {circuit.qubits[index] for index in observed}
    touched: set[Qubit] = set()
    measured: set[Qubit] = set()  # of what is kept, a measurement comes next on these
    overwritten: set[Clbit] = set()
    steps = []
    for step in reversed(circuit.data):
        if step.name == "barrier":
            continue
        unread = step.name == "measure" and step.clbits[0] in overwritten
        if unread and step.qubits[0] in measured:
            continue
        # Without qubits it writes a variable.
        reads = (step.clbits or not step.qubits) and not unread
        if not reads and needed.isdisjoint(step.qubits):
            continue
        if step.name == "measure":
            measured.add(step.qubits[0])
            overwritten.add(step.clbits[0])
        else:
            measured.difference_update(step.qubits)
            if reads:
                overwritten.clear()
        needed.update(step.qubits)
        touched.update(step.qubits)
        steps.append(step)
    qubits = [qubit for qubit in circuit.qubits if qubit in touched]
    cone = QuantumCircuit(qubits or circuit.qubits[:1], circuit.clbits, *circuit.cregs)
    cone.global_phase = circuit.global_phase
    for variable in circuit.iter_vars():
        cone.add_uninitialized_var(variable)
    for step in reversed(steps):
        cone.append(step)
    return cone, {circuit.find_bit(qubit).index: new for new, qubit in enumerate(qubits)}
