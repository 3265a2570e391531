"""The part of a circuit that what is asked of it depends on, on as few qubits as that needs."""

from __future__ import annotations

from collections.abc import Collection

from qiskit import QuantumCircuit

__all__ = ["light_cone"]


def light_cone(
    circuit: QuantumCircuit, observed: Collection[int]
) -> tuple[QuantumCircuit, dict[int, int]]:
    """Return the instructions that classical bits or observed qubits depend on, and their qubits.

    Every instruction left out preserves the trace, so it cannot change what is read elsewhere.
    The circuit keeps its classical bits, registers and variables; it has one idle qubit if
    nothing is left. The second value is the new index of each qubit that is left: an observed
    qubit without one is still in its initial state.

    Aer does this too, and then evaluates observables on the wrong qubits (qiskit-aer #2442).
    """
    needed = {circuit.qubits[index] for index in observed}
    touched = set()
    steps = []
    for step in reversed(circuit.data):
        if step.name == "barrier":
            continue
        # Without qubits it writes a variable.
        if step.clbits or not step.qubits or not needed.isdisjoint(step.qubits):
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
