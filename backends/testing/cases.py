"""Payloads whose right answer is known, in the native gates of any target."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from qiskit import QuantumCircuit
from qiskit.circuit import ClassicalRegister, Clbit, Parameter

from backends.api import Target
from backends.lowering import NativeCompiler
from backends.payloads import EstimatorPayload, SamplerPayload

__all__ = [
    "Native",
    "bell",
    "compiled",
    "ghz",
    "lengthy_estimates",
    "lengthy_samples",
    "placed_observable",
    "scattered_bits",
    "smallest_estimate",
    "smallest_sample",
    "turned",
]

_LENGTHY_PUBS, _LENGTHY_TURNS, _LENGTHY_SHOTS = 20, 50, 1000

# A circuit in a target's gates, and the physical qubit of each of its qubits.
Native = Callable[[QuantumCircuit, Target], tuple[QuantumCircuit, Sequence[int] | None]]


def bell() -> QuantumCircuit:
    """Two qubits that always agree, not measured."""
    return ghz(2)


def ghz(num_qubits: int) -> QuantumCircuit:
    """Return qubits in (|00…0⟩ + |11…1⟩)/√2, not measured."""
    circuit = QuantumCircuit(num_qubits)
    circuit.h(0)
    for qubit in range(num_qubits - 1):
        circuit.cx(qubit, qubit + 1)
    return circuit


def turned() -> QuantumCircuit:
    """One qubit turned about Y by a free angle θ, so that ⟨Z⟩ = cos θ; not measured."""
    circuit = QuantumCircuit(1)
    circuit.ry(Parameter("θ"), 0)
    return circuit


def scattered_bits() -> QuantumCircuit:
    """|01⟩, whose 1 is measured into a bit of no register and whose 0 into one of two registers."""
    circuit = QuantumCircuit(2)
    circuit.add_bits([Clbit()])
    circuit.add_register(word := ClassicalRegister(1, "word"))
    circuit.add_register(ClassicalRegister(bits=list(word), name="again"))
    circuit.rx(math.pi, 0)
    circuit.measure([0, 1], [0, 1])
    return circuit


def compiled(
    circuit: QuantumCircuit, target: Target
) -> tuple[QuantumCircuit, Sequence[int] | None]:
    """Bring a circuit into a target's gates where the target does not do it itself.

    Serves lattices and all-to-all devices. For a star override ``BackendConformance.native``.
    """
    if target.native_gates is None or target.site_transpiles:
        return circuit, None
    return NativeCompiler(target).compile(circuit)


def smallest_sample(target: Target, native: Native, shots: int) -> SamplerPayload:
    """Return one circuit of one gate and one measurement."""
    circuit = QuantumCircuit(1)
    circuit.rx(math.pi, 0)
    circuit.measure_all()
    return SamplerPayload.coerce([native(circuit, target)[0]], shots=shots)


def smallest_estimate(target: Target, native: Native, shots: int) -> EstimatorPayload:
    """Return one expectation value."""
    del shots
    circuit = QuantumCircuit(1)
    circuit.rx(math.pi, 0)
    placed, layout = native(circuit, target)
    return EstimatorPayload.coerce([(placed, placed_observable({"Z": 1.0}, placed, layout))])


def lengthy_samples(target: Target, native: Native) -> SamplerPayload:
    """Return some ten thousand gates and shots on one qubit, or what fits into one task."""
    circuit, pubs = _many_turns(target)
    circuit.measure_all()
    shots = min(_LENGTHY_SHOTS, target.max_shots or _LENGTHY_SHOTS)
    return SamplerPayload.coerce([native(circuit, target)[0]] * pubs, shots=shots)


def lengthy_estimates(target: Target, native: Native) -> EstimatorPayload:
    """Return expectation values of some thousand gates on one qubit, or what fits into one task."""
    circuit, pubs = _many_turns(target)
    placed, layout = native(circuit, target)
    observable = placed_observable({"Z": 1.0}, placed, layout)
    return EstimatorPayload.coerce([(placed, observable)] * pubs)


def _many_turns(target: Target) -> tuple[QuantumCircuit, int]:
    circuit = QuantumCircuit(1)
    for turn in range(_LENGTHY_TURNS):
        circuit.rx(math.pi / (turn + 2), 0)
        circuit.rz(math.pi / (turn + 3), 0)
    return circuit, min(_LENGTHY_PUBS, target.max_circuits or _LENGTHY_PUBS)


def placed_observable(
    observable: Mapping[str, float], circuit: QuantumCircuit, layout: Sequence[int] | None
) -> dict[str, float]:
    """Write an observable over a circuit's virtual qubits on the physical ones."""
    if layout is None:
        return dict(observable)
    moved = {}
    for label, weight in observable.items():
        letters = ["I"] * circuit.num_qubits
        for qubit, letter in enumerate(reversed(label)):
            letters[layout[qubit]] = letter
        moved["".join(reversed(letters))] = weight
    return moved
